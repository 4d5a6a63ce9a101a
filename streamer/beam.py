"""`BeamDecoder`: incremental CTC prefix beam search read as words, with times, confidences and an n-best list.

The search is in `prefix_search`, what language model and hotwords add in `fusion`, the reading of words in
`hypotheses`. Nothing here looks at where a call ends, so the result does not depend on how frames are cut into calls,
to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .alphabet import Alphabet
from .chosen_frames import Chosen, ChosenFrames, Reading, choose
from .confidence import Calibration
from .events import Candidate, Choice, Word
from .fusion import Fusion
from .greedy import letters_of as as_events
from .hotwords import Hotwords
from .hypotheses import Hypothesis, Path, Slot, Span, letter_mean, letters_of, remembered, shares_of, slots_of, spans_of
from .prefix_search import BeamRules, PrefixSearch
from .stability import StabilityRule

CHECK_FRAMES = 4
"""Frames from one look for stable words to the next."""
PAUSE_FRAMES = 10
"""After so many silent frames the last word is scored as complete."""
ALTERNATIVES, CANDIDATES = 4, 5
"""With details: other readings of a word, and texts of a segment, at most."""
LEAST_SHARE = 0.001
"""With details: readings of a word with a smaller share of the beam are left out."""


@dataclass(frozen=True)
class Alternative:
    """One text of the n-best list."""

    text: str
    words: tuple[Word, ...]
    score: float
    """What it is ranked by: natural logarithm of its probability, and what fusion adds."""
    acoustic: float
    """Natural log-probability of the text given the sound, as far as the beam kept its paths."""


class BeamDecoder:
    """Beam search decoding of one stream; takes the place of `GreedyDecoder`.

    Words are stable by agreement: see `StabilityRule`. Once they are, hypotheses without them are dropped, so every
    later result begins with them. The confidence of a word is the share of the beam's posterior mass that says the
    same text in the same place; what was pruned counts with the share that it had.

    Args:
        alphabet: what the outputs stand for.
        hop_samples: samples from one frame to the next; frame t covers `[t * hop, (t + 1) * hop)`.
        rules: how wide to search.
        fusion: language model and hotwords; None for neither.
        stability: when words are stable.
        calibration: of confidences, which else are shares of the beam.
        details: words carry their letters and what else they may be.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        hop_samples: int = 320,
        rules: BeamRules | None = None,
        fusion: Fusion | None = None,
        stability: StabilityRule | None = None,
        calibration: Calibration | None = None,
        details: bool = False,
    ) -> None:
        self.alphabet = alphabet
        self.hop_samples = hop_samples
        self.rules = rules or BeamRules()
        self.stability = stability or StabilityRule()
        self.calibration = calibration or Calibration()
        self.details = details
        self._search = PrefixSearch(alphabet, self.rules, fusion or Fusion())
        self.reading = Reading(self.rules.token_cutoff, math.log(self.rules.blank_skip))
        """What it asks of a frame."""
        self._frame = 0
        self._stable: list[Word] = []
        self._stable_slots: list[Slot] = []
        self._seen: list[tuple[Span, Slot]] = []  # complete words of the best text when they were last looked at
        self._changed = False  # since then

    @property
    def frames(self) -> int:
        """Frames accepted since the stream began."""
        return self._frame

    @property
    def complete(self) -> tuple[Word, ...]:
        """Words of the segment that are stable: no later frame changes them."""
        return tuple(self._stable)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words of the segment on the best reading; the last one may be open, and is given as if it ended here."""
        return self._words_of(self._best())

    @property
    def contested_samples(self) -> int:
        """First sample of a word that is not stable, on any hypothesis; of the next frame where there is none."""
        starts = [
            spans[0].first_frame for h in self._search.beam for path in h.paths() if (spans := self._spans(h, path))
        ]
        return min(starts, default=self._frame) * self.hop_samples

    def accept(self, logprobs: np.ndarray) -> None:
        """Read committed frames.

        Args:
            logprobs: natural log-probabilities `[frames, labels]`, any number of frames.

        Raises:
            ValueError: another shape.
        """
        for blank, outputs, values in self.frames_of(logprobs):
            if not outputs:
                self._search.rest(blank)
            else:
                self._search.read(self._frame, outputs, values)
            if self.went_on(changed=bool(outputs)) and self.unsettled(self._search.beam[0]):
                self.settle()

    def went_on(self, *, changed: bool) -> bool:
        """The search has read another frame; whether it is time to look for stable words.

        Args:
            changed: the frame was not just silent.
        """
        self._changed |= changed
        self._frame += 1
        return self._frame % CHECK_FRAMES == 0

    def frames_of(self, logprobs: np.ndarray) -> Chosen:
        """What the search reads of each frame.

        Raises:
            ValueError: another shape, or frames that were chosen for other settings.
        """
        self.alphabet.check(logprobs)
        if isinstance(logprobs, ChosenFrames):
            if logprobs.reading != self.reading:
                raise ValueError(f"frames chosen for {logprobs.reading}, expected {self.reading}")
            return logprobs.chosen
        reading = self.reading
        best = logprobs.max(axis=1, initial=-math.inf)
        return choose(logprobs, best, self.alphabet.blank_id, reading.token_cutoff, reading.blank_skip)

    def peek(self, logprobs: np.ndarray) -> tuple[Word, ...]:
        """What `words` would be if these frames had been accepted; nothing is changed.

        Args:
            logprobs: provisional frames `[frames, labels]` that follow the accepted ones.

        Raises:
            ValueError: another shape.
        """
        ahead = self.fork()
        ahead.accept(logprobs)
        return ahead.words

    def fork(self) -> BeamDecoder:
        """A decoder of its own that stands where this one stands."""
        fork = object.__new__(BeamDecoder)
        fork.__dict__.update(self.__dict__)
        fork._search = self._search.fork()
        fork._stable, fork._stable_slots = list(self._stable), list(self._stable_slots)
        return fork

    def take(self) -> tuple[Word, ...]:
        """Hand out the stable words and forget them; the others stay."""
        words, self._stable, self._stable_slots = tuple(self._stable), [], []
        return words

    def reset(self) -> None:
        """Begin a new segment: forget all words, the open one too.

        The last output is kept, so that a letter which sounds on over the border is not written again.
        """
        search, best = self._search, self._best()
        context = None
        if search.fusion:
            context = search.fusion.start(best.context if self.rules.carry_context else None)
        search.begin(best.last, best.blank / best.weight, best.letter / best.weight, context)
        self._stable, self._stable_slots, self._seen = [], [], []

    def set_hotwords(self, hotwords: Hotwords) -> None:
        """Other hotwords from now on, for the words that are not stable yet too. Concerns this decoder alone."""
        self._search.fuse(self._search.fusion.with_hotwords(hotwords))
        self._changed = True

    def nbest(self, count: int = 10) -> list[Alternative]:
        """The best texts of the segment, best first; two that differ only in whether the last word is over are one.

        Args:
            count: texts at most; there are no more than the beam is wide.
        """
        found = []
        for weight, members in self._ranked()[:count]:
            words = self._words_of(members[0])
            acoustic = [math.log(h.weight) - (h.context.total if h.context else 0.0) for h in members]
            best = max(acoustic)
            acoustic = best + math.log(math.fsum(math.exp(a - best) for a in acoustic))
            text = " ".join(word.text for word in words)
            scale = self._search.scale
            found.append(Alternative(text, words, math.log(weight) + scale, acoustic + scale))
        return found

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """With details the n-best list as an event carries it, else nothing."""
        if not self.details:
            return ()
        return tuple(Candidate(a.text, a.score, a.acoustic) for a in self.nbest(CANDIDATES))

    def alternatives(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each of `words`, what may have been said in its place: text and share, the likeliest first.

        An empty text says that nothing was said there; two words, that one may have been two.
        """
        slots = [*self._stable_slots, *self._slots(self._spans(self._best()))]
        return tuple(tuple(sorted(slot.items(), key=lambda item: -item[1])) for slot in slots)

    def _ranked(self) -> list[tuple[float, list[Hypothesis]]]:
        """Weight and hypotheses of each text, best first, whether its last word is over or not."""
        search = self._search
        texts: dict[str, list[Hypothesis]] = {}
        weights: dict[str, float] = {}
        for h in search.beam:
            weight = h.weight
            if h.context is not None and search.pause_frames >= PAUSE_FRAMES:
                weight *= math.exp(search.fusion.close(h.context).total - h.context.total)
            key = h.key.removesuffix(search.border) if search.border else h.key
            texts.setdefault(key, []).append(h)
            weights[key] = weights.get(key, 0.0) + weight
        return sorted(((weights[key], texts[key]) for key in texts), key=lambda text: -text[0])

    def _best(self) -> Hypothesis:
        return self._ranked()[0][1][0]

    def _closed(self, h: Hypothesis) -> int:
        """Complete words of a text."""
        return h.key.count(self._search.border) if self._search.border else 0

    def _spans(self, h: Hypothesis, path: Path | None = None) -> list[Span]:
        return spans_of(h.word, path or h.path, self._closed(h))

    def _words_of(self, h: Hypothesis) -> tuple[Word, ...]:
        spans = self._spans(h)
        return (*self._stable, *self._as_words(spans, self._slots(spans)))

    def _as_words(self, spans: Sequence[Span], slots: Sequence[Slot]) -> list[Word]:
        return [self._as_word(span, slot) for span, slot in zip(spans, slots, strict=True)]

    def _as_word(self, span: Span, slot: Slot) -> Word:
        hop = self.hop_samples
        start, end = span.first_frame * hop, span.end_frame * hop
        confidence = self.calibration(slot.get(span.text, 0.0), letter_mean(span))
        if not self.details:
            return Word(span.text, start, end, confidence)
        others = sorted(((text, share) for text, share in slot.items() if text != span.text), key=lambda o: -o[1])
        choices = tuple(Choice(text, share) for text, share in others[:ALTERNATIVES] if share >= LEAST_SHARE)
        return Word(span.text, start, end, confidence, as_events(letters_of(span), hop), choices)

    def _slots(self, spans: Sequence[Span], *, settled: bool = False) -> list[Slot]:
        """What the beam says, and what it said, in the places of these words; see `slots_of`."""
        if not spans:
            return []
        beam = self._search.beam
        shares = shares_of([h.weight for h in beam], self.rules.confidence_temperature)
        readings = [(self._spans(h), share) for h, share in zip(beam, shares, strict=True)]
        slots = slots_of(spans, readings, settled=settled)
        return [remembered(slot, self._before(span)) for span, slot in zip(spans, slots, strict=True)]

    def _before(self, span: Span) -> Slot:
        """The slot at the place of this word when it was last looked at; empty where there was none."""
        most, found = 0, {}
        for other, slot in self._seen:
            shared = min(span.end_frame, other.end_frame) - max(span.first_frame, other.first_frame)
            if shared > most:
                most, found = shared, slot
        return found

    def unsettled(self, best: Hypothesis) -> bool:
        """Whether this, the best text, has complete words to look at."""
        if not self._closed(best):
            self._seen = []
            return False
        return True

    def settle(self) -> None:
        """Look at the complete words of the best text: remember what else they may be, and find those now stable."""
        best = self._search.beam[0]
        closed = self._closed(best)
        spans = self._spans(best)
        if self._changed:
            self._seen = list(zip(spans, self._slots(spans, settled=True), strict=True))[:closed]
            self._changed = False
        old = self._frame - self.stability.age_frames
        agreed = sum(span.end_frame <= old for span in spans[:closed])
        shares = shares_of([h.weight for h in self._search.beam], 1.0) if agreed else []
        while agreed and not self._declare(best, spans, agreed, shares):
            agreed -= 1

    def _declare(self, best: Hypothesis, spans: Sequence[Span], count: int, shares: Sequence[float]) -> bool:
        """Make the first words of the best text stable if the beam, whose shares are given, agrees on them."""
        search, border = self._search, self._search.border
        assert border is not None
        end = -1
        for _ in range(count):
            end = best.key.index(border, end + 1)
        key, last = best.key[: end + 1], spans[count - 1]
        if self._frame - last.end_frame < self.stability.wait_frames:
            against = [s for h, s in zip(search.beam, shares, strict=True) if not h.key.startswith(key)]
            if math.fsum(against) > self.stability.doubt:
                return False
        agree = [h for h in search.beam if h.key.startswith(key)]
        # On other paths the next word may begin before the last stable one ends; words must not overlap.
        following = [self._spans(h, path)[count:] for h in agree for path in h.paths()]
        limit = min((after[0].first_frame for after in following if after), default=last.end_frame)
        if limit <= last.first_frame:
            return False
        slots = self._slots(spans)[:count]
        stable = [*spans[: count - 1], last._replace(end_frame=min(last.end_frame, limit))]
        self._stable += self._as_words(stable, slots)
        self._stable_slots += slots
        self._seen = self._seen[count:]
        search.cut(key)
        return True
