"""Changes to a waveform that keep what is said: gain, speed, noise, reverberation, telephone, joined clips.

Everything works on float32 [samples] at 16 kHz in [-1, 1] and draws from a `numpy.random.Generator`, so that
a batch depends on nothing but its seed. All together cost about a thousandth of the time of the sound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from .sound_codecs import through_codec

RATE = 16000


@dataclass(frozen=True)
class Augmentation:
    """How strongly, and how often, sound is changed. The defaults change nothing but the gain.

    Raises:
        ConfigurationError: a probability outside 0 to 1, or a range whose ends are swapped.
    """

    gain_db: tuple[float, float] = (-20.0, 6.0)
    """Range of the random gain; loud results are turned down so that nothing clips."""
    speed: float = 0.0
    """Largest relative change of speed (and pitch): 0.1 means 0.9 to 1.1."""
    noise: float = 0.0
    """Probability of background noise."""
    snr_db: tuple[float, float] = (5.0, 30.0)
    """Speech to noise ratio where there is noise."""
    reverberation: float = 0.0
    """Probability of an artificial room."""
    reverberation_s: tuple[float, float] = (0.1, 0.6)
    """Time in which the room decays by 60 dB."""
    rooms: float = 0.0
    """Probability of a simulated room (image sources, see `rooms`) instead of the artificial one."""
    codec: float = 0.0
    """Probability of a passage through a codec: telephone, GSM, ADPCM, Opus, Vorbis, MP3."""
    telephone: float = 0.0
    """Probability that only 300 to 3,400 Hz (or 4 kHz) remain."""
    edge_s: tuple[float, float] = (0.0, 0.0)
    """Range of the near-silence put before, and again after, an utterance."""

    def __post_init__(self) -> None:
        for name in ("noise", "reverberation", "rooms", "codec", "telephone", "speed"):
            value = getattr(self, name)
            if not 0.0 <= value <= (0.5 if name == "speed" else 1.0):
                limit = "0.5" if name == "speed" else "1"
                raise ConfigurationError(f"Augmentation.{name} is {value!r}, expected a number between 0 and {limit}")
        for name in ("gain_db", "snr_db", "reverberation_s", "edge_s"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigurationError(f"Augmentation.{name} is {low} to {high}, expected the smaller end first")
            object.__setattr__(self, name, (float(low), float(high)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Augmentation:
        """From the `augment` object of a recipe; unknown names are refused."""
        unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ConfigurationError(f"unknown augmentation {', '.join(sorted(unknown))}")
        return cls(**values)


def rms(wave: np.ndarray) -> float:
    """Root mean square, never below 1e-5 (so that it may divide)."""
    return max(float(np.sqrt(np.mean(np.square(wave), dtype=np.float64))) if len(wave) else 0.0, 1e-5)


def change_gain(wave: np.ndarray, gain_db: float) -> np.ndarray:
    """Scale by a gain, or by less where the peak would leave [-1, 1]."""
    peak = float(np.abs(wave).max(initial=0.0))
    factor = 10.0 ** (gain_db / 20.0)
    return wave * np.float32(min(factor, 0.99 / peak) if peak > 0 else factor)


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast (pitch goes with it): [samples] -> about [samples / factor]."""
    if factor == 1.0 or len(wave) < 2:
        return wave
    import soxr

    return soxr.resample(wave, RATE * factor, RATE, quality="LQ").astype(np.float32, copy=False)


def near_silence(samples: int, rng: np.random.Generator, level_db: float | None = None) -> np.ndarray:
    """Faint white noise (-90 to -55 dB full scale), or plain zeros one time in five."""
    if level_db is None:
        if rng.random() < 0.2:
            return np.zeros(samples, np.float32)
        level_db = float(rng.uniform(-90.0, -55.0))
    return rng.standard_normal(samples, dtype=np.float32) * np.float32(10.0 ** (level_db / 20.0))


