"""Any sample rate to 16 000 Hz, block by block, with soxr's stream resampler."""

from __future__ import annotations

import math

import numpy as np
import soxr

from ...model.errors import AudioError, StreamError
from .base import SAMPLE_RATE

LOWEST_RATE = 1_000
HIGHEST_RATE = 1_536_000
"""Rates outside these bounds are taken for a damaged header."""


class StreamResampler:
    """Resamples one mono stream; however it is cut into blocks, the samples that come out are the same.

    The output lines up with the input: sample n lies at n / 16000 seconds. soxr holds samples back until its
    filter is full, about 40 ms at 44 100 and 48 000 Hz and up to 120 ms at 8 000 Hz; `finish` hands out the
    rest, so that nothing is lost. At 16 000 Hz samples pass through untouched and at once.

    Args:
        rate: of the samples that come, in Hz.

    Raises:
        AudioError: the rate is not one that sound has.
    """

    def __init__(self, rate: float) -> None:
        if not math.isfinite(rate) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(f"a sample rate of {rate} Hz came, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        self.rate = rate
        self._finished = False
        self._soxr = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Samples `[n]` at the input rate; those that are ready at 16 000 Hz come back, `[m]`, m may be 0.

        Raises:
            StreamError: the stream was finished before.
        """
        if self._finished:
            raise StreamError("samples came after the resampler was finished: use a new one for a new stream")
        return self._convert(samples, last=False)

    def finish(self) -> np.ndarray:
        """The samples still held back; empty when called again."""
        if self._finished:
            return np.zeros(0, np.float32)
        self._finished = True
        return self._convert(np.zeros(0, np.float32), last=True)

    def _convert(self, samples: np.ndarray, last: bool) -> np.ndarray:
        samples = np.asarray(samples, np.float32)
        if self._soxr is None:
            return samples
        # The low-pass filter rings beyond full scale at steep edges.
        return self._soxr.resample_chunk(samples, last=last).clip(-1, 1)
