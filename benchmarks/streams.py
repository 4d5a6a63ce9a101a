"""How many live streams does one device hold?

    python benchmarks/streams.py [--models bundled base] [--chunks-ms 160 320 640 960] [--seconds 60]

Streams speak at the pace of speech, each at its own phase, in blocks of 100 ms, on a simulated clock: computing takes
the time that it takes, waiting is jumped over. Held means: after `--seconds` of that clock the p99 of the latency, from
the last sample of a chunk to its events, is below one chunk. Left context 5 s, caches full from the start, no
provisional passes. The number is searched from the measured cost of steps on.

The physical limit: the arithmetic that the held streams need, by the measured speed of large products of matrices; and
the bytes that must be read, the weights once a step and each stream's cached keys and values once a chunk, by the
measured speed of copying (a copy reads and writes, so twice its bytes). Both shares are of the whole time.

`--clock cpu` counts the processor's time of one thread: see `latency.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from latency import base_recogniser
from machine import RESULTS, write

from wavlm_live.model import StreamingContext, WavLMConfig
from wavlm_live.streamer import SessionSettings, SpeechRules
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.calibration import calibrate
from wavlm_live.streamer.cpu_choice import adopt, choose_for_cpu
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.step_cost import StepCost

BLOCK_SAMPLES = 1600


def gflop_a_second(config: WavLMConfig, context: StreamingContext) -> float:
    """Arithmetic for one second of a stream: convolutions, position, linear layers, attention; right context twice."""
    total, positions, inputs = 0.0, 16_000.0, 1
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        positions /= stride
        total += 2 * positions * kernel * inputs * width
        inputs = width
    hidden, inner = config.hidden_size, config.intermediate_size
    frames = 50 * context.step_frames / context.chunk_frames
    seen = context.left_frames + context.step_frames
    layer = 2 * (4 * hidden * hidden + 2 * hidden * inner) + 4 * hidden * seen
    position = 2 * hidden * hidden / config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    total += frames * (config.num_hidden_layers * layer + position + 2 * hidden * config.vocab_size)
    return (total + 50 * 2 * inputs * hidden) / 1e9


def peak_gflops(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """The fastest of some products of two matrices of 1024 by 1024."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start_s = clock()
        torch.mm(a, b)
        best = min(best, clock() - start_s)
    return 2 * 1024**3 / best / 1e9


def peak_gb(clock: Callable[[], float]) -> float:
    """Gigabytes a second, read and written, of the fastest of some copies of 128 MB."""
    source = torch.ones(32 * 2**20)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(6):
        start_s = clock()
        target.copy_(source)
        best = min(best, clock() - start_s)
    return 2 * 4 * source.numel() / best / 1e9


def gb_a_second(
    config: WavLMConfig, context: StreamingContext, told: dict[str, float], weights: int, size: int
) -> float:
    """What so many streams make the device read in a second: weights once a step, rings once a chunk."""
    ring = 2 * config.num_hidden_layers * context.left_frames * config.hidden_size * size
    return (told["steps_a_second"] * weights * size + told["streams"] / (context.chunk_ms / 1000) * ring) / 1e9


