"""Changes to waveforms: the measures they promise, and that nothing but the generator decides."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.training import augment as a

RATE = a.RATE


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def sine(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def test_gain_is_exact_and_never_clips() -> None:
    wave = speech_like(1.0)
    assert a.rms(a.change_gain(wave, -6.0)) == pytest.approx(a.rms(wave) * 10 ** (-6 / 20), rel=1e-4)
    assert np.abs(a.change_gain(wave, 60.0)).max() <= 0.991
    assert not a.change_gain(np.zeros(10, np.float32), 6.0).any()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    faster = a.change_speed(sine(500.0), factor)
    assert len(faster) == pytest.approx(RATE / factor, abs=2)
    middle = faster[2000:-2000]
    peak = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * RATE / len(middle)
    assert peak == pytest.approx(500.0 * factor, abs=3.0)


@pytest.mark.parametrize("noise_seconds", [0.3, 5.0])
@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_has_the_ratio_asked_for(noise_seconds: float, snr_db: float) -> None:
    wave, noise = speech_like(1.0), 0.01 * speech_like(noise_seconds, 1)
    added = a.add_noise(wave, [noise], snr_db, np.random.default_rng(0)) - wave
    assert 20 * np.log10(a.rms(wave) / a.rms(added)) == pytest.approx(snr_db, abs=0.2)


def test_reverberation_keeps_level_and_delays_nothing() -> None:
    wave = np.concatenate([np.zeros(4000, np.float32), speech_like(0.3), np.zeros(8000, np.float32)])
    wet = a.reverberate(wave, 0.5, np.random.default_rng(3))
    assert a.rms(wet) == pytest.approx(a.rms(wave), rel=1e-3)
    assert np.abs(wet[:3990]).max() < 1e-3
    assert a.rms(wet[9000:12000]) > 1e-3
    lags = np.correlate(wet[3000:10000], wave[3500:9500], mode="valid")
    assert np.abs(lags).argmax() == 500


def test_convolution_is_the_direct_sum() -> None:
    x, h = speech_like(0.02), speech_like(0.005, 1)
    np.testing.assert_allclose(a.convolve(x, h), np.convolve(x, h)[: len(x)], atol=1e-5)


def test_telephone_keeps_the_band_alone() -> None:
    for hertz, kept in ((100.0, False), (1000.0, True), (6000.0, False)):
        level = a.rms(a.band_limit(sine(hertz), 300.0, 3400.0)[2000:-2000]) / a.rms(sine(hertz))
        assert (level > 0.95) if kept else (level < 0.05), hertz


def test_join_keeps_order_and_gaps() -> None:
    waves = [sine(200.0, 0.2), 0.1 * sine(2000.0, 0.3)]
    joined, starts = a.join(waves, np.random.default_rng(0), (0.5, 0.5))
    assert starts == [0, int(0.7 * RATE)]
    assert len(joined) == int(1.0 * RATE)
    gap = joined[int(0.2 * RATE) : int(0.7 * RATE)]
    assert a.rms(gap) < 0.01 * a.rms(joined)
    first, second = joined[: int(0.2 * RATE)], joined[int(0.7 * RATE) :]
    assert abs(20 * np.log10(a.rms(first) / a.rms(second))) <= 6.1


def test_everything_together_is_bounded_finite_and_decided_by_the_generator() -> None:
    settings = a.Augmentation(
        speed=0.1, noise=1.0, reverberation=1.0, telephone=1.0, edge_s=(0.1, 0.5), gain_db=(6.0, 30.0)
    )
    waves, noises = [speech_like(0.5), np.zeros(3000, np.float32)], [speech_like(0.2, 5)]

    def make(seed: int) -> np.ndarray:
        return a.augment(waves, settings, np.random.default_rng(seed), noises)

    first = make(1)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1.0
    np.testing.assert_array_equal(first, make(1))
    assert len(first) != len(make(2)) or not np.array_equal(first, make(2))
    assert (
        len(a.augment(waves[:1], a.Augmentation(speed=0.5), np.random.default_rng(0), most_samples_faster=1.0)) >= 8000
    )


@pytest.mark.parametrize(
    "values", [{"noise": 1.5}, {"speed": 0.9}, {"snr_db": (20.0, 5.0)}, {"loudness": 1.0}, {"telephone": -0.1}]
)
def test_bad_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        a.Augmentation.from_dict(values)
