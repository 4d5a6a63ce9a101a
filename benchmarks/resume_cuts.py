"""Cuts the line between a client and two servers at random places: the finals must be those of an unbroken run.

    python benchmarks/resume_cuts.py --cuts 200

Every run sends the same recording as fast as the servers take it, over a proxy that breaks each connection after a
random number of bytes and reaches the other server with the next; half of the runs have one server only.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from pathlib import Path

import machine
import numpy as np
from server import start

from wavlm_live.streamer import Final, Recogniser, SessionSettings
from wavlm_live.streamer.client import Client, Retry
from wavlm_live.streamer.sources import FileSource

SERVING = Path(__file__).parent.parent / "tests" / "streamer" / "server" / "conftest.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    default = Path(__file__).parent.parent / "tests" / "audio" / "digits_and_commands.flac"
    parser.add_argument("--sound", type=Path, default=default)
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("serving", SERVING)
    assert spec is not None
    assert spec.loader is not None
    serving = importlib.util.module_from_spec(spec)
    sys.modules["serving"] = serving
    spec.loader.exec_module(serving)
    rng = random.Random(arguments.seed)
    samples = np.concatenate(list(FileSource(arguments.sound)))
    data = (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()
    settings = {"context": "20,16,4", "partial_hop_ms": 0}
    recogniser = Recogniser.load(device="cpu")
    session = recogniser.open(SessionSettings(context=recogniser.context("20,16,4"), partial_hop_ms=0))
    whole = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    expected = finals([*session.feed(whole), *session.finish()])
    processes = [start(None, 1) for _ in range(2)]
    urls = [url for _, url in processes]
    cuts = runs = wrong = 0
    began = time.perf_counter()
    try:
        while cuts < arguments.cuts:
            places = [rng.randrange(int(len(data) * 1.2)) for _ in range(rng.randrange(1, 5))]
            with serving.CuttingProxy(urls if runs % 2 else urls[:1], places) as line:
                client = Client(line.url, settings, retry=Retry(first_s=0.01, longest_s=0.05))
                size = rng.choice([1001, 3200, 64_000])
                found = finals(client.transcribe(data[i : i + size] for i in range(0, len(data), size)))
            cuts += client.reconnections
            runs += 1
            wrong += found != expected
            print(f"{runs} runs, {cuts} cuts, {wrong} wrong", flush=True)
    finally:
        for process, _ in processes:
            process.terminate()
            process.wait()
    result = {"seed": arguments.seed, "runs": runs, "cuts": cuts, "wrong": wrong, "finals": len(expected)}
    machine.write("resume_cuts", result | {"seconds": round(time.perf_counter() - began, 1)})


def finals(events) -> list:
    """What was said, and where."""
    return [(e.text, e.start_samples, e.end_samples, e.reason) for e in events if isinstance(e, Final)]


if __name__ == "__main__":
    main()
