"""What a batcher tells of itself: `BatcherStatistics`, and `Tally`, which counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .admission import LoadMeter, Recent
from .events import SAMPLE_RATE
from .step_time import Stretch


@dataclass(frozen=True)
class BatcherStatistics:
    """A batcher at one moment. Times of steps and latencies are of the last 2048."""

    sessions: int
    """Streams that are open."""
    opened: int
    """Streams that were let in since the start."""
    refused: int
    """Streams that were not."""
    finished: int
    """Streams that came to their end."""
    ended_overloaded: int
    """Streams that were ended because the device fell behind."""
    ended_failed: int
    """Streams that were ended by an error."""
    queued_s: float
    """Sound of all streams that waits to be computed."""
    steps: int
    """Committing steps."""
    chunks: int
    """Chunks of streams in them."""
    skipped: int
    """Chunks that were not computed because their streams slept, see `SessionSettings.sleep_after_s`."""
    provisional_steps: int
    provisional: int
    """Provisional passes of streams that were computed."""
    provisional_dropped: int
    """Those that were left out, because there was no time for them."""
    batch_mean: float
    """Streams in a committing step."""
    batch_largest: int
    step_p50_ms: float
    """Duration of a committing step."""
    step_p99_ms: float
    latency_p50_ms: float
    """From the last sample of a chunk, at the pace of speech, to its events."""
    latency_p99_ms: float
    late_s: float
    """How much later than one chunk after its sound the last result came; 0 where it was in time."""
    load: float
    """Share of the last seconds in which the device was computing."""
    load_expected: float
    """Share that the committing steps of the open streams take if they come together, by their measured cost."""
    stretch: float
    """How many times as long steps last as they compute: what else the machine does. 1: nothing."""
    audio_s: float
    """Sound computed since the start."""
    busy_s: float
    """Time that steps took since the start."""
    realtime_factor: float
    """Seconds of computing for a second of sound."""


LATE_MEMORY_S = 5.0
_COUNTS = (
    "opened", "refused", "finished", "ended_overloaded", "ended_failed", "steps", "chunks", "provisional_steps",
    "provisional", "provisional_dropped", "skipped", "samples", "busy_s",
)  # fmt: skip


class Tally:
    """Counts for `BatcherStatistics`."""

    def __init__(self) -> None:
        self.opened = self.refused = self.finished = self.ended_overloaded = self.ended_failed = 0
        self.steps = self.chunks = self.provisional_steps = self.provisional = self.provisional_dropped = 0
        self.skipped = 0
        self.batch_largest = 0
        self.samples = 0
        self.busy_s = 0.0
        self._late_s, self._late_at_s = 0.0, 0.0
        self.step_s, self.latency_s = Recent(), Recent()
        self.commit_load, self.look_load = LoadMeter(), LoadMeter()
        self.stretch = Stretch()

    def step(self, now_s: float, busy_s: float, batch: int, commit: bool) -> None:
        """A step of so many streams has ended."""
        self.busy_s += busy_s
        if commit:
            self.steps += 1
            self.chunks += batch
            self.batch_largest = max(self.batch_largest, batch)
            self.step_s.add(busy_s)
            self.commit_load.add(now_s, busy_s)
        else:
            self.provisional_steps += 1
            self.provisional += batch
            self.look_load.add(now_s, busy_s)

    def came(self, now_s: float, late_s: float) -> None:
        """A result came now, so much later than it should."""
        self._late_s, self._late_at_s = late_s, now_s

    def late(self, now_s: float) -> float:
        """How late results come; of what is long ago nothing is known any more."""
        return self._late_s if now_s - self._late_at_s < LATE_MEMORY_S else 0.0

    def busy(self, now_s: float) -> tuple[float, float]:
        """Shares of the last seconds that committing steps and provisional passes took."""
        return self.commit_load.share(now_s), self.look_load.share(now_s)

    @classmethod
    def merged(cls, tallies: Sequence[Tally], now_s: float) -> Tally:
        """The tally of several batchers of one device, as it is now."""
        if len(tallies) == 1:
            return tallies[0]
        found = cls()
        for name in _COUNTS:
            setattr(found, name, sum(getattr(tally, name) for tally in tallies))
        found.batch_largest = max(tally.batch_largest for tally in tallies)
        found.step_s = Recent.together([tally.step_s for tally in tallies])
        found.latency_s = Recent.together([tally.latency_s for tally in tallies])
        for tally in tallies:
            found.commit_load.add_share(now_s, tally.commit_load.share(now_s))
            found.look_load.add_share(now_s, tally.look_load.share(now_s))
        found.stretch = max((tally.stretch for tally in tallies), key=Stretch.factor)
        found.came(now_s, max(tally.late(now_s) for tally in tallies))
        return found

    def snapshot(self, now_s: float, sessions: int, queued_samples: int, load_expected: float) -> BatcherStatistics:
        """The counts as they are."""
        step_p50, step_p99 = self.step_s.percentiles((0.5, 0.99))
        latency_p50, latency_p99 = self.latency_s.percentiles((0.5, 0.99))
        audio_s = self.samples / SAMPLE_RATE
        return BatcherStatistics(
            sessions=sessions,
            opened=self.opened,
            refused=self.refused,
            finished=self.finished,
            ended_overloaded=self.ended_overloaded,
            ended_failed=self.ended_failed,
            queued_s=queued_samples / SAMPLE_RATE,
            steps=self.steps,
            chunks=self.chunks,
            skipped=self.skipped,
            provisional_steps=self.provisional_steps,
            provisional=self.provisional,
            provisional_dropped=self.provisional_dropped,
            batch_mean=self.chunks / self.steps if self.steps else 0.0,
            batch_largest=self.batch_largest,
            step_p50_ms=1000 * step_p50,
            step_p99_ms=1000 * step_p99,
            latency_p50_ms=1000 * latency_p50,
            latency_p99_ms=1000 * latency_p99,
            late_s=self.late(now_s),
            load=self.commit_load.share(now_s) + self.look_load.share(now_s),
            load_expected=load_expected,
            stretch=self.stretch.factor(),
            audio_s=audio_s,
            busy_s=self.busy_s,
            realtime_factor=self.busy_s / audio_s if audio_s else 0.0,
        )
