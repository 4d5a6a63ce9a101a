"""How many live clients a server carries, and how late it answers them: a load generator in a process of its own.

    python benchmarks/server.py --seconds 20

More and more clients come, until one is refused. Each sends the same recording over and over at the pace of speech,
in blocks of 100 ms. Latency is from the sending of the last sample of a word to the arrival of the first partial that
shows more text with it, the wait for a provisional pass or for the chunk to fill included. Beside it stands the
batcher's own figure, from the last sample that a chunk needs to its events. `final` is from the last sample of a
stream to its last event. The server's processor time is split by thread: the event loop is transport, the rest the
model. One address may have 64 streams by default: clients come from addresses of the loopback net, 50 from each, so
that only the model's load refuses them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import machine
import numpy as np
import psutil
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wavlm_live.streamer.sources import FileSource

BLOCK = 1600


class Load:
    """What the clients of one run met."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.ends_s: list[float] = []
        self.refused = 0
        self.broken = 0
        self.finals = 0


def source_of(number: int) -> tuple[str, int]:
    """The address that a client comes from."""
    return f"127.0.0.{2 + number // 50}", 0


async def client(url: str, sound: bytes, seconds: float, delay_s: float, load: Load, number: int) -> None:
    """One client at the pace of speech."""
    await asyncio.sleep(delay_s)
    try:
        source = source_of(number)
        async with connect(url, compression=None, ping_timeout=None, max_queue=None, local_addr=source) as socket:
            await socket.send('{"type":"start"}')
            ready = json.loads(await socket.recv())
            if ready["type"] != "ready":
                load.refused += 1
                return
            sent_s: list[float] = []
            reading = asyncio.create_task(read(socket, sent_s, load))
            began = time.perf_counter()
            for block in range(round(seconds * 10)):
                at = block * 2 * BLOCK % (len(sound) - 2 * BLOCK)
                await asyncio.sleep(max(0.0, began + (block + 1) * 0.1 - time.perf_counter()))
                await socket.send(sound[at : at + 2 * BLOCK])
                sent_s.append(time.perf_counter())
            await socket.send('{"type":"end"}')
            await reading
            load.ends_s.append(time.perf_counter() - sent_s[-1])
    except InvalidStatus:
        load.refused += 1
    except (ConnectionClosed, OSError):
        load.broken += 1


async def read(socket, sent_s: list[float], load: Load) -> None:
    """Take events and time them."""
    shown = 0
    async for message in socket:
        now = time.perf_counter()
        event = json.loads(message)
        if event["type"] == "partial":
            letters = len(event["stable"]) + len(event["unstable"])
            if letters > shown and event["words"]:
                block = round(event["words"][-1]["end_s"] * 16_000 - 1) // BLOCK
                if block < len(sent_s):
                    load.latencies_s.append(now - sent_s[block])
            shown = letters
        elif event["type"] == "final":
            load.finals += 1
            shown = 0
        elif event["type"] == "problem" and event["fatal"]:
            load.refused += 1
        elif event["type"] == "ended":
            return


def run(url: str, server: psutil.Process, sound: bytes, clients: int, seconds: float) -> dict[str, object]:
    """One run with so many clients."""
    load = Load()
    before, began = thread_times(server), time.perf_counter()

    async def all_clients() -> None:
        delays = np.random.default_rng(clients).uniform(0, 2.0, clients)
        await asyncio.gather(*(client(url, sound, seconds, float(d), load, n) for n, d in enumerate(delays)))

    asyncio.run(all_clients())
    passed = time.perf_counter() - began
    after = thread_times(server)
    page = urllib.request.urlopen(url.replace("ws", "http", 1).replace("/v1/stream", "/metrics")).read().decode()
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    used = {thread: after[thread] - before.get(thread, 0.0) for thread in after}
    transport = used.pop(server.pid, 0.0)
    late, ends = (np.array(found or [np.nan]) * 1000 for found in (load.latencies_s, load.ends_s))
    return {
        "clients": clients,
        "refused": load.refused,
        "broken": load.broken,
        "results": len(load.latencies_s),
        "finals": load.finals,
        "p50_ms": round(float(np.percentile(late, 50)), 1),
        "p95_ms": round(float(np.percentile(late, 95)), 1),
        "p99_ms": round(float(np.percentile(late, 99)), 1),
        "final_p50_ms": round(float(np.percentile(ends, 50)), 1),
        "final_p95_ms": round(float(np.percentile(ends, 95)), 1),
        "final_p99_ms": round(float(np.percentile(ends, 99)), 1),
        "batcher_p50_ms": round(float(figures["wavlm_live_batcher_latency_p50_ms"]), 1),
        "batcher_p99_ms": round(float(figures["wavlm_live_batcher_latency_p99_ms"]), 1),
        "transport_cpu": round(transport / passed, 3),
        "model_cpu": round(sum(used.values()) / passed, 3),
        "server_mb": round(server.memory_info().rss / 1e6),
    }


def thread_times(process: psutil.Process) -> dict[int, float]:
    """Processor seconds by thread; the event loop runs in the first."""
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def start(model: str | None, threads: int) -> tuple[subprocess.Popen[str], str]:
    """A server and its address."""
    command = [sys.executable, "-m", "wavlm_live.streamer.cli", "serve", "--port", "0", "--quiet"]
    command += ["--threads", str(threads)] + (["--model", model] if model else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--threads", type=int, default=1, help="of the server's model")
    default = Path(__file__).parent.parent / "tests" / "audio" / "digits_and_commands.flac"
    parser.add_argument("--sound", type=Path, default=default)
    arguments = parser.parse_args()
    samples = np.concatenate(list(FileSource(arguments.sound)))
    sound = (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()
    process, url = start(arguments.model, arguments.threads)
    rows = []
    try:
        server = psutil.Process(process.pid)
        run(url, server, sound, 1, 5)  # warm
        for clients in arguments.clients:
            rows.append(run(url, server, sound, clients, arguments.seconds))
            print(rows[-1], flush=True)
            machine.write("server", {"seconds": arguments.seconds, "threads": arguments.threads, "rows": rows})
            if rows[-1]["refused"]:
                break
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
