"""The hypotheses of a prefix beam search, and the words, times and shares that are read from them.

A hypothesis is a text, not a path: the sum over all paths that write it. Beside the sums it keeps the best single
path of each kind, which says when the letters were heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .fusion import Context


class Letters(NamedTuple):
    """The letters of a word as a chain from the last to the first, which hypotheses share."""

    text: str
    """Of the last letter."""
    first_frame: int
    end_before: int
    """One past the last frame of the letter before it."""
    before: Letters | None
    peak: float
    """Highest probability of the letter in its frames."""
    product: float
    """Of the highest probabilities of the letters before it."""
    length: int
    """Letters of the chain."""


class Span(NamedTuple):
    """A word on a path."""

    text: str
    first_frame: int
    end_frame: int
    letters: Letters | None = None
    open: bool = False
    """The word may go on."""


Words = tuple[Span, Any]
"""Complete words as a chain from the last to the first, which hypotheses share: a word, and what is before it."""
Path = tuple[tuple[int, int, Letters] | None, Words | None]
"""First frame, one past the last frame and letters of the open word, and the complete words, of one way to say a
text."""


class Hypothesis:
    """One text of the beam. Weights are probabilities times a factor that all hypotheses share.

    Paths end with a blank or with the last letter (with a letter, a repeat of it writes nothing); a text that ends
    with the delimiter keeps all of them as blanks, since a second delimiter writes nothing either.
    """

    __slots__ = (
        "blank", "blank_best", "blank_path", "context", "key", "last", "letter", "letter_best", "letter_path", "word"
    )  # fmt: skip

    def __init__(self, key: str, last: int, word: str, context: Context | None) -> None:
        self.key = key
        """The text since the last stable word, one private character an output."""
        self.last = last
        """Output that a repeat of would write nothing; -1 at the start of a word."""
        self.word = word
        """Text of the open word; "" at the start of one."""
        self.context = context
        """What fusion knows of it; None without fusion."""
        self.blank = self.letter = 0.0
        """Sum over the paths that end with a blank, and over those that end with the last letter."""
        self.blank_best = self.letter_best = 0.0
        """The best path of each kind; 0 where there is none."""
        self.blank_path: Path = (None, None)
        self.letter_path: Path = (None, None)

    @property
    def weight(self) -> float:
        """Sum over all paths."""
        return self.blank + self.letter

    @property
    def path(self) -> Path:
        """The best path."""
        return self.blank_path if self.blank_best >= self.letter_best else self.letter_path

    def paths(self) -> list[Path]:
        """The best path of each kind that has one."""
        both = ((self.blank_best, self.blank_path), (self.letter_best, self.letter_path))
        return [path for best, path in both if best]

    def copy(self) -> Hypothesis:
        """One of its own with the same values."""
        twin = Hypothesis(self.key, self.last, self.word, self.context)
        twin.blank, twin.blank_best, twin.blank_path = self.blank, self.blank_best, self.blank_path
        twin.letter, twin.letter_best, twin.letter_path = self.letter, self.letter_best, self.letter_path
        return twin


def spans_of(word: str, path: Path, closed: int) -> list[Span]:
    """The words of a path, in order.

    Args:
        word: text of the open word, "" for none.
        path: of the text.
        closed: complete words to read, counted from the end.
    """
    frames, words = path
    spans = [Span(word, *frames, True)] if frames is not None and word else []
    for _ in range(closed):
        assert words is not None
        span, words = words
        spans.append(span)
    return spans[::-1]


def letter_mean(span: Span) -> float:
    """Geometric mean of the highest probability of each letter of a word."""
    letters = span.letters
    return (letters.product * letters.peak) ** (1.0 / letters.length) if letters is not None else 0.0


def letters_of(span: Span) -> list[tuple[str, tuple[int, int]]]:
    """The letters of a word in order, each with its first frame and one past its last one."""
    found = []
    letters, end = span.letters, span.end_frame
    while letters is not None:
        first = min(letters.first_frame, end - 1)  # the end of a stable word may have been cut
        found.append((letters.text, (first, end)))
        letters, end = letters.before, min(letters.end_before, first)
    return found[::-1]


def shares_of(weights: Sequence[float], temperature: float) -> list[float]:
    """Weights as shares of their sum, flattened by the temperature (weight ** (1 / temperature))."""
    best = max(weights)
    if temperature != 1.0:
        weights = [(weight / best) ** (1.0 / temperature) for weight in weights]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


Slot = dict[str, float]
"""What was said in a stretch of time: share of the beam for each text, "" for nothing."""


def slots_of(
    best: Sequence[Span], readings: Iterable[tuple[Sequence[Span], float]], *, settled: bool = False
) -> list[Slot]:
    """What the hypotheses say where the best one has its words.

    The borders of a slot are half way to the neighbouring words; a word belongs to the slot of its middle.

    Args:
        best: words of the best hypothesis.
        readings: words and share of every hypothesis, the best one too.
        settled: leave out what an open word is part of.
    """
    borders = [a.end_frame + b.first_frame for a, b in pairwise(best)]  # times two
    slots: list[Slot] = [{} for _ in best]
    for spans, share in readings:
        shared = 0  # most hypotheses have the same words but for the last few
        for own, other in zip(spans, best, strict=False):
            if own is not other:
                break
            shared += 1
        texts = [""] * len(best)
        texts[:shared] = [span.text for span in best[:shared]]
        at, unsettled = 0, -1
        for span in spans[shared:]:
            middle = span.first_frame + span.end_frame
            while at < len(borders) and middle >= borders[at]:
                at += 1
            texts[at] = f"{texts[at]} {span.text}" if texts[at] else span.text
            if span.open and settled:
                unsettled = at
        for place, (slot, text) in enumerate(zip(slots, texts, strict=True)):
            if place != unsettled:
                slot[text] = slot.get(text, 0.0) + share
    return slots


def remembered(slot: Slot, before: Slot) -> Slot:
    """A slot with the texts that fell out of the beam since it was looked at before.

    A text that is pruned keeps the share that it was last seen with: the beam has room for few of the combinations
    of what is doubtful in a long text, and a doubt is not settled by a later one. All that was lost is half at most:
    it was no better than what is left.

    Args:
        slot: what the beam says now.
        before: what it said in words that are over, which more sound does not change.
    """
    lost = {text: share for text, share in before.items() if text not in slot}
    total = math.fsum(lost.values())
    if not total:
        return slot
    kept = min(total, 0.5)
    return {text: share * (1.0 - kept) for text, share in slot.items()} | {
        text: share * kept / total for text, share in lost.items()
    }
