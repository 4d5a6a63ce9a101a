"""`NgramModel`: a back-off n-gram as sorted arrays; reads and writes ARPA files, and is the readable reference.

The probability of a word after a history (Katz 1987) is that of the longest n-gram which is stored; for every order
that is not, the back-off weight of its history is added:

    ln p(w | h) = ln p(h w) if stored, else backoff(h) + ln p(w | h without its first word)

Table n holds the n-grams as `index of the first n - 1 words in table n - 1` times `vocabulary` plus `last word`, in
rising order: an n-gram of any order is one integer, and looking it up is one binary search a word.
"""

from __future__ import annotations

import gzip
import io
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np

from ..model.errors import ConfigurationError
from .language_model import BEGIN, END, LN_10, UNKNOWN, Unit, unit_of

NEVER = -99.0
"""Base-10 logarithm that ARPA files write for the beginning of a sentence, which is never predicted."""
State = tuple[int, ...]
"""Indices of the n-grams of order 1, 2, ... that end the text, -1 for one that is not stored; as long as needed."""


@dataclass(frozen=True)
class Table:
    """The n-grams of one order."""

    keys: np.ndarray
    """int64 `[n-grams]`, rising; see the head of this file."""
    logprobs: np.ndarray
    """float64 `[n-grams]`, natural logarithms."""
    backoffs: np.ndarray
    """float64 `[n-grams]`, natural logarithms; 0 where no longer n-gram begins like this one."""

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Index of each key `[n]`; -1 where it is not stored."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def index(self, key: int) -> int:
        """Index of one key; -1 where it is not stored."""
        at = int(self.keys.searchsorted(key))
        return at if at < len(self.keys) and self.keys[at] == key else -1


