"""Three hours of 64 streams that come and go, faster than real time: does anything grow, get lost or change?

    python benchmarks/long_session.py [--hours 3] [--streams 64]

A small model with random weights, which writes letters and pauses for any sound; the clock is simulated. Every stream
is fed in blocks, ends after 5 to 300 seconds, and another takes its place. Streams draw from a fixed set of sounds and
of settings (chunks of 640 and of 960 ms side by side), so what a session alone gives is computed once for each pair;
every text, time and confidence of every stream is compared to it. Memory and the processor's time for a chunk are noted
every ten simulated minutes: what the process has, what of it the C library has given out (tensors, arrays), and how
many small objects Python has. A leak makes these grow; what the process has also grows where free memory is in pieces.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from machine import write

from wavlm_live.model import CTCTokenizer, StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.streamer import EndpointRules, Event, Final, Partial, Problem, SessionSettings, SpeechRules
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.recogniser import Recogniser

CONTEXT = StreamingContext(100, 48, 4)
SETTINGS = [
    SessionSettings(
        context=context,
        endpoint=EndpointRules(silence_ms=300, max_segment_s=10),
        speech=SpeechRules(detector="model"),
        partial_hop_ms=0,
    )
    for context in (CONTEXT, StreamingContext(100, 32, 4))
]
BLOCK_SAMPLES = 48 * 320
SOUNDS = 20


def small_recogniser() -> Recogniser:
    """40 thousand random weights, balanced so that letters, pauses and blanks all come up."""
    torch.manual_seed(1)
    vocabulary = {"<pad>": 0, "|": 1} | {chr(97 + n): 2 + n for n in range(26)}
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(vocabulary), pad_token_id=0,
    )  # fmt: skip
    model = WavLMForCTC(config).eval().requires_grad_(False)
    model.lm_head.weight.normal_(std=1.0)
    sample = torch.from_numpy(sound_of(10, 0))[None]
    logits = model(sample, context=CONTEXT).logits[0]
    model.lm_head.bias -= logits.mean(0)
    model.lm_head.bias[0] += 1.5 * logits.std()
    return Recogniser(model, CTCTokenizer(vocabulary), "small", {"default": CONTEXT})


def sound_of(seconds: float, seed: int) -> np.ndarray:
    """Noise whose level and colour change every tenth of a second, with pauses."""
    rng = np.random.default_rng(seed)
    tenths = int(10 * seconds)
    noise = rng.normal(size=1600 * tenths).astype(np.float32)
    smooth = np.convolve(noise, np.ones(5, np.float32) / 5, "same").astype(np.float32)
    colour = rng.random(tenths).repeat(1600).astype(np.float32)
    level = rng.choice([0.0, 0.02, 0.2], tenths, p=[0.25, 0.25, 0.5]).repeat(1600).astype(np.float32)
    return level * (colour * noise + (1 - colour) * smooth)


@dataclass
class Speaker:
    """One stream and what it should say."""

    kind: tuple[int, int]
    """Numbers of its sound and of its settings."""
    fed: int = 0
    events: list[Event] = field(default_factory=list)


def outcome(events: list[Event]) -> list[tuple[object, ...]]:
    """All that must be equal: kinds, times, texts; confidences to three digits."""
    found: list[tuple[object, ...]] = []
    for event in events:
        if isinstance(event, Final):
            words = [(w.text, w.start_samples, w.end_samples, round(w.confidence, 2)) for w in event.words]
            found.append(("final", event.text, event.start_samples, event.end_samples, event.reason, tuple(words)))
        elif not isinstance(event, Partial):
            found.append((type(event).__name__, getattr(event, "at_samples", None)))
    return found


def memory_mb() -> float:
    """What the process has in memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc (mallinfo(3))."""

    _names = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def given_out_mb() -> float:
    """What glibc has given out and not got back; 0 with another C library."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0.0
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return (found.uordblks + found.hblkhd) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--most-wall-minutes", type=float, default=60.0, help="end earlier after so long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    recogniser = small_recogniser()
    sounds = [sound_of(rng.uniform(5, 300), seed) for seed in range(SOUNDS)]
    expected: dict[tuple[int, int], list[tuple[object, ...]]] = {}
    for number, sound in enumerate(sounds):
        for way, settings in enumerate(SETTINGS):
            session = recogniser.open(settings)
            expected[number, way] = outcome(session.feed(sound) + session.finish())
    clock_s = 0.0
    batcher = Batcher(recogniser, BatcherRules(calibrate=False, most_load=10), clock=lambda: clock_s)
    running: dict[object, Speaker] = {}
    finished = differing = out_of_order = problems = finals = 0
    rows: list[dict[str, float]] = []
    started_s, cpu_s, chunks = time.perf_counter(), time.process_time(), 0
    minutes = 0
    end_s = 3600 * options.hours
    while clock_s < end_s or running:
        if time.perf_counter() - started_s > 60 * options.most_wall_minutes:
            end_s = min(end_s, clock_s)
        while len(running) < options.streams and clock_s < end_s:
            speaker = Speaker((rng.randrange(SOUNDS), rng.randrange(len(SETTINGS))))
            running[batcher.open(SETTINGS[speaker.kind[1]], speaker.events.extend)] = speaker
        clock_s += BLOCK_SAMPLES / 16_000
        for stream, speaker in running.items():
            sound = sounds[speaker.kind[0]]
            block = sound[speaker.fed : speaker.fed + rng.choice((BLOCK_SAMPLES, BLOCK_SAMPLES - 777, 18_000))]
            speaker.fed += len(block)
            stream.feed(block)
            if speaker.fed == len(sound):
                stream.finish()
        batcher.settle()
        for stream in [s for s in running if s.ended]:
            speaker = running.pop(stream)
            finished += 1
            got = outcome(speaker.events)
            finals += sum(row[0] == "final" for row in got)
            differing += got != expected[speaker.kind]
            ends = [row[3] for row in got if row[0] == "final"]
            out_of_order += ends != sorted(ends)
            problems += any(isinstance(event, Problem) for event in speaker.events)
        if clock_s >= 600 * (minutes + 1):
            minutes += 1
            told, now_s = batcher.statistics(), time.process_time()
            gc.collect()
            rows.append(
                {
                    "minutes": 10 * minutes,
                    "memory_mb": round(memory_mb(), 1),
                    "given_out_mb": round(given_out_mb(), 1),
                    "python_objects": sys.getallocatedblocks(),
                    "cpu_ms_a_chunk": round(1000 * (now_s - cpu_s) / max(1, told.chunks - chunks), 4),
                    "batch_mean": round(told.batch_mean, 1),
                    "streams_finished": finished,
                }
            )
            cpu_s, chunks = time.process_time(), told.chunks
            print(rows[-1], flush=True)
    told = batcher.statistics()
    costs = [row["cpu_ms_a_chunk"] for row in rows]
    half = len(rows) // 2
    result: dict[str, object] = {
        "hours": round(clock_s / 3600, 2),
        "streams_at_once": options.streams,
        "streams_finished": finished,
        "streams_that_differ_from_alone": differing,
        "streams_out_of_order": out_of_order,
        "streams_with_problems": problems,
        "finals": finals,
        "hours_of_sound": round(told.audio_s / 3600, 1),
        "wall_minutes": round((time.perf_counter() - started_s) / 60, 1),
        "memory_mb_first_half": round(statistics.median(row["memory_mb"] for row in rows[:half] or rows), 1),
        "memory_mb_second_half": round(statistics.median(row["memory_mb"] for row in rows[half:]), 1),
        "given_out_mb_first_half": round(statistics.median(row["given_out_mb"] for row in rows[:half] or rows), 1),
        "given_out_mb_second_half": round(statistics.median(row["given_out_mb"] for row in rows[half:]), 1),
        "python_objects_first_half": round(statistics.median(row["python_objects"] for row in rows[:half] or rows)),
        "python_objects_second_half": round(statistics.median(row["python_objects"] for row in rows[half:])),
        "cpu_ms_a_chunk_first_half": round(statistics.median(costs[:half] or costs), 4),
        "cpu_ms_a_chunk_second_half": round(statistics.median(costs[half:]), 4),
        "slots": sum(group.slots.states.slots for group in batcher.groups.values()),
        "cpu_minutes": round(time.process_time() / 60, 1),
        "rows": rows,
    }
    print({name: value for name, value in result.items() if name != "rows"})
    write("long_session", result)


if __name__ == "__main__":
    main()
