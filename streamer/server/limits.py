"""Counting what each client takes: streams by key and by address, sound by time, wrong keys by minute."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...model.errors import WavLMLiveError
from .settings import Limits


class LimitReached(WavLMLiveError):
    """A client takes too much.

    Args:
        code: for programs.
        message: for people.
        retry_after_s: when to come back, where that helps.
    """

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class Doorkeeper:
    """Counts streams and wrong keys.

    Args:
        limits: how many.
        clock: seconds that only grow.
    """

    MOST_ADDRESSES = 10_000
    """Addresses whose wrong keys are remembered."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._keys: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._budgets: OrderedDict[tuple[str, str], AudioBudget] = OrderedDict()

    @contextmanager
    def stream(self, key: str, address: str) -> Iterator[None]:
        """Count a stream as long as it is open.

        Raises:
            LimitReached: there are too many.
        """
        self.enter(key, address)
        try:
            yield
        finally:
            self.leave(key, address)

    def enter(self, key: str, address: str) -> None:
        """Count a stream.

        Raises:
            LimitReached: there are too many.
        """
        limits = self._limits
        if key and self._keys[key] >= limits.sessions_per_key:
            raise LimitReached(
                "too_many_sessions", f"this key has {self._keys[key]} streams, the most it may have", 5.0
            )
        if self._addresses[address] >= limits.sessions_per_address:
            count = self._addresses[address]
            raise LimitReached("too_many_sessions", f"this address has {count} streams, the most it may have", 5.0)
        self._keys[key] += 1
        self._addresses[address] += 1

    def leave(self, key: str, address: str) -> None:
        """The stream is over."""
        for counter, name in ((self._keys, key), (self._addresses, address)):
            counter[name] -= 1
            if counter[name] <= 0:
                del counter[name]

    def budgets(self, key: str, address: str) -> list[AudioBudget]:
        """What all streams of a key, and all of an address, share of the sound in a second."""
        limits = self._limits
        wanted = [("address", address, limits.audio_rate_per_address)]
        if key:
            wanted.append(("key", key, limits.audio_rate_per_key))
        found = []
        for kind, name, rate in wanted:
            budget = self._budgets.setdefault((kind, name), AudioBudget(limits, self._clock, rate))
            self._budgets.move_to_end((kind, name))
            found.append(budget)
        while len(self._budgets) > self.MOST_ADDRESSES:
            self._budgets.popitem(last=False)
        return found

    def failed(self, address: str) -> None:
        """A wrong key came from there."""
        times = self._failures.setdefault(address, [])
        times.append(self._clock())
        del times[: -self._limits.failures_per_minute]
        self._failures.move_to_end(address)
        while len(self._failures) > self.MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def suspicious(self, address: str) -> bool:
        """So many wrong keys came from there within a minute that no more are looked at."""
        times = self._failures.get(address, [])
        recent = [t for t in times if self._clock() - t < 60]
        return len(recent) >= self._limits.failures_per_minute


class AudioBudget:
    """How fast a stream may send sound: a bucket that fills with time. Any thread may use it.

    Args:
        limits: rate and burst of a stream.
        clock: seconds that only grow.
        rate: of several streams together; their burst is longer in proportion.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic, rate: float | None = None) -> None:
        self._rate = limits.audio_rate if rate is None else rate
        self.burst_s = limits.audio_burst_s * self._rate / limits.audio_rate
        """Sound that can be taken at once."""
        self._clock = clock
        self._lock = threading.Lock()
        self._left_s = self.burst_s
        self._at_s = clock()

    def take(self, audio_s: float) -> float:
        """Take sound, or give it back where it is negative; the seconds to wait before more is taken."""
        with self._lock:
            now_s = self._clock()
            self._left_s = min(self.burst_s, self._filled_s(now_s) - audio_s)
            self._at_s = now_s
            return max(0.0, -self._left_s / self._rate)

    def wait_s(self, audio_s: float) -> float:
        """Seconds until so much sound, at most a burst, can be taken without a wait behind it; nothing is taken."""
        with self._lock:
            return max(0.0, (min(audio_s, self.burst_s) - self._filled_s(self._clock())) / self._rate)

    def _filled_s(self, now_s: float) -> float:
        return min(self.burst_s, self._left_s + (now_s - self._at_s) * self._rate)


class RecordingSound:
    """What one recording takes of the budgets that it shares with live streams.

    A recording is let in whole: as much as it says it lasts, at most a burst, is taken before it is read, or it is
    refused with the time to come back. Beyond that, it is read more slowly, as a live stream is, so that it never runs
    the budgets into a debt in which the client's live streams would stand still.

    Args:
        budgets: of its key and its address.
        audio_s: what it says it lasts, in seconds; 0 where it says nothing.

    Raises:
        LimitReached: there is not so much now; nothing was taken.
    """

    def __init__(self, budgets: Sequence[AudioBudget], audio_s: float) -> None:
        self._budgets = budgets
        self._reserved_s = max(0.0, min(audio_s, *(budget.burst_s for budget in budgets)))
        wait_s = max(budget.wait_s(self._reserved_s) for budget in budgets)
        if wait_s > 0:
            raise LimitReached(
                "too_much_sound",
                f"this key or address has sent so much sound that a recording of {audio_s:.0f} s has to wait "
                f"{wait_s:.1f} s",
                wait_s,
            )
        for budget in budgets:
            budget.take(self._reserved_s)

    def take(self, audio_s: float) -> float:
        """So much was decoded; the seconds to wait before more is."""
        covered_s = min(audio_s, self._reserved_s)
        self._reserved_s -= covered_s
        return max(budget.take(audio_s - covered_s) for budget in self._budgets) if audio_s > covered_s else 0.0

    def close(self) -> None:
        """It is over: what it did not need is given back. Once is enough."""
        reserved_s, self._reserved_s = self._reserved_s, 0.0
        for budget in self._budgets:
            budget.take(-reserved_s)
