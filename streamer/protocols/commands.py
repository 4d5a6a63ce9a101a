"""What a protocol asks of the server, and what every protocol of the server can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...model.errors import WavLMLiveError
from ..events import Event
from ..session_settings import SessionSettings
from ..speaker_memory import SpeakerMemory
from ..voice_memory import VoiceMemory
from .audio import AudioFormat


class ProtocolError(WavLMLiveError):
    """A message that the protocol does not allow.

    Args:
        code: short name for programs, such as `bad_message`.
        message: a sentence for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Resume:
    """Where a broken stream goes on."""

    session: str
    """The token that the first connection was given."""
    last_seq: int
    """Number of the last event that the client saw."""
    finals: int
    """Finals that the client has seen, in all."""
    origin_samples: int = 0
    """First sample that the client still has."""
    segment_samples: int = 0
    """Where the first segment begins whose result the client may be missing."""
    finals_before: int = 0
    """Finals that lie before that place."""
    messages: int = 0
    """Number of the first control message that the client still has."""
    voice: VoiceMemory = field(default_factory=VoiceMemory)
    """What the voice detection of the broken stream knew."""
    speakers: SpeakerMemory = field(default_factory=SpeakerMemory)
    """What it knew of its speakers."""


@dataclass(frozen=True)
class Open:
    """Begin a stream, or go on with a broken one."""

    settings: SessionSettings
    audio: AudioFormat
    resume: Resume | None = None
    key: str | None = None
    """An API key or ticket that came in the message, where a browser can set no header."""
    model: str = ""
    """Name of one that the server offers; empty: the server's default."""


@dataclass(frozen=True)
class Audio:
    """Sound, encoded as `Open.audio` says."""

    data: bytes


@dataclass(frozen=True)
class Flush:
    """End the segment now."""


@dataclass(frozen=True)
class Mark:
    """Say when all sound before has been decided."""

    id: str


@dataclass(frozen=True)
class Change:
    """Listen with other settings from now on."""

    settings: SessionSettings
    refused: str = ""
    """Why the settings that the client wanted cannot be; these are those it had."""


@dataclass(frozen=True)
class Finish:
    """The sound has ended: decode it to the last word."""


@dataclass(frozen=True)
class Settle:
    """Wait until all sound so far was heard, then ask the protocol for its answer (`settled`)."""


@dataclass(frozen=True)
class Send:
    """A message for the client."""

    data: str | bytes
    important: bool = True
    """False: may be left out for a client that reads too slowly."""


@dataclass(frozen=True)
class Close:
    """End the connection."""

    code: int = 1000
    reason: str = ""


Command = Open | Audio | Flush | Mark | Change | Finish | Settle | Send | Close


@dataclass(frozen=True)
class Numbered:
    """An event with its place in the stream."""

    seq: int
    """From 1, without gaps where no partial was left out."""
    event: Event
    index: int | None = None
    """Of a final among the finals of the stream, from 0."""
    extra: dict[str, object] = field(default_factory=dict)
    """What the server adds on the wire, such as where to resume."""


class ServerProtocol(Protocol):
    """The server's side of one connection."""

    name: str
    """For logs and metrics."""

    def connected(self) -> list[Command]:
        """The connection is there."""
        ...

    def received(self, message: str | bytes) -> list[Command]:
        """A message came. Never raises: what is wrong with it becomes `Send` and `Close`."""
        ...

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        """The stream gave events."""
        ...

    def settled(self) -> list[Command]:
        """What `Settle` waited for has come."""
        ...

    def finished(self) -> list[Command]:
        """All events were given, up to the end of the stream; `Open` begins the next one on the same connection."""
        ...

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        """The server cannot go on; ends with a `Close`."""
        ...
