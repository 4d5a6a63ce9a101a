"""`Calibration`: what a decoder's confidence has to become so that it is the share of words that are right.

A confidence c is mapped by `sigmoid(scale * logit(c) + letters * logit(l) + shift)` (Platt 1999). `1 / scale` is the
temperature of its odds. With a beam, c is the share of the beam that says the word, and l the geometric mean of its
letters' probabilities: the beam has room for few of the texts of a long segment, so its shares alone promise too much.
`shift` takes account of what the decoder never sees, such as words that the model does not know. All are learned on
recordings with known text, for each model and decoder; see `benchmarks/tune_decoding.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..model.errors import ConfigurationError

LEAST_DOUBT = 1e-6
"""Confidences nearer to 0 or 1 count as this near: a model's last digits do not tell anything about its errors."""


@dataclass(frozen=True)
class Calibration:
    """A rising function from confidences to confidences.

    Raises:
        ConfigurationError: a factor below 0, or numbers that are not finite.
    """

    scale: float = 1.0
    """Factor of the logarithm of the odds."""
    shift: float = 0.0
    """Added to it."""
    letters: float = 0.0
    """Factor of the logarithm of the odds of the letters."""

    def __post_init__(self) -> None:
        for name in ("scale", "letters"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"Calibration.{name} is {value!r}, expected a number from 0")
        if not math.isfinite(self.shift):
            raise ConfigurationError(f"Calibration.shift is {self.shift!r}, expected a number")

    def __call__(self, confidence: float, letters: float = 0.5) -> float:
        """The calibrated confidence, 0 to 1; never lower for a higher one.

        Args:
            confidence: of a decoder; what lies outside 0 to 1 by rounding counts as 0 or 1.
            letters: geometric mean of the letters' probabilities, where that is something else.
        """
        if self == UNCALIBRATED:
            return min(1.0, max(0.0, confidence))
        odds = self.scale * logit(confidence) + self.shift
        return _sigmoid(odds + self.letters * logit(letters) if self.letters else odds)


UNCALIBRATED = Calibration()
"""Leaves confidences as they are."""


def logit(confidence: float) -> float:
    """Natural logarithm of the odds, of confidences no nearer to 0 or 1 than `LEAST_DOUBT`."""
    p = min(1.0 - LEAST_DOUBT, max(LEAST_DOUBT, confidence))
    return math.log(p) - math.log1p(-p)


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)
