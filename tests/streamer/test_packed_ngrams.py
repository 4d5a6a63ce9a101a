"""Packed n-grams: the same n-grams, logarithms that moved by no more than half a step, and the model of the package."""

from __future__ import annotations

import lzma
import math
import random
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.build_language_model import build, choose_vocabulary, main
from wavlm_live.streamer.kneser_ney import LEAST_LOGPROB, prune
from wavlm_live.streamer.language_model import BEGIN, load_language_model
from wavlm_live.streamer.language_models import bundled_language_models, language_model_path
from wavlm_live.streamer.ngrams import NgramModel
from wavlm_live.streamer.packed_ngrams import LEVELS, LEVELS_OF_WORDS, is_packed, quantised, read_packed, write_packed

WORDS = [a + b for a in "abcdefghij" for b in "xyz"]


@pytest.fixture
def sentences(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(WORDS, weights=range(1, 31), k=rng.randint(1, 8)) for _ in range(400)]


@pytest.fixture(params=[1, 2, 3, 4])
def model(sentences: list[list[str]], request: pytest.FixtureRequest) -> NgramModel:
    whole, counts = build(sentences, choose_vocabulary(sentences, 2, 25), request.param)
    return prune(whole, counts, sum(len(t.keys) for t in whole.tables[1:]) // 2)


def test_the_ngrams_stay_and_the_logarithms_hardly_move(model: NgramModel, tmp_path: Path) -> None:
    path = tmp_path / "model.ngrams"
    write_packed(model, path)
    first = path.read_bytes()
    write_packed(model, path)
    assert path.read_bytes() == first
    assert is_packed(path)
    found = read_packed(path)
    assert found.vocabulary == model.vocabulary
    assert found.order == model.order
    for order, (one, other) in enumerate(zip(model.tables, found.tables, strict=True), start=1):
        np.testing.assert_array_equal(other.keys, one.keys)
        for before, after in ((one.logprobs, other.logprobs), (one.backoffs, other.backoffs)):
            possible = before > LEAST_LOGPROB + 1
            step = np.ptp(before[possible]) / ((LEVELS if order > 1 else LEVELS_OF_WORDS) - 2)
            np.testing.assert_allclose(after[possible], before[possible], atol=0.501 * step + 1e-5)
            np.testing.assert_allclose(after[~possible], LEAST_LOGPROB, rtol=1e-6)


def test_scores_through_the_loader(model: NgramModel, sentences: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "model.ngrams"
    write_packed(model, path)
    found = load_language_model(str(path))
    state, expected_state = found.start(), model.start()
    for word in [w for s in sentences[:20] for w in s]:
        logprob, state = found.score(state, word)
        expected, expected_state = model.score(expected_state, word)
        assert logprob == pytest.approx(expected, abs=0.1)
        assert found.knows(word) == model.knows(word)


@pytest.mark.parametrize("values", [[], [-1.0], [-1.0, -1.0], [LEAST_LOGPROB, -3.0], [LEAST_LOGPROB]])
def test_few_values_are_levels_of_their_own(values: list[float]) -> None:
    codes, levels = quantised(np.array(values), LEVELS)
    np.testing.assert_allclose(levels[codes], values, rtol=1e-6)


def test_damaged_files_are_refused(model: NgramModel, tmp_path: Path) -> None:
    path, other = tmp_path / "model.ngrams", tmp_path / "other.ngrams"
    write_packed(model, path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], lzma.compress(b"PK" + b"x" * 100), b"", b"some text"):
        other.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match=r"other\.ngrams cannot be read as packed n-grams"):
            read_packed(other)
    other.write_bytes(lzma.compress(b"\\data\\\n"))
    assert not is_packed(other)


def test_the_builder_packs_and_takes_a_second_text(tmp_path: Path, sentences: list[list[str]]) -> None:
    text, also, target = tmp_path / "text.txt", tmp_path / "also.txt", tmp_path / "model.ngrams"
    text.write_text("\n".join(" ".join(s) for s in sentences))
    also.write_text("stop\n")
    arguments = ["--text", str(text), "--out", str(target), "--most-mb", "1"]
    assert main(arguments) == 0
    assert not load_language_model(str(target)).knows("stop")
    assert main([*arguments, "--also", str(also), "--times", "400"]) == 0
    model = read_packed(target)
    assert math.exp(model.score(model.start(), "stop")[0]) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(SystemExit):
        main([*arguments, "--also", str(also), "--times", "0"])


def test_the_model_of_the_package() -> None:
    assert bundled_language_models() == ["english"]
    path = language_model_path("english")
    assert path is not None
    assert path.stat().st_size < 15e6
    assert language_model_path("engl") is None
    model = load_language_model("english")
    assert load_language_model("english") is model
    assert isinstance(model, NgramModel)
    assert (model.unit, model.order) == ("word", 3)
    assert (np.diff(model.tables[1].keys) > 0).all()
    known = (path.parent / "spoken_words.txt").read_text().split()
    assert all(model.knows(word) for word in known)
    right, wrong = ["it", "was", "a", "very", "old", "house"], ["old", "very", "house", "a", "was", "it"]
    assert model.sentence_logprob(right)[0] > model.sentence_logprob(wrong)[0] + 5
    # after any word, probabilities sum to 1, but for the rounding of logarithms
    state = model.score(model.start(), "she")[1]
    total = math.fsum(math.exp(model.score(state, w)[0]) for w in model.vocabulary if w != BEGIN)
    assert total == pytest.approx(1.0, abs=0.02)
