"""How many CPU threads compute a step, found by trying: `choose_threads`.

One stream wants its step done soon, and takes all the threads that make it shorter. Many streams in a batch want the
most of the processors, which their callers, sockets and decoders need as well: they take more threads only where these
are worth it. Both are measured on the model itself, in full steps with full caches, for about `BUDGET_S` each; where
torch has one thread, nothing is measured. Threads wait for each other at the end of every small part of a step, so
where another process has a processor for itself, a step may take a hundred times as long: numbers of threads that some
small sums show to be so are not tried on steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..model import StreamingContext, WavLMForCTC

MANY = 8
"""Streams in a step that stands for many."""
FEW = 2
"""Streams up to which a step counts as that of one."""
BUDGET_S = 0.8
"""No new round is begun after so long, for one stream and for many each; one is always run."""
ROUNDS = 5
HELD_UP = 3.0
"""Threads that take so many times as long as one for small sums wait for a processor."""
SUMS, SUM_VALUES = 10, 1 << 20
NEAR_ONE, NEAR_MANY = 1.05, 1.25
"""Fewer threads are taken if a step takes at most so many times as long as with the best number."""


@dataclass(frozen=True)
class ThreadChoice:
    """Threads for steps of one stream and of many."""

    one: int
    many: int
    times_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    """Of a step, by streams and threads; empty where there was nothing to choose."""

    def of(self, streams: int) -> int:
        """Threads for a step of so many streams."""
        return self.one if streams <= FEW else self.many

    def use(self, streams: int) -> None:
        """Have torch compute with them, in this thread."""
        threads = self.of(streams)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def __str__(self) -> str:
        if not self.times_ms:
            return str(self.one)
        told = []
        for streams, threads in ((1, self.one), (MANY, self.many)):
            times = {t: ms for (s, t), ms in self.times_ms.items() if s == streams}
            if times:
                others = ", ".join(f"{ms:.1f} with {t}" for t, ms in times.items() if t != threads)
                what = "one stream" if streams == 1 else f"{streams} streams"
                told.append(f"{threads} for {what} ({times[threads]:.1f} ms a step, {others})")
        return ", ".join(told)


def candidates(most: int) -> list[int]:
    """Numbers of threads that are tried: 1, 2, 4, ... and the most that torch would take."""
    return sorted({1 << n for n in range(most.bit_length()) if 1 << n < most} | {most})


def choose_threads(
    model: WavLMForCTC,
    context: StreamingContext,
    *,
    many: bool = True,
    most: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ThreadChoice:
    """Measure steps with different numbers of threads, in turn; torch's own number is as before afterwards.

    Args:
        model: in evaluation mode, on the CPU, as it will compute.
        context: of the streams.
        many: measure steps of many streams too; else what holds for one holds for them.
        most: threads; None: as many as torch takes, which follows `OMP_NUM_THREADS` and the processors of the process.
        clock: in seconds.
    """
    before = torch.get_num_threads()
    tried = candidates(most or before)
    times: dict[tuple[int, int], float] = {}
    try:
        tried = unhindered(tried)
        if len(tried) == 1:
            return ThreadChoice(tried[0], tried[0])
        for streams in (1, MANY) if many else (1,):
            times |= {(streams, t): 1000 * s for t, s in _measured(model, context, streams, tried, clock).items()}
    finally:
        torch.set_num_threads(before)
    one = _fewest({t: times[1, t] for t in tried}, NEAR_ONE)
    return ThreadChoice(one, _fewest({t: times[MANY, t] for t in tried}, NEAR_MANY) if many else one, times)


def _measured(
    model: WavLMForCTC, context: StreamingContext, streams: int, tried: list[int], clock: Callable[[], float]
) -> dict[int, float]:
    """The shortest step with each number of threads; what else runs on the machine only makes times longer."""
    from .calibration import chunk_of_noise, full_rows  # which knows slots, as those know choices
    from .stream_slots import StreamSlots

    slots = StreamSlots(model, context, streams, static=False)
    rows, chunk = full_rows(slots, streams), chunk_of_noise(model, context)

    def step(threads: int) -> float:
        torch.set_num_threads(threads)
        start_s = clock()
        for row in rows:
            row.encoder.listen(chunk)
        slots.compute(rows)
        return clock() - start_s

    best, began_s = dict.fromkeys(tried, float("inf")), clock()
    step(tried[0])  # the first one prepares memory
    for number in range(ROUNDS):
        if number and clock() - began_s > BUDGET_S:
            break
        for threads in tried:
            best[threads] = min(best[threads], step(threads))
    return best


def unhindered(tried: list[int]) -> list[int]:
    """The numbers of threads that do not wait for processors which others have; the first one always."""
    first, *others = tried
    alone_s = sums_s(first) if others else 0.0
    return [first, *(threads for threads in others if sums_s(threads) <= HELD_UP * alone_s)]


def sums_s(threads: int) -> float:
    """Seconds that some sums take, each of which waits for all threads; a millisecond or two where they are free."""
    torch.set_num_threads(threads)
    values = torch.ones(SUM_VALUES)
    torch.add(values, values, out=values)  # the first one makes the threads
    start_s = time.perf_counter()
    for _ in range(SUMS):
        torch.add(values, values, out=values)
    return time.perf_counter() - start_s


def _fewest(times: dict[int, float], near: float) -> int:
    """The fewest threads that are about as fast as the best number."""
    return min(threads for threads, time_ms in times.items() if time_ms <= near * min(times.values()))
