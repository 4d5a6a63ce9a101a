"""Building a language model: counts and discounts by hand, the file that comes out, texts that cannot be used."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.build_language_model import build, main, read_sentences
from wavlm_live.streamer.kneser_ney import count_ngrams, discounts_of
from wavlm_live.streamer.language_model import (
    BEGIN,
    END,
    UNKNOWN,
    load_language_model,
)


def test_kneser_ney_by_hand() -> None:
    """Three sentences, small enough for the formula on paper; no counts of 3 or 4, so the usual discounts."""
    vocabulary = [UNKNOWN, BEGIN, END, "a", "b"]
    model, _ = build([["a", "b"], ["a", "b"], ["a", "a"]], vocabulary, 2)
    # different words before: a: <s>, a; b: a; </s>: b, a; nothing before <unk>
    one, two = 0.5, 1.0
    taken = (2 * two + one) / 5
    unigram = {"a": (2 - two) / 5 + taken / 4, "b": (1 - one) / 5 + taken / 4, END: (2 - two) / 5 + taken / 4}
    assert math.exp(model.score((), "b")[0]) == pytest.approx(unigram["b"])
    assert math.exp(model.score((), UNKNOWN)[0]) == pytest.approx(taken / 4)
    # after a: b twice, a once, </s> once
    left = (1.0 + 0.5 + 0.5) / 4
    state = model.score((), "a")[1]
    assert math.exp(model.score(state, "b")[0]) == pytest.approx((2 - two) / 4 + left * unigram["b"])
    assert math.exp(model.score(state, "a")[0]) == pytest.approx((1 - one) / 4 + left * unigram["a"])
    assert math.exp(model.score(state, UNKNOWN)[0]) == pytest.approx(left * taken / 4)
    # <s> a, three times: its discount is that of 3 and more
    assert math.exp(model.score(model.start(), "a")[0]) == pytest.approx((3 - 1.5) / 3 + 1.5 / 3 * unigram["a"])


def test_discounts_are_those_of_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 6, 3])
    y = 40 / 80
    assert discounts_of(counts) == pytest.approx((1 - 2 * y * 20 / 40, 2 - 3 * y * 10 / 20, 3 - 4 * y * 6 / 10))
    assert discounts_of(np.array([1, 1, 2])) == (0.5, 1.0, 1.5)


def test_ngrams_do_not_reach_over_sentences() -> None:
    one, two, three = count_ngrams(np.array([1, 3, 4, 2, 1, 3, 2]), begin=1, vocabulary=5, order=3)
    assert one.counts.tolist() == [0, 2, 2, 2, 1]
    pairs = {divmod(int(key), 5): int(n) for key, n in zip(two.keys, two.counts, strict=True)}
    assert pairs == {(1, 3): 2, (3, 4): 1, (4, 2): 1, (3, 2): 1}
    assert three.counts.tolist() == [1, 1, 1]


def test_the_builder_makes_a_file_of_the_size_asked_for(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tmp_path / "text.txt.gz", tmp_path / "out" / "model.arpa.gz"
    rng, words = random.Random(seed), [a + b for a in "abcdefgh" for b in "xy"]
    lines = [" ".join(rng.choices(words, weights=range(1, 17), k=rng.randint(1, 9))) for _ in range(2000)]
    source.write_bytes(gzip.compress("\n".join(lines).encode()))
    caplog.set_level("INFO")
    arguments = ["--text", str(source), "--out", str(target), "--order", "4"]
    assert main([*arguments, "--most-mb", "9"]) == 0
    whole = target.stat().st_size
    assert main([*arguments, "--most-mb", str(whole * 0.6 / 1e6)]) == 0
    assert 0.5 * whole < target.stat().st_size <= 0.6 * whole
    assert caplog.text.count("perplexity") == 4
    assert load_language_model(str(target)).knows("ax")
    assert load_language_model(str(target)).unit == "word"


@pytest.mark.parametrize(
    ("content", "message"), [("\n\n", "no sentence"), ("a <s> b\n", "as words"), (None, "cannot be read")]
)
def test_texts_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_sentences(path)


def test_the_command_line_refuses_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--text", str(tmp_path / "none"), "--out", str(tmp_path / "x.arpa")])
    assert end.value.code == 2
    assert "cannot be read as text" in capsys.readouterr().err
