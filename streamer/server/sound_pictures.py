"""Pictures of sound for those who look on: peaks of the waveform, and columns of a spectrogram.

The spectrogram is the dashboard's own (`web/spectrum.js`), so that a session of somebody else looks like one's own.
"""

from __future__ import annotations

import numpy as np

from ..events import SAMPLE_RATE

HOP_SAMPLES = 160
"""From one column to the next: 10 ms."""
WINDOW_SAMPLES = 512
"""Of a Fourier transform: 32 ms, the end of which is the end of the column."""
BANDS = 56
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
QUIET_DB, LOUD_DB = -85.0, -15.0


def peaks_of(samples: np.ndarray) -> list[float]:
    """The lowest and the highest sample of each 10 ms, in turn.

    Args:
        samples: `[n * 160]`.
    """
    rows = samples.reshape(-1, HOP_SAMPLES)
    return np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1).ravel().astype(float).round(3).tolist()


def bands_of(samples: np.ndarray) -> np.ndarray:
    """Loudness of mel bands, uint8 `[n, 56]`, low bands first: 0 is -85 dB of a full-scale sine, 255 is -15 dB.

    Args:
        samples: float32 `[352 + n * 160]`: the first 352 are the past of the first column.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]  # [n, 512]
    spectrum = np.fft.rfft(windows * _HANN)
    power = np.square(spectrum.real) + np.square(spectrum.imag)  # [n, 257]
    loudest = power[:, _BINS].max(axis=2)  # [n, 56]
    db = 10 * np.log10(loudest / (WINDOW_SAMPLES / 4) ** 2 + 1e-12)
    return np.rint(255 * np.clip((db - QUIET_DB) / (LOUD_DB - QUIET_DB), 0, 1)).astype(np.uint8)


def _bins() -> np.ndarray:
    """Bins of the Fourier transform that each band is the largest of, `[56, most]`; the last one is repeated."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))  # O'Shaughnessy's mel scale
    hz = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1)
    edges = hz * WINDOW_SAMPLES / SAMPLE_RATE
    first = np.floor(edges[:-1]).astype(int)
    last = np.maximum(first, np.ceil(edges[1:]).astype(int) - 1)
    return np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])


_HANN = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)).astype(np.float32)
_BINS = _bins()
