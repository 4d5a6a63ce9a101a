"""A real server on a real socket, in a thread of this process or in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher, BatcherRules
from wavlm_live.streamer.server.run import Addresses, serve
from wavlm_live.streamer.server.settings import Limits, ServerSettings
from wavlm_live.streamer.shared_device import SharedDevice
from wavlm_live.streamer.sources import FileSource

EASY = BatcherRules(most_load=10.0, late_s=3600.0)
"""For tests: a busy machine is no reason to refuse."""


@pytest.fixture(scope="session")
def bundled() -> Recogniser:
    return Recogniser.load(device="cpu")


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Recogniser:
    return Recogniser.load(tiny_model, "cpu")


class Running:
    """A server in a thread."""

    def __init__(
        self, recogniser: Recogniser, settings: ServerSettings, rules: BatcherRules, also: Sequence[Recogniser] = ()
    ) -> None:
        device = SharedDevice()
        self.batchers = [Batcher(each, rules, device=device) for each in (recogniser, *also)]
        self.batcher = self.batchers[0]
        self._started = threading.Event()
        self._settings = settings
        self.addresses: Addresses
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(30)
        if self.error:
            raise self.error

    @property
    def url(self) -> str:
        return self.addresses.url

    @property
    def http(self) -> str:
        return self.url.replace("ws", "http", 1).removesuffix("/v1/stream")

    def stop(self) -> None:
        self._stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        def started(addresses, stop):
            self.addresses, self._stop = addresses, stop
            self._started.set()

        try:
            with ExitStack() as stack:
                for batcher in self.batchers:
                    stack.enter_context(batcher)
                asyncio.run(serve(self.batchers, self._settings, started))
        except BaseException as error:
            self.error = error
            self._started.set()


@contextmanager
def running(
    recogniser: Recogniser,
    limits: Limits | None = None,
    rules: BatcherRules = EASY,
    also: Sequence[Recogniser] = (),
    **settings,
) -> Iterator[Running]:
    server = Running(recogniser, ServerSettings(port=0, limits=limits or Limits(), **settings), rules, also)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(bundled: Recogniser) -> Iterator[Running]:
    with running(bundled) as found:
        yield found


@pytest.fixture(scope="module")
def tiny_server(tiny: Recogniser) -> Iterator[Running]:
    with running(tiny) as found:
        yield found


@pytest.fixture(scope="session")
def recording(audio_folder: Path) -> np.ndarray:
    """Eight seconds of digits and commands."""
    return np.concatenate(list(FileSource(audio_folder / "digits_and_commands.flac")))


class Process:
    """A server in a process of its own, which can be killed."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wavlm_live.streamer.cli", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("ws://"), self.url

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> int:
        self._process.terminate()
        return self._process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self.kill()
        self._process.stdout.close()


class CuttingProxy:
    """Each connection passes the next number of bytes (both directions together), then breaks; after the last number
    they pass all. Connection k goes to server k, in turn."""

    def __init__(self, servers: Sequence[str], cuts: Sequence[int]) -> None:
        self._targets = [urlsplit(url) for url in servers]
        self._cuts = list(cuts)
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._targets[self.connections % len(self._targets)]
        self.connections += 1
        left = [self._cuts.pop(0) if self._cuts else 1 << 60]
        try:
            other_reader, other_writer = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            writer.transport.abort()
            return

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while left[0] > 0 and (data := await source.read(4096)):
                    data = data[: left[0]]
                    left[0] -= len(data)
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass

        pumps = [asyncio.create_task(pump(reader, other_writer)), asyncio.create_task(pump(other_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if left[0] <= 0:
            writer.transport.abort()
            other_writer.transport.abort()
        else:
            for each in (writer, other_writer):
                each.close()
        for task in pumps:
            task.cancel()


@pytest.fixture(scope="session")
def start_server():
    """`with start_server(recogniser, limits, rules, also, **settings) as server`: a server in a thread."""
    return running


@pytest.fixture(scope="session")
def start_process():
    """`with start_process(*arguments) as server`: a server in a process of its own."""
    return Process


@pytest.fixture(scope="session")
def break_line():
    """`with break_line(urls, cuts) as line`: see `CuttingProxy`."""
    return CuttingProxy
