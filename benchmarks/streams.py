"""How many live streams does one device hold?

    python benchmarks/streams.py [--models bundled base] [--chunks-ms 160 320 640 960] [--seconds 60]
    python benchmarks/streams.py --device cuda --models base --chunks-ms 320 --probe-seconds 8

Streams speak at the pace of speech, each at its own phase, in blocks of 100 ms, on a simulated clock: computing takes
the time that it takes, waiting is jumped over. Held means: after `--seconds` of that clock the p99 of the latency, from
the last sample of a chunk to its events, is below one chunk. Left context 5 s, caches full from the start, no
provisional passes. The number is searched from the measured cost of steps on, with `--probe-seconds` of the clock, and
what was found is then held for `--seconds`. What hands the sound over is counted, though a server does that in other
threads. On a GPU the models compute in bfloat16; `busy` is the share of the time that went to steps, `device` that in
which the host waited for the device.

The physical limit: the arithmetic that the held streams need, by the measured speed of large products of matrices; and
the bytes that must be read, the weights once a step and each stream's cached keys and values once a chunk, by the
measured speed of copying (a copy reads and writes, so twice its bytes). Both shares are of the whole time.

`--clock cpu` counts the processor's time of one thread: see `latency.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
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


def peak_gflops(device: torch.device, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """The fastest of some products of two square matrices."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / fastest_s(lambda: torch.mm(a, b), device, clock) / 1e9


def peak_gb(device: torch.device, clock: Callable[[], float]) -> float:
    """Gigabytes a second, read and written, of the fastest of some copies: 128 MB, on a GPU 4 GB."""
    source = torch.ones((1024 if device.type == "cuda" else 32) * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / fastest_s(lambda: target.copy_(source), device, clock) / 1e9


def fastest_s(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of some calls."""
    best = float("inf")
    for _ in range(8):
        start_s = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start_s)
    return best


class Waiting:
    """Counts how long the host waits for a GPU in static steps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds, self._clock, self._wait = 0.0, clock, torch.cuda.Stream.synchronize

    def __enter__(self) -> Waiting:
        def waited(stream: torch.cuda.Stream) -> None:
            start_s = self._clock()
            self._wait(stream)
            self.seconds += self._clock() - start_s

        setattr(torch.cuda.Stream, "synchronize", waited)  # noqa: B010 (a method of a class that others own)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(torch.cuda.Stream, "synchronize", self._wait)  # noqa: B010


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
    ready: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Let so many streams speak and tell what came of it.

    Args:
        ready: called when all streams are open; then waiting is waited, since other processes share the device. None:
            it is jumped over.
    """
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
    if ready is not None:
        ready()
    begin_s = now()
    due = [(begin_s + rng.uniform(0, context.chunk_ms / 1000), number) for number in range(count)]
    fed = [0] * count
    order = sorted(due)
    with Waiting(clock) as waiting:
        while order and order[0][0] - begin_s < seconds:
            if order[0][0] > now():
                if batcher.tick():
                    continue
                if ready is not None:
                    time.sleep(max(0.0, order[0][0] - now()))
                else:
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
        "device": round(waiting.seconds / seconds, 2),
        "steps_a_second": round(told.steps / seconds, 2),
    }


def room_for(recogniser: Recogniser, context: StreamingContext) -> int:
    """Streams whose states a GPU has memory for, a sixth of it left for the steps."""
    if recogniser.device.type != "cuda":
        return 1_000_000
    states = recogniser.model.new_states(1, context)
    return int(torch.cuda.mem_get_info(recogniser.device)[0] * 5 / 6 / states.nbytes)


def search(
    recogniser: Recogniser, chunk_ms: int, options: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, object]:
    """The largest number of streams that was held."""
    context, cost = StreamingContext(250, chunk_ms // 20, 0), StepCost()
    largest = 512 if recogniser.device.type == "cuda" else 64
    calibrate(recogniser.model, context, cost, largest, clock, 20.0)
    best = max(1, max((int(size * context.chunk_ms / 1000 / cost.seconds(size)) for size in cost.sizes), default=1))
    most = room_for(recogniser, context)
    best = min(best, most)

    def hold(count: int, seconds: float) -> dict[str, float] | None:
        gc.collect()  # the streams of the try before
        if recogniser.device.type == "cuda":
            torch.cuda.empty_cache()
        told = held(recogniser, context, cost, count, seconds, clock)
        print(recogniser.name, chunk_ms, f"{seconds:g} s", told, flush=True)
        return told if told["p99_ms"] < chunk_ms else None

    count, found, high = max(1, int(0.75 * best)), None, 0
    for _ in range(options.probes):
        told = hold(count, options.probe_seconds or options.seconds)
        if told is None:
            high = count
        else:
            found = told
            if told["busy"] > options.enough or count >= most:
                break
        low = int(found["streams"]) if found else 0
        # what failed and what was held close in on each other
        following = int(1.12 * low) + 1 if not high else int((low * high) ** 0.5) if low else int(0.6 * high)
        following = min(most, max(1, following))
        if following in (low, high):
            break
        count = following
    if found is not None and options.probe_seconds and options.probe_seconds < options.seconds:
        count, found = int(found["streams"]), None
        while found is None and count > 1:
            found = hold(count, options.seconds)
            count = int(0.9 * count)
    steps = {str(round(size)): round(1000 * cost.seconds(size), 2) for size in cost.sizes}
    return {"context": str(context), "step_ms_by_batch": steps, **(found or {"streams": 0})}


def recogniser_on(device: str, name: str) -> Recogniser:
    """The model as its users have it on a device: the fastest way of a CPU; on a GPU bfloat16."""
    if device == "cpu":
        recogniser = Recogniser.load(device="cpu") if name == "bundled" else base_recogniser()
        recogniser.compute = adopt(recogniser.model, choose_for_cpu(recogniser.model))
        return recogniser
    if name == "bundled":
        return Recogniser.load(device=device, dtype="auto")
    with tempfile.TemporaryDirectory() as folder:
        random_one = base_recogniser()
        random_one.model.save_pretrained(folder)
        random_one.tokenizer.save_pretrained(folder)
        return Recogniser.load(folder, device=device, dtype="auto", name="base")


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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--probes", type=int, default=6)
    parser.add_argument("--probe-seconds", type=float, default=0.0, help="of each try before the last; 0: as --seconds")
    parser.add_argument("--enough", type=float, default=0.85, help="busy so much, no more streams are tried")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--add", action="store_true", help="keep rows that were measured before")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.thread_time
    result = "streams" if options.device == "cpu" else "streams_cuda"
    path, rows = RESULTS / f"{result}.json", []
    before = json.loads(path.read_text())["rows"] if options.add and path.is_file() else []
    for name in options.models:
        recogniser = recogniser_on(options.device, name)
        weights = sum(p.numel() for p in recogniser.model.parameters())
        device = recogniser.device
        peak, copied = peak_gflops(device, recogniser.dtype, clock), peak_gb(device, clock)
        size = torch.finfo(recogniser.dtype).bits // 8
        for chunk_ms in options.chunks_ms:
            found = search(recogniser, chunk_ms, options, clock)
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
            write(result, {"clock": options.clock, "rows": together(rows, before)})


if __name__ == "__main__":
    main()
