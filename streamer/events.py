"""The events that a session hands out: what every face, file format and protocol of the project is made from.

Events are frozen and carry times as whole samples at 16 000 Hz, counted from the first sample of the stream.
`to_wire` writes them with seconds: a field `start_samples` becomes `start_s`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

SAMPLE_RATE = 16_000
"""Samples a second, everywhere inside the program."""

EndReason = Literal["silence", "length", "flush", "end"]
"""Why a segment ended: a pause after speech, the longest segment reached, asked for, end of the stream."""


def _tag(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


class _Event(msgspec.Struct, frozen=True, tag=_tag, tag_field="type"):
    """Base of all events: the `type` of `SpeechStarted` is `speech_started`, and so on."""


class Letter(msgspec.Struct, frozen=True):
    """One output of the model in a word: a letter, or a piece of several."""

    text: str
    start_samples: int
    """First sample of its first frame."""
    end_samples: int
    """One past the last sample of its last frame."""


class Choice(msgspec.Struct, frozen=True):
    """What may have been said in the place of a word."""

    text: str
    """One or more words; empty: nothing was said there."""
    share: float
    """Of the beam's probability, 0 to 1, not calibrated."""


class Candidate(msgspec.Struct, frozen=True):
    """One text of an n-best list."""

    text: str
    score: float
    """What it is ranked by: natural logarithm of its probability, with what language model and hotwords add."""
    acoustic: float
    """Natural logarithm of its probability given the sound alone."""


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """One word of a partial or final result."""

    text: str
    start_samples: int
    """First sample of the first frame of the word's first character."""
    end_samples: int
    """One past the last sample of the last frame of the word's last character."""
    confidence: float
    """How likely the word is right, 0 to 1: for a model with a calibration of its own (`decoding.json`) the share of
    such words that are; else the geometric mean of the letters' posteriors (greedy) or the share of the beam."""
    letters: tuple[Letter, ...] = ()
    """Where the letters were heard, if the session was asked for details."""
    alternatives: tuple[Choice, ...] = ()
    """What else may have been said here, the likeliest first, if the session was asked for details; from a beam."""
    speaker: str = ""
    """Who said it, as in `Speaker`, if the session tells speakers apart; empty where that is not decided."""


class Ready(_Event, frozen=True):
    """The first event of a stream: who listens and how late it answers."""

    model: str
    """Name of the model."""
    context: str
    """Streaming context in frames of 20 ms: `left,chunk,right`."""
    latency_samples: int
    """Sound that must have arrived, from the first sample of a chunk on, before its text is certain."""
    sample_rate: int = SAMPLE_RATE
    """Rate of the samples that the stream takes, in Hz."""


class SpeechStarted(_Event, frozen=True):
    """Somebody began to speak."""

    at_samples: int
    """Where the speech begins; a little before the event itself."""


class SpeechStopped(_Event, frozen=True):
    """The speech paused."""

    at_samples: int
    """Where the speech ended; a little before the event itself."""


class Partial(_Event, frozen=True):
    """What the current segment says so far; replaces the partial before it."""

    stable: str
    """Text that no longer changes: within a segment it only grows, and the final begins with it."""
    unstable: str
    """Text after `stable` that more sound may still change. The whole text is the two joined by a space."""
    words: tuple[Word, ...] = ()
    """All words of both parts, in order."""

    @property
    def text(self) -> str:
        """Stable and unstable text together."""
        return " ".join(part for part in (self.stable, self.unstable) if part)


class Final(_Event, frozen=True, omit_defaults=True):
    """A finished segment. Finals never overlap; what lies between them was silence."""

    text: str
    words: tuple[Word, ...]
    start_samples: int
    """First sample that the segment covers."""
    end_samples: int
    """One past the last sample that the segment covers."""
    reason: EndReason
    candidates: tuple[Candidate, ...] = ()
    """The best texts, this one first, if the session was asked for details; from a beam."""


class Activity(_Event, frozen=True):
    """Speech probabilities of consecutive frames."""

    start_samples: int
    """First sample of the first frame."""
    hop_samples: int
    """Samples from one probability to the next."""
    probabilities: tuple[float, ...]
    """Probability of speech, 0 to 1, one a frame."""


class Marker(_Event, frozen=True):
    """The answer to `Session.mark`: all sound before the mark has been decided.

    What was said before it stands in the finals that came before this event; the rest was silence.
    """

    id: str
    """As it was given to `mark`."""
    at_samples: int
    """Samples that had been fed when it was set."""


class Speaker(_Event, frozen=True):
    """Who speaks in a stretch of the stream; it comes when the stretch is over, before the final of its words."""

    speaker: str
    """Name of an enrolled speaker, a label of the stream such as "speaker 2", or "unknown". It does not change."""
    start_samples: int
    end_samples: int
    confidence: float
    """How likely it is the same voice as before under this label, or for a new label none of the others, 0 to 1."""
    score: float = 0.0
    """Similarity (cosine) of the stretch to that voice, -1 to 1; 1 for a new label, 0 where too little was said."""
    known: bool = False
    """The speaker was enrolled by name."""


class ClassShare(msgspec.Struct, frozen=True):
    """A class and how probable it is."""

    label: str
    score: float
    """0 to 1."""


class Classification(_Event, frozen=True, omit_defaults=True):
    """What a model for classes of recordings says of a stretch of sound, see `classifier`; no session gives it."""

    label: str
    """The most probable class."""
    score: float
    """Its probability, 0 to 1."""
    start_samples: int
    end_samples: int
    others: tuple[ClassShare, ...] = ()
    """The next ones, if asked for."""


class Acknowledged(_Event, frozen=True):
    """Samples safely taken: a client that reconnects need not send them again."""

    samples: int
    """Count since the start of the stream. Stays a count on the wire, since a client compares it exactly."""


class Problem(_Event, frozen=True):
    """Something went wrong."""

    code: str
    """Short name for programs, such as `bad_message`."""
    message: str
    """A sentence for people: what came, what was expected, what to do."""
    fatal: bool = False
    """True: the stream is over."""


Event = Ready | SpeechStarted | SpeechStopped | Partial | Final | Activity | Marker | Speaker | Acknowledged | Problem


def to_seconds(samples: int) -> float:
    """Samples at 16 000 Hz as seconds."""
    return samples / SAMPLE_RATE


def to_wire(event: Event | Classification | Word) -> dict[str, Any]:
    """An event as a dictionary of plain JSON values, with its `type`.

    Every `*_samples` becomes `*_s` in seconds (exact: `round(s * 16000)` gives the samples back); confidences
    and probabilities are rounded to four decimals.
    """
    return _wire(msgspec.to_builtins(event))


def to_wire_bytes(event: Event | Classification | Word) -> bytes:
    """`to_wire` as one line of JSON in UTF-8, without the newline."""
    return msgspec.json.encode(to_wire(event))


def _wire(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {_wire_name(k): _wire(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_wire(v, name) for v in value]
    if name.endswith("_samples"):
        return to_seconds(value)
    return round(value, 4) if isinstance(value, float) else value


def _wire_name(name: str) -> str:
    return name.removesuffix("_samples") + "_s" if name.endswith("_samples") else name
