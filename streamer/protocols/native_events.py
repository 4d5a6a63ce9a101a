"""The messages of the native protocol's server as events, their times in samples."""

from __future__ import annotations

from ..events import (
    SAMPLE_RATE,
    Acknowledged,
    Activity,
    Candidate,
    Choice,
    Event,
    Final,
    Letter,
    Marker,
    Partial,
    Problem,
    Ready,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    Word,
)
from .native_messages import (
    AcknowledgedMessage,
    ActivityMessage,
    EndedMessage,
    FinalMessage,
    MarkerAnswer,
    PartialMessage,
    ProblemMessage,
    ReadyMessage,
    ServerMessage,
    SpeakerMessage,
    SpeechStartedMessage,
    SpeechStoppedMessage,
    WireWord,
)


def event_of(message: ServerMessage) -> Event:
    """The event that a message carries, its times in samples."""
    match message:
        case ReadyMessage():
            return Ready(message.model, message.context, samples_of(message.latency_s), message.sample_rate)
        case SpeechStartedMessage():
            return SpeechStarted(samples_of(message.at_s))
        case SpeechStoppedMessage():
            return SpeechStopped(samples_of(message.at_s))
        case PartialMessage():
            return Partial(message.stable, message.unstable, _words(message.words))
        case FinalMessage():
            start, end = samples_of(message.start_s), samples_of(message.end_s)
            candidates = tuple(Candidate(c.text, c.score, c.acoustic) for c in message.candidates)
            return Final(message.text, _words(message.words), start, end, message.reason, candidates)
        case ActivityMessage():
            return Activity(samples_of(message.start_s), samples_of(message.hop_s), message.probabilities)
        case MarkerAnswer():
            return Marker(message.id, samples_of(message.at_s))
        case SpeakerMessage():
            start, end = samples_of(message.start_s), samples_of(message.end_s)
            return Speaker(message.speaker, start, end, message.confidence, message.score, message.known)
        case AcknowledgedMessage():
            return Acknowledged(message.samples)
        case ProblemMessage():
            return Problem(message.code, message.message, message.fatal)
        case EndedMessage():
            raise ValueError("`ended` carries no event")


def _words(words: tuple[WireWord, ...]) -> tuple[Word, ...]:
    return tuple(
        Word(
            w.text,
            samples_of(w.start_s),
            samples_of(w.end_s),
            w.confidence,
            tuple(Letter(x.text, samples_of(x.start_s), samples_of(x.end_s)) for x in w.letters),
            tuple(Choice(c.text, c.share) for c in w.alternatives),
            w.speaker,
        )
        for w in words
    )


def samples_of(seconds: float) -> int:
    """Times go over the wire in seconds and are counted in samples here."""
    return round(seconds * SAMPLE_RATE)
