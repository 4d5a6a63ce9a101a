"""The native protocol's client side, without a socket: what to send, what to keep, how to go on after a break."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ...model.errors import WavLMLiveError
from ..events import Activity, Event, Ready, Speaker, SpeechStarted, SpeechStopped
from .audio import AudioFormat
from .native_events import event_of, samples_of
from .native_messages import (
    AcknowledgedMessage,
    EndedMessage,
    FinalMessage,
    MarkerAnswer,
    Point,
    ProblemMessage,
    ReadyMessage,
    ServerMessage,
)

_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
LARGEST_MESSAGE = 64_000
"""Bytes of sound in one message."""


class ServerRefused(WavLMLiveError):
    """The server ended the stream, and coming back would not help.

    Args:
        code: for programs.
        message: what the server says.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the server refused: {message} ({code})")
        self.code = code


@dataclass(frozen=True)
class _Sound:
    start: int  # first byte in the stream
    data: bytes


@dataclass(frozen=True)
class _Control:
    number: int
    text: str
    marker: bool = False
    settings: Mapping[str, Any] | None = None


class ClientStream:
    """One stream, over as many connections as it takes.

    Args:
        audio: how the sound is encoded.
        settings: for the server, as in the message `start`.
        key: API key or ticket to send in the message `start`; None where a header carries it.
        model: name of one that the server offers; None: its default.
    """

    def __init__(
        self,
        audio: AudioFormat | None = None,
        settings: Mapping[str, Any] | None = None,
        key: str | None = None,
        model: str | None = None,
    ) -> None:
        self.audio = audio or AudioFormat()
        self.ended = False
        """The server has given all results."""
        self.reconnections = 0
        """Times that the stream went on after a break."""
        self.retry_after_s: float | None = None
        """When a full server wants to be asked again."""
        self._settings = dict(settings or {})
        self._key = key
        self._model = model
        self._ready: ReadyMessage | None = None
        self._connected = False
        self._kept: deque[_Sound | _Control] = deque()  # what the server may need again, then what it has not got yet
        self._next = 0  # the first of them that was not sent on this connection
        self._bytes = 0  # of sound, fed so far
        self._sent_bytes = 0
        self._heard_bytes = 0
        self.realtime_factor: float | None = None
        """Seconds of computing that a second of sound takes on the server, as it told last."""
        self._messages = 0
        self._has_messages = 0  # control messages that the server had when this connection began
        self._changes: deque[_Control] = deque()  # changes of settings that lie behind the point
        self._awaited: deque[int] = deque()  # markers that this server will answer, in order
        self._answered: set[int] = set()  # markers among the kept ones that were answered
        self._ending = False
        self._end_sent = False
        self._last_seq = 0
        self._finals = 0
        self._voice = [-1, -1, 0, 0]  # samples up to which starts, stops, activity and speakers came
        self._point = Point()

    # What the program does -------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take encoded sound, any number of bytes."""
        for start in range(0, len(data), LARGEST_MESSAGE):
            piece = data[start : start + LARGEST_MESSAGE]
            self._kept.append(_Sound(self._bytes, piece))
            self._bytes += len(piece)

    def flush(self) -> None:
        """Ask for the text of the sound so far."""
        self._control({"type": "flush"})

    def mark(self, id: str) -> None:
        """Ask for a `Marker` when the sound so far has been decided."""
        self._control({"type": "marker", "id": id})

    def change(self, settings: Mapping[str, Any]) -> None:
        """Ask to be listened to differently from now on."""
        self._control({"type": "settings", "settings": dict(settings)})

    def finish(self) -> None:
        """No more sound comes."""
        self._ending = True

    @property
    def waiting_bytes(self) -> int:
        """Sound that was fed and that the server has not heard."""
        return self._bytes - self._heard_bytes

    @property
    def kept_bytes(self) -> int:
        """Sound that is kept in case of a break."""
        return sum(len(item.data) for item in self._kept if isinstance(item, _Sound))

    # What a connection does ------------------------------------------------------------------------------

    def opening(self) -> str:
        """The first message of a connection."""
        self._connected = False
        start: dict[str, Any] = {
            "type": "start",
            "audio": {"encoding": self.audio.encoding, "rate": self.audio.rate, "channels": self.audio.channels},
            "settings": self._settings,
        }
        if self._key is not None:
            start["key"] = self._key
        if self._model is not None:
            start["model"] = self._model
        if self._ready is not None:
            start["resume"] = {
                "session": self._ready.session,
                "last_seq": self._last_seq,
                "finals": self._finals,
                "point": self._point,
            }
        return msgspec.json.encode(start).decode()

    def outgoing(self) -> list[str | bytes]:
        """What can be sent now: nothing before the server is ready, and not more sound than its window holds."""
        if not self._connected or self._ready is None:
            return []
        ahead = round(self._ready.window_s * self._bytes_per_second)
        messages: list[str | bytes] = []
        while self._next < len(self._kept):
            item = self._kept[self._next]
            if isinstance(item, _Control):
                if item.number >= self._has_messages:  # others lie among the sound that is context only
                    messages.append(item.text)
                    if item.marker:
                        self._awaited.append(item.number)
            elif self._sent_bytes - self._heard_bytes >= ahead:
                return messages
            else:
                data = item.data[max(0, self._sent_bytes - item.start) :]
                messages.append(data)
                self._sent_bytes = item.start + len(item.data)
            self._next += 1
        if self._ending and not self._end_sent:
            self._end_sent = True
            messages.append('{"type":"end"}')
        return messages

    def received(self, text: str | bytes) -> list[Event]:
        """A message of the server came.

        Returns:
            The events in it, each only once however often the connection broke.

        Raises:
            ServerRefused: the server will not have this stream.
        """
        message = _decoder.decode(text)
        match message:
            case ReadyMessage():
                return self._begin(message)
            case EndedMessage():
                self.ended = True
                return []
            case ProblemMessage() if message.fatal:
                self.retry_after_s = None if message.retry_after_s is msgspec.UNSET else message.retry_after_s
                if message.code in _RETRIED or self.retry_after_s is not None:
                    return []
                raise ServerRefused(message.code, message.message)
        if message.seq <= self._last_seq:
            return []
        if isinstance(message, ProblemMessage) and message.number is not msgspec.UNSET:
            self._changes = deque(change for change in self._changes if change.number != message.number)
        self._last_seq = message.seq
        if isinstance(message, FinalMessage):
            if message.index < self._finals:
                return []
            self._finals = message.index + 1
        if isinstance(message, MarkerAnswer) and self._awaited:
            number = self._awaited.popleft()
            if number in self._answered:
                return []  # another server was asked again
            self._answered.add(number)
        if isinstance(message, AcknowledgedMessage):
            self._heard_bytes = max(self._heard_bytes, message.heard_bytes)
            self._forget(message.point)
            if message.realtime_factor is not msgspec.UNSET:
                self.realtime_factor = message.realtime_factor
        event = event_of(message)
        return self._unseen(event)

    def broke(self) -> None:
        """The connection is gone."""
        self._connected = False

    def _unseen(self, event: Event) -> list[Event]:
        """The event, but for what another server told of voices before the break; other events as they are."""
        seen = self._voice
        match event:
            case SpeechStarted(at) | SpeechStopped(at):
                kind = int(isinstance(event, SpeechStopped))
                if at <= seen[kind]:
                    return []
                seen[kind] = at
            case Speaker(end_samples=end):
                if end <= seen[3]:
                    return []
                seen[3] = end
            case Activity(start, hop, probabilities):
                known = max(0, -(-(seen[2] - start) // hop))
                if known >= len(probabilities):
                    return []
                seen[2] = start + len(probabilities) * hop
                return [Activity(start + known * hop, hop, probabilities[known:])]
        return [event]

    # Inside ----------------------------------------------------------------------------------------------

    @property
    def _bytes_per_second(self) -> float:
        audio = self.audio
        return audio.rate * audio.frame_bytes if audio.is_raw else 64_000

    def _control(self, message: dict[str, Any]) -> None:
        text = msgspec.json.encode(message).decode()
        control = _Control(self._messages, text, message["type"] == "marker", message.get("settings"))
        self._kept.append(control)
        if control.settings is not None:
            self._changes.append(control)
        self._messages += 1

    def _begin(self, ready: ReadyMessage) -> list[Event]:
        again = self._ready is not None
        first = next((item.start for item in self._kept if isinstance(item, _Sound)), self._bytes)
        if again and (ready.resumed == "new" or ready.bytes < first):
            raise ServerRefused("lost", f"it asks for sound from byte {ready.bytes}, and it is kept from {first} on")
        self._ready, self._connected, self._end_sent = ready, True, False
        self.retry_after_s = None  # that was for this time
        self.reconnections += again
        self._sent_bytes, self._heard_bytes = ready.bytes, min(self._heard_bytes, ready.bytes)
        self._next, self._has_messages = 0, ready.messages
        while self._next < len(self._kept) and self._has(self._kept[self._next], ready.bytes, ready.messages):
            self._next += 1
        # A stream that was held still answers what it was sent and has not answered, also what an earlier one answered.
        there = ready.messages if ready.resumed == "held" else 0
        self._awaited = deque(number for number in self._awaited if number < there)
        if again:
            return []
        return [Ready(ready.model, ready.context, samples_of(ready.latency_s), ready.sample_rate)]

    def _forget(self, point: Point) -> None:
        """Drop what no server needs any more."""
        self._point = point
        while self._changes and self._changes[0].number < point.messages:
            self._settings = _merged(self._settings, self._changes.popleft().settings or {})
        while self._next and self._has(self._kept[0], point.bytes, point.messages):
            item = self._kept.popleft()
            self._next -= 1
            if isinstance(item, _Control):
                self._answered.discard(item.number)

    def _has(self, item: _Sound | _Control, sound_bytes: int, messages: int) -> bool:
        """Whether a server with so much sound and so many messages has this item."""
        if isinstance(item, _Control):
            return item.number < messages
        return item.start + len(item.data) <= sound_bytes


def _merged(settings: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after a change, in which only what is named changes."""
    found = dict(settings)
    for name, value in change.items():
        old = found.get(name)
        found[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


_RETRIED = ("overloaded", "restart", "closed", "internal", "device", "full", "idle")
"""Problems after which the same stream may go on elsewhere, or later."""
