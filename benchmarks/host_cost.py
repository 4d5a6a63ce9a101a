"""What a chunk of one of many streams costs the host, when the device takes no time.

    python benchmarks/host_cost.py [--streams 64 512 2048] [--chunk-ms 320] [--seconds 6]

A GPU computes thousands of streams at once, and then what Python does for each of them decides how many a process
serves. Here streams are batched as on a GPU (static steps), but the device's part is left out: each row is given what
the bundled model said of some other piece of the recordings of `tests/audio`, so that words are decoded and segments
end. Sound comes in blocks of 100 ms, greedy decoding, no provisional passes.

feed      taking the sound, which a server does in another thread of the same interpreter
work      everything else in the batcher's thread: orders, chunks, buffers of the step, decoding, endpoints, events
voices    hearing the voice detectors' windows in one batch; on a GPU that is computed there, here on the processor, so
          it is not in `work`

All in microseconds of the processor for each chunk of a stream, beside the sound that such a process could follow
with one core if nothing else took time: streams_a_core = chunk / (feed + work).
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import write

from wavlm_live.model import StreamingContext
from wavlm_live.model.static_step import StaticStep
from wavlm_live.streamer import Event, SessionSettings, SpeechRules, stream_slots
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.silero_batch import SileroBatch

AUDIO = Path(__file__).resolve().parent.parent / "tests" / "audio"
BLOCK_SAMPLES = 1600
DETECTORS = {
    "silero": SpeechRules(),
    "model, words need no voice": SpeechRules(detector="model", words_need_voice=False),
}


class Device:
    """A device that takes no time: static steps are given recorded results, and what both cost is counted apart."""

    def __init__(self, results: torch.Tensor) -> None:
        self.results, self.spent_s, self.voices_s, self._calls = results, 0.0, 0.0, 0
        self._hear = SileroBatch.hear

    def compute(self, step: StaticStep) -> None:
        """In place of `StaticStep._compute`."""
        start_s = time.thread_time()
        rows = (torch.arange(step.rows) * 7 + self._calls) % len(self.results)
        step.results.copy_(self.results[rows])
        self._calls += 1
        self.spent_s += time.thread_time() - start_s

    def hear(self, batch: SileroBatch, streams: list) -> list:
        """In place of `SileroBatch.hear`."""
        start_s = time.thread_time()
        found = self._hear(batch, streams)
        self.voices_s += time.thread_time() - start_s
        return found


def recorded(recogniser: Recogniser, context: StreamingContext, sound: np.ndarray) -> torch.Tensor:
    """What greedy static steps fetch of a recording: `[chunks, frames, values]`."""
    found: list[torch.Tensor] = []
    compute = StaticStep._compute
    StaticStep._compute = lambda step: (compute(step), found.append(step.results[0].clone()))[0]
    try:
        batcher = Batcher(recogniser, BatcherRules(calibrate=False, most_sessions=1, idle_slots=1))
        settings = SessionSettings(context=context, partial_hop_ms=0, speech=SpeechRules(detector="model"))
        stream = batcher.open(settings)
        for start in range(0, len(sound), BLOCK_SAMPLES):
            stream.feed(sound[start : start + BLOCK_SAMPLES])
            batcher.settle()
    finally:
        StaticStep._compute = compute
    return torch.stack(found[1:])


def measure(
    recogniser: Recogniser, context: StreamingContext, speech: SpeechRules, count: int, seconds: float,
    sound: np.ndarray, device: Device,
) -> dict[str, object]:  # fmt: skip
    """So many streams for so many seconds of sound, after two that are not counted."""
    gc.collect()  # the streams of the row before
    now_s = 0.0
    rules = BatcherRules(calibrate=False, most_load=10, late_s=3600, most_sessions=count, idle_slots=count)
    batcher = Batcher(recogniser, rules, clock=lambda: now_s)
    settings = SessionSettings(context=context, partial_hop_ms=0, speech=speech)
    told = 0

    def take(events: list[Event]) -> None:
        nonlocal told
        told += len(events)

    streams = [batcher.open(settings, take) for _ in range(count)]
    batcher.settle()
    rng, at = random.Random(0), [0] * count
    places = [rng.randrange(len(sound) - BLOCK_SAMPLES) for _ in range(count)]
    feed_s, work_s, chunks, heard = 0.0, 0.0, 0, 0
    for turn in range(round((2 + seconds) * 10)):
        if turn == 20:
            feed_s = work_s = device.spent_s = device.voices_s = 0.0
            chunks, heard = batcher.statistics().chunks, told
        now_s += BLOCK_SAMPLES / 16_000
        start_s = time.thread_time()
        for n, stream in enumerate(streams):
            first = (places[n] + at[n]) % (len(sound) - BLOCK_SAMPLES)
            at[n] += BLOCK_SAMPLES
            stream.feed(sound[first : first + BLOCK_SAMPLES])
        between_s = time.thread_time()
        while batcher.tick():
            pass
        feed_s += between_s - start_s
        work_s += time.thread_time() - between_s
    chunks = batcher.statistics().chunks - chunks
    feed, work = 1e6 * feed_s / chunks, 1e6 * (work_s - device.spent_s - device.voices_s) / chunks
    return {
        "streams": count,
        "chunks": chunks,
        "events": told - heard,
        "feed_us": round(feed, 1),
        "work_us": round(work, 1),
        "voices_us": round(1e6 * device.voices_s / chunks, 1),
        "streams_a_core": round(context.chunk_ms * 1000 / (feed + work)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 512, 2048])
    parser.add_argument("--chunk-ms", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stream_slots.wants_static = lambda device: True  # as on a GPU
    recogniser = Recogniser.load(device="cpu")
    context = StreamingContext(250, options.chunk_ms // 20, 0)
    files = sorted(AUDIO.glob("*_*.opus"))
    sound = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files])
    device = Device(recorded(recogniser, context, sound))
    StaticStep._compute = lambda step: device.compute(step)
    SileroBatch.hear = lambda batch, streams: device.hear(batch, streams)
    gc.collect()
    gc.freeze()  # as `serve` does when it has started
    rows = []
    for name, speech in DETECTORS.items():
        for count in options.streams:
            told = measure(recogniser, context, speech, count, options.seconds, sound, device)
            rows.append({"detector": name, "chunk_ms": options.chunk_ms, **told})
            print(rows[-1], flush=True)
    write("host_cost", {"rows": rows})


if __name__ == "__main__":
    main()
