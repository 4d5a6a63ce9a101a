"""Language models: smoothing that sums to 1, scores equal to KenLM's, and fusion equal to its formula."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.build_language_model import build, choose_vocabulary
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.fusion import Context, Fusion, Weights
from wavlm_live.streamer.hotwords import BORDER, Hotwords
from wavlm_live.streamer.kneser_ney import prune
from wavlm_live.streamer.language_model import (
    BEGIN,
    END,
    UNKNOWN,
    KenLanguageModel,
    LanguageModel,
    border_token,
    load_language_model,
    unit_of,
)
from wavlm_live.streamer.ngrams import NgramModel, perplexity

LETTERS = "abcdefgh"


def made_up(seed: int, sentences: int = 300) -> list[list[str]]:
    """Sentences in which words like to follow certain others."""
    rng = random.Random(seed)
    words = [a + b for a in LETTERS for b in "xy"]
    text = []
    for _ in range(sentences):
        at, sentence = rng.randrange(len(words)), []
        for _ in range(rng.randint(1, 9)):
            at = (at * 3 + rng.choice([0, 0, 0, 1, 2, 7])) % len(words)
            sentence.append(words[at])
        text.append(sentence)
    return text


def walk(model: LanguageModel, words: list[str]) -> list[float]:
    state, found = model.start(), []
    for word in words:
        logprob, state = model.score(state, word)
        found.append(logprob)
    return found


@pytest.fixture
def text(seed: int) -> list[list[str]]:
    return made_up(seed)


@pytest.fixture
def small(text: list[list[str]]) -> NgramModel:
    """Of order 3, pruned to fewer than half of its n-grams, with unknown words."""
    model, counts = build(text, choose_vocabulary(text, 2, 14), 3)
    return prune(model, counts, sum(len(t.keys) for t in model.tables[1:]) // 3)


@pytest.fixture
def small_file(small: NgramModel, tmp_path: Path) -> Path:
    path = tmp_path / "small.arpa.gz"
    small.write(path, digits=7)
    return path


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("kept", [1.0, 0.5, 0.1, 0.0])
def test_probabilities_sum_to_one(text: list[list[str]], order: int, kept: float, seed: int) -> None:
    vocabulary = choose_vocabulary(text, 2, 12)
    model, counts = build(text, vocabulary, order)
    everything = sum(len(t.keys) for t in model.tables[1:])
    model = prune(model, counts, int(kept * everything))
    left = sum(len(t.keys) for t in model.tables[1:])
    assert kept * everything * 0.6 - 20 <= left <= kept * everything
    rng = random.Random(seed)
    for _ in range(60):
        state = model.start(sentence=rng.random() < 0.5)
        for word in rng.choices([*vocabulary[3:], "never seen"], k=rng.randint(0, order)):
            _, state = model.score(state, word)
        total = math.fsum(math.exp(model.score(state, word)[0]) for word in vocabulary if word != BEGIN)
        assert total == pytest.approx(1.0, abs=1e-9)


def test_pruning_keeps_what_matters(text: list[list[str]], seed: int) -> None:
    vocabulary = choose_vocabulary(text)
    whole, counts = build(text, vocabulary, 3)
    everything = sum(len(t.keys) for t in whole.tables[1:])
    unseen = made_up(seed + 1, 100)
    values = [perplexity(prune(whole, counts, int(part * everything)), unseen)[0] for part in (1.0, 0.7, 0.4, 0.0)]
    assert values[3] > values[2] > 0
    assert values[2] < values[0] * 1.3
    assert values[0] < len(vocabulary)


@pytest.mark.parametrize("name", ["plain.arpa", "packed.arpa.gz"])
def test_a_written_model_is_read_as_it_was(small: NgramModel, tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / name
    small.write(path, digits=9)
    again = NgramModel.read(path)
    assert again.vocabulary == small.vocabulary
    for sentence in made_up(seed + 2, 50):
        assert walk(again, [*sentence, END]) == pytest.approx(walk(small, [*sentence, END]), abs=1e-6)
    first = path.read_bytes()
    again.write(path, digits=9)
    assert path.read_bytes() == first


def test_scores_are_those_of_kenlm(small_file: Path, seed: int) -> None:
    kenlm = pytest.importorskip("kenlm", reason="no oracle: bash tests/build_kenlm.sh")
    oracle, ours, through = kenlm.Model(str(small_file)), NgramModel.read(small_file), KenLanguageModel(small_file)
    for sentence in made_up(seed + 3, 100):
        words = [*sentence, "never-seen", sentence[0]]
        expected = [score * math.log(10) for score, _, _ in oracle.full_scores(" ".join(words), bos=True, eos=True)]
        assert walk(ours, [*words, END]) == pytest.approx(expected, abs=1e-5)
        assert walk(through, [*words, END]) == pytest.approx(expected, abs=1e-9)
    nowhere = through.start(sentence=False)
    assert through.score(nowhere, "ax")[0] == pytest.approx(ours.score((), "ax")[0], abs=1e-5)
    assert (through.tokens, through.unit) == (ours.tokens, ours.unit)
    assert through.knows(ours.tokens[0])
    assert not through.knows("never-seen")


GAP = """\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-1.1\t</s>
-0.5\ta\t-0.2
-0.7\tb\t-0.4

