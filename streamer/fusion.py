"""`Fusion`: what language model and hotwords add to the score of a prefix (shallow fusion).

The decoder ranks a prefix y by `ln p(y | sound) + fused(y)`, where

    fused(y) = weight * ln p_lm(y) + word_score * words - unknown_penalty * unknown words + hotword credit

Every part is known letter by letter, so that no hypothesis is favoured for putting a word off: while a word of a
word model is open, the best word that begins like it stands for it (language model look-ahead, Ortmanns et al.
1996), and a beginning that no word has pays for an unknown word at once. Both are exchanged for the true score when
the word ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .hotwords import BORDER, Hotwords, Node
from .language_model import UNKNOWN, LanguageModel, border_token


@dataclass(frozen=True)
class Weights:
    """How much a language model counts."""

    weight: float = 0.5
    """Factor of its logarithms."""
    word_score: float = 1.0
    """Bonus of each word, against the short texts that a language model prefers."""
    unknown_penalty: float = 6.0
    """Price of a word outside its vocabulary, besides the model's own; hotwords do not pay it."""


class Context:
    """What fusion knows of a prefix. Values; only the memory of what follows is filled in while it is used."""

    __slots__ = ("gains", "held", "hot", "next", "state", "total", "word")

    def __init__(self, total: float, state: Any, word: str, held: float, hot: Node) -> None:
        self.total = total
        """`fused` of the prefix."""
        self.state = state
        """The language model's, after the last complete word (word models) or letter (character models)."""
        self.word = word
        """Letters of the open word, folded for look-up."""
        self.held = held
        """The part of `total` that stands for the open word until it ends."""
        self.hot = hot
        self.next: dict[str, tuple[float, Context]] = {}
        """Factor of a hypothesis' weight, and the context, after this label."""
        self.gains: dict[str, float] = {}
        """The factors alone."""


class Vocabulary:
    """The words of a word model and all their beginnings, each with the best score of a word that begins so.

    Args:
        model: its tokens are the words; where it cannot name them, any beginning is as good as another.
    """

    def __init__(self, model: LanguageModel) -> None:
        nowhere = model.start(sentence=False)
        self.unknown = model.score(nowhere, UNKNOWN)[0]
        """Natural log-probability of an unknown word, without history."""
        self.best: dict[str, float] = {}
        """Natural log-probability of the likeliest word with this beginning, without history."""
        best = self.best
        for word in model.tokens:
            logprob = model.score(nowhere, word)[0]
            for end in range(len(word), 0, -1):
                beginning = word[:end]
                if best.get(beginning, -math.inf) >= logprob:
                    break  # and so have all that are shorter
                best[beginning] = logprob
        self.ends = (min(best.values()), max(best.values())) if best else (0.0, 0.0)
        """The lowest and the highest of them."""


@lru_cache(maxsize=4)
def vocabulary_of(model: LanguageModel) -> Vocabulary:
    """The vocabulary of a model, made once for all its sessions."""
    return Vocabulary(model)


