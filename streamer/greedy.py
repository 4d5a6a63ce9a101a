"""`GreedyDecoder`: the best output of every frame, collapsed to words as the frames arrive.

CTC (Graves et al. 2006, section 3.2) reads a path of outputs as text by merging repeats and then dropping
blanks. Both look one frame back only, so the text grows frame by frame and does not depend on how the frames
are cut into calls. A later decoder with the same methods can take this one's place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from .alphabet import Alphabet
from .confidence import Calibration
from .events import Candidate, Letter, Word


@dataclass
class _Reading:
    """Where the reading stands: the last output and the word that is being spelled."""

    frame: int = 0  # index of the next frame in the stream
    previous: int = -1  # output of the frame before
    letters: list[str] = field(default_factory=list)  # of the open word
    spans: list[tuple[int, int]] = field(default_factory=list)  # first frame and one past the last, of each letter
    first_frame: int = 0  # of the open word
    end_frame: int = 0  # one past the last frame of its last letter
    score: float = 0.0  # sum of the best log-posteriors of its letters, but for the last one
    best: float = 0.0  # best log-posterior of the last letter so far


class GreedyDecoder:
    """Greedy CTC decoding of one stream.

    Frames that were accepted are never looked at again; state is the words since the last `take` or `reset`, so
    a caller that ends segments keeps it bounded.

    Args:
        alphabet: what the outputs stand for.
        hop_samples: samples from one frame to the next; frame t covers `[t * hop, (t + 1) * hop)`.
        calibration: of confidences, which else are the geometric mean of the letters' probabilities.
        details: words carry their letters.
    """

    def __init__(
        self, alphabet: Alphabet, hop_samples: int = 320, calibration: Calibration | None = None, details: bool = False
    ) -> None:
        self.alphabet = alphabet
        self.hop_samples = hop_samples
        self.calibration = calibration or Calibration()
        self.details = details
        self._reading = _Reading()
        self._complete: list[Word] = []
        self._words: tuple[Word, ...] | None = None  # as they were asked for, while no letter came

    @property
    def frames(self) -> int:
        """Frames accepted since the stream began."""
        return self._reading.frame

    @property
    def complete(self) -> tuple[Word, ...]:
        """Words of the segment that a delimiter has ended: no later frame changes them."""
        return tuple(self._complete)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words of the segment; the last one may be open, and is given as if it ended here."""
        if self._words is None:
            open_word = self._open_word()
            self._words = (*self._complete, open_word) if open_word else tuple(self._complete)
        return self._words

    @property
    def contested_samples(self) -> int:
        """First sample on which readings other than `words` may differ; there are none before the next frame."""
        return self._reading.frame * self.hop_samples

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The n-best list: there is none."""
        return ()

    def accept(self, logprobs: np.ndarray) -> None:
        """Read committed frames.

        Args:
            logprobs: natural log-probabilities `[frames, labels]`, any number of frames.

        Raises:
            ValueError: another shape.
        """
        self.alphabet.check(logprobs)
        ids = logprobs.argmax(axis=1)
        best = logprobs.max(axis=1).astype(np.float64)
        labels, delimiter, reading = self.alphabet.labels, self.alphabet.delimiter_id, self._reading
        for index, score in zip(ids.tolist(), best.tolist(), strict=True):
            if labels[index] or index == delimiter:
                self._words = None
                self._read(index, score)
            else:  # most frames
                reading.frame += 1
                reading.previous = index

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

    def fork(self) -> GreedyDecoder:
        """A decoder of its own that stands where this one stands."""
        fork = GreedyDecoder(self.alphabet, self.hop_samples, self.calibration, self.details)
        fork._reading = replace(self._reading, letters=list(self._reading.letters), spans=list(self._reading.spans))
        fork._complete, fork._words = list(self._complete), self._words
        return fork

    def take(self) -> tuple[Word, ...]:
        """Hand out the complete words and forget them; an open word stays open."""
        words, self._complete, self._words = tuple(self._complete), [], None
        return words

    def reset(self) -> None:
        """Begin a new segment: forget all words, the open one too.

        The last output is kept, so that a letter which sounds on over the border is not written again.
        """
        self._complete, self._words = [], None
        self._reading.letters, self._reading.spans = [], []

    def _read(self, index: int, score: float) -> None:
        """Advance by one frame whose best output is a letter or the delimiter, with its log-posterior."""
        reading = self._reading
        frame = reading.frame
        reading.frame += 1
        repeated, reading.previous = index == reading.previous, index
        label = self.alphabet.labels[index]
        if index == self.alphabet.delimiter_id:
            word = self._open_word()
            if word:
                self._complete.append(word)
            reading.letters, reading.spans = [], []
        else:
            if not repeated:
                if not reading.letters:
                    reading.first_frame, reading.score, reading.best = frame, 0.0, 0.0
                reading.letters.append(label)
                reading.spans.append((frame, frame + 1))
                reading.score += reading.best
                reading.best = score
            elif reading.letters:  # else: a letter of the segment before sounds on
                reading.best = max(reading.best, score)
                reading.spans[-1] = reading.spans[-1][0], frame + 1
            reading.end_frame = frame + 1

    def _open_word(self) -> Word | None:
        """The open word as if it ended here; None where there is none."""
        reading = self._reading
        if not reading.letters:
            return None
        mean = (reading.score + reading.best) / len(reading.letters)
        return Word(
            text="".join(reading.letters),
            start_samples=reading.first_frame * self.hop_samples,
            end_samples=reading.end_frame * self.hop_samples,
            confidence=self.calibration(math.exp(mean)),
            letters=letters_of(zip(reading.letters, reading.spans, strict=True), self.hop_samples)
            if self.details
            else (),
        )


def letters_of(letters: Iterable[tuple[str, tuple[int, int]]], hop_samples: int) -> tuple[Letter, ...]:
    """Letters with their first frame and one past their last one, as an event carries them."""
    return tuple(Letter(text, first * hop_samples, end * hop_samples) for text, (first, end) in letters)
