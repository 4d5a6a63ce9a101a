"""Cuts the line between a client and two servers at random places: the finals must be those of an unbroken run.

    python benchmarks/resume_cuts.py --cuts 200

Every run sends the same sound as fast as the servers take it, over a proxy that breaks each connection after a random
number of bytes and reaches the other server with the next; half of the runs have one server only. The sound begins with
ten seconds of loud noise, which drive the voice detector far from a fresh one; starts and stops of speech must be the
same, too. What was found is written after every run; `--more` counts on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from pathlib import Path

import machine
import numpy as np
from server import start

from wavlm_live.streamer import Final, Recogniser, SessionSettings, SpeechStarted, SpeechStopped
from wavlm_live.streamer.client import Client, Retry
from wavlm_live.streamer.sources import FileSource

SERVING = Path(__file__).parent.parent / "tests" / "streamer" / "server" / "conftest.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--more", action="store_true", help="so many more than the file of results tells of")
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
    noise = np.random.default_rng(1).normal(0, 0.3, 160_000).astype(np.float32)
    samples = np.concatenate([noise, samples])
    data = (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()
    settings = {"context": "20,16,4", "partial_hop_ms": 0}
    recogniser = Recogniser.load(device="cpu")
    session = recogniser.open(SessionSettings(context=recogniser.context("20,16,4"), partial_hop_ms=0))
    whole = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    expected = told([*session.feed(whole), *session.finish()])
    processes = [start(None, 1) for _ in range(2)]
    urls = [url for _, url in processes]
    result = {"seeds": [], "runs": 0, "cuts": 0, "elsewhere": 0, "wrong": 0, "finals": len(expected[0]), "seconds": 0.0}
    file = machine.RESULTS / "resume_cuts.json"
    if arguments.more and file.exists():
        result |= {name: value for name, value in json.loads(file.read_text()).items() if name in result}
    result["seeds"].append(arguments.seed)
    most, before_s = result["cuts"] + arguments.cuts, result["seconds"]
    began = time.perf_counter()
    try:
        while result["cuts"] < most:
            elsewhere = result["runs"] % 2 == 1
            places = [rng.randrange(len(data) // 3) for _ in range(rng.randrange(4, 13))]
            with serving.CuttingProxy(urls if elsewhere else urls[:1], places) as line:
                client = Client(line.url, settings, retry=Retry(first_s=0.01, longest_s=0.05))
                size = rng.choice([1001, 3200, 64_000])
                found = told(client.transcribe(data[i : i + size] for i in range(0, len(data), size)))
            result["cuts"] += client.reconnections
            result["elsewhere"] += client.reconnections * elsewhere
            result["runs"] += 1
            result["wrong"] += found != expected
            result["seconds"] = round(before_s + time.perf_counter() - began, 1)
            machine.write("resume_cuts", result)
            print(result, flush=True)
    finally:
        for process, _ in processes:
            process.terminate()
            process.wait()


def told(events) -> tuple[list, list]:
    """What was said, and where; and where speech starts and stops."""
    said, speech = [], []
    for event in events:
        if isinstance(event, Final):
            said.append((event.text, event.start_samples, event.end_samples, event.reason))
        elif isinstance(event, SpeechStarted | SpeechStopped):
            speech.append((type(event).__name__, event.at_samples))
    return said, speech


if __name__ == "__main__":
    main()
