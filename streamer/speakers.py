"""Who speaks: `SpeakerRules` and `SpeakerTracker`, from the frames of the voice heads to `Speaker` events and names.

Speech is cut into stretches of about a second and a half, each becomes one vector (x-vectors, whose statistics are
summed up frame by frame), and the vectors are clustered as they come: a stretch joins the voice that it is likeliest
to be of (`heard_voices`), or founds a new one. A label that was given stays; only vectors and times are kept, no sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from ..model.errors import ConfigurationError
from ..model.time_delay import Moments, joined, moments_of
from ..model.voice_heads import VoiceFrames, VoiceHeads
from .events import SAMPLE_RATE, Speaker, Word
from .heard_voices import Limits, Voice, choose, unit
from .speaker_memory import MOST_VOICES, SpeakerMemory

UNKNOWN = "unknown"
"""The label of speech that is like nobody's so far and too short to tell who it is."""
STRETCH_FRAMES = 75
"""Speech after which a stretch is decided."""
PAUSE_FRAMES = 20
"""Silence that ends a stretch, and behind which whoever spoke before counts no more than others."""
SHORTEST_FRAMES = 15
"""Less speech says nothing about a voice."""
NEW_FRAMES = 40
"""A new voice needs so much speech."""
LEARNING_FRAMES = 25
"""A voice is not changed by less speech."""
NEAR_SAMPLES = SAMPLE_RATE // 2
"""A word belongs to a stretch at most so far away."""
MOST_STRETCHES = 1000
"""Decided stretches that are kept for the words of a segment: more than 10 minutes."""
START, STAY = 0.5, 0.35
"""Probabilities above which speech begins, and goes on."""


@dataclass(frozen=True)
class SpeakerRules:
    """Whether and how speakers are told apart.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    enabled: bool = False
    """Give `Speaker` events, and words their speakers."""
    most: int = 8
    """Voices without a name that are remembered at once. The one not heard for the longest time is forgotten for a new
    one; its number is not used again."""
    new_below: float | None = None
    """A stretch whose similarity (cosine) to every voice is below this is somebody new. None: what the model knows of
    voices decides (`model.voice_model`), or its number where it knows no more."""
    known_above: float | None = None
    """An enrolled speaker is recognised from this similarity on. None: the model's number."""
    known_path: str | None = None
    """File of enrolled speakers, see `known_speakers`; on a server the operator's to choose."""

    def __post_init__(self) -> None:
        if type(self.enabled) is not bool:
            self._refuse("enabled", "True or False")
        if type(self.most) is not int or not 1 <= self.most <= MOST_VOICES:
            self._refuse("most", f"a whole number from 1 to {MOST_VOICES}")
        for name in ("new_below", "known_above"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1
            ):
                self._refuse(name, "a number from -1 to 1, or None")
        if self.known_path is not None and not isinstance(self.known_path, str):
            self._refuse("known_path", "the name of a file, or None")

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigurationError(f"SpeakerRules.{name} is {getattr(self, name)!r}, expected {expected}")


@dataclass(frozen=True)
class Stretch:
    """Speech that is decided at once."""

    first_frame: int
    end_frame: int
    """One past its last frame of speech."""
    speech_frames: int
    """Frames of speech in it."""
    moments: Moments
    """Of the network's outputs for them."""