def add_noise(wave: np.ndarray, noises: Sequence[np.ndarray], snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add a stretch of one of `noises` (repeated if short) at a ratio of mean powers of `snr_db`."""
    noise = noises[int(rng.integers(len(noises)))]
    if not len(noise) or not len(wave):
        return wave
    start = int(rng.integers(len(noise)))
    if start + len(wave) <= len(noise):
        stretch = noise[start : start + len(wave)]
    else:
        stretch = np.take(noise, np.arange(start, start + len(wave)), mode="wrap")
    return wave + stretch * np.float32(rms(wave) / rms(stretch) * 10.0 ** (-snr_db / 20.0))


def convolve(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Causal convolution by FFT, cut to the length of `wave`."""
    size = 1 << (len(wave) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)


def reverberate(wave: np.ndarray, decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """Put the sound into an artificial room: direct sound, then exponentially decaying noise (Moorer 1979).

    The level stays; the direct sound stays the first sample of the response, so nothing is delayed.
    """
    length = max(2, int(decay_s * RATE))
    response = rng.standard_normal(length).astype(np.float32)
    response *= np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    response[: int(rng.uniform(0.001, 0.01) * RATE)] = 0.0
    direct_to_late_db = float(rng.uniform(0.0, 12.0))
    response *= np.float32(10.0 ** (-direct_to_late_db / 20.0) / max(np.sqrt(np.sum(response**2)), 1e-9))
    response[0] = 1.0
    wet = convolve(wave, response)
    return wet * np.float32(rms(wave) / rms(wet))


def band_limit(wave: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Keep a band, with raised-cosine edges of 100 Hz below and 300 Hz above it."""
    size = 1 << max(len(wave) - 1, 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1.0 / RATE)
    lower = np.clip((hertz - low_hz + 100.0) / 100.0, 0.0, 1.0)
    upper = np.clip((high_hz + 300.0 - hertz) / 300.0, 0.0, 1.0)
    response = 0.25 * (1.0 - np.cos(np.pi * lower)) * (1.0 - np.cos(np.pi * upper))
    return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)


def join(
    waves: Sequence[np.ndarray], rng: np.random.Generator, gap_s: tuple[float, float]
) -> tuple[np.ndarray, list[int]]:
    """One after the other, near-silences of random length between; levels within 6 dB of each other.

    Returns:
        float32 [samples], and the sample at which each begins.
    """
    if len(waves) == 1:
        return waves[0], [0]
    level = rms(waves[0])
    pieces: list[np.ndarray] = []
    starts: list[int] = []
    for i, wave in enumerate(waves):
        if i:
            pieces.append(near_silence(int(rng.uniform(*gap_s) * RATE), rng))
        starts.append(sum(map(len, pieces)))
        target = level * 10.0 ** (float(rng.uniform(-3.0, 3.0)) / 20.0)
        pieces.append(
            wave * np.float32(min(target / rms(wave), 0.99 / max(float(np.abs(wave).max(initial=0.0)), 1e-5)))
        )
    return np.concatenate(pieces), starts


def augment(
    waves: Sequence[np.ndarray],
    settings: Augmentation,
    rng: np.random.Generator,
    noises: Sequence[np.ndarray] = (),
    *,
    gap_s: tuple[float, float] = (0.1, 1.0),
    most_samples_faster: float = 1.0,
    responses: Sequence[np.ndarray] = (),
    placed: list[tuple[int, float]] | None = None,
) -> np.ndarray:
    """Make one training utterance from one or several recordings.

    Args:
        waves: recordings, float32 [samples] each.
        settings: what is done.
        rng: every draw comes from here.
        noises: background recordings; without any, no noise is added.
        gap_s: range of the silence between joined recordings.
        most_samples_faster: the highest speed factor that the length of the text allows.
        responses: impulse responses of simulated rooms; without any, none is used.
        placed: a list to which, for each recording, the sample at which it begins and its speed are added.

    Returns:
        float32 [samples] within [-1, 1].
    """
    speeds = [1.0] * len(waves)
    if settings.speed:
        factors = 1.0 + rng.uniform(-settings.speed, settings.speed, size=len(waves))
        speeds = [min(float(f), most_samples_faster) for f in factors]
        waves = [change_speed(w, f) for w, f in zip(waves, speeds, strict=True)]
    wave, starts = join(waves, rng, gap_s)
    before = 0
    if settings.edge_s[1] > 0:
        before, after = (int(rng.uniform(*settings.edge_s) * RATE) for _ in range(2))
        wave = np.concatenate([near_silence(before, rng), wave, near_silence(after, rng)])
    if placed is not None:
        placed += [(before + start, speed) for start, speed in zip(starts, speeds, strict=True)]
    if responses and settings.rooms and rng.random() < settings.rooms:
        wet = convolve(wave, responses[int(rng.integers(len(responses)))])
        wave = wet * np.float32(rms(wave) / rms(wet))
    elif rng.random() < settings.reverberation:
        wave = reverberate(wave, float(rng.uniform(*settings.reverberation_s)), rng)
    if noises and rng.random() < settings.noise:
        wave = add_noise(wave, noises, float(rng.uniform(*settings.snr_db)), rng)
    if rng.random() < settings.telephone:
        wave = band_limit(wave, float(rng.uniform(50.0, 300.0)), float(rng.uniform(3300.0, 4000.0)))
    if settings.codec and rng.random() < settings.codec:
        # at a level that the codec is used at, whatever the recording's was
        wave = through_codec(change_gain(wave, float(rng.uniform(-6.0, 6.0))), rng)
    return change_gain(wave, float(rng.uniform(*settings.gain_db)))
