"""Our server and sherpa-onnx's, the same model, the same clients: from the last sample of an utterance to its text.

    pip install sherpa-onnx sherpa-onnx-bin onnx
    python benchmarks/server_peer.py --clients 1 8 16

The package `sherpa-onnx-bin` brings `sherpa-onnx-offline-websocket-server`, which takes the bundled model as
`benchmarks/sherpa.py` exports it. It hears an utterance once it is whole and gives one text, where ours listens
along, gives partial results, and remembers 5 s; so what both can be asked for is the text of an utterance after its
end. Each client sends a short recording of tests/audio at the pace of speech, in blocks of 100 ms, waits for its
text, and begins the next one. Both servers may use one thread for the model. Processor time is that of the server's
process, for each second of sound that it heard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np
import psutil
from server import source_of, start
from sherpa import export, recordings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

BLOCK = 1600


async def paced(socket, data: bytes, block_bytes: int, began: float) -> float:
    """Send at the pace of speech; when the last byte went."""
    for number, start_at in enumerate(range(0, len(data), block_bytes)):
        await asyncio.sleep(max(0.0, began + (number + 1) * 0.1 - time.perf_counter()))
        await socket.send(data[start_at : start_at + block_bytes])
    return time.perf_counter()


async def ask_ours(url: str, sound: np.ndarray, number: int) -> float | None:
    """One utterance; seconds from its last sample to its last final."""
    data = (sound * 32768).clip(-32768, 32767).astype("<i2").tobytes()
    async with connect(url, compression=None, ping_timeout=None, local_addr=source_of(number)) as socket:
        await socket.send('{"type":"start","settings":{"partial_hop_ms":0}}')
        if json.loads(await socket.recv())["type"] != "ready":
            return None
        last: list[float] = []

        async def send() -> None:
            last.append(await paced(socket, data, 2 * BLOCK, time.perf_counter()))
            await socket.send('{"type":"end"}')

        sending = asyncio.create_task(send())
        async for message in socket:
            if json.loads(message)["type"] == "ended":
                break
        now = time.perf_counter()
        await sending
        return now - last[0]


async def ask_sherpa(url: str, sound: np.ndarray, number: int) -> float | None:
    """One utterance, after a header with the rate and the size."""
    data = sound.astype("<f4").tobytes()
    header = np.array([16_000, len(data)], "<i4").tobytes()
    async with connect(url, compression=None, ping_timeout=None, local_addr=source_of(number)) as socket:
        await socket.send(header)
        last = await paced(socket, data, 4 * BLOCK, time.perf_counter())
        await socket.recv()
        now = time.perf_counter()
        with contextlib.suppress(ConnectionClosed):
            await socket.send("Done")
        return now - last


def run(name: str, url: str, pid: int, sounds: list[np.ndarray], clients: int, seconds: float) -> dict[str, object]:
    """So many clients for so long."""
    process, late, refused, audio = psutil.Process(pid), [], 0, 0.0
    ask = ask_ours if name == "ours" else ask_sherpa

    async def one(number: int, until: float) -> None:
        nonlocal refused, audio
        rng = np.random.default_rng(number)
        await asyncio.sleep(rng.uniform(0, 2))
        while time.perf_counter() < until:
            sound = sounds[rng.integers(len(sounds))]
            found = await ask(url, sound, number)
            if found is None:
                refused += 1
                return
            late.append(found)
            audio += len(sound) / 16_000

    async def everybody() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(one(number, until) for number in range(clients)))

    used = sum(process.cpu_times()[:2])
    asyncio.run(everybody())
    used = sum(process.cpu_times()[:2]) - used
    ms = np.array(late or [np.nan]) * 1000
    return {
        "server": name,
        "clients": clients,
        "refused": refused,
        "utterances": len(late),
        "p50_ms": round(float(np.percentile(ms, 50)), 1),
        "p95_ms": round(float(np.percentile(ms, 95)), 1),
        "p99_ms": round(float(np.percentile(ms, 99)), 1),
        "cpu_by_audio": round(used / max(audio, 1e-9), 4),
        "server_mb": round(process.memory_info().rss / 1e6),
    }


@contextlib.contextmanager
def sherpa_server(folder: Path) -> Iterator[tuple[int, str]]:
    """The peer's server on a free port: its process and address."""
    model, tokens = export(folder)
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "sherpa-onnx-offline-websocket-server"
    command = [
        str(program), f"--port={port}", f"--tokens={tokens}",
        f"--omnilingual-asr-model={model}", "--num-threads=1", "--num-work-threads=1", "--num-io-threads=1",
        f"--log-file={folder / 'log'}",
    ]  # fmt: skip
    import sherpa_onnx  # pyright: ignore[reportMissingImports]

    library = str(Path(sherpa_onnx.__file__).parent / "lib")
    process = subprocess.Popen(
        command, env=os.environ | {"LD_LIBRARY_PATH": library}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), sockets.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield process.pid, f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    sounds, rows = [sound for sound in recordings() if len(sound) < 10 * 16_000], []
    with tempfile.TemporaryDirectory() as temporary, sherpa_server(Path(temporary)) as (pid, url):
        process, ours = start(None, 1)
        try:
            for name, at, server in (("ours", ours, process.pid), ("sherpa-onnx", url, pid)):
                run(name, at, server, sounds, 1, 3)  # warm
            for clients in options.clients:
                for name, at, server in (("ours", ours, process.pid), ("sherpa-onnx", url, pid)):
                    rows.append(run(name, at, server, sounds, clients, options.seconds))
                    print(rows[-1], flush=True)
                    machine.write("server_peer", {"seconds": options.seconds, "rows": rows})
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
