"""`StreamVoice`: what one stream's segmenter knows of voices, from the independent detector, the model, or both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..model.voice_heads import VoiceFrames
from .events import SAMPLE_RATE, Activity, Event, SpeechStarted, SpeechStopped, Word
from .silero import WINDOW_SAMPLES
from .sleep import SIGN_PROBABILITY
from .voice_activity import SpeechRules, SpeechWatch, VoiceLog
from .voice_detector import Hearing, VoiceDetector
from .voice_memory import VoiceMemory, WatchMemory

ACTIVITY_WINDOWS = 5
"""Windows of the voice detector that share an `Activity` event: 160 ms."""
PLACE_SAMPLES = ACTIVITY_WINDOWS * WINDOW_SAMPLES
"""A stream may begin anew at multiples of this without its windows and `Activity` events lying elsewhere."""
LETTER_FRAMES = 20
"""With both detectors, a letter counts as speech for so many frames: most frames between letters are blank."""


class StreamVoice:
    """Speech starts and stops, activity, and whether a word has a voice.

    The detector hears sound (`listen`), the model's probabilities come with its frames (`judge`). Sound is heard
    before its frames are judged.

    Args:
        rules: see there.
        hop_samples: samples of a frame.
        activity: give `Activity` events.
        sleeps: the detector listens even where the rules have no use for it, for `silent_samples`.

    Raises:
        ConfigurationError: the rules want a voice detector that is not there.
    """

    def __init__(self, rules: SpeechRules, hop_samples: int, activity: bool, sleeps: bool = False) -> None:
        self.rules = rules
        self.activity = activity
        self._hop = hop_samples
        self._detector = VoiceDetector() if rules.listens or sleeps else None
        self._sign_samples = 0  # one past the last window with a sign of a voice
        self._log = VoiceLog()
        self._watch = SpeechWatch(rules, WINDOW_SAMPLES if rules.detector == "silero" else hop_samples)
        self._untold: list[float] = []  # probabilities of windows that are in no `Activity` yet
        self._letters: deque[float] = deque(maxlen=LETTER_FRAMES)  # the model's probabilities of the last frames
        self._heard_words: set[tuple[int, int]] = set()  # words of the segment, by their samples, that have a voice
        self._heard = 0  # samples
        self._every = 0  # samples from one place to the next whose memory is kept; 0: nobody will ask
        self._places: deque[tuple[int, VoiceMemory]] = deque()
        self._settled: WatchMemory | None = None  # of the watch, where the last segment ended
        self._given = [-1, -1, 0]  # places up to which starts, stops and activity were given
        self._told_of_deaf = False  # the watch knows what another stream made of the frames before the segment

    def change(self, rules: SpeechRules, activity: bool) -> None:
        """Other rules from now on; the detector and whether words need a voice stay as they are."""
        rules = replace(rules, detector=self.rules.detector, words_need_voice=self.rules.words_need_voice)
        self.rules = self._watch.rules = rules
        self._heard_words.clear()
        self.activity = activity

    def deafen(self, samples: int) -> None:
        """Starts, stops and activity before this sample were given already."""
        self._given = [samples - 1, samples - 1, samples]

    def remember(self, every_samples: int, memory: VoiceMemory, segment_samples: int) -> None:
        """From now on keep what `memory_at` may be asked for, and go on as the stream that remembered `memory`.

        Args:
            every_samples: places that may be asked for, a multiple of `PLACE_SAMPLES`.
            memory: an empty one for a stream that begins.
            segment_samples: where the first segment begins that counts.

        Raises:
            ValueError: it was called before, or there are no such places.
        """
        if self._every or every_samples <= 0 or every_samples % PLACE_SAMPLES:
            raise ValueError(f"places every {every_samples} samples, {self._every} before")
        self._every = every_samples
        if memory.detector is not None and self._detector is not None:
            self._detector.take_up(memory.detector)
        if memory.watch is not None:
            alone = self.rules.detector == "silero"
            self._watch.take_up(memory.watch, 0 if alone else segment_samples)
            self._told_of_deaf = not alone
            self._given = list(memory.given)
        self._settled = self._watch.memory
        self._keep()

    def settle(self) -> None:
        """A segment ends behind the frames that were judged."""
        self._heard_words.clear()
        self._settled = self._watch.memory

    def memory_at(self, samples: int) -> VoiceMemory:
        """What was remembered at a place; nobody will ask for an earlier one."""
        given = (self._given[0] - samples, self._given[1] - samples, self._given[2] - samples)
        if self._detector is None:
            return VoiceMemory(None, self._settled, given)
        while len(self._places) > 1 and self._places[1][0] <= samples:
            self._places.popleft()
        at, memory = self._places[0]
        if at != samples:
            raise ValueError(f"nothing is kept of sample {samples}, only of {at}")
        watch = memory.watch if self.rules.detector == "silero" else self._settled
        return VoiceMemory(memory.detector, watch, given)

    def _keep(self) -> None:
        detector = None if self._detector is None else self._detector.memory
        self._places.append((self._heard, VoiceMemory(detector, self._watch.memory)))

    def listen(self, samples: np.ndarray) -> list[Event]:
        """Hear sound, float32 `[samples]`; the events that follow from it alone."""
        if not self._every or self._detector is None:
            return self._hear(samples)
        events: list[Event] = []
        while len(samples):
            room = self._every - self._heard % self._every
            piece, samples = samples[:room], samples[room:]
            events += self._hear(piece)
            self._heard += len(piece)
            if self._heard % self._every == 0:
                self._keep()
        return events

    def _hear(self, samples: np.ndarray) -> list[Event]:
        if self._detector is None:
            return []
        start = self._detector.known_samples
        probabilities = self._detector.push(samples)
        for n, probability in enumerate(probabilities, start=1):
            if probability > SIGN_PROBABILITY:
                self._sign_samples = start + n * WINDOW_SAMPLES
        if not self.rules.listens:
            return []
        self._log.append(probabilities)
        if self.rules.detector != "silero":
            return []
        events: list[Event] = []
        for n, probability in enumerate(probabilities, start=1):
            self._untold.append(probability)
            if len(self._untold) == ACTIVITY_WINDOWS:
                events += self._tell(start + n * WINDOW_SAMPLES)
            events += self._changes([probability])
        return events

    def coming(self, parts: Sequence[np.ndarray]) -> Hearing | None:
        """What of the sound that `listen` is about to be given the detector can hear before; None: nothing.

        Args:
            parts: float32 `[samples]` each.
        """
        return None if self._detector is None else self._detector.coming(parts)

    def heard(self, probabilities: list[float], states: np.ndarray) -> None:
        """What was made of `coming`; see `VoiceDetector.heard`."""
        assert self._detector is not None
        self._detector.heard(probabilities, states)

    @property
    def silent_samples(self) -> int:
        """Sound without a sign of a voice, up to the newest that the detector knows; 0 where none listens."""
        return 0 if self._detector is None else self._detector.known_samples - self._sign_samples

    def judge(
        self, letters: Callable[[], np.ndarray], first_frame: int, activity: Sequence[float] | None = None
    ) -> list[float]:
        """Probabilities of speech for committed frames; none where the independent detector alone decides.

        Args:
            letters: gives the probabilities that a frame says something, 0 to 1, from `first_frame` on.
            activity: what the model's voice activity head says of them, where it decides.
        """
        if self.rules.detector == "silero":
            return []
        if self.rules.detector == "head":
            assert activity is not None
            return list(activity)
        probabilities = letters().tolist()
        if self.rules.detector == "both":
            for n, letter in enumerate(probabilities):
                self._letters.append(letter)
                start = (first_frame + n) * self._hop
                probabilities[n] = min(max(self._letters), self._log.loudest(start, start + self._hop))
        return probabilities

    def watch(self, probabilities: Sequence[float], *, deaf: bool = False) -> list[Event]:
        """Speech starts and stops in the next of the frames that were judged; `deaf` ones are context only."""
        return [] if deaf and self._told_of_deaf else self._changes(probabilities)

    def tell_frames(self, probabilities: list[float], first_frame: int) -> list[Event]:
        """The activity of frames that were judged."""
        if not self.activity or not probabilities:
            return []
        return [Activity(first_frame * self._hop, self._hop, tuple(probabilities))]

    def close(self) -> list[Event]:
        """The end of the stream."""
        events = self._tell(self._detector.known_samples) if self._detector else []
        return events + self._as_events(self._watch.stop())

    def frames(self, first: int, count: int) -> list[bool]:
        """Whether a voice is heard in each of these frames; none at all where no detector listens."""
        if not self.rules.listens:
            return []
        hop, enough = self._hop, self.rules.stay_probability
        return [self._log.loudest(f * hop, (f + 1) * hop) > enough for f in range(first, first + count)]

    def words(self, words: tuple[Word, ...], *, sure: bool = False) -> tuple[Word, ...]:
        """The words that have a voice, all of them if they need none; `sure` ends before one that still may get one."""
        if not self.rules.words_need_voice:
            return words
        found = []
        for word in words:
            if self._voiced(word):
                found.append(word)
            elif sure and not self._judged(word):
                break
        return tuple(found)

    def first_possible(self, words: tuple[Word, ...], complete: int) -> Word | None:
        """The first word that has a voice or still may get one; those from `complete` on, which may change, may."""
        if not self.rules.words_need_voice:
            return words[0] if words else None
        for n, word in enumerate(words):
            if n >= complete or not self._judged(word) or self._voiced(word):
                return word
        return None

    def forget(self, samples: int) -> None:
        """Words before this sample will not be asked for."""
        self._log.forget(samples - self._padding)

    @property
    def _padding(self) -> int:
        return self.rules.word_padding_ms * SAMPLE_RATE // 1000

    def _voiced(self, word: Word) -> bool:
        place = word.start_samples, word.end_samples
        if place not in self._heard_words:
            padding = self._padding
            loudest = self._log.loudest(place[0] - padding, place[1] + padding)
            if loudest <= self.rules.start_probability:
                return False
            self._heard_words.add(place)  # and stays so, whatever is heard behind it
        return True

    def _judged(self, word: Word) -> bool:
        """Whether all sound is known in which its voice may be."""
        return word.end_samples + self._padding <= self._log.known_samples

    def ungiven(self, events: list[Event], limit_samples: int | None) -> list[Event]:
        """Speech and activity events without what was given already, by this stream or the one with which it goes on,
        and clipped to the sound's end where it is known."""
        found: list[Event] = []
        given = self._given
        for event in events:
            if isinstance(event, Activity):
                hop, probabilities = event.hop_samples, event.probabilities
                if limit_samples is not None:  # what begins after the sound tells nothing
                    probabilities = probabilities[: max(0, -(-(limit_samples - event.start_samples) // hop))]
                known = max(0, -(-(given[2] - event.start_samples) // hop))
                if probabilities := probabilities[known:]:
                    event = Activity(event.start_samples + known * hop, hop, probabilities)
                    given[2] = event.start_samples + len(probabilities) * hop
                    found.append(event)
            elif isinstance(event, SpeechStarted | SpeechStopped):
                at = event.at_samples if limit_samples is None else min(event.at_samples, limit_samples)
                kind = int(isinstance(event, SpeechStopped))
                if at > given[kind]:
                    given[kind] = at
                    found.append(type(event)(at))
        return found

    def _tell(self, end_samples: int) -> list[Event]:
        """The windows up to this sample that no event told of."""
        probabilities, self._untold = tuple(self._untold), []
        if not self.activity or not probabilities:
            return []
        return [Activity(end_samples - len(probabilities) * WINDOW_SAMPLES, WINDOW_SAMPLES, probabilities)]

    def _changes(self, probabilities: Sequence[float]) -> list[Event]:
        return self._as_events(self._watch.scan(probabilities))

    @staticmethod
    def _as_events(changes: list[tuple[bool, int]]) -> list[Event]:
        return [SpeechStarted(at) if started else SpeechStopped(at) for started, at in changes]


def activity_of(voices: VoiceFrames | None) -> list[float] | None:
    """What the model's own head says of voices, frame by frame; None where it has none."""
    return None if voices is None or voices.activity is None else voices.activity.tolist()
