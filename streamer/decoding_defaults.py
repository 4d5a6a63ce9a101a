"""`DecodingDefaults`: the numbers of decoding that suit a model, from the file `decoding.json` beside its weights.

They are found on recordings with known text (`benchmarks/tune_decoding.py` writes the file), since how much a language
model should count, or how sure a confidence is, depends on the model whose outputs are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..model.errors import CheckpointError
from ..model.folders import read_json

GENERAL: Mapping[str, float] = MappingProxyType(
    {
        "token_cutoff": 8.0,
        "beam_cutoff": 14.0,
        "lm_weight": 0.5,
        "word_score": 1.0,
        "unknown_penalty": 6.0,
        "prior_weight": 0.0,
        "confidence_temperature": 1.0,
        "confidence_scale": 1.0,
        "confidence_shift": 0.0,
        "confidence_letters": 0.0,
    }
)
"""For models that say nothing of their own. Every field of `DecodingSettings` that may be None is here."""
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "token_cutoff": (0.0, math.inf),
        "beam_cutoff": (0.0, math.inf),
        "lm_weight": (0.0, 10.0),
        "word_score": (-20.0, 20.0),
        "unknown_penalty": (0.0, 100.0),
        "prior_weight": (0.0, 2.0),
        "confidence_temperature": (1e-3, 100.0),
        "confidence_scale": (0.0, 100.0),
        "confidence_shift": (-20.0, 20.0),
        "confidence_letters": (0.0, 100.0),
    }
)
SECTIONS = ("greedy", "beam", "language_model")
"""Ways to decode: greedily, by a beam, by a beam with a language model."""
PRIOR, LEAST_PRIOR = "prior", -100.0
FILE = "decoding.json"


@dataclass(frozen=True)
class DecodingDefaults:
    """Numbers by the way to decode; what is not named is `GENERAL`."""

    sections: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    prior: Mapping[str, float] = field(default_factory=dict)
    """Natural logarithm of the mean probability that the model gives each token, blank and delimiter among them."""

    def get(self, section: str) -> dict[str, float]:
        """All numbers of one of `SECTIONS`."""
        return {**GENERAL, **self.sections.get(section, {})}


def read_defaults(path: Path | None) -> DecodingDefaults:
    """The defaults of a model.

    Args:
        path: of its `decoding.json`; None: it has none.

    Raises:
        CheckpointError: an unknown section or number, or a value that cannot be; the message names it. Whether the
            prior's tokens are the model's is for `alphabet_of` to say.
    """
    if path is None:
        return DecodingDefaults()
    found = read_json(path)
    for section, numbers in found.items():
        if section not in (*SECTIONS, PRIOR) or not isinstance(numbers, dict):
            raise CheckpointError(f"{path} has {section!r}, expected objects named {', '.join((*SECTIONS, PRIOR))}")
        for name, value in numbers.items():
            if section != PRIOR and name not in GENERAL:
                raise CheckpointError(f"{path}: {section} has {name!r}, expected some of {', '.join(GENERAL)}")
            low, high = (LEAST_PRIOR, 0.0) if section == PRIOR else RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise CheckpointError(
                    f"{path}: {section}.{name} is {value!r}, expected a number from {low:g} to {high:g}"
                )
    return DecodingDefaults({name: found[name] for name in found if name != PRIOR}, found.get(PRIOR, {}))
