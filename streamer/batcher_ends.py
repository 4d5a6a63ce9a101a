"""`BatcherEnds`: how streams of a batcher end: in order, by a fault, or to make room where the device falls behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from ..model import StreamingContext
from .admission import BatcherRules
from .batched_stream import BatchedStream
from .batcher_group import Group
from .batcher_statistics import Tally
from .events import Problem, to_seconds
from .recogniser import Recogniser
from .saved_stream import SavedStream
from .shared_device import OpenStream, SharedDevice
from .silero_batch import voices_together

logger = logging.getLogger(__name__)


class BatcherEnds:
    """What a batcher has, and the part of its thread's work that ends streams."""

    def __init__(
        self,
        recogniser: Recogniser,
        rules: BatcherRules,
        clock: Callable[[], float],
        cost_clock: Callable[[], float],
        device: SharedDevice,
    ) -> None:
        self.recogniser, self.rules, self.device = recogniser, rules, device
        self.clock, self.cost_clock = clock, cost_clock
        self.lock = device.lock
        self.wake = threading.Condition(self.lock)
        self.listed: list[BatchedStream] = []
        """Streams that have something new for the thread; under the lock."""
        self.streams: set[BatchedStream] = set()
        """Streams that are open; under the lock."""
        self.groups: dict[StreamingContext, Group] = {}
        self.tally = Tally()
        self.voices = voices_together(recogniser.device)
        """Hears what the voice detectors of many streams are about to hear; None: each hears for itself."""

    def expected_load(self, group: Group, streams: int) -> float:
        """Share of the time that the committing steps of so many streams of a group take.

        What was not measured under its own context is taken from another one, by the number of frames.
        """
        if group.cost.known:
            return group.cost.load(group.context, streams, self.rules.largest_batch)
        for other in self.groups.values():
            if other.cost.known:
                scale = group.context.step_frames / other.context.step_frames
                scale *= other.context.chunk_frames / group.context.chunk_frames
                return scale * other.cost.load(other.context, streams, self.rules.largest_batch)
        return 0.0

    def saved(self, stream: BatchedStream) -> SavedStream:
        """The stream as it stands between two orders."""
        return SavedStream.of(self.recogniser, stream.session, stream.group.slots.read(stream.encoder))

    def open_streams(self) -> list[OpenStream]:
        """The open streams, for whoever has to make room. Under the lock."""
        each = {g: self.expected_load(g, g.streams) / max(1, g.streams) for g in list(self.groups.values())}
        return [OpenStream(s.number, each[s.group], partial(self._end_overloaded, s)) for s in self.streams]

    def _end_newest(self, now_s: float, late_s: float) -> None:
        """End so many of the device's newest streams that the others can be computed in time: also those of other
        batchers, in this one's turn. Late is late on the clock on the wall, so loads count as they are there."""
        with self.lock:
            load = self.device.load * self.device.stretch()
            newest = self.device.newest(min(0.5, max(0.05, 1 - self.rules.most_load / load if load > 0 else 0.0)))
        for stream in newest:
            stream.end(
                f"the server falls behind: results come {late_s:.1f} s late, and this stream is one of the newest"
            )
        self.device.ends_from_s = now_s + self.rules.late_s / 2

    def _end_overloaded(self, stream: BatchedStream, reason: str) -> None:
        stream.group.leave(stream)
        try:
            stream.saved = self.saved(stream) if stream.attached else stream.restore
        except Exception:
            logger.exception("stream %d could not be saved", stream.number)
        self.end(stream, self.resumable(stream, "overloaded", reason))

    def resumable(self, stream: BatchedStream, code: str, reason: str) -> Problem:
        """A fatal problem that says from where the sound is needed again."""
        at = stream.decided_samples
        return Problem(
            code,
            f"{reason}. Results up to sample {at} ({to_seconds(at):.2f} s) were given out; open a new stream and send "
            "the sound from there on",
            fatal=True,
        )

    def end(self, stream: BatchedStream, problem: Problem | None) -> None:
        """The stream is over; with a problem, its caller is told."""
        with self.lock:
            if stream not in self.streams:
                return
            self.streams.discard(stream)
            stream.group.leave(stream)
            stream.group.streams -= 1
            tally = self.tally
            tally.finished += problem is None
            tally.ended_overloaded += problem is not None and problem.code == "overloaded"
            tally.ended_failed += problem is not None and problem.code in ("device", "internal")
        stream.encoder.close()
        try:
            if problem is not None:
                stream.on_events([problem])
        except Exception:
            logger.exception("on_events of stream %d failed", stream.number)
        with self.lock:
            stream.close(problem)
        if stream.on_end is not None:
            try:
                stream.on_end(stream)
            except Exception:
                logger.exception("on_end of stream %d failed", stream.number)
