"""Calibrated confidences: rising, from 0 to 1; the defaults that a model brings, and how bad ones are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.bundled import bundled_names, bundled_path
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.streamer.confidence import Calibration, logit
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.decoding_defaults import FILE, GENERAL, RANGES, SECTIONS, read_defaults

shares = st.floats(-0.01, 1.01)


@given(low=shares, high=shares, other=shares, scale=st.floats(0, 50), shift=st.floats(-20, 20), letters=st.floats(0, 9))
def test_rising_and_from_0_to_1(
    low: float, high: float, other: float, scale: float, shift: float, letters: float
) -> None:
    calibration = Calibration(scale, shift, letters)
    low, high = sorted((low, high))
    assert 0 <= calibration(low, other) <= calibration(high, other) <= 1
    assert 0 <= calibration(other, low) <= calibration(other, high) <= 1


@given(confidence=st.floats(0.001, 0.999), scale=st.floats(0.1, 5), shift=st.floats(-5, 5))
def test_the_odds_are_scaled_and_shifted(confidence: float, scale: float, shift: float) -> None:
    odds = (confidence / (1 - confidence)) ** scale * math.exp(shift)
    assert Calibration(scale, shift)(confidence) == pytest.approx(odds / (1 + odds), abs=1e-9)
    with_letters = odds * (0.9 / 0.1) ** 0.7
    found = Calibration(scale, shift, 0.7)(confidence, 0.9)
    assert found == pytest.approx(with_letters / (1 + with_letters), abs=1e-9)


def test_without_numbers_nothing_changes() -> None:
    assert [Calibration()(c) for c in (0.0, 0.3, 1.0, 1.0000001)] == [0.0, 0.3, 1.0, 1.0]
    assert math.isfinite(logit(0.0))
    assert math.isfinite(logit(1.0))


@pytest.mark.parametrize(
    ("values", "name"),
    [((-0.1, 0.0), "scale"), ((1, 0, -1), "letters"), ((math.nan, 0), "scale"), ((1, math.inf), "shift")],
)
def test_bad_numbers_are_refused_by_name(values: tuple[float, float], name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Calibration\.{name}"):
        Calibration(*values)


def test_defaults_fill_what_was_not_given(tmp_path: Path) -> None:
    path = tmp_path / "decoding.json"
    path.write_text(json.dumps({"beam": {"token_cutoff": 5.0}, "language_model": {"lm_weight": 0.9, "word_score": 2}}))
    defaults = read_defaults(path)
    beam = DecodingSettings(method="beam", beam_cutoff=3.0).filled(defaults)
    assert (beam.token_cutoff, beam.beam_cutoff, beam.lm_weight) == (5.0, 3.0, GENERAL["lm_weight"])
    fused = DecodingSettings(method="beam", lm_path="english", word_score=0.5).filled(defaults)
    assert (fused.lm_weight, fused.word_score, fused.token_cutoff) == (0.9, 0.5, GENERAL["token_cutoff"])
    assert fused.filled() == fused
    assert DecodingSettings().filled(read_defaults(None)).confidence_scale == 1.0
    assert RANGES.keys() == GENERAL.keys()


def test_the_bundled_models_bring_numbers_of_their_own() -> None:
    for name in bundled_names():
        defaults = read_defaults(bundled_path(name) / FILE)
        assert set(defaults.sections) == set(SECTIONS)
        assert sum(math.exp(p) for p in defaults.prior.values()) == pytest.approx(1.0, abs=0.02)
        for section in SECTIONS:
            assert defaults.get(section)["confidence_shift"] != 0.0
        filled = DecodingSettings(method="beam", lm_path="english").filled(defaults)
        assert filled.lm_weight == defaults.sections["language_model"]["lm_weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bean": {}}, "'bean'"),
        ({"beam": 3}, "'beam'"),
        ({"beam": {"width": 3}}, "'width'"),
        ({"prior": [-1.0]}, "'prior'"),
        ({"prior": {"a": 0.5}}, "prior.a is 0.5"),
        ({"prior": {"a": None}}, "prior.a is None"),
        ({"beam": {"lm_weight": -1}}, "lm_weight is -1"),
        ({"greedy": {"confidence_scale": True}}, "confidence_scale is True"),
        ({"greedy": {"confidence_scale": "1"}}, "confidence_scale is '1'"),
    ],
)
def test_bad_defaults_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "decoding.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_defaults(path)
