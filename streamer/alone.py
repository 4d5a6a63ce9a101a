"""`AloneStream`: one microphone or file on a batcher of its own, driven in the caller's thread.

The same slots, plans and steps as a server's with a thousand streams; only nobody else is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..model.errors import StreamError
from .admission import ALONE
from .events import Event, Problem, Ready

if TYPE_CHECKING:
    from .recogniser import Recogniser
    from .session_settings import SessionSettings


class Listener(Protocol):
    """What hears sound and gives events back: a session, a stream alone, a recording at full speed."""

    ready: Ready

    def feed(self, samples: np.ndarray) -> list[Event]:
        """Take float32 `[samples]`; the events that became known by them."""
        ...

    def finish(self) -> list[Event]:
        """The end of the sound; the last events."""
        ...


class AloneStream:
    """One stream; a `Listener`.

    Args:
        recogniser: whose model computes.
        settings: how to listen.

    Raises:
        ConfigurationError: as `Recogniser.open`.
    """

    def __init__(self, recogniser: Recogniser, settings: SessionSettings | None = None) -> None:
        from .batcher import Batcher  # which knows recognisers

        self._events: list[Event] = []
        self._batcher = Batcher(recogniser, ALONE)
        self._stream = self._batcher.open(settings, self._events.extend)
        self.ready = self._stream.ready
        """The event that opens the stream; `feed` does not repeat it."""

    def feed(self, samples: np.ndarray) -> list[Event]:
        """Take a block of sound and return what became known by it.

        Raises:
            AudioError: another type or shape, or values that are not finite; nothing was taken.
            StreamError: the stream was finished, or a step failed.
        """
        self._stream.feed(samples)
        return self._settled()

    def finish(self) -> list[Event]:
        """End the stream: everything that was heard is decoded, to the last word.

        Raises:
            StreamError: a step failed.
        """
        self._stream.finish()
        return self._settled()

    def _settled(self) -> list[Event]:
        self._batcher.settle()
        events = self._events[:]
        self._events.clear()
        for event in events:
            if isinstance(event, Problem) and event.fatal:
                raise StreamError(event.message)
        return events