def held(
    recogniser: Recogniser,
    context: StreamingContext,
    cost: StepCost,
    count: int,
    seconds: float,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Let so many streams speak and tell what came of it."""
    skipped_s = 0.0

    def now() -> float:
        return clock() + skipped_s

    rules = BatcherRules(calibrate=False, most_load=10, late_s=3600, most_sessions=count, idle_slots=count)
    batcher = Batcher(recogniser, rules, clock=now)
    batcher.group_of(context).cost = cost
    settings = SessionSettings(context=context, partial_hop_ms=0, speech=SpeechRules(detector="model"))
    rng, noise = random.Random(0), (np.random.default_rng(0).normal(0, 0.05, 16_000)).astype(np.float32)
    streams = []
    for _ in range(count):
        stream = batcher.open(settings)
        streams.append(stream)
    batcher.settle()
    begin_s = now()
    due = [(begin_s + rng.uniform(0, context.chunk_ms / 1000), number) for number in range(count)]
    fed = [0] * count
    order = sorted(due)
    while order and order[0][0] - begin_s < seconds:
        if order[0][0] > now():
            if batcher.tick():
                continue
            skipped_s += max(0.0, order[0][0] - now())
        while order[0][0] <= now():
            at_s, number = order.pop(0)
            stream = streams[number]
            stream.feed(noise[(fed[number] * 371) % 14_000 :][:BLOCK_SAMPLES])
            # it was there when it was spoken, though a step was being computed then and it is only handed over now
            stream.orders[-1] = replace(stream.orders[-1], due_s=at_s, came_s=at_s)
            stream.pace.due_s = at_s
            fed[number] += 1
            order.append((at_s + BLOCK_SAMPLES / 16_000, number))
            if len(order) > 1 and order[-1] < order[-2]:
                order.sort()
        batcher.tick()
    told = batcher.statistics()
    return {
        "streams": count,
        "p50_ms": round(told.latency_p50_ms, 1),
        "p99_ms": round(told.latency_p99_ms, 1),
        "batch_mean": round(told.batch_mean, 1),
        "busy": round(told.busy_s / seconds, 2),
        "steps_a_second": round(told.steps / seconds, 2),
    }


def search(
    recogniser: Recogniser, chunk_ms: int, seconds: float, probes: int, clock: Callable[[], float], enough: float
):
    """The largest number of streams that was held."""
    context = StreamingContext(250, chunk_ms // 20, 0)
    cost = StepCost()
    calibrate(recogniser.model, context, cost, 64, clock, 20.0)
    best = max(1, max((int(size * context.chunk_ms / 1000 / cost.seconds(size)) for size in cost.sizes), default=1))
    count, found = max(1, int(0.75 * best)), None
    for _ in range(probes):
        told = held(recogniser, context, cost, count, seconds, clock)
        print(recogniser.name, chunk_ms, told, flush=True)
        if told["p99_ms"] < chunk_ms:
            found = told if found is None or count > found["streams"] else found
            if told["busy"] > enough:
                break
            count = max(count + 1, int(count * 1.12))
        elif found is not None:
            break
        else:
            count = max(1, int(count * 0.75))
    return {"context": str(context), "step_ms_by_batch": {str(round(s)): round(1000 * cost.seconds(s), 2) for s in
            cost.sizes}, **(found or {"streams": 0})}  # fmt: skip


def together(rows: list[dict[str, object]], before: list[dict[str, object]]) -> list[dict[str, object]]:
    """All rows in order: these, and those that were measured before and not again."""
    new = {(row["model"], row["chunk_ms"]) for row in rows}
    old = [row for row in before if (row["model"], row["chunk_ms"]) not in new]
    return sorted([*old, *rows], key=lambda row: (row["model"] == "base", row["chunk_ms"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bundled", "base"])
    parser.add_argument("--chunks-ms", type=int, nargs="+", default=[160, 320, 640, 960])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--enough", type=float, default=0.85, help="busy so much, no more streams are tried")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--add", action="store_true", help="keep rows that were measured before")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.thread_time
    path, rows = RESULTS / "streams.json", []
    before = json.loads(path.read_text())["rows"] if options.add and path.is_file() else []
    for name in options.models:
        recogniser = Recogniser.load(device="cpu") if name == "bundled" else base_recogniser()
        weights = sum(p.numel() for p in recogniser.model.parameters())
        recogniser.compute = adopt(recogniser.model, choose_for_cpu(recogniser.model))
        peak, copied = peak_gflops(recogniser.dtype, clock), peak_gb(clock)
        size = torch.finfo(recogniser.dtype).bits // 8
        for chunk_ms in options.chunks_ms:
            found = search(recogniser, chunk_ms, options.seconds, options.probes, clock, options.enough)
            config, context = recogniser.model.config, StreamingContext.parse(str(found["context"]))
            needed = gflop_a_second(config, context)
            share = round(float(found["streams"]) * needed / peak, 3)
            moved = gb_a_second(config, context, found, weights, size) if "steps_a_second" in found else 0.0
            row = {
                "model": name,
                "compute": recogniser.compute,
                "chunk_ms": chunk_ms,
                "seconds": options.seconds,
                **found,
            }
            rows.append({**row, "gflop_a_second": round(needed, 2), "peak_gflops": round(peak), "share_of_peak": share})
            rows[-1] |= {"gb_a_second": round(moved, 2), "peak_gb": round(copied, 1)}
            rows[-1]["share_of_copying"] = round(moved / copied, 3)
            print(rows[-1], flush=True)
            write("streams", {"clock": options.clock, "rows": together(rows, before)})


if __name__ == "__main__":
    main()