class Fusion:
    """Scores prefixes for one session. It never changes, and shares model and vocabulary with other sessions.

    Args:
        model: of words or characters; None for none.
        weights: how much it counts.
        hotwords: phrases with bonuses; None for none.
    """

    def __init__(
        self,
        model: LanguageModel | None = None,
        weights: Weights | None = None,
        hotwords: Hotwords | None = None,
    ) -> None:
        self.model = model
        self.weights = weights or Weights()
        self.hotwords = hotwords or Hotwords()
        self._words = model is not None and model.unit == "word"
        self._vocabulary = vocabulary_of(model) if model is not None and self._words else None
        self._border = border_token(model) if model is not None and not self._words else None
        # Models are written in one case, which need not be that of the head's labels.
        self._upper = model is not None and not model.knows("the" if self._words else "e")
        self._upper &= model is not None and model.knows("THE" if self._words else "E")
        self._most = math.exp(self._largest_gain()) * (1 + 1e-9)

    def __bool__(self) -> bool:
        return self.model is not None or bool(self.hotwords)

    def with_hotwords(self, hotwords: Hotwords) -> Fusion:
        """The same with other hotwords."""
        return Fusion(self.model, self.weights, hotwords)

    def start(self, after: Context | None = None) -> Context:
        """The context of an empty prefix.

        Args:
            after: text before it that its words follow on from; None: the beginning of a sentence.
        """
        if self.model is None:
            state = None
        elif after is None:
            state = self.model.start()
        else:
            state = self.close(after).state
        return Context(0.0, state, "", 0.0, self.hotwords.root)

    def step(self, context: Context, label: str) -> tuple[float, Context]:
        """Read one label.

        Args:
            context: of the prefix before it.
            label: text of an output, or `hotwords.BORDER` for the delimiter, which never follows another one.

        Returns:
            The factor of a hypothesis' weight, `exp` of what `total` grows by; the context after it.
        """
        known = context.next.get(label)
        if known is None:
            after = self._close(context) if label == BORDER else self._spell(context, label)
            known = context.next[label] = math.exp(after.total - context.total), after
        return known

    def gain(self, context: Context, label: str) -> float:
        """The factor that `step` gives, without the context after it, which is seldom needed."""
        gain = context.gains.get(label)
        if gain is None:
            if label == BORDER or (self.model is not None and not self._words):
                gain = self.step(context, label)[0]
            else:
                gain = math.exp(self._spelled(context, label.lower())[0] - context.total)
            context.gains[label] = gain
        return gain

    def most(self, context: Context) -> float:
        """No letter, as a label of its own, has a factor above this; a border of words may."""
        return self._most * context.hot.most

    def _largest_gain(self) -> float:
        """The natural logarithm of the largest factor of a letter, hotwords apart."""
        if self._vocabulary is None or not self._vocabulary.best:
            return max(0.0, self.weights.word_score) if self._words else 0.0
        weights, (worst, best), unknown = self.weights, self._vocabulary.ends, self._vocabulary.unknown
        begins = weights.word_score + weights.weight * max(best, unknown)
        leaves = weights.weight * (unknown - worst) - (0.0 if self.hotwords else weights.unknown_penalty)
        return max(0.0, begins, leaves)

    def close(self, context: Context) -> Context:
        """The context as if the open word ended here; the same where none is open."""
        return self.step(context, BORDER)[1] if context.word else context

    def _spell(self, context: Context, label: str) -> Context:
        folded = label.lower()
        total, held, hot = self._spelled(context, folded)
        state = context.state
        if self.model is not None and not self._words:
            gain, state = self._characters(state, folded)
            total += gain
        return Context(total, state, context.word + folded, held, hot)

    def _spelled(self, context: Context, folded: str) -> tuple[float, float, Node]:
        """What letters make of the total, a character model apart, of what is held, and of the place in hotwords."""
        bonus, hot = self.hotwords.step(context.hot, folded) if self.hotwords else (0.0, context.hot)
        total, held = context.total + bonus, 0.0
        if self._words:
            held = self._ahead(context.word + folded, hot)
            total += held - context.held
        return total, held, hot

    def _close(self, context: Context) -> Context:
        bonus, hot = self.hotwords.step(context.hot, BORDER) if self.hotwords else (0.0, context.hot)
        total, state = context.total + bonus, context.state
        weights = self.weights
        if self.model is not None and self._words:
            token = self._fold(context.word)
            logprob, state = self.model.score(state, token)
            total += weights.word_score + weights.weight * logprob - context.held
            if not self.model.knows(token) and not (self.hotwords and self.hotwords.ends_word(context.hot)):
                total -= weights.unknown_penalty
        elif self.model is not None:
            total += weights.word_score
            if self._border is not None:
                logprob, state = self.model.score(state, self._border)
                total += weights.weight * logprob
        return Context(total, state, "", 0.0, hot)

    def _ahead(self, word: str, hot: Node) -> float:
        """What stands for an open word of a word model."""
        weights, vocabulary = self.weights, self._vocabulary
        assert vocabulary is not None
        if not vocabulary.best:
            return weights.word_score
        logprob = vocabulary.best.get(self._fold(word))
        if logprob is not None:
            return weights.word_score + weights.weight * logprob
        held = weights.word_score + weights.weight * vocabulary.unknown
        return held if self.hotwords and self.hotwords.spells(hot) else held - weights.unknown_penalty

    def _characters(self, state: Any, label: str) -> tuple[float, Any]:
        assert self.model is not None
        total = 0.0
        for character in self._fold(label):
            logprob, state = self.model.score(state, character)
            total += logprob
            if not self.model.knows(character):
                total -= self.weights.unknown_penalty / max(self.weights.weight, 1e-9)
        return self.weights.weight * total, state

    def _fold(self, text: str) -> str:
        return text.upper() if self._upper else text
