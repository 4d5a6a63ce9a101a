"""`EventLog`: the numbered events of a stream, from the batcher to whoever reads them, now or after coming back."""

from __future__ import annotations

from collections import deque

from ..events import Acknowledged, Activity, Event, Partial
from ..protocols.commands import Numbered

REPLACED = (Partial, Acknowledged)
"""Of these only the newest counts: an unread one gives way to the next, and a read one is forgotten."""


class EventLog:
    """Bounded on both sides: events that were read are kept for a client that comes back, up to `kept`; unread ones
    wait, and where too many wait, probabilities are left out.

    Args:
        last_seq: number of the event before the first.
        kept: events that were read and are kept.
        unread: from how many unread events on the reader is called slow.
    """

    def __init__(self, last_seq: int = 0, kept: int = 512, unread: int = 500) -> None:
        self.last_seq = last_seq
        self.left_out = 0
        """Activity events that were dropped for a slow reader."""
        self._kept, self._unread = kept, unread
        self._read: deque[Numbered] = deque()
        self._waiting: deque[Numbered] = deque()
        self._lost_seq = last_seq  # events up to here are not kept any more

    def add(self, event: Event, index: int | None = None, extra: dict[str, object] | None = None) -> None:
        """Number an event and let it wait."""
        if isinstance(event, Activity) and self.slow:
            self.left_out += 1
            return
        if isinstance(event, REPLACED):
            self._waiting = deque(n for n in self._waiting if type(n.event) is not type(event))
        self.last_seq += 1
        self._waiting.append(Numbered(self.last_seq, event, index, extra or {}))

    @property
    def slow(self) -> bool:
        """Too many events wait."""
        return len(self._waiting) >= self._unread

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return len(self._waiting)

    def take(self, most: int = 100) -> list[Numbered]:
        """The next events; they count as read."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._read.extend(n for n in taken if not isinstance(n.event, REPLACED))
        while len(self._read) > self._kept:
            self._lost_seq = self._read.popleft().seq
        return taken

    def rewind(self, last_seq: int) -> bool:
        """Let everything after an event wait again; False: some of it is not kept any more, or never was."""
        if not self._lost_seq <= last_seq <= self.last_seq:
            return False
        again: list[Numbered] = []
        while self._read and self._read[-1].seq > last_seq:
            again.append(self._read.pop())
        self._waiting.extendleft(again)
        while self._waiting and self._waiting[0].seq <= last_seq:
            self._waiting.popleft()
        return True
