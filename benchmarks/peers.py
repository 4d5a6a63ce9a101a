"""The same sound on the same machine, in turn: our stream, our offline mode, transformers' WavLM.

    python benchmarks/peers.py [--seconds 20] [--rounds 2] [--models base]

Sides: `stream` is `Recogniser.alone`, chunk by chunk of 320 ms with 5 s to the left; `offline` computes the same
chunks in long stretches; both without a voice detector and provisional passes. `transformers whole` encodes the
recording at once, every frame seeing all others; `transformers window` encodes 5 s and the chunk anew for each chunk,
which is how one streams with it. Weights are random, since only time is measured; ours run as `choose_for_cpu` says
and in plain float32. sherpa-onnx stands beside the bundled model in `sherpa.py`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from latency import CONTEXT, base_recogniser
from machine import alternate, write

from wavlm_live.streamer import SessionSettings, SpeechRules
from wavlm_live.streamer.cpu_choice import adopt, choose_for_cpu
from wavlm_live.streamer.recogniser import Recogniser

SETTINGS = SessionSettings(context=CONTEXT, partial_hop_ms=0, speech=SpeechRules(detector="model"))


def ours(recogniser: Recogniser, sound: np.ndarray, kind: str):
    """One run of a side of ours."""

    def run() -> None:
        listener = recogniser.alone(SETTINGS) if kind == "stream" else recogniser.offline(SETTINGS)
        for start in range(0, len(sound), 16_000):
            listener.feed(sound[start : start + 16_000])
        listener.finish()

    return run


def theirs(recogniser: Recogniser, sound: np.ndarray, kind: str):
    """One run of transformers on a model of the same sizes."""
    from transformers import WavLMConfig as PeerConfig
    from transformers import WavLMForCTC as PeerModel

    skip = ("id2label", "label2id", "model_type")
    values = recogniser.model.config.to_dict().items()
    peer = PeerModel(PeerConfig(**{k: v for k, v in values if k not in skip})).eval()
    chunk = CONTEXT.chunk_frames * 320
    whole = torch.from_numpy(sound)[None]

    def run() -> None:
        with torch.no_grad():
            if kind == "whole":
                peer(whole)
                return
            for end in range(chunk, len(sound) + 1, chunk):
                peer(whole[:, max(0, end - chunk - CONTEXT.left_frames * 320) : end + 80])

    return run


SIDES = (
    "stream", "offline", "stream, float32", "offline, float32", "transformers whole", "transformers window",
)  # fmt: skip
WINDOW_SECONDS = 6.0
"""Sound for the memory of the window, which no longer sound changes."""


def side_of(name: str, sound: np.ndarray, plain: Recogniser, fast: Recogniser):
    """One run of a side by its name."""
    kind = name.partition(",")[0].split()[-1]
    if name.startswith("transformers"):
        return theirs(plain, sound, kind)
    return ours(plain if name.endswith("float32") else fast, sound, kind)


def adopted() -> tuple[Recogniser, str]:
    """Base in what is fastest here."""
    fast = base_recogniser()
    return fast, adopt(fast.model, choose_for_cpu(fast.model))


def peak_mb(name: str, seconds: float, threads: int) -> int:
    """Peak memory of a process that computes one side once; a peak cannot be taken back, so it is one of its own."""
    code = [sys.executable, __file__, "--seconds", str(min(seconds, WINDOW_SECONDS) if "window" in name else seconds)]
    done = subprocess.run([*code, "--threads", str(threads), "--memory-of", name], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory-of", choices=SIDES, help="run one side once and print the peak memory, nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    if options.clock == "cpu":
        time.perf_counter = time.thread_time  # what `alternate` measures with
    warnings.filterwarnings("ignore")
    sound = np.random.default_rng(0).normal(0, 0.05, round(options.seconds * 16_000)).astype(np.float32)
    if options.memory_of is not None:
        plain = base_recogniser()
        if options.memory_of in ("stream", "offline"):
            adopt(plain.model, choose_for_cpu(plain.model))
        side_of(options.memory_of, sound, plain, plain)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    peaks = {name: peak_mb(name, options.seconds, torch.get_num_threads()) for name in SIDES}
    plain, (fast, fast_compute) = base_recogniser(), adopted()
    fast.compute = fast_compute
    sides = {name: side_of(name, sound, plain, fast) for name in SIDES}
    times = alternate(sides, options.rounds)
    speed = {name: round(options.seconds / statistics.median(found), 2) for name, found in times.items()}
    rows = [
        {
            "side": name,
            "speed": value,
            "by_window": round(value / speed["transformers window"], 1),
            "peak_mb": peaks[name],
        }
        for name, value in speed.items()
    ]
    for row in rows:
        print(row)
    write("peers", {"clock": options.clock, "seconds": options.seconds, "compute": fast.compute, "rows": rows})


if __name__ == "__main__":
    main()
