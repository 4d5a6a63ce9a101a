"""The stream resampler: any cutting gives the same samples, none is lost, tones stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import soxr

from wavlm_live.model.errors import AudioError, StreamError
from wavlm_live.streamer.sources import StreamResampler

RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]


def resampled(samples: np.ndarray, rate: float, cuts: Sequence[int]) -> np.ndarray:
    resampler = StreamResampler(rate)
    pieces = [resampler.feed(piece) for piece in np.split(samples, list(cuts))]
    return np.concatenate([*pieces, resampler.finish()])


@pytest.mark.parametrize("rate", RATES)
def test_any_cutting_gives_the_same_samples(rate: int) -> None:
    rng = np.random.default_rng(rate)
    samples = (rng.standard_normal(rate // 2 + 37) * 0.1).astype(np.float32)
    whole = resampled(samples, rate, [])
    for cuts in (rng.integers(0, len(samples), 40).tolist(), range(1, 400), range(0, len(samples), 777)):
        np.testing.assert_array_equal(resampled(samples, rate, sorted(cuts)), whole)


@pytest.mark.parametrize("rate", RATES)
def test_equals_the_one_shot_resampler_and_loses_nothing(rate: int) -> None:
    samples = (np.random.default_rng(1).standard_normal(rate + 11) * 0.1).astype(np.float32)
    out = resampled(samples, rate, range(0, len(samples), 960))
    assert abs(len(out) - len(samples) * 16_000 / rate) < 1
    np.testing.assert_allclose(out, soxr.resample(samples, rate, 16_000), atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_a_click_stays_at_its_time(rate: int) -> None:
    samples = np.zeros(rate, np.float32)
    samples[rate // 2] = 0.5
    out = resampled(samples, rate, range(0, rate, 441))
    assert abs(int(np.abs(out).argmax()) - 8_000) <= 1


def test_what_lies_above_8_khz_does_not_fold_back() -> None:
    seconds = np.arange(48_000) / 48_000
    low = (0.5 * np.sin(2 * np.pi * 1_000 * seconds)).astype(np.float32)
    high = (0.5 * np.sin(2 * np.pi * 13_000 * seconds)).astype(np.float32)
    inside = slice(1_000, -1_000)
    assert np.sqrt(np.mean(resampled(low, 48_000, [])[inside] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert np.abs(resampled(high, 48_000, [])[inside]).max() < 1e-3


def test_steep_edges_stay_within_full_scale() -> None:
    square = np.sign(np.sin(np.arange(48_000) / 40)).astype(np.float32)
    assert np.abs(soxr.resample(square, 48_000, 16_000)).max() > 1
    assert np.abs(resampled(square, 48_000, [])).max() <= 1


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_hardly_any_samples(samples: int) -> None:
    assert len(resampled(np.zeros(samples, np.float32), 48_000, [])) <= 1


def test_after_the_end() -> None:
    resampler = StreamResampler(8_000)
    resampler.feed(np.zeros(80, np.float32))
    assert len(resampler.finish()) == 160
    assert len(resampler.finish()) == 0
    with pytest.raises(StreamError, match="finished"):
        resampler.feed(np.zeros(80, np.float32))


@pytest.mark.parametrize("rate", [0, -16_000, 12, float("nan"), float("inf"), 1e9])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        StreamResampler(rate)
