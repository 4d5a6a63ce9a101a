"""Prefix beam search: equal to the sum over all alignments, however the frames are cut."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.fusion import Fusion
from wavlm_live.streamer.greedy import GreedyDecoder
from wavlm_live.streamer.hotwords import Hotwords
from wavlm_live.streamer.prefix_search import BeamRules
from wavlm_live.streamer.stability import StabilityRule

ALPHABET = Alphabet(("", "", *"abc"), blank_id=0, delimiter_id=1)
EXACT = BeamRules(width=10_000, token_cutoff=math.inf, beam_cutoff=math.inf, blank_skip=1.0)
NEVER = StabilityRule(0.0, 10**6, 10**6)
HOTWORDS = Hotwords([("ab", 2.0), ("c ab", 1.0), ("b", 0.5)])
cuts_of = st.lists(st.integers(0, 120), max_size=8)


def random_logprobs(seed: int, frames: int, labels: int = len(ALPHABET), sharpness: float = 2.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, labels)) * sharpness
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def speech_logprobs(text: str, alphabet: Alphabet, seed: int, doubt: float = 0.3) -> np.ndarray:
    """What a CTC head makes of a text: a peak a letter, blanks between, some letters confused with others."""
    rng = np.random.default_rng(seed)
    ids = [alphabet.labels.index(c) if c != " " else 1 for c in text]
    scores = rng.normal(size=(4 * len(ids) + 12, len(alphabet))) - 9
    scores[:, alphabet.blank_id] = 4
    frame = 6
    for index in ids:
        scores[frame, index] += 15 + rng.normal() * 1.5
        scores[frame + 1, index] += rng.choice([0, 12, 14])
        if rng.random() < doubt:
            scores[frame, rng.integers(2, len(alphabet), 3)] += 12 + rng.normal(size=3) * 3
        frame += int(rng.integers(3, 5))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def said(path: tuple[int, ...], alphabet: Alphabet) -> str:
    """The text that a path of outputs writes."""
    merged = [index for index, _ in itertools.groupby(path)]
    return " ".join("".join(" " if i == alphabet.delimiter_id else alphabet.labels[i] for i in merged).split())


def all_texts(logprobs: np.ndarray, alphabet: Alphabet = ALPHABET) -> dict[str, float]:
    """Probability of every text, summed over all paths of outputs."""
    texts: dict[str, float] = {}
    rows = np.exp(logprobs.astype(np.float64)).tolist()
    for path in itertools.product(range(logprobs.shape[1]), repeat=len(logprobs)):
        p = math.prod(row[index] for row, index in zip(rows, path, strict=True))
        text = said(path, alphabet)
        texts[text] = texts.get(text, 0.0) + p
    return texts


def decoded(
    logprobs: np.ndarray,
    cuts: list[int] | None = None,
    alphabet: Alphabet = ALPHABET,
    rules: BeamRules | None = None,
    fusion: Fusion | None = None,
    stability: StabilityRule | None = None,
) -> BeamDecoder:
    decoder = BeamDecoder(alphabet, 320, rules, fusion, stability)
    for part in np.split(logprobs, sorted(min(c, len(logprobs)) for c in cuts or [])):
        decoder.accept(part)
    return decoder


@pytest.mark.parametrize("frames", range(7))
def test_equal_to_the_sum_over_all_alignments(frames: int, seed: int) -> None:
    alphabet = Alphabet(("", "", "a", "b"), blank_id=0, delimiter_id=1)
    logprobs = random_logprobs(seed, frames, labels=4)
    expected = all_texts(logprobs, alphabet)
    found = {a.text: a for a in decoded(logprobs, alphabet=alphabet, rules=EXACT, stability=NEVER).nbest(10_000)}
    assert found.keys() == expected.keys()
    for text, alternative in found.items():
        assert math.exp(alternative.acoustic) == pytest.approx(expected[text], rel=1e-9), text
        assert alternative.score == pytest.approx(alternative.acoustic, abs=1e-9)
    assert [a.text for a in found.values()] == sorted(found, key=lambda text: -expected[text])


def test_special_tokens_and_models_without_delimiter(seed: int) -> None:
    alphabet = Alphabet(("a", "", "", "b"), blank_id=2)  # 1: a special token, which writes nothing
    logprobs = random_logprobs(seed, 5, labels=4)
    expected = all_texts(logprobs, alphabet)
    found = decoded(logprobs, alphabet=alphabet, rules=EXACT, stability=NEVER).nbest(10_000)
    assert {a.text: math.exp(a.acoustic) for a in found} == pytest.approx(expected, rel=1e-9)


def test_equal_to_the_ctc_loss_of_torch(seed: int) -> None:
    text = "abc cab bba"
    logprobs = speech_logprobs(text, ALPHABET, seed, doubt=0.5)
    rules = BeamRules(width=400, token_cutoff=30.0, beam_cutoff=40.0, blank_skip=1.0)
    for alternative in decoded(logprobs, rules=rules, stability=NEVER).nbest(3):
        assert alternative.acoustic == pytest.approx(exact_logprob(logprobs, alternative.text, ALPHABET), abs=1e-3)


def exact_logprob(logprobs: np.ndarray, text: str, alphabet: Alphabet) -> float:
    """By torch, whether the last word is over or not; two delimiters in a row are too rare to count here."""
    ids = [1 if c == " " else alphabet.labels.index(c) for c in text]
    inputs = torch.from_numpy(logprobs).double()[:, None]
    losses = [
        torch.nn.functional.ctc_loss(inputs, torch.tensor([t]), [len(logprobs)], [len(t)], reduction="sum")
        for t in (ids, [*ids, 1])
    ]
    return float(torch.logsumexp(-torch.stack(losses), dim=0))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), frames=st.integers(0, 120), cuts=cuts_of, fused=st.booleans(), eager=st.booleans())
def test_splits_do_not_matter_to_the_last_bit(
    seed: int, frames: int, cuts: list[int], fused: bool, eager: bool
) -> None:
    logprobs = random_logprobs(seed, frames, sharpness=3.0)
    logprobs[seed % 7 :: 3, 1:] -= 8
    fusion = Fusion(hotwords=HOTWORDS) if fused else None
    rule = StabilityRule(0.3, 2, 8) if eager else StabilityRule()
    one = decoded(logprobs, fusion=fusion, stability=rule)
    many = decoded(logprobs, cuts, fusion=fusion, stability=rule)
    assert many.words == one.words
    assert many.complete == one.complete
    assert many.nbest(16) == one.nbest(16)
    assert many.alternatives() == one.alternatives()
    assert many.frames == one.frames == frames


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 12), max_size=20), stability=st.floats(0, 1))
def test_what_is_stable_stays(seed: int, sizes: list[int], stability: float) -> None:
    decoder = BeamDecoder(ALPHABET, 320, BeamRules(width=8), None, StabilityRule.of(stability))
    stable: tuple[Any, ...] = ()
    contested = 0
    for n, size in enumerate(sizes):
        decoder.accept(random_logprobs(seed + n, size))
        assert decoder.complete[: len(stable)] == stable
        stable = decoder.complete
        for words in (decoder.words, decoder.peek(random_logprobs(seed + 100 + n, 5)), decoder.nbest(8)[-1].words):
            assert words[: len(stable)] == stable
            ends = [0]
            for word in words:
                assert ends[-1] <= word.start_samples < word.end_samples <= (decoder.frames + 5) * 320
                assert 0 < word.confidence <= 1
                ends.append(word.end_samples)
        assert contested <= decoder.contested_samples <= decoder.frames * 320
        contested = decoder.contested_samples
        unstable = decoder.words[len(stable) :]
        assert not unstable or contested <= unstable[0].start_samples


def test_eager_is_earlier_than_careful(seed: int) -> None:
    logprobs = speech_logprobs("abc cab bba a bc cc ab " * 4, ALPHABET, seed)
    counts: list[list[int]] = []
    for stability in (0.0, 0.25, 0.5, 0.75, 1.0):
        decoder = BeamDecoder(ALPHABET, stability=StabilityRule.of(stability))
        counts.append([])
        for frame in logprobs:
            decoder.accept(frame[None])
            counts[-1].append(len(decoder.complete))
    means = [float(np.mean(c)) for c in counts]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[2] > means[4] > 0


def test_a_doubt_that_nothing_settles_ends_with_the_longest_wait() -> None:
    rows = np.full((100, len(ALPHABET)), 1e-6)
    rows[:, 0] = 1
    rows[2, :4] = 1e-9, 1e-9, 0.6, 0.4
    rows[6, :2] = 1e-9, 1
    logprobs = np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    decoder = BeamDecoder(ALPHABET, stability=StabilityRule(doubt=0.01, age_frames=5, wait_frames=40))
    decoder.accept(logprobs[:42])
    assert decoder.complete == ()
    decoder.accept(logprobs[42:])
    (word,) = decoder.complete
    assert word.text == "a"
    assert word.confidence == pytest.approx(0.6 * rows[2].sum() ** -1, abs=0.01)  # not 1: the doubt is remembered
    ((first, second),) = (slot[:2] for slot in decoder.alternatives())
    assert (first[0], second[0]) == ("a", "b")
    assert second[1] == pytest.approx(0.4, abs=0.01)


def test_equal_to_greedy_where_the_model_is_sure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice([0, 0, 0, 1, 1, 2, 2, 3, 4], size=400)
    rows = np.full((len(ids), len(ALPHABET)), 1e-5)
    rows[np.arange(len(ids)), ids] = 1 - 4e-5
    logprobs = np.log(rows).astype(np.float32)
    greedy = GreedyDecoder(ALPHABET)
    greedy.accept(logprobs)
    for width in (1, 16):
        found = decoded(logprobs, rules=BeamRules(width=width)).words
        assert [(w.text, w.start_samples, w.end_samples) for w in found] == [
            (w.text, w.start_samples, w.end_samples) for w in greedy.words
        ]
        assert min(w.confidence for w in found) > 0.99


def test_the_sum_over_paths_wins_over_the_best_path() -> None:
    """Best path: nothing; but two of three chances say "a" somewhere (Graves et al. 2006, figure 2)."""
    logprobs = np.log(np.array([[0.6, 1e-9, 0.4, 1e-9, 1e-9]] * 2, dtype=np.float32))
    greedy = GreedyDecoder(ALPHABET)
    greedy.accept(logprobs)
    assert greedy.words == ()
    decoder = decoded(logprobs)
    (word,) = decoder.words
    assert word.text == "a"
    assert decoder.nbest(1)[0].score == pytest.approx(math.log(1 - 0.6**2), abs=1e-6)
    assert word.confidence == pytest.approx(1 - 0.6**2, abs=1e-6)


def test_skipping_sure_blanks_changes_next_to_nothing(seed: int) -> None:
    logprobs = speech_logprobs("abc cab bba ab bc", ALPHABET, seed)
    assert (logprobs[:, 0] > math.log(0.99)).mean() > 0.3
    whole = decoded(logprobs, rules=BeamRules(blank_skip=1.0), stability=NEVER).nbest(4)
    quick = decoded(logprobs, rules=BeamRules(blank_skip=0.99), stability=NEVER).nbest(4)
    assert quick[0].text == whole[0].text
    assert quick[0].score == pytest.approx(whole[0].score, abs=0.2)


def test_peek_is_accept_without_a_trace(seed: int) -> None:
    first, second = random_logprobs(seed, 37), random_logprobs(seed + 1, 29)
    decoder = decoded(first)
    fork = decoder.fork()
    peeked = decoder.peek(second)
    assert decoder.nbest(16) == decoded(first).nbest(16) == fork.nbest(16)
    decoder.accept(second)
    assert peeked == decoder.words
    fork.reset()
    assert fork.words == ()
    assert decoder.words == peeked


def test_stable_words_are_handed_out_once() -> None:
    decoder = BeamDecoder(ALPHABET, stability=StabilityRule.of(0.0))
    decoder.accept(peaks([2, 1, 3, 1, 4, 0, 0, 0]))
    assert [w.text for w in decoder.take()] == ["a", "b"]
    assert decoder.take() == ()
    decoder.accept(peaks([0, 2, 1, 0, 0, 0, 0, 0]))
    assert [w.text for w in decoder.take()] == ["ca"]


def test_a_letter_that_sounds_on_over_a_reset_is_not_written_again() -> None:
    decoder = decoded(peaks([2, 2]))
    decoder.reset()
    assert decoder.words == ()
    decoder.accept(peaks([2, 2, 0, 3]))
    (word,) = decoder.words
    assert (word.text, word.start_samples) == ("b", 5 * 320)


def peaks(ids: list[int], p: float = 0.9999) -> np.ndarray:
    rows = np.full((len(ids), len(ALPHABET)), (1 - p) / (len(ALPHABET) - 1), dtype=np.float32)
    rows[np.arange(len(ids)), ids] = p
    return np.log(rows)


def test_no_weight_leaves_the_range_of_floats(seed: int) -> None:
    logprobs = np.maximum(random_logprobs(seed, 1000, sharpness=20.0), -60.0)
    decoder = BeamDecoder(ALPHABET, fusion=Fusion(hotwords=HOTWORDS), stability=StabilityRule.of(1.0))
    decoder.accept(logprobs)
    best = decoder.nbest(2)
    assert all(math.isfinite(a.score) and math.isfinite(a.acoustic) for a in best)
    assert best[0].score >= best[1].score
    impossible = np.full((5, len(ALPHABET)), -np.inf, dtype=np.float32)
    decoder.accept(impossible)
    assert decoder.nbest(1)[0].text == best[0].text


def test_what_is_kept_does_not_grow() -> None:
    decoder = BeamDecoder(ALPHABET)
    for n in range(25):
        decoder.accept(speech_logprobs("abc cab bba ab bc ", ALPHABET, n))
        decoder.take()
        assert len(decoder._search.beam) <= 16
        assert max(len(h.key) for h in decoder._search.beam) < 40
    assert decoder.frames > 1500


@pytest.mark.parametrize("text", ["abc cab a bba", "cc bc aab abcabc"])
def test_as_good_as_pyctcdecode(text: str, seed: int) -> None:
    """The same text, or one that is more probable (its sums leave paths out, ours may prune others)."""
    logging.disable(logging.CRITICAL)  # it warns of a missing kenlm and of the alphabet
    try:
        pyctcdecode = pytest.importorskip(
            "pyctcdecode", reason="no oracle: pip install --no-deps pyctcdecode pygtrie (it asks for an old numpy)"
        )
        oracle = pyctcdecode.build_ctcdecoder(["", " ", *"abc"])
        same = 0
        for n in range(6):
            logprobs = speech_logprobs(text, ALPHABET, seed + n, doubt=0.5)
            theirs = oracle.decode_beams(logprobs, beam_width=16)[0][0]
            ours = decoded(logprobs, stability=NEVER).nbest(1)[0].text
            same += ours == theirs
            difference = exact_logprob(logprobs, ours, ALPHABET) - exact_logprob(logprobs, theirs, ALPHABET)
            assert difference >= -0.02, (ours, theirs)
        assert same >= 4
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 3, 5)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    decoder = BeamDecoder(ALPHABET)
    with pytest.raises(ValueError, match=r"expected \[frames, 5\]"):
        decoder.accept(np.zeros(shape, np.float32))
    assert decoder.frames == 0


@pytest.mark.parametrize(
    ("values", "name"), [((0.6, 1, 2), "doubt"), ((0.1, -1, 2), "age_frames"), ((0.1, 5, 4), "wait_frames")]
)
def test_bad_stability_is_refused_by_name(values: tuple[float, int, int], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        StabilityRule(*values)
    with pytest.raises(ConfigurationError, match="stability"):
        StabilityRule.of(1.5)
