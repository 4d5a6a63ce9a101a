"""Where speech begins and pauses: `SpeechRules`, `SpeechWatch` and `VoiceLog`, from probabilities of any detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..model.errors import ConfigurationError
from .silero import WINDOW_SAMPLES
from .voice_memory import WatchMemory

Detector = Literal["silero", "model", "both", "head"]


@dataclass(frozen=True)
class SpeechRules:
    """When speech begins and pauses, and whether words need a voice.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    detector: Detector = "silero"
    """`silero`: an independent voice detector, every 32 ms. `model`: what the model's blank and delimiter leave over,
    in every committed frame of 20 ms. `both`: the smaller of the two, frame by frame; a letter counts for 400 ms.
    `head`: the model's own voice activity head, in every committed frame."""
    start_probability: float = 0.5
    """Speech begins with a probability above this."""
    stay_probability: float = 0.35
    """Speech goes on with any probability above this."""
    min_speech_ms: int = 100
    """Speech that is over sooner is none: from the first to the last time that it was above a threshold."""
    min_silence_ms: int = 400
    """Speech has stopped when it stayed below `stay_probability` for this long."""
    padding_ms: int = 60
    """So much is added to speech before its beginning and behind its end."""
    words_need_voice: bool | None = None
    """Words are given only where the independent detector hears a voice. None: what suits the model, which is True for
    bundled models and False for others."""
    word_padding_ms: int = 200
    """A word may be so far from the voice."""

    def __post_init__(self) -> None:
        if self.detector not in get_args(Detector):
            self._refuse("detector", "silero, model, both or head")
        for name in ("start_probability", "stay_probability"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                self._refuse(name, "a number between 0 and 1")
        if self.stay_probability > self.start_probability:
            self._refuse("stay_probability", f"at most start_probability ({self.start_probability!r})")
        for name, least, most in _DURATIONS:
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                self._refuse(name, f"whole milliseconds from {least} to {most}")
        if self.padding_ms > self.min_silence_ms:
            self._refuse("padding_ms", f"at most min_silence_ms ({self.min_silence_ms})")
        if self.words_need_voice not in (None, True, False) or type(self.words_need_voice) is int:
            self._refuse("words_need_voice", "True, False or None")

    @property
    def listens(self) -> bool:
        """Whether the independent detector has to hear the sound."""
        return self.detector in ("silero", "both") or self.words_need_voice is True

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigurationError(f"SpeechRules.{name} is {getattr(self, name)!r}, expected {expected}")


_DURATIONS = (
    ("min_speech_ms", 0, 10_000),
    ("min_silence_ms", 20, 60_000),
    ("padding_ms", 0, 10_000),
    ("word_padding_ms", 0, 10_000),
)


class SpeechWatch:
    """Finds where speech starts and stops in one stream, with two thresholds and the shortest durations.

    Args:
        rules: see there; may be exchanged between two calls.
        step_samples: samples that one probability is about.
    """

    def __init__(self, rules: SpeechRules, step_samples: int) -> None:
        self.rules = rules
        self._step = step_samples
        self._at = 0  # samples seen
        self._first: int | None = None  # where the speech that goes on, or may go on, begins; None: nobody speaks
        self._end = 0  # one past the last sample that kept it going
        self._told = False  # it was long enough and its start was given
        self._free = 0  # before this sample everything was given

    @property
    def speaking(self) -> bool:
        """Speech has started and not stopped."""
        return self._told

    @property
    def memory(self) -> WatchMemory:
        """What it remembers, places from here."""
        first = None if self._first is None else self._first - self._at
        return WatchMemory(self._told, first, self._end - self._at, self._free - self._at)

    def take_up(self, memory: WatchMemory, at_samples: int) -> None:
        """Go on as the watch that remembered this, at a sample of this stream."""
        self._at, self._told = at_samples, memory.told
        self._first = None if memory.first is None else at_samples + memory.first
        self._end, self._free = at_samples + memory.end, at_samples + memory.free

    def scan(self, probabilities: Sequence[float]) -> list[tuple[bool, int]]:
        """See the next probabilities.

        Returns:
            The changes: (True, first sample of speech) and (False, one past its last sample).
        """
        rules, changes = self.rules, []
        for probability in probabilities:
            self._at += self._step
            if probability > (rules.start_probability if self._first is None else rules.stay_probability):
                if self._first is None:
                    self._first = self._at - self._step
                self._end = self._at
                if not self._told and self._end - self._first >= 16 * rules.min_speech_ms:
                    self._told = True
                    changes.append((True, max(self._free, self._first - 16 * rules.padding_ms)))
            elif self._first is not None and self._at - self._end >= 16 * rules.min_silence_ms:
                changes += self.stop()
        return changes

    def stop(self) -> list[tuple[bool, int]]:
        """End the speech that goes on, as at the end of a stream; the change, if anybody spoke."""
        told, self._told, self._first = self._told, False, None
        if not told:
            return []
        self._free = min(self._at, self._end + 16 * self.rules.padding_ms)
        return [(False, self._free)]


class VoiceLog:
    """The independent detector's probabilities of the sound that is not decided yet."""

    def __init__(self) -> None:
        self._first = 0  # number of the first window kept
        self._kept: list[float] = []

    @property
    def known_samples(self) -> int:
        """Sound before this was judged."""
        return (self._first + len(self._kept)) * WINDOW_SAMPLES

    def append(self, probabilities: Sequence[float]) -> None:
        """Keep the probabilities of the next windows."""
        self._kept += probabilities

    def loudest(self, start_samples: int, end_samples: int) -> float:
        """The highest probability of a window that touches this stretch; 0 where none is known."""
        first = max(0, start_samples // WINDOW_SAMPLES - self._first)
        last = max(0, -(-end_samples // WINDOW_SAMPLES) - self._first)
        return max(self._kept[first:last], default=0.0)

    def forget(self, samples: int) -> None:
        """Nobody will ask for what lies before this sample."""
        count = samples // WINDOW_SAMPLES - self._first
        if count > 500:  # not at every step
            count = min(count, len(self._kept))
            self._kept = self._kept[count:]
            self._first += count
