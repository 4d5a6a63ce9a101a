"""`Segmenter`: frames of log-probabilities in, events out; the decoder and the endpoint rules joined.

It knows no encoder, only its frames, and treats three kinds of them:

- committed frames (`accept`), which are final and move the timeline on;
- provisional frames (`partial`), which follow the committed ones for now and only colour the partial result;
- provisional frames that somebody wants as a result at once (`flush`). Their text is given out before they are
  committed. When they are, the words said already are recognised by where they begin and are left out.

The sound itself (`listen`) is for the voice detector alone: when speech starts and stops, which pauses are pauses, and,
where the rules say so, which words are words.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..model.voice_heads import VoiceFrames
from .endpointing import Endpointer, EndpointReason, EndpointRules
from .events import EndReason, Event, Final, Marker, Partial, Speaker, Word
from .marks import Marks
from .said import Said, speakers_to_give, words_to_give
from .speakers import SpeakerTracker
from .steady import SteadyText
from .stream_voice import StreamVoice, activity_of
from .voice_activity import SpeechRules

if TYPE_CHECKING:
    from .decoding import Decoder


class Segmenter:
    """Turns the frames of one stream into results.

    Args:
        decoder: fresh; its alphabet and hop count here too.
        endpoint: when a segment ends.
        speech: when speech starts and stops.
        activity: also give `Activity` events for all sound.
        looks: how many looks in a row must agree on a partial text; see `SteadyText`.
        sleeps: the voice detector listens whatever the rules say, for `silent_samples`.
        speakers: tells who speaks; None: nobody asks.

    Raises:
        ConfigurationError: the rules want a voice detector that is not there.
    """

    def __init__(
        self,
        decoder: Decoder,
        endpoint: EndpointRules,
        speech: SpeechRules,
        activity: bool = False,
        looks: int = 1,
        sleeps: bool = False,
        speakers: SpeakerTracker | None = None,
    ) -> None:
        self.decoder = decoder
        self.alphabet = decoder.alphabet
        self.hop_samples = decoder.hop_samples
        self.limit_samples: int | None = None
        """Where the sound ended; words after it are dropped and times are clipped to it. None while it goes on."""
        self._endpointer = Endpointer(endpoint, borders=self.alphabet.delimiter_id is not None)
        self._voice = StreamVoice(speech, self.hop_samples, activity, sleeps)
        self.speakers = speakers
        """Tells who speaks, where the settings ask for it."""
        self._said: Said | None = None
        self._shown = ("", "")  # stable and unstable text of the last partial of this segment
        self._steady = SteadyText(looks)
        self._marks = Marks()
        self._deaf_frames = 0  # frames before this are context only
        self._settled_frames = 0

    @property
    def decided_samples(self) -> int:
        """Every sample before this one is covered by a final that was given out, or is silence."""
        words = self._visible(self.decoder.words)
        if words:  # what may still turn out to be a word is not decided
            first = self._voice.first_possible(words, len(self._visible(self.decoder.complete)))
        else:
            first = None
        at = first.start_samples if first else self.decoder.frames * self.hop_samples
        at = min(at, self.decoder.contested_samples)  # a word that was not the best so far may begin before
        at = max(at, self._said.end_samples) if self._said else at
        return at if self.limit_samples is None else min(at, self.limit_samples)

    @property
    def settled_samples(self) -> int:
        """The last place where a segment ended of which nothing is left.

        A stream that is deaf before this sample gives from here on the finals that this one gives.
        """
        return self._settled_frames * self.hop_samples

    @property
    def settled_frames(self) -> int:
        """The same in frames."""
        return self._settled_frames

    def deafen(self, samples: int) -> None:
        """Give no events of the sound before this sample, at which a segment begins; before any frame is read.

        Args:
            samples: a multiple of the hop.

        Raises:
            ValueError: it is none, or frames were read already.
        """
        if samples % self.hop_samples or samples < 0 or self.decoder.frames:
            raise ValueError(f"deaf before sample {samples} of a stream that has read {self.decoder.frames} frames")
        self._deaf_frames = self._settled_frames = samples // self.hop_samples
        if self.speakers is not None:
            self.speakers.begin_at(self._deaf_frames)
        self._voice.deafen(samples)

    @property
    def voice(self) -> StreamVoice:
        """What it knows of voices."""
        return self._voice

    def change(self, endpoint: EndpointRules, speech: SpeechRules, activity: bool) -> None:
        """Other rules from the next frame on, but for the detector and whether words need a voice."""
        self._endpointer.rules = endpoint
        self._voice.change(speech, activity)

    def accept(self, logprobs: np.ndarray, voices: VoiceFrames | None = None) -> list[Event]:
        """Read committed frames.

        Args:
            logprobs: natural log-probabilities `[frames, labels]`, any number of frames.
            voices: what the model's voice heads say of the same frames, where the settings ask for them.

        Returns:
            The finals of segments that end in them, speakers, speech starts and stops, and activity; no partial.

        Raises:
            ValueError: another shape.
        """
        self.alphabet.check(logprobs)
        logprobs, voices = self._heard(logprobs, voices)
        if not len(logprobs):
            return []
        events: list[Event] = []
        if self.speakers is not None:
            assert voices is not None
            skipped = voices.speaker is None
            events += self._told(self.speakers.skip(len(logprobs)) if skipped else self.speakers.accept(voices))
        kinds = self.alphabet.kinds(logprobs.argmax(axis=1)).tolist()
        frame = self.decoder.frames
        letters = partial(self.alphabet.speech_probabilities, logprobs)
        probabilities = self._voice.judge(letters, frame, activity_of(voices))
        events += self._clipped(self._voice.tell_frames(probabilities, frame))
        voiced = self._voice.frames(self.decoder.frames, len(kinds))
        first = 0
        while first < len(kinds):
            seen, reason = self._endpointer.scan(kinds[first:], voiced[first:])
            last = first + seen
            events += self._clipped(self._voice.watch(probabilities[first:last]))
            self.decoder.accept(logprobs[first:last])
            if reason:
                events += self._end(self.decoder.words, self._reason(reason))
                self._begin()
                events += self._answered()
            elif self._endpointer.fresh:
                self._endpointer.began(self._age(self.decoder))
            first = last
        self._read_on()
        self._voice.forget(self.settled_samples)
        if self.speakers is not None:
            self.speakers.forget(self.settled_samples)
        return events + self._answered()

    def skip(self, frames: int) -> list[Event]:
        """Read so many frames of silence that nobody computed; as `accept`."""
        return self.accept(self.alphabet.silence(frames), VoiceFrames(np.zeros(frames, np.float32), None))

    @property
    def silent_samples(self) -> int:
        """See `StreamVoice`."""
        return self._voice.silent_samples

    @property
    def calm(self) -> bool:
        """Every frame that was accepted is decided: no word is open."""
        return self._said is None and self.decided_samples >= self.decoder.frames * self.hop_samples

    def listen(self, samples: np.ndarray) -> list[Event]:
        """Hear the sound of frames to come, for the voice detector.

        Args:
            samples: float32 `[samples]`, what the encoder hears, before its frames are accepted.

        Returns:
            Speech starts and stops, and activity, where the detector alone decides them.
        """
        return self._clipped(self._voice.listen(samples))

    def mark(self, marker: Marker) -> list[Event]:
        """Have a marker returned when all sound before it is decided; at once where it is.

        Args:
            marker: at a sample not before that of the last one.

        Returns:
            The marker, if it is decided already.
        """
        self._marks.add(marker)
        return self._answered()

    @property
    def marks(self) -> int:
        """Markers that wait."""
        return len(self._marks)

    def _answered(self) -> list[Event]:
        """The markers whose sound has been decided by now."""
        return self._marks.answered(self.decided_samples) if self._marks else []

    def partial(self, logprobs: np.ndarray | None = None) -> list[Event]:
        """The text of the segment so far, if it changed since it was last shown.

        Args:
            logprobs: provisional frames `[frames, labels]` after the accepted ones; None for none.

        Returns:
            One `Partial`, or nothing.
        """
        words = self._voice.words(self._visible(self._words_ahead(logprobs)))
        stable = len(self._voice.words(self._visible(self.decoder.complete), sure=True))
        words = self._steady.look(words, stable, self.decoder.frames + (0 if logprobs is None else len(logprobs)))
        shown = _text(words[:stable]), _text(words[stable:])
        if shown == self._shown:
            return []
        self._shown = shown
        return [Partial(*shown, self.speakers.named(words) if self.speakers else words)]

    def flush(self, logprobs: np.ndarray | None = None, heard_samples: int = 0) -> list[Event]:
        """End the segment now; the text of provisional frames counts as said.

        A word that is being spoken is given out as far as it was heard; if it turns out longer, its missing
        letters begin the next segment.

        Args:
            logprobs: provisional frames `[frames, labels]` after the accepted ones; None for none.
            heard_samples: all sound before this sample counts as decided: markers before it are returned.

        Returns:
            A `Final`, if there was text, or several where a segment ended in the provisional frames; then the markers.
        """
        ahead = self._segments_ahead(logprobs)
        words = tuple(word for segment in ahead for word in segment)
        events = [event for segment in ahead for event in self._end(segment, "flush")]
        if self._visible(words):  # given out, or left out for want of a voice: both are decided
            # Words that are complete among the committed frames cannot be read again.
            read = words[-1] in self.decoder.complete
            self._said = None if read else Said.of(words[len(self.decoder.complete) :])
        self.decoder.take()  # the open word stays: its committed end is still to come
        self._read_on()
        self._endpointer.reset()
        self._marks.flushed(heard_samples)
        return events + self._answered()

    def close(self) -> list[Event]:
        """The end of the stream: the last final and the end of speech, if there are any, and all markers."""
        events = self._clipped(self._voice.close())
        if self.speakers is not None:
            events += self._told(self.speakers.close())
        events += self._end(self.decoder.words, "end")
        self._begin()
        return [*events, *self._marks.rest(), *self.partial()]

    def _reason(self, endpoint: EndpointReason) -> EndReason:
        if self.limit_samples is not None and self.decoder.frames * self.hop_samples > self.limit_samples:
            return "end"  # the pause is made of what follows the sound
        return "length" if endpoint == "length" else "silence"

    def _end(self, words: tuple[Word, ...], reason: EndReason) -> list[Event]:
        words = self._voice.words(self._visible(words))
        self._steady.reset(self.decoder.frames)
        if not words:
            return []  # a partial that is still shown is taken back by the next call of `partial`
        self._shown = ("", "")
        text, candidates = _text(words), self.decoder.candidates
        if candidates and candidates[0].text != text:
            candidates = ()  # a flush gave out a part of them, or the text is of frames that are not committed
        events: list[Event] = []
        if self.speakers is not None:
            events += self._told(self.speakers.settle(words[-1].end_samples))
            words = self.speakers.named(words)
        return [*events, Final(text, words, words[0].start_samples, words[-1].end_samples, reason, candidates)]

    def _begin(self) -> None:
        """A new segment starts behind the accepted frames."""
        self.decoder.reset()
        if self._said and self.decoder.frames * self.hop_samples >= self._said.end_samples:
            self._said = None
        if self._said is None:
            self._settled_frames = self.decoder.frames
            self._voice.settle()

    def _read_on(self) -> None:
        """What was read since a flush says no more than was said: what may follow begins here."""
        if self._said and not self._visible(self.decoder.words):
            read = min(self.decoder.frames * self.hop_samples, self.decoder.contested_samples)
            self._said = self._said.followed(read)

    def _heard(self, logprobs: np.ndarray, voices: VoiceFrames | None) -> tuple[np.ndarray, VoiceFrames | None]:
        """The frames that are not deaf; the others are read and forgotten, as those before the end of a segment."""
        deaf = min(self._deaf_frames - self.decoder.frames, len(logprobs))
        if deaf <= 0:
            return logprobs, voices
        letters = partial(self.alphabet.speech_probabilities, logprobs[:deaf])
        before = activity_of(None if voices is None else voices[:deaf])
        self._voice.watch(self._voice.judge(letters, self.decoder.frames, before), deaf=True)
        self.decoder.accept(logprobs[:deaf])
        self.decoder.reset()
        return logprobs[deaf:], None if voices is None else voices[deaf:]

    def _told(self, speakers: list[Speaker]) -> list[Event]:
        return speakers_to_give(speakers, self.limit_samples)

    def _words_ahead(self, logprobs: np.ndarray | None) -> tuple[Word, ...]:
        """The words of the segment and of the provisional frames."""
        return tuple(word for segment in self._segments_ahead(logprobs) for word in segment)

    def _segments_ahead(self, logprobs: np.ndarray | None) -> list[tuple[Word, ...]]:
        """The same by segments: the provisional frames may hold endpoints of their own."""
        if self.decoder.frames < self._deaf_frames:
            return []
        if logprobs is None or not len(logprobs):
            return [self.decoder.words]
        decoder, endpointer = self.decoder.fork(), copy(self._endpointer)
        kinds = self.alphabet.kinds(logprobs.argmax(axis=1)).tolist()
        voiced = self._voice.frames(self.decoder.frames, len(kinds))
        segments: list[tuple[Word, ...]] = []
        first = 0
        while first < len(kinds):
            seen, reason = endpointer.scan(kinds[first:], voiced[first:])
            decoder.accept(logprobs[first : first + seen])
            first += seen
            if reason:
                segments.append(decoder.words)
                decoder.reset()
            elif endpointer.fresh:
                endpointer.began(self._age(decoder))
        return [*segments, decoder.words]

    def _age(self, decoder: Decoder) -> int:
        """Frames since the first word of the segment begins, on any reading."""
        words = self._visible(decoder.words)  # one that had no voice at a flush is open still
        at = min(decoder.contested_samples, words[0].start_samples if words else decoder.contested_samples)
        at = max(at, self._said.end_samples) if self._said else at
        return decoder.frames - at // self.hop_samples

    def _visible(self, words: tuple[Word, ...]) -> tuple[Word, ...]:
        """The words without what a flush gave out, and within the sound."""
        return words_to_give(words, self._said, self.limit_samples, self.hop_samples)

    def _clipped(self, events: list[Event]) -> list[Event]:
        return self._voice.ungiven(events, self.limit_samples)


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
