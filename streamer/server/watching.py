"""Looking on: what every session of a server hears and says, for an operator's dashboard.

An operator sees pictures of the sound, not the sound: 100 times a second the lowest and highest sample and the
loudness of 56 bands; and the events. Without an operator who looks on, this costs nothing but a comparison.

Messages, as JSON: `session` (id, protocol, threshold) for each that is open and each that begins, `sound` (id,
start_samples, peaks: lowest and highest sample of each 10 ms, in turn, bands: see `sound_pictures`), `event` (id,
event), `session_ended` (id).
"""

from __future__ import annotations

import base64
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ..events import Event, Final, Partial, SpeechStarted, SpeechStopped, to_wire
from .sound_pictures import HOP_SAMPLES, WINDOW_SAMPLES, bands_of, peaks_of

MESSAGE_SAMPLES = 1600
"""Sound from one `sound` message to the next."""
MOST_WATCHERS = 8
MOST_WAITING = 4000
"""Messages that wait for an operator who reads slowly; beyond it the oldest are forgotten."""
OPERATOR = "operator"
"""Keys with this name, or whose name begins with it and a dot or hyphen, may look on."""


class WatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="watch", tag_field="type"):
    """The first message of an operator."""

    key: str = ""


def may_watch(key_name: str | None) -> bool:
    """Whether the owner of a key of this name is an operator. Without keys nobody is."""
    return key_name is not None and (key_name == OPERATOR or key_name.startswith((f"{OPERATOR}.", f"{OPERATOR}-")))


class Watcher:
    """The messages for one operator.

    Args:
        changed: is called when there are messages to take.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)

    def put(self, message: str) -> None:
        """Let a message wait."""
        self._waiting.append(message)
        self._changed()

    def take(self) -> list[str]:
        """All that wait, as JSON."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


@dataclass
class _Watched:
    """A session as operators see it."""

    id: str
    about: dict[str, Any]
    start_samples: int = 0  # of the sound that waits for its message
    waiting: list[np.ndarray] = field(default_factory=list)
    waiting_samples: int = 0
    before: np.ndarray = field(default_factory=lambda: np.zeros(WINDOW_SAMPLES - HOP_SAMPLES, np.float32))
    """The sound before what waits: the windows of its spectrogram begin there."""
    began_s: float = field(default_factory=time.monotonic)
    speaking: bool = False
    text: str = ""
    """What was said last."""


@dataclass(frozen=True)
class Sight:
    """What is known of a session without its stream."""

    id: str
    protocol: str
    age_s: float
    speaking: bool
    text: str


class Watchers:
    """All who look on, and all that can be seen. Used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._sessions: dict[str, _Watched] = {}

    def enter(self, changed: Callable[[], None]) -> Watcher | None:
        """An operator begins to look on; None: too many do already."""
        if len(self._watchers) >= MOST_WATCHERS:
            return None
        watcher = Watcher(changed)
        for session in self._sessions.values():
            watcher.put(_text("session", session.id, **session.about))
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """An operator looks away."""
        self._watchers.discard(watcher)
        if not self._watchers:
            for session in self._sessions.values():
                session.waiting, session.waiting_samples = [], 0
                session.before = np.zeros_like(session.before)

    def began(self, token: str, protocol: str, threshold: float) -> None:
        """A stream is open.

        Args:
            token: of the stream; operators see another, meaningless name.
            protocol: that its client speaks.
            threshold: probability at which its speech begins.
        """
        if token not in self._sessions:
            session = _Watched(secrets.token_hex(3), {"protocol": protocol, "threshold": threshold})
            self._sessions[token] = session
            self._tell("session", session.id, **session.about)

    def sight(self, token: str) -> Sight | None:
        """What an operator may know of a stream now."""
        session = self._sessions.get(token)
        if session is None:
            return None
        age_s = time.monotonic() - session.began_s
        return Sight(session.id, session.about["protocol"], age_s, session.speaking, session.text)

    def ended(self, token: str) -> None:
        """The stream is over."""
        session = self._sessions.pop(token, None)
        if session is not None:
            self._tell("session_ended", session.id)

    def event(self, token: str, event: Event) -> None:
        """The stream gave an event."""
        session = self._sessions.get(token)
        if session is None:
            return
        if isinstance(event, Partial | Final):
            session.text = event.text or session.text
        elif isinstance(event, SpeechStarted | SpeechStopped):
            session.speaking = isinstance(event, SpeechStarted)
        if self._watchers:
            self._tell("event", session.id, event=to_wire(event))

    def sound(self, token: str, start_samples: int, samples: np.ndarray) -> None:
        """The stream was fed.

        Args:
            token: of the stream.
            start_samples: place of the first sample.
            samples: float32 `[samples]`.
        """
        session = self._sessions.get(token)
        if not self._watchers or session is None:
            return
        if not session.waiting:
            session.start_samples = start_samples
        session.waiting.append(samples)
        session.waiting_samples += len(samples)
        if session.waiting_samples < MESSAGE_SAMPLES:
            return
        joined = np.concatenate(session.waiting)
        whole = len(joined) - len(joined) % HOP_SAMPLES
        heard, rest = joined[:whole], joined[whole:]
        bands = base64.b64encode(bands_of(np.concatenate([session.before, heard])).tobytes()).decode()
        self._tell("sound", session.id, start_samples=session.start_samples, peaks=peaks_of(heard), bands=bands)
        session.before = heard[-len(session.before) :]
        session.start_samples += whole
        session.waiting, session.waiting_samples = [rest] if len(rest) else [], len(rest)

    def _tell(self, kind: str, id: str, **rest: Any) -> None:
        if self._watchers:
            message = _text(kind, id, **rest)
            for watcher in self._watchers:
                watcher.put(message)


def _text(kind: str, id: str, **rest: Any) -> str:
    return msgspec.json.encode({"type": kind, "id": id, **rest}).decode()
