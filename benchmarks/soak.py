"""An hour of live clients whose connections break at random: memory flat, no stream leaked, no event lost or doubled.

    python benchmarks/soak.py --minutes 60 --core 0

The server is first asked how many streams it admits; so much of them as `--load` says then run side by side at the pace
of speech, pass after pass over a recording, a new stream each. Between each client and the server stands a proxy that
breaks lines: `cut` at once, `within` a message, `takeover` (the client's side breaks, the server's stays open and says
nothing, so the stream is taken over while it is connected), `away` (and the client can come back only when the server
has given its stream up, so that it replays what it kept); some clients leave for good instead. Finals, starts and stops
of speech, and markers of every pass are compared with those of a session in this process that nobody interrupts.

Every minute is written down as it comes. At the end no stream may be left in the server, open or held.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import machine
import numpy as np
import psutil
from websockets.asyncio.client import connect

from wavlm_live.streamer import Final, Marker, Recogniser, SessionSettings, SpeechStarted, SpeechStopped
from wavlm_live.streamer.client import AsyncClient, Retry
from wavlm_live.streamer.sources import FileSource

BLOCK = 3200
KINDS = {"cut": 40, "within": 25, "takeover": 20, "away": 5, "leave": 10}
"""How a line breaks, and how often of a hundred."""
HOLD_S = 60.0
"""How long the server keeps a broken stream, `Limits.hold_s`."""
SETTINGS = {"partial_hop_ms": 0}


class Line:
    """A proxy of one client, whose connections can be broken."""

    def __init__(self, target: str, source: str) -> None:
        place = urlsplit(target)
        self._host, self._port, self._source = place.hostname, place.port, source
        self._shut_until = 0.0
        self._within = False
        self._open: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._left_open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/stream"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for near, far in self._open:
            near.transport.abort()
            far.transport.abort()
        for far in self._left_open:
            far.transport.abort()

    def break_it(self, kind: str) -> None:
        """Break what is connected now."""
        if kind == "within":
            self._within = True
            return
        if kind == "away":
            self._shut_until = time.monotonic() + HOLD_S + 10
        for near, far in self._open:
            near.transport.abort()
            if kind == "takeover":
                self._left_open.append(far)
                while len(self._left_open) > 3:
                    self._left_open.pop(0).transport.abort()
            else:
                far.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() < self._shut_until:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port, local_addr=(self._source, 0))
        except OSError:
            writer.transport.abort()
            return
        pair = writer, far_writer
        self._open.append(pair)
        await asyncio.gather(self._pump(reader, far_writer, pair), self._pump(far_reader, writer, pair))
        if pair in self._open:
            self._open.remove(pair)
        if far_writer not in self._left_open:
            far_writer.close()
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair) -> None:
        with contextlib.suppress(OSError):
            while pair in self._open and (data := await source.read(1 << 16)):
                if pair not in self._open:
                    return
                if self._within and len(data) > 1 and sink is pair[1]:
                    self._within = False
                    sink.write(data[: random.randrange(1, len(data))])
                    await sink.drain()
                    self.break_it("cut")
                    return
                sink.write(data)
                await sink.drain()
            if pair in self._open and sink.can_write_eof():
                sink.write_eof()


class Soak:
    """The state of a run."""

    def __init__(self, url: str, samples: np.ndarray, expected: dict[str, list]) -> None:
        self.url, self.samples, self.expected = url, samples, expected
        self.lines: dict[int, tuple[Line, asyncio.Task]] = {}
        self.breaks: Counter[str] = Counter()
        self.passes = self.left = self.reconnections = self.events = 0
        self.wrong: Counter[str] = Counter()
        self.problems: list[str] = []

    async def listen(self, number: int, until: float) -> None:
        """One client, pass after pass."""
        await asyncio.sleep(random.random() * 5)
        while time.monotonic() < until:
            async with Line(self.url, f"127.0.0.{2 + number % 50}") as line:
                task = asyncio.create_task(self.one_pass(line))
                self.lines[number] = line, task
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                self.left += task.cancelled()
                del self.lines[number]

    async def one_pass(self, line: Line) -> None:
        """A stream from its beginning to its end."""
        client = AsyncClient(line.url, SETTINGS, retry=Retry(first_s=0.1, give_up_s=600))
        try:
            async with client, asyncio.TaskGroup() as tasks:
                tasks.create_task(self.send(client))
                events = [event async for event in client]
            self.events += len(events)
            for name, found in told(events).items():
                if found != self.expected[name]:
                    self.wrong[name] += 1
                    self.problems.append(f"{name}: {found} instead of {self.expected[name]}"[:2000])
        except* Exception as error:
            self.wrong["failed"] += 1
            self.problems.append(repr(error.exceptions)[:2000])
        self.passes += 1
        self.reconnections += client.reconnections

    async def send(self, client: AsyncClient) -> None:
        began = time.monotonic()
        for at in range(0, len(self.samples), BLOCK):
            await asyncio.sleep(max(0.0, began + at / 16_000 - time.monotonic()))
            await client.send(self.samples[at : at + BLOCK])
            if at % (25 * BLOCK) == 0:
                await client.mark(f"m{at}")
        await client.finish()

    async def break_lines(self, until: float, every_s: float) -> None:
        """Break somebody's line now and then."""
        while time.monotonic() < until:
            await asyncio.sleep(random.expovariate(1 / every_s))
            if self.lines:
                line, task = random.choice(list(self.lines.values()))
                kind = random.choices(list(KINDS), list(KINDS.values()))[0]
                self.breaks[kind] += 1
                if kind == "leave":
                    task.cancel()
                else:
                    line.break_it(kind)


