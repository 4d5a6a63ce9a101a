"""`Said`: what a flush gave out ahead of the committed frames, and what is left of the words that are read there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from .events import Word

TOLERANCE_FRAMES = 2
"""Frames by which a word may move between its provisional and its committed reading."""


@dataclass(frozen=True)
class Said:
    """The words that a flush gave out and that are still to be read, as one word or as several."""

    words: tuple[Word, ...]
    """Whole."""
    end_samples: int
    """Of the last one."""
    rest_samples: int
    """More letters of the last one, if there are any, are heard after this."""

    @classmethod
    def of(cls, words: tuple[Word, ...]) -> Said:
        """What was just said."""
        return cls(words, words[-1].end_samples, words[-1].end_samples)

    def followed(self, samples: int) -> Said:
        """The same, where sound up to this sample was read and said no more."""
        return replace(self, rest_samples=max(self.rest_samples, samples))

    def left(self, word: Word, last: Word | None, hop_samples: int) -> Word | None:
        """The word, or the part of it that no flush gave out, if any.

        Args:
            word: as it is read now.
            last: the one before it, as it is read now.
            hop_samples: of a frame.
        """
        if word.start_samples >= self.end_samples:
            # A short word may move past its provisional end: then it was not read before.
            near = word.start_samples < self.end_samples + TOLERANCE_FRAMES * hop_samples
            text = self.words[-1].text
            moved = near and word.text == text and (last is None or last.text != text)
            return None if moved else word
        # It began before the flush, so it was said, unless it is the last word and went on after the flush. A segment
        # that ended ahead, in a pause without a border, or at its limit, may have given it out as several words.
        text = "".join(other.text for other in self.words if other.end_samples > word.start_samples)
        if word.end_samples <= self.end_samples or word.text == text or not word.text.startswith(text):
            return None
        letters = tuple(letter for letter in word.letters if letter.start_samples >= self.end_samples)
        return msgspec.structs.replace(
            word, text=word.text[len(text) :], start_samples=self.rest_samples, letters=letters, alternatives=()
        )
