"""`SharedDevice`: what several batchers, each of another model, share where they compute on one device.

    device = SharedDevice()
    with Batcher(first, rules, device=device), Batcher(second, rules, device=device):
        ...

Their threads take turns, so that one of them owns the device at a time, as the only thread of a single batcher does;
each is let in again only after all that waited before it. Their streams are admitted together: loads and sessions are
summed, and what comes late for one is late for all. Where they fall behind, the newest streams are ended, whichever
batcher has them. A batcher that was given none has one of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class OpenStream:
    """A stream, as far as whoever has to make room needs to know it."""

    number: int
    """The newest has the highest."""
    load: float
    """Share of the time that its committing steps are expected to take; 0: nothing was measured."""
    end: Callable[[str], None]
    """Ends it for lack of time, for this reason. In a turn of any of the batchers."""


@dataclass(frozen=True)
class Share:
    """What one batcher tells the others. All of it is asked under the device's lock."""

    sessions: Callable[[], int]
    """Streams that are open or about to be."""
    load: Callable[[], float]
    """Share of the time that the committing steps of its streams are expected to take."""
    late_s: Callable[[float], float]
    """How late its results come, at this time of its clock."""
    busy: Callable[[float], tuple[float, float]]
    """Shares of the last seconds in which it computed committing steps, and provisional passes, up to this time."""
    stretch: Callable[[], float]
    """How many times as long its steps last as they compute, see `step_time.Stretch`."""
    streams: Callable[[], Sequence[OpenStream]]
    """Those that are open."""


class SharedDevice:
    """One device, for batchers of one process whose clock is the same."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Guards what callers and the threads of all its batchers hand each other; held for moments."""
        self.opened = 0
        """Streams of all its batchers so far; under the lock."""
        self.looks_from_s = -1.0
        """No provisional passes before: a result came late."""
        self.ends_from_s = -1.0
        """No stream is ended for lateness before; belongs to whoever has the turn."""
        self._shares: list[Share] = []
        self._free = threading.Condition()
        self._taken = False
        self._waiting: deque[object] = deque()

    def join(self, share: Share) -> None:
        """One batcher more computes here."""
        with self.lock:
            self._shares.append(share)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Own the device for a while; whoever asked first comes first. Not to be asked for within a turn."""
        ticket = object()
        with self._free:
            self._waiting.append(ticket)
            while self._taken or self._waiting[0] is not ticket:
                self._free.wait()
            self._waiting.popleft()
            self._taken = True
        try:
            yield
        finally:
            with self._free:
                self._taken = False
                self._free.notify_all()

    @property
    def sessions(self) -> int:
        """Streams of all batchers. Under the lock."""
        return sum(share.sessions() for share in self._shares)

    @property
    def load(self) -> float:
        """What the streams of all batchers are expected to take. Under the lock."""
        return sum(share.load() for share in self._shares)

    def newest(self, share: float) -> list[OpenStream]:
        """The newest streams of all batchers which together take about this share of what all take, at least one.

        What a stream takes is its expected load; all count the same where of some nothing was measured. Under the lock.
        """
        streams = sorted((s for each in self._shares for s in each.streams()), key=lambda s: -s.number)
        known = all(stream.load > 0 for stream in streams)
        loads = [stream.load if known else 1.0 for stream in streams]
        left, count = share * sum(loads), 0
        while count < len(streams) and (count == 0 or left >= loads[count] / 2):
            left -= loads[count]
            count += 1
        return streams[:count]

    def late_s(self, now_s: float) -> float:
        """How late results come, of the batcher that is latest."""
        with self.lock:
            return max((share.late_s(now_s) for share in self._shares), default=0.0)

    def stretch(self) -> float:
        """How many times as long steps last as they compute, of the batcher that is held up most."""
        with self.lock:
            return max((share.stretch() for share in self._shares), default=1.0)

    def busy(self, now_s: float) -> tuple[float, float]:
        """Shares of the last seconds that committing steps, and provisional passes, of all batchers took."""
        with self.lock:
            shares = [share.busy(now_s) for share in self._shares]
        return sum(commit for commit, _ in shares), sum(look for _, look in shares)