class SpeakerTracker:
    """Tells the speakers of one stream apart. Memory is bounded: some vectors, and the stretches of a segment.

    Args:
        heads: with a speaker and an activity head.
        rules: see there.
        hop_samples: samples of a frame.
        known: vectors of enrolled speakers by name.

    Raises:
        ConfigurationError: one of the heads is missing.
    """

    def __init__(
        self, heads: VoiceHeads, rules: SpeakerRules, hop_samples: int, known: Mapping[str, np.ndarray] | None = None
    ) -> None:
        if heads.speaker is None or heads.activity is None:
            raise ConfigurationError("telling speakers apart needs both voice heads; this model has only one of them")
        self.heads, self.rules = heads, rules
        self._limits = Limits(rules.new_below, rules.known_above)
        self.voices = [Voice(name, unit(vector), 0) for name, vector in (known or {}).items()]
        """Enrolled ones first, then those that were heard."""
        self._hop = hop_samples
        self._delay = heads.speaker.reach_frames // 2  # an output belongs to the frame in its middle
        self._carry = heads.speaker.empty_carry()
        self._nothing = moments_of(np.zeros((0, heads.speaker.feature_extractor.in_features // 2)))
        self._next = 0  # frame that is looked at next
        self._output = self._delay  # frame that the next output belongs to
        self._waiting: list[bool] = []  # whether the frames from `_next` on are speech
        self._speaking = False
        self._open: Stretch | None = None
        self._last_label, self._last_end = "", -PAUSE_FRAMES
        self._numbers = 0
        self._decided: deque[tuple[int, int, str]] = deque(maxlen=MOST_STRETCHES)
        self.on_vector: Callable[[np.ndarray, int], None] | None = None
        """Is shown the vector of each stretch and its frames."""

    def begin_at(self, frame: int) -> None:
        """The first frame that comes is this one: the stream was deaf before."""
        self._next, self._output, self._last_end = frame, frame + self._delay, frame - PAUSE_FRAMES

    def accept(self, voices: VoiceFrames) -> list[Speaker]:
        """Hear the next committed frames.

        Returns:
            The stretches that ended in them.
        """
        assert voices.activity is not None
        assert voices.speaker is not None
        assert self.heads.speaker is not None
        self._waiting += self._spoken(voices.activity.tolist())
        outputs, self._carry = self.heads.speaker.delayed_step(voices.speaker, self._carry)
        return self._advance(max(0, self._output + len(outputs) - self._next), outputs)

    def skip(self, frames: int) -> list[Speaker]:
        """So many frames of silence follow that nobody computed."""
        assert self.heads.speaker is not None
        events = self.close()
        self._carry, self._speaking = self.heads.speaker.empty_carry(), False
        self._next += frames
        self._output = self._next + self._delay
        return events

    def settle(self, samples: int) -> list[Speaker]:
        """Decide the stretch that goes on, if it begins before this sample: somebody has to know now."""
        if self._open is None or self._open.first_frame * self._hop >= samples:
            return []
        return self._decide()

    def close(self) -> list[Speaker]:
        """The end of the stream."""
        return self._advance(len(self._waiting), np.zeros((0, len(self._nothing[1])), np.float32)) + self._decide()

    def remembered(self, frame: int) -> SpeakerMemory:
        """The voices without a name, for a stream that goes on elsewhere from this frame; who is enrolled is known
        there."""
        voices = sorted((voice for voice in self.voices if not voice.known), key=lambda voice: voice.heard_frame)
        labels = [voice.label for voice in voices]
        last = labels.index(self._last_label) if self._last_label in labels else None
        ago = max(0, frame - self._last_end)
        return SpeakerMemory(tuple(voice.remembered for voice in voices), self._numbers, last, ago)

    def recall(self, memory: SpeakerMemory) -> None:
        """Know the voices that another tracker remembered; behind `begin_at`, before any frame is heard.

        Raises:
            ConfigurationError: they are no voices of this model.
        """
        assert self.heads.speaker is not None
        size = self.heads.speaker.feature_extractor.out_features
        if any(len(voice.vector) != size for voice in memory.voices):
            raise ConfigurationError(f"the voices to go on with are not vectors of {size} numbers, as this model's are")
        voices = memory.voices[-self.rules.most :]
        for place, kept in enumerate(voices):
            voice = Voice(f"speaker {kept.number}", kept.vector, kept.frames, kept.length)
            voice.heard_frame = self._next - len(voices) + place  # the order in which they were heard
            self.voices.append(voice)
        self._numbers = memory.numbers
        if memory.last is not None:
            self._last_label = f"speaker {memory.voices[memory.last].number}"
            self._last_end = self._next - memory.ago_frames

    def named(self, words: tuple[Word, ...]) -> tuple[Word, ...]:
        """The words with their speakers; without where nothing is decided yet."""
        return tuple(replace(word, speaker=self.label_of(word.start_samples, word.end_samples)) for word in words)

    def label_of(self, start_samples: int, end_samples: int) -> str:
        """Who speaks most of the time between two samples, or next to it; empty: nobody."""
        best, label = -NEAR_SAMPLES, ""
        for start, end, name in reversed(self._decided):
            common = min(end, end_samples) - max(start, start_samples)  # below 0: that far away
            if common > best:
                best, label = common, name
            if end < start_samples - NEAR_SAMPLES:
                break
        return label

    def forget(self, samples: int) -> None:
        """Nobody will ask for what lies before this sample."""
        while self._decided and self._decided[0][1] < samples - NEAR_SAMPLES:
            self._decided.popleft()

    def _spoken(self, probabilities: list[float]) -> list[bool]:
        found = []
        for probability in probabilities:
            self._speaking = probability > (STAY if self._speaking else START)
            found.append(self._speaking)
        return found

    def _advance(self, count: int, outputs: np.ndarray) -> list[Speaker]:
        """Look at the next frames, of which `outputs` are those from frame `_output` on."""
        events: list[Speaker] = []
        flags, self._waiting = self._waiting[:count], self._waiting[count:]
        at, stop = self._next, self._next + len(flags)
        while at < stop:
            speech, end = flags[at - self._next], at
            while end < stop and flags[end - self._next] == speech:
                end += 1
            if speech:
                while at < end:
                    taken = min(end, at + STRETCH_FRAMES - (self._open.speech_frames if self._open else 0))
                    rows = outputs[max(0, at - self._output) : max(0, taken - self._output)]
                    self._extend(at, taken, rows)
                    at = taken
                    if self._open is not None and self._open.speech_frames >= STRETCH_FRAMES:
                        events += self._decide()
            elif self._open is not None and end - self._open.end_frame >= PAUSE_FRAMES:
                events += self._decide()
            at = end
        self._next, self._output = stop, self._output + len(outputs)
        return events

    def _extend(self, first: int, end: int, outputs: np.ndarray) -> None:
        before = self._open or Stretch(first, first, 0, self._nothing)
        moments = joined(before.moments, moments_of(outputs))
        self._open = Stretch(before.first_frame, end, before.speech_frames + end - first, moments)

    def _decide(self) -> list[Speaker]:
        """Say who speaks in the stretch that went on."""
        stretch, self._open = self._open, None
        if stretch is None:
            return []
        label, score, confidence, known = self._identify(stretch)
        start, end = stretch.first_frame * self._hop, stretch.end_frame * self._hop
        self._decided.append((start, end, label))
        self._last_label, self._last_end = label, stretch.end_frame
        return [Speaker(label, start, end, confidence, score, known)]

    def _identify(self, stretch: Stretch) -> tuple[str, float, float, bool]:
        """Label, similarity, confidence, and whether it is an enrolled speaker."""
        assert self.heads.speaker is not None
        count = stretch.moments[0]
        follows = self._last_label if stretch.first_frame - self._last_end < PAUSE_FRAMES else ""
        if count < SHORTEST_FRAMES:
            known = any(v.known and v.label == follows for v in self.voices)
            return follows or UNKNOWN, 0.0, 0.0, known
        vector = unit(self.heads.speaker.embedding(stretch.moments))
        if self.on_vector is not None:
            self.on_vector(vector, count)
        choice = choose(self.voices, vector, count, follows, self.heads, self._limits)
        voice = choice.voice
        if voice is None:
            if count < NEW_FRAMES:
                return UNKNOWN, choice.score if self.voices else 0.0, 0.0, False
            voice = self._found(vector, count)
            voice.heard_frame = stretch.end_frame
            return voice.label, 1.0, choice.probability, False
        voice.heard_frame = stretch.end_frame
        if not voice.known and count >= LEARNING_FRAMES and choice.sure:
            voice.learn(vector, count)
        return voice.label, choice.score, choice.probability, voice.known

    def _found(self, vector: np.ndarray, frames: int) -> Voice:
        """A new voice; the one not heard for the longest time makes room where there is none."""
        unnamed = [voice for voice in self.voices if not voice.known]
        if len(unnamed) >= self.rules.most:
            self.voices.remove(min(unnamed, key=lambda voice: voice.heard_frame))
        self._numbers += 1
        voice = Voice(f"speaker {self._numbers}", vector, frames)
        self.voices.append(voice)
        return voice
