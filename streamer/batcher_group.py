"""`Group`: the streams of a batcher that share a context, which of them wait for a step, and what steps cost."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..model.context import StreamingContext
from .step_cost import StepCost
from .stream_slots import StreamSlots

if TYPE_CHECKING:
    from .batched_stream import BatchedStream

NEAR_BEST = 1.1
"""A batch is large enough when a stream in it costs at most so many times what it costs in the best one."""


@dataclass(eq=False)
class Group:
    """Streams under one context. Belongs to the batcher's thread, but for `streams`, which is under its lock."""

    context: StreamingContext
    slots: StreamSlots
    streams: int = 0
    """Streams that are open or about to be."""
    due: set[BatchedStream] = field(default_factory=set)
    """Streams that wait for a step which cannot be left out."""
    looking: set[BatchedStream] = field(default_factory=set)
    """Streams for which a provisional pass is due."""
    cost: StepCost = field(default_factory=StepCost)
    """Of committing steps, with the front end and the reading of the frames, on the batcher's `cost_clock`."""
    look_cost: StepCost = field(default_factory=StepCost)
    """Of provisional passes, on its `clock`: how long others have to wait."""

    @property
    def chunk_s(self) -> float:
        """Duration of a chunk."""
        return self.context.chunk_ms / 1000

    @property
    def chunk_samples(self) -> int:
        """Samples of a chunk."""
        return self.context.chunk_frames * self.slots.config.hop_samples

    def leave(self, stream: BatchedStream) -> None:
        """The stream waits for nothing."""
        self.due.discard(stream)
        self.looking.discard(stream)

    def deadline_s(self, stream: BatchedStream) -> float:
        """When the result of a stream's committing step should be there: one chunk after its sound."""
        return stream.due_s + self.chunk_s

    def earliest_s(self) -> float:
        """The earliest deadline of all that cannot be left out; infinite where nothing is due."""
        return min((stream.due_s for stream in self.due), default=float("inf")) + self.chunk_s

    def earliest_look_s(self) -> float:
        """The same of the provisional passes: each should come before the next one is due."""
        return min(
            (stream.due_s + stream.session.settings.partial_hop_ms / 1000 for stream in self.looking),
            default=float("inf"),
        )

    def next_due(self, largest: int) -> tuple[list[BatchedStream], bool]:
        """The streams of the next step, earliest deadline first, and whether it commits."""
        first = min(self.due, key=_urgency)
        commit = _commits(first)
        alike = [stream for stream in self.due if _commits(stream) == commit]
        cost = self.cost if commit else self.look_cost
        return heapq.nsmallest(min(largest, good_batch(cost, largest)), alike, key=_urgency), commit

    def next_looks(self, largest: int) -> list[BatchedStream]:
        """The streams of the next provisional pass; few enough that a committing step need not wait long."""
        count = 1
        while count < min(largest, len(self.looking)) and self.look_cost.seconds(2 * count) <= self.chunk_s / 8:
            count *= 2
        return heapq.nsmallest(count, self.looking, key=_urgency)


def good_batch(cost: StepCost, largest: int) -> int:
    """Streams in a step beyond which there is no gain, but later results for the first of them."""
    sizes = cost.sizes
    if not sizes:
        return largest
    each = {size: cost.seconds(size) / size for size in sizes}
    best = min(each.values())
    if best <= 0:
        return largest
    good = min(size for size in sizes if each[size] <= NEAR_BEST * best)
    # what is larger than anything measured may be better still: try twice as many
    return max(1, round(2 * good if good >= 0.75 * sizes[-1] else good))


def _urgency(stream: BatchedStream) -> tuple[float, int]:
    return stream.due_s, stream.number


def _commits(stream: BatchedStream) -> bool:
    need = stream.session.plan.need()
    return need is not None and need.commit
