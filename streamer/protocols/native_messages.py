"""The messages of the native protocol, as types; the JSON Schema in the documentation is generated from them.

Times on the wire are seconds, rounded to nothing: `round(seconds * 16000)` gives the sample back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..speaker_memory import MOST_BYTES
from .audio import Encoding

VERSION = 1
"""Of the protocol. A client that asks for another is refused."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(max_length=200)]
Blob = Annotated[bytes, Meta(max_length=2000)]
Voices = Annotated[bytes, Meta(max_length=MOST_BYTES)]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages."""


class Sound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the sound of the binary messages is encoded."""

    encoding: Encoding = "pcm_s16le"
    rate: Annotated[int, Meta(ge=4_000, le=192_000)] = 16_000
    """Samples a second, in Hz; a container says so itself."""
    channels: Annotated[int, Meta(ge=1, le=8)] = 1
    """Interleaved; the mean is heard. A container says so itself."""


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From where a stream can go on, on any server with the same model. A client sends it back as it came."""

    bytes: Count = 0
    """Sound before this byte need not be sent again."""
    origin_samples: Count = 0
    """The same place in samples at 16 kHz."""
    segment_samples: Count = 0
    """Results of the sound before this sample were all given."""
    finals: Count = 0
    """How many finals those are."""
    messages: Count = 0
    """Control messages (`flush`, `marker`, `settings`) before this number need not be sent again; they count from 0."""
    voice: Blob = b""
    """What the voice detection remembers there; base64, for servers only."""
    speakers: Voices = b""
    """What is known of the speakers there, so that they keep their numbers; base64, for servers only."""


class ResumeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client that was cut off knows."""

    session: Annotated[str, Meta(min_length=1, max_length=200)]
    """As in the first `ready`."""
    last_seq: Count
    """Number of the last event seen."""
    finals: Count
    """How many finals were seen, in all."""
    point: Point = Point()
    """From the last `acknowledged`."""


class Start(_Message, frozen=True, tag="start"):
    """The first message."""

    version: Literal[1] = VERSION
    audio: Sound = Sound()
    settings: dict[str, Any] = {}
    """How to listen: context, endpoint, speech, activity, speakers, decoding with hotwords, partial_hop_ms; all
    optional."""
    resume: ResumeRequest | None = None
    """Go on with a broken stream."""
    key: Annotated[str, Meta(max_length=500)] | None = None
    """API key or ticket, for those who can set no header."""
    model: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    """One of the models that the server offers, by name; else its default."""


class FlushMessage(_Message, frozen=True, tag="flush"):
    """End the segment with the sound sent so far."""


class MarkerMessage(_Message, frozen=True, tag="marker"):
    """Answer with the same marker when all sound sent so far has been decided."""

    id: Annotated[str, Meta(min_length=1, max_length=200, pattern="^[^\\x00]")]


class SettingsMessage(_Message, frozen=True, tag="settings"):
    """Listen differently from now on; only what is named changes."""

    settings: dict[str, Any]


class KeepAlive(_Message, frozen=True, tag="keep_alive"):
    """Nothing to say, but still there."""


class End(_Message, frozen=True, tag="end"):
    """No more sound comes: give all results, then close."""


ClientMessage = Start | FlushMessage | MarkerMessage | SettingsMessage | KeepAlive | End


class WireLetter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A letter of a word, where details were asked for."""

    text: str
    start_s: float
    end_s: float


class WireChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may have been said in the place of a word, where details were asked for."""

    text: str
    share: float


class WireCandidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the best texts of a segment, where details were asked for."""

    text: str
    score: float
    acoustic: float


class WireWord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A word."""

    text: str
    start_s: float
    end_s: float
    confidence: float
    """0 to 1."""
    letters: tuple[WireLetter, ...] = ()
    alternatives: tuple[WireChoice, ...] = ()
    speaker: str = ""
    """Who said it, where speakers are told apart."""


class _EventMessage(_Message, frozen=True):
    """An event of the stream."""

    seq: Count
    """Its number, from 1; a gap is a partial result that a newer one replaced before it was sent."""


