"""`SteadyText`: which words of a partial result are worth showing, from one look at the frames to the next.

The end of what was heard is read again and again, with a little more sound each time, and the last word or two change
with every look. A change is shown when two looks in a row agree on it (local agreement, Liu et al. 2020, section 3.2),
which costs the time of one look and spares the reader most of the words that would be taken back. What is stable is
shown at once, and so is everything where looks are far apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from .events import Word

NEAR_FRAMES = 15
"""Looks further apart than this, 0.3 s, need not agree: the reader has waited long enough."""


class SteadyText:
    """The words that are shown of one segment after another.

    Args:
        looks: how many in a row must agree: 2, or 1 to show every look.
    """

    def __init__(self, looks: int = 1) -> None:
        self.looks = looks
        self._shown: tuple[Word, ...] = ()
        self._before: tuple[Word, ...] = ()
        self._frame = 0

    def reset(self, frame: int) -> None:
        """A segment begins at this frame: nothing is shown of it."""
        self._shown = self._before = ()
        self._frame = frame

    def look(self, words: Sequence[Word], stable: int, frame: int) -> tuple[Word, ...]:
        """The words to show.

        Args:
            words: all words of the segment as they are read now.
            stable: how many of them, from the first on, no longer change.
            frame: the last one that was looked at; looks go forward in time.
        """
        words, before = tuple(words), self._before
        near = frame - self._frame <= NEAR_FRAMES
        self._before, self._frame = words, frame
        if self.looks == 1 or not near:
            self._shown = words
            return words
        agreed = _agreed(before, words)
        if len(agreed) == max(len(words), len(before)) or not _begins(self._shown, agreed):
            self._shown = agreed  # the looks say the same, or both say something else than what is shown
        if not _begins(self._shown, words[:stable]):
            self._shown = words[:stable]
        elif stable:
            self._shown = words[:stable] + self._shown[stable:]
        return self._shown


def _agreed(one: Sequence[Word], other: Sequence[Word]) -> tuple[Word, ...]:
    """The words at the beginning that both have; of a last word that grows, or shrinks, what both have."""
    agreed: list[Word] = []
    for a, b in zip(one, other, strict=False):
        if a.text == b.text:
            agreed.append(b)
            continue
        shorter, longer = sorted((a, b), key=lambda word: len(word.text))
        if longer.text.startswith(shorter.text) and len(agreed) + 1 == len(one):
            agreed.append(shorter)  # the word that was open in the look before
        break
    return tuple(agreed)


def _begins(words: Sequence[Word], beginning: Sequence[Word]) -> bool:
    """Whether the first words have these texts."""
    return len(words) >= len(beginning) and all(a.text == b.text for a, b in zip(words, beginning, strict=False))
