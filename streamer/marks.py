"""`Marks`: what a program asked to be told when the sound before it has been decided."""

from __future__ import annotations

from collections import deque

from .events import Event, Marker


class Marks:
    """Markers of one stream that wait for their answer, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Marker] = deque()
        self._flushed_samples = 0  # what was heard at the last flush

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, marker: Marker) -> None:
        """One more, at a sample not before that of the last one."""
        self._waiting.append(marker)

    def flushed(self, heard_samples: int) -> None:
        """All sound before this sample was given out: it counts as decided."""
        self._flushed_samples = max(self._flushed_samples, heard_samples)

    def answered(self, decided_samples: int) -> list[Event]:
        """The markers whose sound has been decided by now; they wait no longer."""
        decided = max(decided_samples, self._flushed_samples)
        events: list[Event] = []
        while self._waiting and self._waiting[0].at_samples <= decided:
            events.append(self._waiting.popleft())
        return events

    def rest(self) -> list[Event]:
        """All that still wait: the stream is over."""
        events: list[Event] = [*self._waiting]
        self._waiting.clear()
        return events