class ReadyMessage(_EventMessage, frozen=True, tag="ready"):
    """The answer to `start`; the only event that comes again after a resume."""

    model: str
    context: str
    """Frames of 20 ms: left, chunk, right."""
    latency_s: float
    """Sound from the first of a chunk on, before its text is certain."""
    sample_rate: int
    session: str
    """Token to resume with."""
    resumed: Literal["new", "held", "replay"]
    """A new stream; one that this server held; or one that begins anew at `bytes`, from what the client kept."""
    bytes: Count
    """Sound is expected from this byte of the whole stream on."""
    messages: Count
    """Control messages are expected from this number on."""
    window_s: float
    """Sound that may be sent ahead of what `acknowledged` says was heard."""


class SpeechStartedMessage(_EventMessage, frozen=True, tag="speech_started"):
    """Somebody began to speak."""

    at_s: float


class SpeechStoppedMessage(_EventMessage, frozen=True, tag="speech_stopped"):
    """The speech paused."""

    at_s: float


class PartialMessage(_EventMessage, frozen=True, tag="partial"):
    """What the segment says so far; `stable` does not change any more."""

    stable: str
    unstable: str
    words: tuple[WireWord, ...]


class FinalMessage(_EventMessage, frozen=True, tag="final"):
    """The result of a segment."""

    text: str
    words: tuple[WireWord, ...]
    start_s: float
    end_s: float
    reason: Literal["silence", "length", "flush", "end"]
    index: Count
    """Its number among the finals of the stream, from 0, without gaps."""
    candidates: tuple[WireCandidate, ...] = ()


class ActivityMessage(_EventMessage, frozen=True, tag="activity"):
    """Probabilities of speech."""

    start_s: float
    hop_s: float
    probabilities: tuple[float, ...]


class MarkerAnswer(_EventMessage, frozen=True, tag="marker"):
    """All sound before the marker has been decided."""

    id: str
    at_s: float


class SpeakerMessage(_EventMessage, frozen=True, tag="speaker"):
    """Who spoke in a stretch that is over; it comes before the final of its words."""

    speaker: str
    """Name of an enrolled speaker, a label such as "speaker 2", or "unknown"."""
    start_s: float
    end_s: float
    confidence: float
    """That the label is right, 0 to 1."""
    score: float = 0.0
    """Similarity (cosine) to the voice so labelled."""
    known: bool = False
    """The speaker was enrolled by name."""


class AcknowledgedMessage(_EventMessage, frozen=True, tag="acknowledged"):
    """How far the server is, and what the client may forget."""

    samples: Count
    """Sound before this sample need not be kept; the same place as `point.bytes`."""
    heard_bytes: Count
    """Sound up to here went through the model."""
    point: Point
    """To resume from."""
    realtime_factor: float | UnsetType = UNSET
    """Seconds of computing that a second of this stream's sound has taken."""


class ProblemMessage(_EventMessage, frozen=True, tag="problem"):
    """Something went wrong."""

    code: str
    message: str
    fatal: bool
    retry_after_s: float | UnsetType = UNSET
    """Where the server was full: when to come back."""
    number: Count | UnsetType = UNSET
    """Of the control message that was refused, where it is about one: nothing has changed."""


class EndedMessage(_Message, frozen=True, tag="ended"):
    """All results were given; the server closes."""

    seq: Count


ServerMessage = (
    ReadyMessage
    | SpeechStartedMessage
    | SpeechStoppedMessage
    | PartialMessage
    | FinalMessage
    | ActivityMessage
    | MarkerAnswer
    | SpeakerMessage
    | AcknowledgedMessage
    | ProblemMessage
    | EndedMessage
)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of all messages: `client` and `server` are what each side sends as text."""
    (client, server), components = msgspec.json.schema_components(
        [ClientMessage, ServerMessage], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"wavlm-live native protocol, version {VERSION}",
        "properties": {"client": client, "server": server},
        "$defs": components,
    }
