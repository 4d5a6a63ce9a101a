"""The text side of training: from a transcript to letters, from letters to CTC tokens, and back to text."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import TextError

BLANK = "<pad>"
DELIMITER = "|"
TOKENS: tuple[str, ...] = (BLANK, DELIMITER, "'", *"abcdefghijklmnopqrstuvwxyz")
"""Token of each id: the blank, the space between words, the apostrophe, then the letters."""
VOCABULARY: dict[str, int] = {token: i for i, token in enumerate(TOKENS)}

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})
_SILENT = set('.,;:!?"()[]{}-_/\\*+=~<>|\u2013\u2014\u2026\u201c\u201d\u00ab\u00bb')


def normalise_text(text: str) -> str:
    """Write a transcript with a-z, apostrophe and single spaces.

    Case and accents are dropped, punctuation becomes a space. What cannot be read aloud without knowing the
    language better (digits, signs, other scripts) is refused rather than guessed.

    Raises:
        TextError: a character remains that the vocabulary cannot write; the message names it.
    """
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).lower()
    letters = []
    for character in decomposed:
        if "a" <= character <= "z" or character == "'":
            letters.append(character)
        elif character.isspace() or character in _SILENT:
            letters.append(" ")
        elif not unicodedata.combining(character):
            raise TextError(
                f"the text {text[:60]!r} holds {character!r} (U+{ord(character):04X}), expected letters, "
                "apostrophes and punctuation; write numbers and signs as words"
            )
    words = (word.strip("'") if set(word) == {"'"} else word for word in "".join(letters).split())
    return " ".join(word for word in words if word)


def encode(text: str) -> np.ndarray:
    """Tokens of a normalised text, int64 [characters].

    Raises:
        TextError: the text holds something else than a-z, apostrophe and space.
    """
    try:
        return np.array([VOCABULARY[DELIMITER if c == " " else c] for c in text], dtype=np.int64)
    except KeyError as e:
        raise TextError(f"the text {text[:60]!r} holds {e.args[0]!r}, expected a-z, ' and space") from e


def decode(ids: Sequence[int] | np.ndarray, tokens: Sequence[str] = TOKENS) -> str:
    """Text of the best token of each frame: repeats collapsed, blanks dropped (greedy CTC)."""
    characters = (tokens[int(i)] for i, _ in itertools.groupby(np.asarray(ids).tolist()))
    return " ".join("".join(c for c in characters if c != BLANK).replace(DELIMITER, " ").split())


def frames_needed(ids: Iterable[int] | np.ndarray) -> int:
    """Fewest frames in which CTC can write these tokens: one each, and a blank between equal neighbours."""
    ids = np.asarray(ids)
    return int(len(ids) + np.count_nonzero(ids[1:] == ids[:-1]))