class NgramModel:
    """A language model of words or characters; see `LanguageModel`.

    Args:
        vocabulary: text of each token, markers too; `<unk>` must be among them.
        tables: of order 1, 2, ...; the keys of order 1 are all ids of the vocabulary.

    Raises:
        ConfigurationError: no unknown word.
    """

    def __init__(self, vocabulary: Sequence[str], tables: Sequence[Table]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.tables = tuple(tables)
        self.ids = {token: index for index, token in enumerate(self.vocabulary)}
        if UNKNOWN not in self.ids:
            raise ConfigurationError(f"a language model without {UNKNOWN} was given; it must score any word")
        self.tokens = tuple(token for token in self.vocabulary if token not in (UNKNOWN, BEGIN, END))
        self.unit: Unit = unit_of(self.tokens)

    @property
    def order(self) -> int:
        """Words of the longest n-grams."""
        return len(self.tables)

    def knows(self, token: str) -> bool:
        """See `LanguageModel`."""
        return token in self.ids and token != UNKNOWN

    def start(self, sentence: bool = True) -> State:
        """See `LanguageModel`."""
        return (self.ids[BEGIN],) if sentence and BEGIN in self.ids and self.order > 1 else ()

    def score(self, state: State, token: str) -> tuple[float, State]:
        """See `LanguageModel`."""
        word = self.ids.get(token)
        if word is None:
            word = self.ids[UNKNOWN]
        size = len(self.vocabulary)
        found = [word]  # index of the n-gram of each order that ends here; pruned models may skip an order
        longest = 1
        for table, history in zip(self.tables[1:], state, strict=False):
            found.append(table.index(history * size + word) if history >= 0 else -1)
            if found[-1] >= 0:
                longest = len(found)
        logprob = float(self.tables[longest - 1].logprobs[found[longest - 1]])
        for table, history in list(zip(self.tables, state, strict=False))[longest - 1 :]:
            if history >= 0:
                logprob += float(table.backoffs[history])
        return logprob, tuple(found[: min(longest, self.order - 1)])

    def sentence_logprob(self, words: Sequence[str]) -> tuple[float, int]:
        """Natural log-probability of a sentence with its end, and how many of its words are unknown."""
        state, total = self.start(), 0.0
        for word in (*words, END):
            logprob, state = self.score(state, word)
            total += logprob
        return total, sum(not self.knows(word) for word in words)

    def entries(self, order: int) -> np.ndarray:
        """The n-grams of one order as ids `[n-grams, order]`, in the order of their keys."""
        index = np.arange(len(self.tables[order - 1].keys))
        words = []
        for table in reversed(self.tables[:order]):
            history, word = np.divmod(table.keys[index], len(self.vocabulary))
            words.append(word)
            index = history
        return np.stack(words[::-1], axis=1)

    def write(self, path: Path, digits: int = 4) -> None:
        """Write an ARPA file, gzipped where its name ends with `.gz`.

        Args:
            path: to write.
            digits: of the base-10 logarithms, behind the point.
        """
        with open_text(path, "w") as file:
            counts = [f"ngram {n}={len(table.keys)}\n" for n, table in enumerate(self.tables, start=1)]
            file.write("\\data\\\n" + "".join(counts))
            for order, table in enumerate(self.tables, start=1):
                file.write(f"\n\\{order}-grams:\n")
                file.writelines(self._lines(order, table, digits))
            file.write("\n\\end\\\n")

    def _lines(self, order: int, table: Table, digits: int) -> Iterator[str]:
        rows = self.entries(order).tolist()
        logprobs = (table.logprobs / LN_10).round(digits).tolist()
        backoffs = (table.backoffs / LN_10).round(digits).tolist()
        for row, logprob, backoff in zip(rows, logprobs, backoffs, strict=True):
            text = " ".join(self.vocabulary[i] for i in row)
            tail = f"\t{backoff:.{digits + 3}g}" if backoff and order < self.order else ""
            yield f"{max(logprob, NEVER):.{digits + 3}g}\t{text}{tail}\n"

    @classmethod
    def read(cls, path: Path) -> NgramModel:
        """Read an ARPA file, plain or gzipped.

        Raises:
            ConfigurationError: not an ARPA file; the message names the line.
        """
        vocabulary: list[str] = []
        tables: list[Table] = []
        for order, rows in _sections(path):
            if order == 1:
                found = list(rows)
                vocabulary = [words[0] for _, words, _ in found]
                if UNKNOWN not in vocabulary:
                    vocabulary.append(UNKNOWN)
                    found.append((NEVER, [UNKNOWN], 0.0))
                rows = iter(found)
            tables.append(_table(order, rows, vocabulary, tables, path))
        return cls(vocabulary, tables)


_Row = tuple[float, list[str], float]  # base-10 logarithm, words, base-10 back-off


def _table(order: int, rows: Iterator[_Row], vocabulary: list[str], shorter: list[Table], path: Path) -> Table:
    ids = {word: index for index, word in enumerate(vocabulary)}
    flat, numbers = array("q"), array("d")  # millions of rows as Python objects would take gigabytes
    try:
        for logprob, row, backoff in rows:
            flat.extend([ids[word] for word in row])
            numbers.extend((logprob, backoff))
    except KeyError as e:
        raise ConfigurationError(f"{path}: {e.args[0]!r} stands in the {order}-grams but not in the 1-grams") from None
    words = np.array(flat, dtype=np.int64).reshape(-1, order)
    keys = words[:, 0]
    for table, word in zip(shorter, words.T[1:], strict=True):
        index = table.find(keys)
        if (index < 0).any():
            lost = " ".join(vocabulary[i] for i in words[int(index.argmin())])
            raise ConfigurationError(f"{path}: the history of the {order}-gram {lost!r} is not stored")
        keys = index * len(ids) + word
    by_key = np.argsort(keys, kind="stable")
    values = np.array(numbers, dtype=np.float64).reshape(-1, 2)[by_key] * LN_10
    return Table(keys[by_key], values[:, 0].copy(), values[:, 1].copy())


def _sections(path: Path) -> Iterator[tuple[int, Iterator[_Row]]]:
    """Order and rows of each section of an ARPA file; the rows are to be read before the next section is."""
    order = 0

    def order_of(numbered: tuple[int, str]) -> int:
        nonlocal order
        line = numbered[1]
        if line.startswith("\\") and line.rstrip().endswith("-grams:"):
            order += 1
        return 0 if line.startswith("\\end\\") else order

    with open_text(path) as file:
        for section, lines in groupby(enumerate(file, start=1), key=order_of):
            if section:
                yield section, _rows(lines, section, path)
            elif order:
                return
    if not order:
        raise ConfigurationError(f"{path} is no ARPA file: it has no line \\1-grams:")


def _rows(lines: Iterator[tuple[int, str]], order: int, path: Path) -> Iterator[_Row]:
    for number, line in lines:
        if line.startswith("\\") or not line.strip():
            continue
        try:
            yield _row(line, order)
        except ValueError:
            raise ConfigurationError(
                f"{path}, line {number}: {line.strip()[:60]!r} is no {order}-gram of an ARPA file; expected log10, "
                "words and perhaps the back-off weight"
            ) from None


def _row(line: str, order: int) -> _Row:
    logprob, *words = line.split()
    backoff = 0.0
    if len(words) == order + 1:
        backoff = float(words.pop())
    if len(words) != order:
        raise ValueError(line)
    return float(logprob), words, backoff


def open_text(path: Path, mode: str = "r") -> IO[str]:
    """A text file in UTF-8, gzipped where its name says so (writing) or where it begins so (reading).

    Raises:
        OSError: it cannot be opened.
    """
    if mode == "w":
        if path.suffix != ".gz":
            return path.open("w", encoding="utf-8", newline="\n")
        packed = gzip.GzipFile(path, mode="wb", mtime=0)  # no time inside: the same model gives the same file
        return io.TextIOWrapper(packed, encoding="utf-8", newline="\n")  # type: ignore[arg-type]
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8") if zipped else path.open(encoding="utf-8")


def read_vocabulary(path: Path) -> list[str]:
    """The words of an ARPA file's 1-grams, markers too; the rest of the file is not read."""
    sections = _sections(path)  # holds the file open
    _, rows = next(sections)
    return [words[0] for _, words, _ in rows]


def perplexity(model: NgramModel, sentences: Iterable[Sequence[str]]) -> tuple[float, float]:
    """Perplexity a word, ends of sentences counted and unknown words not, and the share of unknown words."""
    total, words, unknown, all_words = 0.0, 0, 0, 0
    for sentence in sentences:
        state = model.start()
        for word in (*sentence, END):
            logprob, state = model.score(state, word)
            if word == END or model.knows(word):
                total += logprob
                words += 1
            else:
                unknown += 1
        all_words += len(sentence)
    return math.exp(-total / max(1, words)), unknown / max(1, all_words)
