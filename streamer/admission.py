"""Who is let in, and how busy the device is: rules, and the share of the time that something takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..model.errors import ConfigurationError, StreamError, WavLMLiveError


class Overloaded(WavLMLiveError):
    """No room for one more stream now.

    Attributes:
        retry_after_s: when it may be worth to ask again, in seconds.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"{reason}; try again in {retry_after_s:g} s, or on another server")
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueueFull(StreamError):
    """A stream was fed faster than it is computed, and its queue has no room for the block, of which nothing was
    taken. Feed it again when `queued_samples` has fallen."""


@dataclass(frozen=True)
class BatcherRules:
    """What a batcher promises, and what it gives up first.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    most_sessions: int = 1024
    """Streams that may be open at once, whatever the device could compute."""
    largest_batch: int = 512
    """Streams in one step."""
    most_load: float = 0.8
    """Share of the time that the committing steps of all streams may take, by their measured cost (on a CPU in time
    of the processor, see `step_time`); a stream that would lead beyond it is refused."""
    provisional_load: float = 0.7
    """Share of the time up to which provisional passes fill what the committing steps leave."""
    late_s: float = 2.0
    """A result may come so much later than one chunk after its sound; beyond it, the newest streams are ended."""
    queue_s: float = 30.0
    """Sound that one stream may have waiting."""
    idle_slots: int = 1
    """Slots that there is memory for at first, for each context; more come by doubling."""
    calibrate: bool = True
    """Measure steps of growing batches when the batcher starts; else costs are learnt from the streams alone, and
    until then nobody is refused for them."""

    def __post_init__(self) -> None:
        for name in ("most_sessions", "largest_batch", "idle_slots"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                self._refuse(name, "a whole number from 1")
        for name, high in (("most_load", 10.0), ("provisional_load", 10.0), ("late_s", 3600.0), ("queue_s", 86_400.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
                self._refuse(name, f"a number from 0 to {high:g}")
        if self.queue_s < 1:
            self._refuse("queue_s", "at least 1 s")

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigurationError(f"BatcherRules.{name} is {getattr(self, name)!r}, expected {expected}")


ALONE = BatcherRules(most_sessions=1, largest_batch=1, most_load=10.0, late_s=3600.0, queue_s=86_400.0, calibrate=False)
"""For one microphone or file: nobody else is waiting, so nothing is refused or ended."""


class LoadMeter:
    """The share of the time that something took, over the last seconds.

    Args:
        memory_s: what is so long ago counts 1/e.
    """

    def __init__(self, memory_s: float = 2.0) -> None:
        self._memory_s = memory_s
        self._share = 0.0
        self._at_s: float | None = None

    def add(self, now_s: float, busy_s: float) -> None:
        """`busy_s` ended now."""
        self._share = self.share(now_s) + busy_s / self._memory_s

    def add_share(self, now_s: float, share: float) -> None:
        """Another meter's share at this time counts here, too."""
        self._share = self.share(now_s) + share

    def share(self, now_s: float) -> float:
        """From 0 to about 1."""
        if self._at_s is not None:
            self._share *= math.exp(-max(0.0, now_s - self._at_s) / self._memory_s)
        self._at_s = now_s
        return self._share


class Recent:
    """The last values of a series, for percentiles, in bounded memory.

    Args:
        count: how many are kept.
    """

    def __init__(self, count: int = 2048) -> None:
        self._values: list[float] = []
        self._count = count
        self._next = 0

    def add(self, value: float) -> None:
        """Keep a value, and forget the oldest where there are too many."""
        if len(self._values) < self._count:
            self._values.append(value)
        else:
            self._values[self._next] = value
            self._next = (self._next + 1) % self._count

    @classmethod
    def together(cls, several: Sequence[Recent]) -> Recent:
        """All values of several series."""
        found = cls(max(1, sum(len(recent._values) for recent in several)))
        for recent in several:
            for value in recent._values:
                found.add(value)
        return found

    def percentiles(self, shares: Iterable[float]) -> tuple[float, ...]:
        """The values below which these shares lie; 0 where there are none."""
        ordered = sorted(self._values)
        if not ordered:
            return tuple(0.0 for _ in shares)
        return tuple(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in shares)
