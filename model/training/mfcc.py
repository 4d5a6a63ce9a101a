"""Mel cepstra with first and second differences, one vector for each frame of the encoder."""

from __future__ import annotations

import functools

import numpy as np

from .manifest import HOP, WINDOW, frames_of

RATE, SIZE = 16000, 512
FILTERS, CEPSTRA = 40, 13


@functools.cache
def mel_filters(filters: int = FILTERS, size: int = SIZE, low_hz: float = 20.0, high_hz: float = 7600.0) -> np.ndarray:
    """Triangles of equal width on the mel scale 2595 log10(1 + f / 700): float64 [size / 2 + 1, filters]."""

    def mel(hertz: float) -> float:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(mel(low_hz), mel(high_hz), filters + 2) / 2595.0) - 1.0)
    hertz = np.fft.rfftfreq(size, 1.0 / RATE)[:, None]
    rising = (hertz - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


@functools.cache
def _cosines() -> np.ndarray:
    """The orthonormal DCT of type II: [filters, cepstra]."""
    n, k = np.arange(FILTERS)[:, None], np.arange(CEPSTRA)[None]
    basis = np.sqrt(2.0 / FILTERS) * np.cos(np.pi * (n + 0.5) * k / FILTERS)
    basis[:, 0] /= np.sqrt(2.0)
    return basis


def differences(features: np.ndarray, reach: int = 2) -> np.ndarray:
    """Slope of each feature over the neighbouring frames by least squares: [frames, dim] -> [frames, dim]."""
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    frames = len(features)
    total = np.zeros_like(features)
    for n in range(1, reach + 1):
        total += n * (padded[reach + n : reach + n + frames] - padded[reach - n : reach - n + frames])
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


def mfcc(wave: np.ndarray) -> np.ndarray:
    """Features of a recording: float32 [samples] at 16 kHz -> float32 [frames, 39].

    Windows of 400 samples every 320, so that row t belongs to frame t of the encoder; Hann window, power spectrum,
    40 mel filters, logarithm, cosine transform; then the differences and their differences. Less than 400 samples
    give no row.
    """
    frames = frames_of(len(wave))
    if not frames:
        return np.zeros((0, 3 * CEPSTRA), np.float32)
    at = np.arange(frames)[:, None] * HOP + np.arange(WINDOW)[None]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(wave[at] * hann, SIZE)) ** 2
    cepstra = np.log(np.maximum(power @ mel_filters(), 1e-10)) @ _cosines()
    slopes = differences(cepstra)
    return np.concatenate([cepstra, slopes, differences(slopes)], axis=1).astype(np.float32)
