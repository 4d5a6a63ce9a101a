"""`Group`: the streams of a batcher that share a context, which of them wait for a step, and what steps cost."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..model.context import StreamingContext
from .step_cost import StepCost
from .stream_slots import StreamSlots

if TYPE_CHECKING:
    from .batched_stream import BatchedStream
    from .plan import StepRequest

NEAR_BEST = 1.1
"""A batch is large enough when a stream in it costs at most so many times what it costs in the best one."""


class WaitingStreams:
    """Streams that wait for a step, and until when; thousands of them, so nothing here looks at all of them."""

    def __init__(self) -> None:
        self._until_s: dict[BatchedStream, float] = {}
        # entries of streams that have left stay for a while; the last number tells apart those of one stream
        self._heap: list[tuple[float, int, int, BatchedStream]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, stream: BatchedStream, until_s: float) -> None:
        """The stream waits."""
        self._until_s[stream] = until_s
        self._added += 1
        heapq.heappush(self._heap, (until_s, stream.number, self._added, stream))
        if len(self._heap) > 2 * len(self._until_s) + 64:
            self._heap = [(s, waiting.number, 0, waiting) for waiting, s in self._until_s.items()]
            heapq.heapify(self._heap)

    def discard(self, stream: BatchedStream) -> None:
        """The stream does not wait, if it did."""
        self._until_s.pop(stream, None)

    @property
    def earliest_s(self) -> float:
        """Until when the first one waits; infinite where none does."""
        heap, until_s = self._heap, self._until_s
        while heap and until_s.get(heap[0][-1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def take(self, count: int) -> list[BatchedStream]:
        """Take out the first ones, at most so many; those that came first where they wait equally long."""
        taken: list[BatchedStream] = []
        while len(taken) < count and self.earliest_s < math.inf:
            stream = heapq.heappop(self._heap)[-1]
            del self._until_s[stream]
            taken.append(stream)
        return taken


@dataclass(eq=False)
class Group:
    """Streams under one context. Belongs to the batcher's thread, but for `streams`, which is under its lock."""

    context: StreamingContext
    slots: StreamSlots
    streams: int = 0
    """Streams that are open or about to be."""
    due: WaitingStreams = field(default_factory=WaitingStreams)
    """Streams that wait for a committing step."""
    flushing: WaitingStreams = field(default_factory=WaitingStreams)
    """Streams that wait for a look which cannot be left out."""
    looking: WaitingStreams = field(default_factory=WaitingStreams)
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

    def wait(self, stream: BatchedStream, need: StepRequest) -> None:
        """A stream waits for a step: the result should be there one chunk after its sound, or before the next
        provisional pass is due."""
        if need.droppable:
            self.looking.add(stream, stream.due_s + stream.session.settings.partial_hop_ms / 1000)
        else:
            (self.due if need.commit else self.flushing).add(stream, stream.due_s + self.chunk_s)

    def leave(self, stream: BatchedStream) -> None:
        """The stream waits for nothing."""
        self.due.discard(stream)
        self.flushing.discard(stream)
        self.looking.discard(stream)

    def earliest_s(self) -> float:
        """The earliest deadline of all that cannot be left out; infinite where nothing is due."""
        return min(self.due.earliest_s, self.flushing.earliest_s)

    def next_due(self, largest: int) -> tuple[list[BatchedStream], bool]:
        """Take out the streams of the next step, earliest deadline first; and whether it commits."""
        commit = self.due.earliest_s <= self.flushing.earliest_s
        cost, waiting = (self.cost, self.due) if commit else (self.look_cost, self.flushing)
        return waiting.take(min(largest, good_batch(cost, largest))), commit

    def next_looks(self, largest: int) -> list[BatchedStream]:
        """Take out the streams of the next provisional pass; few enough that a committing step need not wait long."""
        count = 1
        while count < min(largest, len(self.looking)) and self.look_cost.seconds(2 * count) <= self.chunk_s / 8:
            count *= 2
        return self.looking.take(count)


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
