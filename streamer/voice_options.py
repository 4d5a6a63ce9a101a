"""Options about voice and pauses that `transcribe` and `listen` share, and the rules that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from .options import _option

if TYPE_CHECKING:
    from .endpointing import EndpointRules
    from .voice_activity import SpeechRules

_PAUSES, _VOICE = "Pauses", "Voice"


class Detector(StrEnum):
    """Who says where speech is."""

    silero = "silero"
    model = "model"
    both = "both"
    head = "head"


NoSpeechMs = Annotated[
    int,
    _option("--no-speech-ms", panel=_PAUSES, min=20, metavar="MS", help="Begin anew after so long without a word."),
]
BlankMs = Annotated[
    int,
    _option(
        "--blank-ms",
        panel=_PAUSES,
        min=20,
        metavar="MS",
        help="Without text for so long, a segment ends though a voice goes on.",
    ),
]
MinSegmentS = Annotated[
    float, _option("--min-segment-s", panel=_PAUSES, min=0, metavar="S", help="Shortest segment, in seconds.")
]
ByVoice = Annotated[
    bool,
    _option("--pause-by-voice/--pause-by-text", panel=_PAUSES, help="Whether a voice without words is no pause."),
]
VoiceDetector = Annotated[
    Detector,
    _option(
        "--voice-detector", panel=_VOICE, help="Silero VAD, the model's own blanks, both agreeing, or its voice head."
    ),
]
VoiceStart = Annotated[
    float,
    _option("--voice-start", panel=_VOICE, min=0.001, max=0.999, metavar="0..1", help="Where speech begins."),
]
VoiceStay = Annotated[
    float,
    _option("--voice-stay", panel=_VOICE, min=0.001, max=0.999, metavar="0..1", help="Where it goes on."),
]
MinSpeechMs = Annotated[
    int, _option("--min-speech-ms", panel=_VOICE, min=0, max=10_000, metavar="MS", help="Shorter speech is none.")
]
MinSilenceMs = Annotated[
    int, _option("--min-silence-ms", panel=_VOICE, min=20, max=60_000, metavar="MS", help="Shorter silence is none.")
]
VoicePaddingMs = Annotated[
    int, _option("--voice-pad-ms", panel=_VOICE, min=0, max=10_000, metavar="MS", help="Added before and behind.")
]
WordsNeedVoice = Annotated[
    bool | None,
    _option(
        "--words-by-voice/--words-anywhere",
        panel=_VOICE,
        show_default=False,
        help="Leave out words where nobody speaks. Default: what suits the model.",
    ),
]
WordPaddingMs = Annotated[
    int,
    _option("--word-pad-ms", panel=_VOICE, min=0, max=10_000, metavar="MS", help="A word may be so far from a voice."),
]
SleepAfterS = Annotated[
    float,
    _option(
        "--sleep-after-s",
        panel=_VOICE,
        min=0,
        metavar="S",
        help="Compute nothing after so long without a voice, until one comes; 0: never.",
    ),
]
Activity = Annotated[bool, _option("--activity", panel=_VOICE, help="Write probabilities of speech too (jsonl).")]


@dataclass(frozen=True)
class Pauses:
    """When segments end and what counts as speech, as the command line gave it: fields are named like parameters."""

    silence_ms: int = 800
    max_segment_s: float = 20.0
    min_segment_s: float = 0.0
    no_speech_ms: int = 5000
    blank_ms: int = 2000
    pause_by_voice: bool = True
    voice_detector: Detector = Detector.silero
    voice_start: float = 0.5
    voice_stay: float = 0.35
    min_speech_ms: int = 100
    min_silence_ms: int = 400
    voice_padding_ms: int = 60
    words_need_voice: bool | None = None
    word_padding_ms: int = 200
    activity: bool = False
    sleep_after_s: float = 0.0

    @classmethod
    def among(cls, parameters: Mapping[str, Any]) -> Pauses:
        """Those of a command's parameters, `locals()` at its start, that are fields here."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def endpoint(self) -> EndpointRules:
        """When segments end.

        Raises:
            ConfigurationError: values that do not go together.
        """
        from .endpointing import EndpointRules

        return EndpointRules(
            silence_ms=self.silence_ms,
            by_voice=self.pause_by_voice,
            blank_ms=self.blank_ms,
            max_segment_s=self.max_segment_s,
            min_segment_s=self.min_segment_s,
            no_speech_ms=self.no_speech_ms,
        )

    def speech(self) -> SpeechRules:
        """What counts as speech.

        Raises:
            ConfigurationError: values that do not go together.
        """
        from .voice_activity import SpeechRules

        return SpeechRules(
            detector=self.voice_detector.value,
            start_probability=self.voice_start,
            stay_probability=self.voice_stay,
            min_speech_ms=self.min_speech_ms,
            min_silence_ms=self.min_silence_ms,
            padding_ms=self.voice_padding_ms,
            words_need_voice=self.words_need_voice,
            word_padding_ms=self.word_padding_ms,
        )