def told(events) -> dict[str, list]:
    """What must be the same however often the line broke."""
    return {
        "finals": [(e.text, e.start_samples, e.end_samples, e.reason) for e in events if isinstance(e, Final)],
        "speech": [(type(e).__name__, e.at_samples) for e in events if isinstance(e, SpeechStarted | SpeechStopped)],
        "markers": [(e.id, e.at_samples) for e in events if isinstance(e, Marker)],
    }


def unbroken(samples: np.ndarray) -> dict[str, list]:
    """What a session of this process says, without any server."""
    session = Recogniser.load(device="cpu").open(SessionSettings(partial_hop_ms=0))
    events = []
    for at in range(0, len(samples), BLOCK):
        events += session.feed(samples[at : at + BLOCK])
        if at % (25 * BLOCK) == 0:
            events += session.mark(f"m{at}")
    return told([*events, *session.finish()])


def start(core: int | None) -> tuple[subprocess.Popen[str], str]:
    """A server of one thread, on one core, and its address."""
    command = ["taskset", "-c", str(core)] if core is not None else []
    command += [sys.executable, "-m", "wavlm_live.streamer.cli", "serve", "--port", "0", "--quiet", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


async def admitted(url: str) -> int:
    """How many streams the server lets in at once, by asking until it refuses."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(1000):
            source = f"127.0.0.{2 + number // 50}", 0
            socket = await stack.enter_async_context(connect(url, compression=None, local_addr=source))
            await socket.send('{"type":"start"}')
            if json.loads(await socket.recv())["type"] != "ready":
                return number
            stack.push_async_callback(ended, socket)
    return 1000


async def ended(socket) -> None:
    """End a stream in an orderly way, so that the server keeps nothing of it."""
    await socket.send('{"type":"end"}')
    async for _ in socket:
        pass


def figures(url: str) -> Counter[str]:
    """The server's own, summed over their labels."""
    page = urllib.request.urlopen(url.replace("ws", "http", 1).replace("/v1/stream", "/metrics"), timeout=30)
    found: Counter[str] = Counter()
    for line in page.read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name.split("{")[0].removeprefix("wavlm_live_")] += float(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.8, help="share of the streams that the server admits")
    parser.add_argument("--clients", type=int, help="instead of asking the server")
    parser.add_argument("--core", type=int, help="pin the server to this core")
    parser.add_argument("--break-every-s", type=float, default=3.0)
    default = Path(__file__).parent.parent / "tests" / "audio" / "digits_and_commands.flac"
    parser.add_argument("--sound", type=Path, default=default)
    arguments = parser.parse_args()
    samples = np.concatenate(list(FileSource(arguments.sound)))
    samples = np.concatenate([samples] * 3)
    samples = (samples * 32768).round().clip(-32768, 32767).astype(np.float32) / 32768
    soak_seconds = arguments.minutes * 60
    process, url = start(arguments.core)
    server, minutes = psutil.Process(process.pid), []
    most = asyncio.run(admitted(url))
    clients = arguments.clients or max(1, int(arguments.load * most))
    print(f"{most} streams are admitted, {clients} clients", flush=True)
    soak = Soak(url, samples, unbroken(samples))

    def result(left: dict[str, float] | None = None) -> dict[str, object]:
        return {
            "minutes": round((time.monotonic() - began) / 60, 1), "asked_minutes": arguments.minutes,
            "admitted": most, "clients": clients, "core": arguments.core, "passes": soak.passes, "left": soak.left,
            "audio_hours": round(figures_s[-1] / 3600, 1) if figures_s else 0.0,
            "breaks": dict(soak.breaks), "reconnections": soak.reconnections, "events": soak.events,
            "wrong": dict(soak.wrong), "problems": soak.problems[:5], "streams_left": left, "by_minute": minutes,
        }  # fmt: skip

    began, figures_s = time.monotonic(), []

    async def run() -> None:
        until = began + soak_seconds
        watching = asyncio.create_task(watch(until))
        listening = [soak.listen(number, until) for number in range(clients)]
        await asyncio.gather(soak.break_lines(until, arguments.break_every_s), watching, *listening)

    async def watch(until: float) -> None:
        used, at = sum(server.cpu_times()[:2]), time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(min(60.0, soak_seconds / 10))
            now, used_now = time.monotonic(), sum(server.cpu_times()[:2])
            found = await asyncio.to_thread(figures, url)
            minutes.append({
                "mb": round(server.memory_info().rss / 1e6, 1), "cpu": round((used_now - used) / (now - at), 2),
                "sessions": found["batcher_sessions"], "held": found["held_streams"],
                "load": round(found["batcher_load"], 2), "threads": server.num_threads(), "files": server.num_fds(),
                "passes": soak.passes, "wrong": sum(soak.wrong.values()),
            })  # fmt: skip
            used, at = used_now, now
            print(minutes[-1], flush=True)
            figures_s.append(found["batcher_audio_s_total"])
            machine.write("soak", result())

    try:
        asyncio.run(run())
        time.sleep(HOLD_S + 15)  # the broken streams that nobody comes back for
        found = figures(url)
        left = {"open": found["batcher_sessions"], "held": found["held_streams"], "connections": found["connections"]}
    finally:
        process.terminate()
        process.wait()
    machine.write("soak", result(left))
    print(left, dict(soak.wrong), flush=True)


if __name__ == "__main__":
    main()
