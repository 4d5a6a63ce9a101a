"""What of the words and speakers that are read belongs into a result: not what was given out before, and not what lies
behind the end of the sound.

`Said` is what a flush gave out ahead of the committed frames; it knows what is left of the words that are read there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from .events import Event, Speaker, Word

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


def words_to_give(
    words: tuple[Word, ...], said: Said | None, limit_samples: int | None, hop_samples: int
) -> tuple[Word, ...]:
    """The words without what a flush gave out, and within the sound.

    Args:
        words: as they are read now.
        said: what a flush gave out; None: nothing.
        limit_samples: where the sound ended; None: it goes on.
        hop_samples: of a frame.
    """
    if said is not None:
        before: tuple[Word | None, ...] = (None, *words)
        left = (said.left(word, last, hop_samples) for last, word in zip(before, words, strict=False))
        words = tuple(word for word in left if word)
    if limit_samples is None:
        return words
    return tuple(
        msgspec.structs.replace(word, end_samples=min(word.end_samples, limit_samples))
        for word in words
        if word.start_samples < limit_samples
    )


def speakers_to_give(speakers: list[Speaker], limit_samples: int | None) -> list[Event]:
    """Speakers within the sound."""
    if limit_samples is None:
        return [*speakers]
    return [
        msgspec.structs.replace(event, end_samples=min(event.end_samples, limit_samples))
        for event in speakers
        if event.start_samples < limit_samples
    ]
