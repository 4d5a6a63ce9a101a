"""Beams that divide a model's outputs by their prior: the same as a beam over outputs that were divided before."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model import WavLMConfig, WavLMForCTC
from wavlm_live.model.bundled import bundled_path
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.tokenizer import CTCTokenizer
from wavlm_live.streamer import DecodingSettings, Recogniser, SessionSettings
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.beam_frame import Ear
from wavlm_live.streamer.decoding import make_decoder
from wavlm_live.streamer.decoding_defaults import FILE, DecodingDefaults, read_defaults
from wavlm_live.streamer.recogniser import alphabet_of

LABELS = ("", "", *"abcdef")
EVERYTHING = DecodingSettings("beam", beam_width=60, token_cutoff=60.0, beam_cutoff=60.0, blank_skip=1.0, stability=1.0)


def frames_of(rng: np.random.Generator, frames: int) -> np.ndarray:
    scores = rng.normal(size=(frames, len(LABELS))) * 2.0
    scores[:, 0] += 2.0
    return normalised(scores).astype(np.float32)


def normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def beam(alphabet: Alphabet, settings: DecodingSettings, logprobs: np.ndarray) -> BeamDecoder:
    decoder = make_decoder(alphabet, settings)
    assert isinstance(decoder, BeamDecoder)
    decoder.accept(logprobs)
    return decoder


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_as_if_the_outputs_had_been_divided(weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior = np.log(rng.dirichlet(np.ones(len(LABELS))))
    plain = Alphabet(LABELS, 0, 1)
    known = dataclasses.replace(plain, prior=tuple(prior.tolist()))
    changed = 0
    for _ in range(6):
        logprobs = frames_of(rng, 14)
        divided = normalised(logprobs.astype(np.float64) - weight * prior)
        one = beam(known, dataclasses.replace(EVERYTHING, prior_weight=weight), logprobs)
        other = beam(plain, EVERYTHING, divided)
        for mine, theirs in zip(one.nbest(5), other.nbest(5), strict=True):
            assert mine.text == theirs.text
            assert mine.score == pytest.approx(theirs.score, abs=1e-4)
            for a, b in zip(mine.words, theirs.words, strict=True):
                assert (a.start_samples, a.end_samples) == (b.start_samples, b.end_samples)
                assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
        changed += one.nbest(1)[0].text != beam(plain, EVERYTHING, logprobs).nbest(1)[0].text
    assert changed  # the prior does something


def test_a_prior_without_weight_changes_nothing(seed: int) -> None:
    logprobs = frames_of(np.random.default_rng(seed), 30)
    plain = Alphabet(LABELS, 0, 1)
    known = dataclasses.replace(plain, prior=(-1.0,) * len(LABELS))
    assert beam(plain, EVERYTHING, logprobs).nbest() == beam(known, EVERYTHING, logprobs).nbest()


def test_what_is_left_of_a_frame_stays_as_probable(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = Alphabet(LABELS, 0, 1, tuple(np.log(rng.dirichlet(np.ones(len(LABELS)))).tolist()))
    outputs, logprobs = [0, 1, 4, 6], [-2.0, -3.0, -1.5, -4.0]
    heard = Ear(known, 0.7).heard(outputs, logprobs)
    assert heard.quiet + sum(p for _, p in heard.tokens) == pytest.approx(sum(map(math.exp, logprobs)))


def test_no_prior_to_weigh() -> None:
    with pytest.raises(ConfigurationError, match=r"prior_weight is 0\.3.*tune_decoding"):
        make_decoder(Alphabet(LABELS, 0, 1), dataclasses.replace(EVERYTHING, prior_weight=0.3))
    with pytest.raises(ConfigurationError, match=r"2 numbers.*8 labels"):
        Alphabet(LABELS, 0, 1, (-1.0, -1.0))


def test_a_prior_of_other_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = CTCTokenizer.from_pretrained(bundled_path("english"))
    prior = dict.fromkeys(tokenizer.vocab, -2.0)
    assert alphabet_of(tokenizer, 31, prior).prior == (-2.0,) * 29 + (0.0, 0.0)
    assert alphabet_of(tokenizer, 29).prior == ()
    for wrong in ({**prior, "ö": -3.0}, {token: p for token, p in prior.items() if token != "q"}):
        with pytest.raises(CheckpointError, match=r"other tokens than the tokenizer's, first '[öq]'"):
            alphabet_of(tokenizer, 29, wrong)
    path = tmp_path / FILE
    path.write_text(json.dumps({"prior": prior, "beam": {"prior_weight": 0.3}}))
    assert read_defaults(path) == DecodingDefaults({"beam": {"prior_weight": 0.3}}, prior)


def test_a_recogniser_gives_its_sessions_the_prior() -> None:
    tokenizer = CTCTokenizer.from_pretrained(bundled_path("english"))
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        vocab_size=29,
    )
    prior = dict.fromkeys(tokenizer.vocab, -2.0)
    settings = SessionSettings(decoding=DecodingSettings("beam", prior_weight=0.3))
    made = Recogniser(WavLMForCTC(config), tokenizer, decoding=DecodingDefaults({}, prior))
    assert made.open(settings).settings.decoding.prior_weight == 0.3
    assert made.alphabet.prior == (-2.0,) * 29
    without = Recogniser(WavLMForCTC(config), tokenizer)
    with pytest.raises(ConfigurationError, match="has no prior"):
        without.open(settings)


def test_the_command_line_refuses_a_weight_before_it_listens(command, audio_folder: Path) -> None:
    answer = command("transcribe", audio_folder / "digit_seven.opus", "--beam", 4, "--prior-weight", 0.3)
    assert (answer.code, answer.out) == (2, "")
    assert "decoding.json has no prior" in answer.err
