"""Utterance mixing (Chen et al. 2021, WavLM, section III-B and algorithm 1): a second voice, or noise, over a part.

In pre-training the labels stay those of the primary speaker: the model learns whose speech to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError


@dataclass(frozen=True)
class Mixing:
    """How often, and how loud, something is mixed in; the defaults are the paper's.

    Raises:
        ConfigurationError: a probability outside 0 to 1, or a range whose ends are swapped.
    """

    probability: float = 0.2
    """Share of the utterances that something is mixed into."""
    noise_probability: float = 0.1
    """Share of those that get noise instead of another utterance."""
    noise_snr_db: tuple[float, float] = (-5.0, 20.0)
    """Primary to noise, ratio of mean powers."""
    speech_snr_db: tuple[float, float] = (-5.0, 5.0)
    """Primary to secondary speaker."""

    def __post_init__(self) -> None:
        for name in ("probability", "noise_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigurationError(f"Mixing.{name} is {getattr(self, name)!r}, expected 0 to 1")
        for name in ("noise_snr_db", "speech_snr_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigurationError(f"Mixing.{name} is {low} to {high}, expected the smaller end first")
            object.__setattr__(self, name, (float(low), float(high)))


@dataclass(frozen=True)
class Mixed:
    """What was mixed into an utterance."""

    secondary: int
    """Row of the batch that it came from; -1: noise."""
    snr_db: float
    start: int
    """First sample of the primary that it covers."""
    length: int
    """Samples covered."""


def mix_at(
    primary: np.ndarray, secondary: np.ndarray, snr_db: float, start: int, secondary_start: int, length: int
) -> np.ndarray:
    """Add a stretch of `secondary` to a stretch of `primary`, float32 [samples] each.

    The scale is sqrt(P_primary / (P_secondary 10^(snr/10))), both powers being means over the whole recordings as
    in algorithm 1; silence is not scaled up and nothing is added.
    """
    power, other = (float(np.mean(np.square(w, dtype=np.float64))) for w in (primary, secondary))
    if other <= 0.0:
        return primary
    scale = np.float32(np.sqrt(power / (other * 10.0 ** (snr_db / 10.0))))
    mixed = primary.copy()
    mixed[start : start + length] += scale * secondary[secondary_start : secondary_start + length]
    return mixed


def mix_one(
    row: int,
    primary: np.ndarray,
    rows: int,
    wave_of: Callable[[int], np.ndarray],
    noises: Sequence[np.ndarray],
    settings: Mixing,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Mixed | None]:
    """Mix into one utterance of a batch, or leave it.

    Args:
        row: its number in the batch.
        primary: its sound, float32 [samples].
        rows: utterances in the batch.
        wave_of: the sound of another row, before any mixing.
        noises: recordings of noise; without any, other rows alone are mixed in.
        settings: how.
        rng: every draw comes from here.

    Returns:
        The sound, and what was mixed in.
    """
    if rng.random() >= settings.probability:
        return primary, None
    if noises and rng.random() < settings.noise_probability:
        source, secondary = -1, noises[int(rng.integers(len(noises)))]
        snr_db = float(rng.uniform(*settings.noise_snr_db))
    elif rows > 1:
        source = int(rng.integers(rows - 1))
        source += source >= row  # any row but this one
        secondary = wave_of(source)
        snr_db = float(rng.uniform(*settings.speech_snr_db))
    else:
        return primary, None
    length = min(int(rng.integers(1, max(2, len(primary) // 2 + 1))), len(secondary))
    start = int(rng.integers(len(primary) - length + 1))
    secondary_start = int(rng.integers(len(secondary) - length + 1))
    mixed = mix_at(primary, secondary, snr_db, start, secondary_start, length)
    return mixed, Mixed(source, snr_db, start, length)