\\2-grams:
-0.3\t<s> a\t-0.1
-0.2\ta b\t-0.25
-0.6\tb </s>

\\3-grams:
-0.05\ta b a

\\end\\
"""


def test_an_ngram_counts_though_its_ending_was_pruned(tmp_path: Path) -> None:
    """ "a b a" is stored, "b a" is not."""
    path = tmp_path / "gap.arpa"
    path.write_text(GAP)
    expected = [-0.3, -0.1 - 0.2, -0.05, -0.2, -0.25 - 0.6]
    assert walk(NgramModel.read(path), ["a", "b", "a", "b", END]) == pytest.approx([math.log(10) * e for e in expected])


@pytest.fixture
def binary(small: NgramModel, tmp_path: Path) -> Callable[..., Path]:
    """Makes a binary file of KenLM from `small` with KenLM's own program."""
    pytest.importorskip("kenlm", reason="no KenLM: bash tests/build_kenlm.sh")
    program = shutil.which(
        "build_binary", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        pytest.skip("no build_binary: bash tests/build_kenlm.sh")
    small.write(tmp_path / "small.arpa", digits=7)

    def make(*options: str) -> Path:
        target = tmp_path / f"{'_'.join(options)}.bin"
        subprocess.run([program, *options, str(tmp_path / "small.arpa"), str(target)], check=True, capture_output=True)
        return target

    return make


@pytest.mark.parametrize("options", [["probing"], ["trie"], ["-a", "22", "trie"], ["-q", "8", "-b", "8", "trie"]])
def test_binary_models_of_kenlm(binary: Callable[..., Path], small: NgramModel, options: list[str], seed: int) -> None:
    """The words, the scores and the decoded text are those of the ARPA file; quantised scores are near them."""
    path = binary(*options)
    near = 0.3 if "-q" in options else 1e-5
    model, text = load_language_model(str(path)), KenLanguageModel(path.with_name("small.arpa"))
    assert isinstance(model, KenLanguageModel)
    assert (sorted(model.tokens), model.unit) == (sorted(text.tokens), text.unit)
    for sentence in made_up(seed + 4, 40):
        words = [*sentence, "never-seen", sentence[0], END]
        assert walk(model, words) == pytest.approx(walk(text, words), abs=near)
    if "-q" in options:
        return
    alphabet = Alphabet(("", "", *LETTERS, "x", "y"), blank_id=0, delimiter_id=1)
    scores = np.random.default_rng(seed).normal(size=(60, len(alphabet))) * 2
    logprobs = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
    found = []
    for path_of_model in (path, path.with_name("small.arpa")):
        lm = DecodingSettings(method="beam", lm_path=str(path_of_model), lm_weight=1.5)
        decoder = make_decoder(alphabet, lm)
        decoder.accept(logprobs)
        found.append([(a.text, pytest.approx(a.score, abs=1e-3)) for a in decoder.nbest(5)])
    assert found[0] == found[1]
    assert found[0][0][0]


def test_the_words_are_found_behind_any_byte(binary: Callable[..., Path]) -> None:
    """What stands before the first word is the end of a table, zero or not: most often it is zero."""
    path = binary("probing")
    words = KenLanguageModel(path).tokens
    data = bytearray(path.read_bytes())
    for before in (0, 1, ord("a"), 255):
        data[data.rindex(b"<unk>\0") - 1] = before
        path.write_bytes(data)
        assert KenLanguageModel(path).tokens == words
    assert words


def test_a_binary_model_that_was_cut_off(binary: Callable[..., Path]) -> None:
    path = binary("trie")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ConfigurationError, match="cannot be read as a language model"):
        load_language_model(str(path))


def test_a_model_is_loaded_once_and_without_kenlm_too(
    small_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_language_model.cache_clear()
    try:
        model = load_language_model(str(small_file))
        assert isinstance(model, NgramModel)
        assert "kenlm is not installed" in caplog.text
        assert load_language_model(str(small_file)) is model
        other = small_file.with_name("no.bin")
        other.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
        with pytest.raises(ConfigurationError, match="binary models need the package kenlm"):
            load_language_model(str(other))
    finally:
        load_language_model.cache_clear()


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no language model at"):
        load_language_model(str(tmp_path / "none.arpa"))
    path = tmp_path / "bad.arpa"
    for content, message in [
        ("hello\n", "no line"),
        ("\\data\\\n\\1-grams:\n-1 a b c\n\\end\\\n", "line 3"),
        ("\\data\\\n\\1-grams:\n-1 a\n\\2-grams:\n-1 a b\n\\end\\\n", "not in the 1-grams"),
        ("\\data\\\n\\1-grams:\n-1 a\n\\2-grams:\n\\3-grams:\n-1 a a a\n\\end\\\n", "history"),
    ]:
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=message):
            NgramModel.read(path)


