"""One stream: how long does a step take, and when are the words there?

    python benchmarks/latency.py [--threads 2] [--seconds 20] [--clock wall]

For base (random weights) and the bundled model, in what `choose_for_cpu` takes and in plain float32: time of a
committing step with its front end, p50 and p99, and the headroom, chunk over p50. For the bundled model also, on real
recordings heard at the pace of speech on a simulated clock (sound arrives in 20 ms blocks, computing takes its time):
from the end of the first word to the first partial result, and from the end of the last word to its final.

`--clock cpu` counts the time of the processor instead of the wall's, with one thread: on a machine that others use, it
tells what the step needs, not how long the others let it wait.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import median_ms, percentile_ms, write

from wavlm_live.model import CTCTokenizer, StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.streamer import Final, Partial, SessionSettings
from wavlm_live.streamer.admission import ALONE
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.calibration import aged
from wavlm_live.streamer.cpu_choice import adopt, choose_for_cpu
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.stream_slots import Row, StreamSlots

CONTEXT = StreamingContext(250, 16, 0)
AUDIO = Path(__file__).resolve().parent.parent / "tests" / "audio"
BLOCK_SAMPLES = 320


def base_recogniser() -> Recogniser:
    """WavLM-base with random weights and 32 outputs: what it says means nothing, what it costs does."""
    torch.manual_seed(0)
    tokens = {"<pad>": 0, "|": 1} | {chr(97 + n): 2 + n for n in range(26)}
    model = WavLMForCTC(WavLMConfig(vocab_size=len(tokens), pad_token_id=0)).eval()
    return Recogniser(model, CTCTokenizer(tokens), "base", {"default": CONTEXT})


def steps(recogniser: Recogniser, clock: Callable[[], float], seconds: float) -> dict[str, object]:
    """Committing steps of one stream whose caches are full."""
    slots = StreamSlots(recogniser.model, CONTEXT)
    row = Row(aged(slots))
    chunk = (torch.randn(CONTEXT.chunk_frames * 320) * 0.05).numpy()
    times = []
    for number in range(3 + int(seconds * 1000 / CONTEXT.chunk_ms)):
        start_s = clock()
        row.encoder.listen(chunk)
        slots.compute([row])
        if number >= 3:
            times.append(clock() - start_s)
    return {
        "model": recogniser.name,
        "compute": recogniser.compute,
        "chunk_ms": CONTEXT.chunk_ms,
        "step_p50_ms": median_ms(times),
        "step_p99_ms": percentile_ms(times, 0.99),
        "headroom": round(CONTEXT.chunk_ms / median_ms(times), 1),
    }


def words(recogniser: Recogniser, clock: Callable[[], float], files: list[Path]) -> dict[str, object]:
    """When the first partial and the last final come, on the clock of the sound plus what computing took."""
    first, last = [], []
    for file in files:
        sound, _ = soundfile.read(file, dtype="float32")
        sound = np.concatenate([sound, np.zeros(16_000, np.float32)])
        skipped_s = -clock()  # the simulated clock: real computing, and jumps over the waiting
        now = lambda: clock() + skipped_s  # noqa: E731, B023
        events: list[tuple[float, object]] = []
        batcher = Batcher(recogniser, ALONE, clock=now)
        settings = SessionSettings(context=CONTEXT)
        stream = batcher.open(settings, lambda found: events.extend((now(), e) for e in found))  # noqa: B023
        for start in range(0, len(sound), BLOCK_SAMPLES):
            arrives_s = (start + BLOCK_SAMPLES) / 16_000
            skipped_s += max(0.0, arrives_s - now())
            stream.feed(sound[start : start + BLOCK_SAMPLES])
            batcher.settle()
        finals = [(at_s, e) for at_s, e in events if isinstance(e, Final)]
        partials = [(at_s, e) for at_s, e in events if isinstance(e, Partial) and e.words]
        if finals and partials:
            first.append(partials[0][0] - finals[0][1].words[0].end_samples / 16_000)
            last.append(finals[-1][0] - finals[-1][1].end_samples / 16_000)
    return {
        "recordings": len(first),
        "first_partial_after_first_word_ms": round(1000 * statistics.median(first)),
        "final_after_last_word_ms": round(1000 * statistics.median(last)),
        "of_that_waiting_for_silence_ms": SessionSettings().endpoint.silence_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="sound of each measurement")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.thread_time
    rows = []
    for fast in (True, False):
        for recogniser in (Recogniser.load(device="cpu"), base_recogniser()):
            if fast:
                recogniser.compute = adopt(recogniser.model, choose_for_cpu(recogniser.model))
            rows.append(steps(recogniser, clock, options.seconds))
            print(rows[-1], flush=True)
    spoken = words(Recogniser.load(device="cpu", dtype="auto"), clock, sorted(AUDIO.glob("*_*.opus"))[:6])
    print(spoken)
    write("latency", {"clock": options.clock, "threads_used": torch.get_num_threads(), "rows": rows, "words": spoken})


if __name__ == "__main__":
    main()
