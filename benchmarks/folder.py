"""A folder of short recordings: computed together, and one after the other.

    python benchmarks/folder.py [--models bundled base] [--recordings 40] [--rounds 3]

Recordings of noise, 1 to 12 s, many short ones and few long ones, without a voice detector. Both sides give the events
of streams: `together` is what `transcribe` does with several recordings, `one by one` is `Recogniser.offline` for each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from latency import base_recogniser
from machine import alternate, write

from wavlm_live.streamer import SessionSettings, SpeechRules
from wavlm_live.streamer.cpu_choice import adopt, choose_for_cpu
from wavlm_live.streamer.recogniser import Recogniser

SETTINGS = SessionSettings(partial_hop_ms=0, speech=SpeechRules(detector="model"))


def sounds_of(count: int) -> list[np.ndarray]:
    """Noise, from 1 to 12 s, evenly on a logarithmic scale, in random order."""
    rng = np.random.default_rng(0)
    seconds = np.exp(rng.permutation(np.linspace(0.0, np.log(12.0), count)))
    return [rng.normal(scale=0.05, size=round(16_000 * s)).astype(np.float32) for s in seconds]


def one_by_one(recogniser: Recogniser, sounds: list[np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        for sound in sounds:
            listener = recogniser.offline(SETTINGS)
            listener.feed(sound)
            listener.finish()

    return run


def together(recogniser: Recogniser, sounds: list[np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        for sound, listener in zip(sounds, recogniser.together(sounds, SETTINGS), strict=True):
            listener.feed(sound)
            listener.finish()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bundled", "base"])
    parser.add_argument("--recordings", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    if options.clock == "cpu":
        time.perf_counter = time.thread_time  # what `alternate` measures with
    sounds = sounds_of(options.recordings)
    seconds = sum(map(len, sounds)) / 16_000
    rows = []
    for name in options.models:
        recogniser = Recogniser.load(device="cpu") if name == "bundled" else base_recogniser()
        recogniser.compute = adopt(recogniser.model, choose_for_cpu(recogniser.model))
        sides = {"one by one": one_by_one(recogniser, sounds), "together": together(recogniser, sounds)}
        together(recogniser, sounds[:4])()  # warm
        times = {side: statistics.median(found) for side, found in alternate(sides, options.rounds).items()}
        rows.append(
            {
                "model": name,
                "compute": recogniser.compute,
                "speed_one_by_one": round(seconds / times["one by one"], 1),
                "speed_together": round(seconds / times["together"], 1),
                "ratio": round(times["one by one"] / times["together"], 2),
            }
        )
        print(rows[-1], flush=True)
    write(
        "folder", {"clock": options.clock, "recordings": options.recordings, "seconds": round(seconds, 1), "rows": rows}
    )


if __name__ == "__main__":
    main()