def test_kenlm_s_errors_are_ours(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="no KenLM: bash tests/build_kenlm.sh")
    path = tmp_path / "bad.arpa"
    path.write_text("hello\n")
    with pytest.raises(ConfigurationError, match="cannot be read as a language model"):
        KenLanguageModel(path)


def test_units_and_borders(tmp_path: Path) -> None:
    assert unit_of(["a", "b", "|"]) == unit_of(["a", "<space>"]) == "character"
    assert unit_of(["a", "the"]) == unit_of([]) == "word"
    letters = [list("abc|ab|c"), list("ab|ab|abc")]
    model, _ = build(letters, choose_vocabulary(letters, 1), 3)
    assert model.unit == "character"
    assert border_token(model) == "|"


def fused(fusion: Fusion, text: str) -> Context:
    context = fusion.start()
    for character in text:
        context = fusion.step(context, character)[1]
    return context


WEIGHTS = Weights(weight=0.7, word_score=1.5, unknown_penalty=4.0)


def test_words_are_scored_when_they_end(small: NgramModel) -> None:
    fusion = Fusion(small, WEIGHTS)
    known = list(small.tokens[:3])
    for words in ([known[0]], known, [known[1], "zq", known[0]]):
        logprobs = walk(small, words)
        unknown = sum(not small.knows(word) for word in words)
        expected = 0.7 * math.fsum(logprobs) + 1.5 * len(words) - 4.0 * unknown
        assert fused(fusion, BORDER.join([*words, ""])).total == pytest.approx(expected)
        assert fusion.close(fused(fusion, BORDER.join(words))).total == pytest.approx(expected)


def test_open_words_stand_for_the_best_word_that_begins_so(small: NgramModel) -> None:
    fusion = Fusion(small, WEIGHTS)
    tokens = [t for t in small.tokens if t.startswith("a")] or [t for t in small.tokens if t[0] == small.tokens[0][0]]
    best = max(small.score((), token)[0] for token in tokens)
    assert fused(fusion, tokens[0][0]).total == pytest.approx(1.5 + 0.7 * best)
    unknown = 1.5 + 0.7 * small.score((), UNKNOWN)[0]
    assert fused(fusion, "zq").total == pytest.approx(unknown - 4.0)
    hot = Fusion(small, WEIGHTS, Hotwords([("zqz", 1.0)]))
    assert fused(hot, "zq").total == pytest.approx(unknown + 2.0)  # two letters' credit, and no penalty
    assert fused(hot, "zqz ").total == pytest.approx(1.5 + 0.7 * small.score(small.start(), "zqz")[0] + 3.0)
    assert fused(hot, "zqx").total == pytest.approx(unknown - 4.0)


def test_the_model_goes_on_from_segment_to_segment_if_asked(small: NgramModel) -> None:
    fusion = Fusion(small, WEIGHTS)
    words = list(small.tokens[:3])
    whole = fused(fusion, BORDER.join(words) + BORDER).total
    first = fused(fusion, BORDER.join(words[:2]))
    context = fusion.start(after=first)
    for character in words[2] + BORDER:
        context = fusion.step(context, character)[1]
    assert fusion.close(first).total + context.total == pytest.approx(whole)
    assert fusion.start().state == small.start()


def test_character_models(seed: int) -> None:
    letters = [list("|".join(sentence)) for sentence in made_up(seed, 60)]
    model, _ = build(letters, choose_vocabulary(letters, 1), 4)
    fusion = Fusion(model, WEIGHTS)
    logprobs = walk(model, list("ax|by|"))
    assert fused(fusion, "ax by ").total == pytest.approx(0.7 * math.fsum(logprobs) + 2 * 1.5)
    assert fused(fusion, "q").total == pytest.approx(0.7 * walk(model, ["q"])[0] - 4.0)


def test_upper_case_models_serve_lower_case_alphabets() -> None:
    text = [["THE", "CAT"], ["THE", "DOG"], ["A", "CAT"]]
    model, _ = build(text, choose_vocabulary(text, 1), 2)
    fusion = Fusion(model, WEIGHTS)
    assert fused(fusion, "the cat ").total == pytest.approx(0.7 * math.fsum(walk(model, ["THE", "CAT"])) + 3.0)
