"""The beam against the plain definition of one: all texts are scored, then the best are kept."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.build_language_model import build, choose_vocabulary
from wavlm_live.streamer.fusion import Context, Fusion, Weights
from wavlm_live.streamer.hotwords import Hotwords
from wavlm_live.streamer.prefix_search import FIRST_SYMBOL, BeamRules
from wavlm_live.streamer.stability import StabilityRule

ALPHABET = Alphabet(("", "", *"abc"), blank_id=0, delimiter_id=1)
NEVER = StabilityRule(0.0, 10**6, 10**6)
WORDS = [text.split() for text in ["ab ca", "a cab", "ab a ba", "cab", "abc ab", "ba ab ca"]]
LETTERS = [[*"|".join(words)] for words in WORDS]
HOTWORDS = Hotwords([("ab", 2.0), ("c ab", 1.0), ("bc", 5.0), ("abc a", 0.5), ("b cc", 9.0)])
KINDS = ["nothing", "hotwords", "words", "words, no penalty", "letters", "words and hotwords", "letters and hotwords"]


@cache
def fusion_of(kind: str) -> Fusion:
    text = {"letters": LETTERS, "words": WORDS, "words,": WORDS}.get(kind.split()[0])
    model = None if text is None else build(text, choose_vocabulary(text, 1), 3)[0]
    weights = Weights(0.7, 1.5, 0.0) if "no penalty" in kind else Weights(0.7, 1.5, 3.0)
    return Fusion(model, weights, HOTWORDS if "hotwords" in kind else None)


def plain_beam(logprobs: np.ndarray, width: int, fusion: Fusion) -> dict[tuple[int, ...], tuple[float, float]]:
    """Weights of the texts, for paths that end with a blank and with a letter; after each frame the best are kept."""
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    contexts: dict[tuple[int, ...], Context] = {(): fusion.start()}
    for row in np.exp(logprobs.astype(np.float64)):
        sums: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for text, (blank, letter) in beam.items():
            last = text[-1] if text else 1
            between = last == 1
            sums[text][0] += (row[0] + row[1] * between) * (blank + letter)
            sums[text][1] += 0.0 if between else row[last] * letter
            for output in range(1, 5):
                if output == 1 and between:
                    continue
                label = " " if output == 1 else ALPHABET.labels[output]
                gain, contexts[(*text, output)] = fusion.step(contexts[text], label)
                mass = blank if output == last else blank + letter
                sums[(*text, output)][0 if output == 1 else 1] += row[output] * gain * mass
        best = sorted(sums, key=lambda text: -sum(sums[text]))[:width]
        beam = {text: (sums[text][0], sums[text][1]) for text in best if sum(sums[text])}
    return beam


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6), width=st.sampled_from([1, 2, 5, 16]), sharpness=st.sampled_from([0.5, 2.0, 5.0]))
@settings(max_examples=15, deadline=None)
def test_what_is_never_scored_would_not_have_been_kept(kind: str, seed: int, width: int, sharpness: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(25, 5)) * sharpness
    logprobs = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
    fusion = fusion_of(kind)
    decoder = BeamDecoder(ALPHABET, 320, BeamRules(width, math.inf, math.inf, 1.0), fusion, NEVER)
    decoder.accept(logprobs)
    search = decoder._search
    found = {tuple(ord(symbol) - FIRST_SYMBOL for symbol in h.key): (h.blank, h.letter) for h in search.beam}
    expected = plain_beam(logprobs, width, fusion)
    assert list(found) == list(expected)
    for text, weights in found.items():
        scaled = [weight * math.exp(search.scale) for weight in weights]
        assert scaled == pytest.approx(expected[text], rel=1e-9)


@given(st.sampled_from(KINDS), st.text("abc ", max_size=12), st.sampled_from("abc"))
def test_no_letter_gains_more_than_the_bound(kind: str, text: str, letter: str) -> None:
    fusion = fusion_of(kind)
    context = fusion.start()
    for label in " ".join(text.split()):
        context = fusion.step(context, label)[1]
    gain = fusion.gain(context, letter)
    assert gain == fusion.step(context, letter)[0] <= fusion.most(context)
