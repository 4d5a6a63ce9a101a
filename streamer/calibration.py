"""What a step costs on this device before there are streams: `calibrate`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..model import StreamingContext, WavLMForCTC
from .step_cost import StepCost
from .stream_slots import Row, SlotEncoder, StreamSlots
from .thread_choice import ThreadChoice

BEYOND_MS = 500
ROUNDS = 3
"""Steps of each size that are measured; one before them is not."""


def calibrate(
    model: WavLMForCTC,
    context: StreamingContext,
    cost: StepCost,
    largest_batch: int,
    clock: Callable[[], float],
    most_s: float = 3.0,
    *,
    cost_clock: Callable[[], float] | None = None,
    threads: ThreadChoice | None = None,
    took: Callable[[float, float], None] | None = None,
) -> None:
    """Measure committing steps of 1, 2, 4, ... streams whose caches are full.

    Larger batches are measured until one takes longer than a chunk lasts, since nobody computes such batches in time,
    or until the time is up. Where steps are short they may take four times as long: the machine may be busy just now,
    and what is not measured counts as dear.

    Args:
        model: in evaluation mode, on its device.
        context: of the streams.
        cost: learns.
        largest_batch: streams in one step.
        clock: in seconds.
        most_s: no new size is begun after so long.
        cost_clock: on which steps are measured; None: the same.
        threads: of the steps on a CPU; None: torch's own number.
        took: is told of each step how long it lasted and what it cost.
    """
    measured = cost_clock or clock
    started_s, size = clock(), 1
    chunk = chunk_of_noise(model, context)
    while size <= largest_batch and (size == 1 or clock() - started_s < most_s):
        slots = StreamSlots(model, context, size, threads=threads)
        rows = full_rows(slots, size)
        times: list[float] = []
        for _ in range(ROUNDS + 1):
            start_s, before_s = clock(), measured()
            for row in rows:
                row.encoder.listen(chunk)
            slots.compute(rows)
            times.append(measured() - before_s)
            if took is not None and len(times) > 1:
                took(clock() - start_s, times[-1])
        seconds = min(times[1:])  # what else runs on the machine only makes a step longer
        cost.learn(size, seconds)
        if seconds > max(context.chunk_ms, min(4 * context.chunk_ms, BEYOND_MS)) / 1000:
            return
        size *= 2


def chunk_of_noise(model: WavLMForCTC, context: StreamingContext) -> np.ndarray:
    """Sound of a chunk, float32 `[samples]`."""
    noise = np.random.default_rng(0).normal(0, 0.05, context.chunk_frames * model.config.hop_samples)
    return noise.astype(np.float32)


def full_rows(slots: StreamSlots, count: int) -> list[Row]:
    """So many streams whose caches are full."""
    return [Row(aged(slots)) for _ in range(count)]


def aged(slots: StreamSlots) -> SlotEncoder:
    """A stream that has heard enough silence for its caches to be full, without computing it."""
    encoder, states, context = slots.open(), slots.states, slots.context
    config = slots.config
    frames = -(-max(1, context.left_frames) // context.chunk_frames) * context.chunk_frames
    states.committed_frames[encoder.slot] = frames
    states.waiting_count[encoder.slot] = context.right_frames
    states.heard_samples[encoder.slot] = config.receptive_samples + config.hop_samples * (
        frames + context.right_frames - 1
    )
    states.remaining_samples[encoder.slot] = 0
    encoder.heard_samples = states.samples(encoder.slot)
    encoder.committed_frames = frames
    return encoder
