"""`Ear`: what one frame of outputs says to a beam, divided by how frequent the outputs are where that is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple, cast

from .alphabet import Alphabet

_probability = itemgetter(1)


class Heard(NamedTuple):
    """What one frame says."""

    quiet: float
    """Probability of the outputs that write nothing: the blank and special tokens."""
    quiet_best: float
    """Of the likeliest of them."""
    border: float
    """Of the delimiter."""
    tokens: list[tuple[int, float]]
    """The delimiter, then letters, the likeliest first, with their probabilities."""
    of: dict[int, float]
    """Probability of each letter."""


class Ear:
    """Sorts the outputs of frames by what they write.

    What a language model knows of how frequent words are, the outputs of a CTC head have learned as well, and would
    count twice: they can be divided by their prior (Miao et al. 2015, EESEN), and are scaled then so that those of a
    frame are together as probable as before.

    Args:
        alphabet: what the outputs stand for, and their prior.
        prior_weight: each probability is divided by its prior to this power; 0: it stays.
    """

    def __init__(self, alphabet: Alphabet, prior_weight: float) -> None:
        self._alphabet = alphabet
        self._rarity = [math.exp(-prior_weight * prior) for prior in alphabet.prior] if prior_weight else None

    def heard(self, outputs: Sequence[int], logprobs: Sequence[float]) -> Heard:
        """What a frame says.

        Args:
            outputs: those that are looked at, the blank among them.
            logprobs: natural log-probability of each.
        """
        delimiter, labels = self._alphabet.delimiter_id, self._alphabet.labels
        probabilities = [math.exp(logprob) for logprob in logprobs]
        if self._rarity is not None:
            probabilities = self._divided(outputs, probabilities, self._rarity)
        quiet = quiet_best = border = 0.0
        tokens: list[tuple[int, float]] = []
        of: dict[int, float] = {}
        for token, p in zip(outputs, probabilities, strict=True):
            if token == delimiter:
                border = p
            elif labels[token]:
                of[token] = p
                tokens.append((token, p))
            else:
                quiet, quiet_best = quiet + p, max(quiet_best, p)
        tokens.sort(key=_probability, reverse=True)
        if border:
            tokens.insert(0, (cast("int", delimiter), border))
        return Heard(quiet, quiet_best, border, tokens, of)

    @staticmethod
    def _divided(outputs: Sequence[int], probabilities: list[float], rarity: list[float]) -> list[float]:
        divided = [rarity[token] * p for token, p in zip(outputs, probabilities, strict=True)]
        total = math.fsum(divided)
        share = math.fsum(probabilities) / total if total else 1.0
        return [share * p for p in divided]
