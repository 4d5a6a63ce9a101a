"""Hours of live clients whose connections break at random: memory flat, no stream leaked, no result lost or doubled.

    python benchmarks/soak.py --minutes 60 --clients 24

Clients send a recording again and again, a stream for each pass, at the pace of speech times `--speed`. Every few
seconds a connection of somebody is cut. The finals of each pass are compared with those of a session in this process.
At the end no stream may be left in the server, and its memory is told minute by minute.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import urllib.request
from pathlib import Path

import machine
import numpy as np
import psutil
from server import start

from wavlm_live.streamer import Final, Recogniser, SessionSettings
from wavlm_live.streamer.client import AsyncClient, Retry
from wavlm_live.streamer.sources import FileSource


class CuttableClient(AsyncClient):
    """A client whose line can be cut."""

    socket = None

    async def _converse(self, socket) -> bool:
        self.socket = socket
        return await super()._converse(socket)

    def cut(self) -> None:
        """Break the line without a word."""
        if self.socket is not None:
            self.socket.transport.abort()


class Soak:
    """The state of a run."""

    def __init__(self, url: str, samples: np.ndarray, speed: float, expected: list) -> None:
        self.url, self.samples, self.speed, self.expected = url, samples, speed, expected
        self.open: set[CuttableClient] = set()
        self.passes = self.cuts = self.reconnections = self.wrong = 0
        self.problems: list[str] = []

    async def listen(self, until: float) -> None:
        """One client, pass after pass."""
        await asyncio.sleep(random.random() * 5)
        while time.monotonic() < until:
            client = CuttableClient(self.url, retry=Retry(first_s=0.05, give_up_s=120))
            self.open.add(client)
            try:
                finals = [e async for e in client.transcribe(self.paced()) if isinstance(e, Final)]
                said = [(f.text, f.start_samples, f.end_samples) for f in finals]
                if said != self.expected:
                    self.wrong += 1
                    self.problems.append(f"{said} instead of {self.expected}"[:2000])
            except Exception as error:
                self.wrong += 1
                self.problems.append(repr(error))
            self.open.discard(client)
            self.passes += 1
            self.reconnections += client.reconnections

    async def paced(self):
        began = time.monotonic()
        for at in range(0, len(self.samples), 3200):
            await asyncio.sleep(max(0.0, began + at / 16_000 / self.speed - time.monotonic()))
            yield self.samples[at : at + 3200]

    async def break_lines(self, until: float, every_s: float) -> None:
        """Cut somebody's line now and then."""
        while time.monotonic() < until:
            await asyncio.sleep(random.expovariate(1 / every_s))
            if self.open:
                random.choice(list(self.open)).cut()
                self.cuts += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24, help="80%% of what benchmarks/server.py found")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--cut-every-s", type=float, default=2.0)
    default = Path(__file__).parent.parent / "tests" / "audio" / "digits_and_commands.flac"
    parser.add_argument("--sound", type=Path, default=default)
    arguments = parser.parse_args()
    samples = np.concatenate(list(FileSource(arguments.sound)))
    samples = (samples * 32768).round().clip(-32768, 32767).astype(np.float32) / 32768
    session = Recogniser.load(device="cpu").open(SessionSettings(partial_hop_ms=0))
    events = [*session.feed(samples), *session.finish()]
    expected = [(e.text, e.start_samples, e.end_samples) for e in events if isinstance(e, Final)]
    process, url = start(None, 1)
    server, memory = psutil.Process(process.pid), []
    soak = Soak(url, samples, arguments.speed, expected)

    async def run() -> None:
        until = time.monotonic() + arguments.minutes * 60
        watching = asyncio.create_task(watch(until))
        listening = [soak.listen(until) for _ in range(arguments.clients)]
        await asyncio.gather(soak.break_lines(until, arguments.cut_every_s), watching, *listening)

    async def watch(until: float) -> None:
        while time.monotonic() < until:
            memory.append(round(server.memory_info().rss / 1e6, 1))
            print(f"{memory[-1]:.0f} MB, {soak.passes} passes, {soak.cuts} cuts, {soak.wrong} wrong", flush=True)
            await asyncio.sleep(min(60.0, arguments.minutes * 6))

    try:
        asyncio.run(run())
        time.sleep(2)
        page = urllib.request.urlopen(url.replace("ws", "http", 1).replace("/v1/stream", "/metrics")).read().decode()
        left = next(line.split()[-1] for line in page.splitlines() if line.startswith("wavlm_live_batcher_sessions "))
        memory.append(round(server.memory_info().rss / 1e6, 1))
    finally:
        process.terminate()
        process.wait()
    result = {
        "minutes": arguments.minutes, "clients": arguments.clients, "speed": arguments.speed, "passes": soak.passes,
        "cuts": soak.cuts, "reconnections": soak.reconnections, "wrong": soak.wrong, "problems": soak.problems[:5],
        "streams_left": float(left), "memory_mb": memory,
    }  # fmt: skip
    print(result)
    machine.write("soak", result)


if __name__ == "__main__":
    main()
