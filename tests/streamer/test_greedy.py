"""Greedy CTC: equal to the offline collapse of transformers, however the frames are cut."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.greedy import GreedyDecoder

LETTERS = "abc'"
ALPHABET = Alphabet(("", "", *LETTERS), blank_id=0, delimiter_id=1)
# few letters and many blanks: repeats, double letters and empty words are common
ids_of = st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5]), max_size=80)
cuts_of = st.lists(st.integers(0, 80), max_size=8)


def logprobs_of(ids: list[int], seed: int = 0) -> np.ndarray:
    """Random log-probabilities `[frames, labels]` whose best output is `ids`."""
    scores = np.random.default_rng(seed).normal(size=(len(ids), len(ALPHABET)))
    scores[np.arange(len(ids)), ids] = scores.max(axis=1, initial=0) + 1
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def decoded(logprobs: np.ndarray, cuts: list[int] = []) -> GreedyDecoder:  # noqa: B006
    decoder = GreedyDecoder(ALPHABET)
    for part in np.split(logprobs, sorted(min(c, len(logprobs)) for c in cuts)):
        decoder.accept(part)
    return decoder


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import Wav2Vec2CTCTokenizer

    path: Path = tmp_path_factory.mktemp("oracle") / "vocab.json"
    path.write_text(json.dumps({"<pad>": 0, "|": 1, **{c: i for i, c in enumerate(LETTERS, start=2)}}))
    return Wav2Vec2CTCTokenizer(str(path), word_delimiter_token="|", pad_token="<pad>")


@given(ids=ids_of)
def test_words_and_times_as_transformers(oracle: Any, ids: list[int]) -> None:
    expected = oracle.decode(ids, output_word_offsets=True)
    words = decoded(logprobs_of(ids)).words
    assert [w.text for w in words] == expected.text.split()
    assert [(w.start_samples, w.end_samples) for w in words] == [
        (o["start_offset"] * 320, o["end_offset"] * 320) for o in expected.word_offsets
    ]


@given(ids=ids_of, cuts=cuts_of, seed=st.integers(0, 9))
def test_splits_do_not_matter(ids: list[int], cuts: list[int], seed: int) -> None:
    logprobs = logprobs_of(ids, seed)
    one, many = decoded(logprobs), decoded(logprobs, cuts)
    assert many.words == one.words  # confidences too, to the last bit
    assert many.complete == one.complete
    assert many.frames == one.frames == len(ids)


@given(ids=ids_of, ahead=ids_of)
def test_peek_is_accept_without_a_trace(ids: list[int], ahead: list[int]) -> None:
    first, second = logprobs_of(ids, 1), logprobs_of(ahead, 2)
    decoder = decoded(first)
    peeked = decoder.peek(second)
    assert decoder.words == decoded(first).words
    decoder.accept(second)
    assert peeked == decoder.words


@given(ids=ids_of, border=st.integers(0, 80))
def test_complete_words_never_change(ids: list[int], border: int) -> None:
    logprobs = logprobs_of(ids)
    decoder = decoded(logprobs[:border])
    early = decoder.complete
    decoder.accept(logprobs[border:])
    assert decoder.complete[: len(early)] == early


def test_a_word_spans_from_its_first_to_its_last_letter() -> None:
    (word,) = decoded(logprobs_of([0, 0, 2, 2, 0, 3, 3, 0, 0, 1])).words
    assert (word.text, word.start_samples, word.end_samples) == ("ab", 2 * 320, 7 * 320)


def test_confidence_is_the_geometric_mean_of_the_letters_best_posteriors() -> None:
    posteriors = [(2, 0.5), (2, 0.9), (2, 0.7), (0, 0.99), (3, 0.4), (1, 0.8), (4, 0.6)]
    rows = np.full((len(posteriors), len(ALPHABET)), 1e-9)
    for row, (index, p) in zip(rows, posteriors, strict=True):
        row[:] = (1 - p) / (len(ALPHABET) - 1)
        row[index] = p
    first, second = decoded(np.log(rows).astype(np.float32)).words
    assert first.confidence == pytest.approx(math.sqrt(0.9 * 0.4), rel=1e-6)
    assert second.confidence == pytest.approx(0.6, rel=1e-6)


def test_words_are_handed_out_once_and_the_open_one_stays() -> None:
    decoder = decoded(logprobs_of([2, 1, 3, 1, 4]))
    assert [w.text for w in decoder.take()] == ["a", "b"]
    assert decoder.take() == ()
    decoder.accept(logprobs_of([0, 2, 1]))
    assert [w.text for w in decoder.take()] == ["ca"]


def test_a_letter_that_sounds_on_over_a_reset_is_not_written_again() -> None:
    decoder = decoded(logprobs_of([2, 2]))
    decoder.reset()
    decoder.accept(logprobs_of([2, 2, 0, 3]))
    (word,) = decoder.words
    assert (word.text, word.start_samples) == ("b", 5 * 320)


def test_special_tokens_and_models_without_delimiter() -> None:
    decoder = GreedyDecoder(Alphabet(("", "", "a", "b"), blank_id=0))  # 1: a special token
    decoder.accept(np.log(np.eye(4, dtype=np.float32)[[2, 1, 2, 0, 3]] * 0.9 + 0.025))
    assert [w.text for w in decoder.words] == ["aab"]


@pytest.mark.parametrize("shape", [(3,), (3, 5), (1, 3, 6)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    decoder = GreedyDecoder(ALPHABET)
    with pytest.raises(ValueError, match=r"expected \[frames, 6\]"):
        decoder.accept(np.zeros(shape, np.float32))
    assert decoder.frames == 0


def test_an_alphabet_must_hold_its_blank() -> None:
    with pytest.raises(ConfigurationError, match="blank_id"):
        Alphabet(("a", "b"), blank_id=2)
    with pytest.raises(ConfigurationError, match="writes nothing"):
        Alphabet(("", "|", "a"), blank_id=0, delimiter_id=1)
