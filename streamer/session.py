"""`Session`: one stream of sound in, events out. Synchronous, without clocks, threads or I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..model.context import StreamingContext
from ..model.errors import ConfigurationError, StreamError
from .alphabet import Alphabet
from .beam import BeamDecoder
from .chosen_frames import Reading
from .chunker import Chunker, check_sound
from .decoding import hotwords_for, make_decoder
from .encoder import EncoderStream
from .events import SAMPLE_RATE, Event, Marker, Ready
from .language_model import LanguageModel
from .plan import TAIL_SAMPLES, Plan
from .segmenter import Segmenter
from .session_settings import SessionSettings
from .sleep import Sleep
from .speaker_memory import SpeakerMemory
from .speakers import SpeakerTracker
from .voice_detector import Hearing
from .voice_memory import VoiceMemory

__all__ = ["TAIL_SAMPLES", "Session", "SessionSettings"]
MOST_MARKS = 1000
"""Marks of one session that may wait at once."""


class Session:
    """One stream. `Recogniser.open` makes it.

    The same sound gives the same events of every kind but `Partial`, whatever blocks it comes in.

    Args:
        encoder: of a stream that has heard nothing.
        alphabet: of the encoder's outputs.
        context: the one that the encoder was made with.
        settings: how to listen; its own context is not looked at here.
        model: name for the `Ready` event.
        language_model: the one of the settings, if it is loaded already.
        known: vectors of the enrolled speakers that the settings name.

    Raises:
        ConfigurationError: a language model that cannot be read, or hotwords that the alphabet cannot write.
    """

    def __init__(
        self,
        encoder: EncoderStream,
        alphabet: Alphabet,
        context: StreamingContext,
        settings: SessionSettings | None = None,
        model: str = "",
        language_model: LanguageModel | None = None,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.settings = settings = settings or SessionSettings()
        hop = encoder.hop_samples
        self.ready = Ready(model, str(context), context.step_frames * hop)
        """The event that opens the stream; `feed` does not repeat it."""
        partial_hop_samples = settings.partial_hop_ms * SAMPLE_RATE // 1000
        self._chunker = Chunker(context, partial_hop_samples, hop, encoder.receptive_samples)
        self._decoder = make_decoder(alphabet, settings.decoding, hop, language_model)
        self._segmenter = Segmenter(
            self._decoder,
            settings.endpoint,
            settings.speech,
            settings.activity,
            settings.decoding.looks,
            settings.sleep_after_s > 0,
            self._tracker(encoder, known),
        )
        sleep = Sleep(settings.sleep_after_s, context.chunk_frames * hop) if settings.sleep_after_s > 0 else None
        self.plan = Plan(encoder, self._chunker, self._segmenter, sleep)
        """What the encoder has to do next; whoever called a `begin_...` drives it until nothing is needed."""
        self._taken = 0
        self._finished = False

    @property
    def speakers(self) -> SpeakerTracker | None:
        """What tells the speakers apart; None where nobody asked for it."""
        return self._segmenter.speakers

    def _tracker(self, encoder: EncoderStream, known: Mapping[str, np.ndarray] | None) -> SpeakerTracker | None:
        """What tells the speakers apart, where the settings ask for it."""
        rules = self.settings.speakers
        if not self.settings.need_heads:
            return None
        heads = encoder.heads
        if heads is None:
            raise ConfigurationError("this session needs the model's voice heads, and its encoder was given none")
        if not rules.enabled:
            return None
        return SpeakerTracker(heads, rules, encoder.hop_samples, known)

    @property
    def reading(self) -> Reading | None:
        """Which outputs of a frame its beam looks at, for who computes many streams together; None: it has no beam."""
        return self._decoder.reading if isinstance(self._decoder, BeamDecoder) else None

    @property
    def samples_taken(self) -> int:
        """Samples fed so far."""
        return self._taken

    @property
    def wanted_samples(self) -> int:
        """Samples after which the stream may need a step; fewer only wait for the rest."""
        return self._chunker.wanted_samples

    @property
    def decided_samples(self) -> int:
        """Every sample before this one lies in a `Final` that was given out, or is silence."""
        return self._taken if self.plan.over else min(self._taken, self._segmenter.decided_samples)

    @property
    def settled_samples(self) -> int:
        """The last place where a segment ended of which nothing is left: see `resuming`."""
        return self._segmenter.settled_samples

    def deafen(self, samples: int) -> None:
        """Give no events of the sound before this sample: it is context for what follows; see `resuming`.

        Args:
            samples: where a segment begins, a multiple of the hop; before any sound is fed.

        Raises:
            ValueError: it is no multiple, or sound was fed.
        """
        self._segmenter.deafen(samples)

    def remember_voice(self, every_samples: int, memory: VoiceMemory | None = None) -> None:
        """Keep what `voice_memory` may be asked for; after `deafen`, before any sound is fed.

        Args:
            every_samples: places that may be asked for, a multiple of `stream_voice.PLACE_SAMPLES`.
            memory: of the stream with which this one goes on.
        """
        self._segmenter.voice.remember(every_samples, memory or VoiceMemory(), self.settled_samples)

    def voice_memory(self, samples: int) -> VoiceMemory:
        """What the voice detection of another stream has to know to go on from `settled_samples` as this one, if its
        sound begins at a sample; nobody will ask for an earlier one."""
        return self._segmenter.voice.memory_at(samples)

    def coming_voice(self, parts: Sequence[np.ndarray]) -> Hearing | None:
        """What of the sound pushed, and of `parts` that will be, the voice detector has not heard: who has many streams
        may hear it for all of them together, and tells what came of it with `voice_heard`. None: nothing."""
        return self._segmenter.voice.coming([*self.plan.unheard, *parts])

    def voice_heard(self, probabilities: list[float], states: np.ndarray) -> None:
        """What was made of `coming_voice`; see `VoiceDetector.heard`."""
        self._segmenter.voice.heard(probabilities, states)

    def speaker_memory(self) -> SpeakerMemory:
        """What another stream has to know to go on from `settled_samples` with the numbers of this one's speakers."""
        tracker = self.speakers
        return SpeakerMemory() if tracker is None else tracker.remembered(self._segmenter.settled_frames)

    def recall_speakers(self, memory: SpeakerMemory) -> None:
        """Go on with the numbers of another stream's speakers; after `deafen`, before any sound is fed. Nothing, where
        nobody asks for speakers.

        Raises:
            ConfigurationError: they are voices of another model.
        """
        if self.speakers is not None:
            self.speakers.recall(memory)

    def feed(self, samples: np.ndarray) -> list[Event]:
        """Take a block of sound and return what became known by it.

        Args:
            samples: float32 `[samples]`, mono at 16 kHz, full scale 1; any number of them, none too.

        Raises:
            AudioError: another type or shape, or values that are not finite; nothing was taken.
            StreamError: the session was finished.
        """
        self.begin_feed(samples)
        return self._driven()

    def begin_feed(self, samples: np.ndarray, checked: bool = False) -> None:
        """`feed` without the encoder's steps, which the caller gives to `plan`; the events are taken from there.

        Args:
            samples: as of `feed`.
            checked: it is known to be sound.

        Raises:
            AudioError, StreamError: as `feed`.
        """
        self._check_open()
        if not checked:
            check_sound(samples, self._taken)
        self._taken += len(samples)
        self.plan.push(samples)

    def flush(self) -> list[Event]:
        """End the segment with what was heard so far; the stream goes on.

        Frames that are not committed yet are read provisionally. Their text is not given twice, and what the
        encoder makes of the sound that follows does not change. A little silence before a flush makes the last
        word certain.

        Returns:
            What the voice detector made of the sound that waited, a `Final` with the reason "flush" where there was
            text, and markers.

        Raises:
            StreamError: the session was finished.
        """
        self.begin_flush()
        return self._driven()

    def begin_flush(self) -> None:
        """`flush` without the encoder's steps; not while the plan needs a committing step.

        Raises:
            StreamError: the session was finished.
        """
        self._check_open()
        self.plan.flush(self._taken)

    def mark(self, id: str) -> list[Event]:
        """Ask to be told when all sound fed so far has been decided.

        The answer is `Marker(id, samples_taken)`, among the events of this call or a later one: what was said before
        the mark stands in the finals before the answer. It comes with the end of the segment that goes on at the
        mark, in silence as soon as that has been read, with `flush` and with `finish`; right behind a flush at once.
        Marks are answered in their order.

        Args:
            id: comes back with the answer; need not be unique.

        Returns:
            The answer, where everything is decided already.

        Raises:
            ConfigurationError: no text, or more than 200 characters.
            StreamError: the session was finished, or too many marks wait.
        """
        self._check_open()
        if not isinstance(id, str) or not 1 <= len(id) <= 200:
            raise ConfigurationError(f"the id of a mark is {id!r:.60}, expected text of 1 to 200 characters")
        if self._segmenter.marks >= MOST_MARKS:
            raise StreamError(f"{MOST_MARKS} marks wait for their answer already; flush, or set fewer")
        return self._segmenter.mark(Marker(id, self._taken))

    def set_hotwords(self, hotwords: tuple[tuple[str, float], ...]) -> None:
        """Expect other phrases from now on; words that are not stable yet are weighed anew. Other sessions do not
        notice.

        Args:
            hotwords: phrases, each with its boost, as in `DecodingSettings.hotwords`; none to expect nothing.

        Raises:
            ConfigurationError: a phrase that cannot work, or a session that decodes greedily; nothing has changed.
            StreamError: the session was finished.
        """
        self._check_open()
        if not isinstance(self._decoder, BeamDecoder):
            raise ConfigurationError(
                'this session decodes greedily and has no use for hotwords; open it with method "beam"'
            )
        settings = replace(self.settings.decoding, hotwords=hotwords)
        self._decoder.set_hotwords(hotwords_for(self._decoder.alphabet, settings.hotwords))

    def check_change(self, settings: SessionSettings) -> None:
        """Whether `change` can be asked for these settings.

        Raises:
            ConfigurationError: something differs that is fixed when a stream begins, or a hotword cannot work.
        """
        new = settings.filled(self.settings)
        new.check_change(self.settings)
        if new.decoding.hotwords and isinstance(self._decoder, BeamDecoder):
            hotwords_for(self._decoder.alphabet, new.decoding.hotwords)

    def change(self, settings: SessionSettings) -> None:
        """Listen differently from the next frame on: endpoints, speech (but for the detector, and whether words need
        a voice), activity, partial hop and hotwords may change; speakers may not.

        Raises:
            ConfigurationError: see `check_change`; nothing has changed.
            StreamError: the session was finished.
        """
        self._check_open()
        self.check_change(settings)
        settings = settings.filled(self.settings)
        if settings.decoding.hotwords != self.settings.decoding.hotwords:
            self.set_hotwords(settings.decoding.hotwords)
        self._chunker.set_partial_hop(settings.partial_hop_ms * SAMPLE_RATE // 1000)
        self._segmenter.change(settings.endpoint, settings.speech, settings.activity)
        self.settings = replace(settings, context=self.settings.context)

    def finish(self) -> list[Event]:
        """End the stream: everything that was heard is decoded, to the last word.

        Returns:
            The last events; nothing if the session was finished before.
        """
        self.begin_finish()
        return self._driven()

    def begin_finish(self) -> None:
        """`finish` without the encoder's steps; the session is over when the plan is."""
        if self._finished:
            return
        self._finished = True
        self._segmenter.limit_samples = self._taken or None
        self.plan.finish(tail=self._taken > 0)

    def _driven(self) -> list[Event]:
        """The plan driven by the session's own encoder, and what came of it."""
        plan = self.plan
        while (need := plan.need()) is not None:
            plan.give(plan.encoder.step(commit=need.commit, final=need.final))
        return plan.take()

    def knowledge(self) -> dict[str, object]:
        """All that the session knows, its settings apart; what `take_up` needs to go on from here."""
        return {name: value for name, value in vars(self).items() if name not in ("settings", "ready")}

    def take_up(self, knowledge: dict[str, object]) -> None:
        """Go on where another session with the same settings was."""
        vars(self).update(knowledge)

    def _check_open(self) -> None:
        if self._finished:
            raise StreamError("this session was finished; open a new one for more sound")
