"""Modified Kneser-Ney estimation of n-grams (Chen and Goodman 1998, section 3), and pruning to a size.

    p(w | h) = (c(h w) - D(c(h w))) / c(h .) + backoff(h) * p(w | h')        h' is h without its first word

with three discounts D for counts of 1, 2 and more, taken from the counts of counts. The highest order counts
occurrences; the lower ones count the different words that an n-gram was seen to follow, except behind the beginning
of a sentence, which follows nothing. The lowest order is mixed with the uniform distribution, so that no word is
impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.errors import ConfigurationError
from .language_model import LN_10
from .ngrams import NEVER, NgramModel, Table

USUAL_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where a text is too small to estimate them from."""
LEAST_LOGPROB = NEVER * LN_10


@dataclass(frozen=True)
class Counts:
    """The n-grams of one order in a text. Sorted by key, as in `ngrams.Table`."""

    keys: np.ndarray
    """int64 `[n-grams]`."""
    counts: np.ndarray
    """int64 `[n-grams]`: occurrences."""
    prefixes: np.ndarray
    """int64 `[n-grams]`: index of the n-gram without its last word, one order below."""
    suffixes: np.ndarray
    """int64 `[n-grams]`: index of the n-gram without its first word, one order below."""


def count_ngrams(ids: np.ndarray, begin: int, vocabulary: int, order: int) -> list[Counts]:
    """Count the n-grams of every order up to one.

    Args:
        ids: int64 `[words]`, sentence after sentence, each of them from the begin marker to the end marker.
        begin: id of the begin marker.
        vocabulary: ids are below this.
        order: of the longest n-grams.

    Raises:
        ConfigurationError: no words, or an order below 1.
    """
    if order < 1 or not len(ids):
        raise ConfigurationError(f"n-grams of order {order} of {len(ids)} words; expected an order from 1 and a text")
    counts = np.bincount(ids, minlength=vocabulary)
    none = np.zeros(vocabulary, dtype=np.int64)
    found = [Counts(np.arange(vocabulary), counts, none, none)]
    ending = ids  # index of the n-gram that ends at each word, -1 where it would begin in another sentence
    for _ in range(1, order):
        before = np.concatenate(([-1], ending[:-1]))
        inside = (before >= 0) & (ids != begin)
        keys, first, inverse, counts = np.unique(
            before[inside] * vocabulary + ids[inside], return_index=True, return_inverse=True, return_counts=True
        )
        found.append(Counts(keys, counts, keys // vocabulary, ending[inside][first]))
        ending = np.full(len(ids), -1, dtype=np.int64)
        ending[inside] = inverse
    return found


def estimate(vocabulary: list[str], counts: list[Counts], begin: int) -> NgramModel:
    """The smoothed model of all n-grams that were counted.

    Args:
        vocabulary: text of each id.
        counts: of `count_ngrams`.
        begin: id of the begin marker, which is never predicted.
    """
    tables: list[Table] = []
    for order, found in enumerate(counts, start=1):
        adjusted = found.counts
        if order < len(counts):
            longer = counts[order]
            seen_after = np.bincount(longer.suffixes, minlength=len(found.keys))
            adjusted = np.where(_first_words(counts, order) == begin, found.counts, seen_after)
        if order == 1:
            adjusted = adjusted.copy()
            adjusted[begin] = 0
        discounts = discounts_of(adjusted)
        discounted = adjusted - np.asarray((0.0, *discounts))[np.minimum(adjusted, 3)]
        histories = len(counts[order - 2].keys) if order > 1 else 1
        totals = np.bincount(found.prefixes, adjusted, histories)
        taken = np.bincount(found.prefixes, adjusted - discounted, histories)
        with np.errstate(invalid="ignore"):
            left = np.where(totals > 0, taken / totals, 1.0)  # what discounting leaves for the order below
        if order == 1:
            below = np.full(len(found.keys), 1.0 / (len(vocabulary) - 1))
        else:
            below = np.exp(tables[-1].logprobs)[found.suffixes]
            tables[-1].backoffs[:] = np.log(left)
        probability = discounted / np.maximum(totals, 1)[found.prefixes] + left[found.prefixes] * below
        logprobs = np.log(probability)
        if order == 1:
            logprobs[begin] = LEAST_LOGPROB
        tables.append(Table(found.keys, logprobs, np.zeros(len(found.keys))))
    return NgramModel(vocabulary, tables)


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """Discounts of counts of 1, 2 and more (equation 26); the usual ones where they cannot be estimated."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return USUAL_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < d < n for n, d in enumerate(found, start=1)) else USUAL_DISCOUNTS


def _first_words(counts: list[Counts], order: int) -> np.ndarray:
    """The first word of each n-gram of one order."""
    index = np.arange(len(counts[order - 1].keys))
    for found in reversed(counts[1:order]):
        index = found.prefixes[index]
    return index


def prune(model: NgramModel, counts: list[Counts], limit: int) -> NgramModel:
    """Leave out the n-grams that matter least, and normalise anew.

    An n-gram matters by how often it was seen and by how much the model would lose without it (the weighted
    difference of Seymore and Rosenfeld 1996): `count * (ln p(w | h) - ln backoff(h) - ln p(w | h'))`. Single words
    stay, and so do the beginnings and endings of what is kept, which KenLM counts on.

    Args:
        model: of `estimate`.
        counts: that it was estimated from.
        limit: n-grams of order 2 and above that may stay.
    """
    if limit >= sum(len(table.keys) for table in model.tables[1:]):
        return model
    losses = []
    for order in range(2, model.order + 1):
        found, table, below = counts[order - 1], model.tables[order - 1], model.tables[order - 2]
        backed_off = below.backoffs[found.prefixes] + below.logprobs[found.suffixes]
        losses.append(found.counts * (table.logprobs - backed_off))
    everything = np.concatenate(losses)
    # What stays for the sake of longer n-grams counts too: find the bar by bisection.
    low, high = -1, len(everything)
    ranked = np.sort(everything)[::-1]
    kept: list[np.ndarray] = []
    while high - low > max(1, limit // 1000):
        middle = (low + high + 1) // 2
        bar = ranked[middle - 1] if middle else np.inf
        trial = _with_parts([loss >= bar for loss in losses], counts)
        if sum(int(keep.sum()) for keep in trial) <= limit:
            low, kept = middle, trial
        else:
            high = middle
    return normalise(model, kept or [np.zeros(len(loss), dtype=bool) for loss in losses])


def _with_parts(kept: list[np.ndarray], counts: list[Counts]) -> list[np.ndarray]:
    for order in range(len(kept), 1, -1):  # from the longest down
        longer = kept[order - 1]
        kept[order - 2][counts[order].prefixes[longer]] = True
        kept[order - 2][counts[order].suffixes[longer]] = True
    return kept


def normalise(model: NgramModel, kept: list[np.ndarray]) -> NgramModel:
    """A model of some of the n-grams, whose back-off weights make the probabilities after each history sum to 1.

    Args:
        model: the whole one.
        kept: for order 2, 3, ...: whether each n-gram stays, bool `[n-grams]`; histories of those that do must stay.
    """
    size = len(model.vocabulary)
    tables = [model.tables[0]]
    renamed = np.arange(size)  # index of an n-gram of the order below among those that are kept
    for table, keep in zip(model.tables[1:], kept, strict=True):
        history, word = np.divmod(table.keys[keep], size)
        history = renamed[history]
        below = tables[-1]
        # Probability of the word by the shorter history, in the model that is being made
        shorter = _backed_off(tables, history, word, size)
        mass = np.bincount(history, np.exp(table.logprobs[keep]), len(below.keys))
        mass_below = np.bincount(history, np.exp(shorter), len(below.keys))
        backoffs = np.log(np.maximum(1 - mass, 1e-12)) - np.log(np.maximum(1 - mass_below, 1e-12))
        tables[-1] = Table(below.keys, below.logprobs, np.where(mass > 0, backoffs, 0.0))
        tables.append(Table(history * size + word, table.logprobs[keep], np.zeros(int(keep.sum()))))
        renamed = np.where(keep, np.cumsum(keep) - 1, -1)
    return NgramModel(model.vocabulary, tables)


def _backed_off(tables: list[Table], history: np.ndarray, word: np.ndarray, size: int) -> np.ndarray:
    """ln p(word | history without its first word) for n-grams, given by the index of their history."""
    words = [word]
    index = history
    for table in reversed(tables):
        index, last = np.divmod(table.keys[index], size)
        words.insert(0, last)
    total = np.zeros(len(word))
    open_ = np.ones(len(word), dtype=bool)  # no n-gram found yet
    for start in range(1, len(words)):
        at = _find(tables, words[start:], size)
        found = open_ & (at >= 0)
        total[found] += tables[len(words) - start - 1].logprobs[at[found]]
        open_ &= ~found
        if start < len(words) - 1:
            at = _find(tables, words[start:-1], size)
            back = open_ & (at >= 0)
            total[back] += tables[len(words) - start - 2].backoffs[at[back]]
    return total


def _find(tables: list[Table], words: list[np.ndarray], size: int) -> np.ndarray:
    """Index of n-grams that are given word by word; -1 where they are not stored."""
    index = words[0]
    for table, word in zip(tables[1:], words[1:], strict=False):
        index = np.where(index >= 0, table.find(index * size + word), -1)
    return index
