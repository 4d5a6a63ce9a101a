"""Build an n-gram language model from text: `python -m wavlm_live.streamer.build_language_model --help`.

The text has one sentence a line, in the words that the recogniser writes (no punctuation, one case). The result is
an ARPA file, which KenLM and `--lm` read, or, if its name ends with `.ngrams`, a packed file of a third of its size,
which `--lm` reads.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..model.errors import ConfigurationError, WavLMLiveError
from .kneser_ney import Counts, count_ngrams, estimate, prune
from .language_model import BEGIN, END, UNKNOWN
from .ngrams import NgramModel, open_text, perplexity
from .packed_ngrams import SUFFIX, read_packed, write_packed

logger = logging.getLogger(__name__)
HELD_OUT_EVERY = 100
"""One sentence in so many is kept out, to measure the model with."""
BYTES_A_NGRAM = {SUFFIX: 2.3, ".gz": 7.0}
"""First guess of what an n-gram takes in a file with this suffix; the truth is measured."""


def read_sentences(path: Path) -> list[list[str]]:
    """Sentences of a text file, plain or gzipped, one a line; empty lines are none.

    Raises:
        ConfigurationError: no such file, not UTF-8, or no sentence in it.
    """
    try:
        with open_text(path) as lines:
            sentences = [words for line in lines if (words := line.split())]
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{path} cannot be read as text: {e}") from e
    if not sentences:
        raise ConfigurationError(f"{path} holds no sentence; expected one a line")
    marked = {UNKNOWN, BEGIN, END}
    if any(not marked.isdisjoint(words) for words in sentences):
        raise ConfigurationError(f"{path} holds {UNKNOWN}, {BEGIN} or {END} as words; the model needs them as markers")
    return sentences


def choose_vocabulary(sentences: Sequence[Sequence[str]], least_count: int = 2, most_words: int = 60_000) -> list[str]:
    """The markers, and the words that are frequent enough: the most frequent first, equal ones by name.

    Args:
        sentences: the text.
        least_count: how often a word must be there.
        most_words: how many words at most.
    """
    counts = Counter(word for words in sentences for word in words)
    frequent = sorted((word for word, n in counts.items() if n >= least_count), key=lambda word: (-counts[word], word))
    return [UNKNOWN, BEGIN, END, *frequent[:most_words]]


def build(sentences: Sequence[Sequence[str]], vocabulary: list[str], order: int = 3) -> tuple[NgramModel, list[Counts]]:
    """The whole modified Kneser-Ney model of a text, and the counts that `prune` needs.

    Args:
        sentences: the text; words outside the vocabulary count as unknown ones.
        vocabulary: of `choose_vocabulary`.
        order: of the longest n-grams.

    Raises:
        ConfigurationError: no words, or an order below 1.
    """
    ids_of = {word: index for index, word in enumerate(vocabulary)}
    unknown, begin, end = (ids_of[marker] for marker in (UNKNOWN, BEGIN, END))
    ids: list[int] = []
    for words in sentences:
        ids.append(begin)
        ids += [ids_of.get(word, unknown) for word in words]
        ids.append(end)
    counts = count_ngrams(np.array(ids, dtype=np.int64), begin, len(vocabulary), order)
    return estimate(vocabulary, counts, begin), counts


def write_within(model: NgramModel, counts: list[Counts], path: Path, most_bytes: int) -> NgramModel:
    """Write the model, pruned until its file is small enough and not much smaller; returns what was written.

    Args:
        model: of `build`.
        counts: of `build`.
        path: ARPA file to write, gzipped if it ends with `.gz`, packed if it ends with `.ngrams`.
        most_bytes: of the file.

    Raises:
        ConfigurationError: the single words alone take more.
    """
    everything = sum(len(table.keys) for table in model.tables[1:])
    limit = min(everything, round(most_bytes / BYTES_A_NGRAM.get(path.suffix, 20.0)))
    pruned, size = model, 0
    for _ in range(6):
        pruned = prune(model, counts, limit)
        if path.suffix == SUFFIX:
            write_packed(pruned, path)
        else:
            pruned.write(path)
        size = path.stat().st_size
        logger.info("%d n-grams of order 2 and above: %.2f MB", limit, size / 1e6)
        if size <= most_bytes and (limit >= everything or size > 0.95 * most_bytes):
            return pruned
        if limit == 0:
            break
        limit = min(everything, int(limit * 0.98 * most_bytes / size))
    if size > most_bytes:
        raise ConfigurationError(
            f"{path} takes {size} bytes, expected at most {most_bytes}; choose a smaller vocabulary"
        )
    return pruned


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m wavlm_live.streamer.build_language_model", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="one sentence a line, plain or gzipped")
    parser.add_argument("--also", type=Path, help="a second text, such as commands that no book has")
    parser.add_argument("--times", type=int, default=1, help="how often each sentence of it counts (1)")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write: ARPA; gzipped with .gz; packed with .ngrams"
    )
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-grams (3)")
    parser.add_argument("--least-count", type=int, default=2, help="rarer words are unknown ones (2)")
    parser.add_argument("--most-words", type=int, default=60_000, help="size of the vocabulary (60000)")
    parser.add_argument("--most-mb", type=float, default=14.0, help="size of the file in 1e6 bytes (14)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return _run(options)
    except WavLMLiveError as error:
        parser.error(str(error))


def _run(options: argparse.Namespace) -> int:
    sentences = read_sentences(options.text)
    held_out = sentences[::HELD_OUT_EVERY]
    kept = [words for n, words in enumerate(sentences) if n % HELD_OUT_EVERY] or sentences
    if options.times < 1:
        raise ConfigurationError(f"--times is {options.times}, expected 1 or more")
    if options.also is not None:
        kept += read_sentences(options.also) * options.times
    vocabulary = choose_vocabulary(kept, options.least_count, options.most_words)
    logger.info("%d sentences, %d words known", len(kept), len(vocabulary) - 3)
    model, counts = build(kept, vocabulary, options.order)
    report = "%s: perplexity %.1f on %d sentences kept out, %.2f %% of their words unknown"
    logger.info(report, "all n-grams", *_measures(model, held_out))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model = write_within(model, counts, options.out, round(options.most_mb * 1e6))
    if options.out.suffix == SUFFIX:
        model = read_packed(options.out)  # what is used, with its rounded logarithms
    sizes = " + ".join(str(len(table.keys)) for table in model.tables)
    logger.info(report, f"{options.out}, {sizes} n-grams", *_measures(model, held_out))
    return 0


def _measures(model: NgramModel, sentences: Sequence[Sequence[str]]) -> tuple[float, int, float]:
    value, unknown = perplexity(model, sentences)
    return value, len(sentences), 100 * unknown


if __name__ == "__main__":
    sys.exit(main())
