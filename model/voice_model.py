"""`VoiceModel`: whether speech is of one voice or of two, by how vectors of one voice lie and how voices do.

Two-covariance PLDA (Ioffe 2006; Brummer and de Villiers 2010): the vector of a stretch of speech is a voice's own, plus
what varies from stretch to stretch, both Gaussian. What a cosine cannot know is part of the answer: how long was
listened to, and in which directions voices differ more than what one person says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from .errors import ConfigurationError

STRETCH_FRAMES = 75
"""Frames of speech of the stretches that the model is made from, and which count as one observation: a second and a
half."""
COUNTED = 0.5
"""Share of the evidence that counts: what is said in one conversation is not independent."""


class VoiceModel(nn.Module):
    """How vectors of length 1 lie, `[dim]`.

    In the directions of `matrix` a stretch is its voice plus noise of variance 1, and voices vary by `between`.

    Args:
        dim: numbers of a vector.
    """

    centre: torch.Tensor
    """Mean of all voices, `[dim]`."""
    matrix: torch.Tensor
    """`[kept, dim]`."""
    between: torch.Tensor
    """`[kept]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("between", torch.ones(dim))

    @cached_property
    def typical_length(self) -> float:
        """Of the mean of a voice's vectors of length 1, which point in different directions."""
        centre, matrix, between = self._numbers
        back = np.linalg.pinv(matrix)
        return float(np.sqrt(centre @ centre + np.einsum("dk,k,dk->", back, between, back)))

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, matrix and variances as streams compute with them, on the host; asked for once the model is there."""
        centre, matrix, between = (t.cpu().double().numpy() for t in (self.centre, self.matrix, self.between))
        return centre, matrix, between

    def observed(self, total: np.ndarray, frames: int) -> Observed:
        """What was heard of somebody.

        Args:
            total: sum of vectors of length 1, each times its frames of speech, `[dim]`.
            frames: of speech, all together.
        """
        weight = COUNTED * frames / STRETCH_FRAMES
        centre, matrix, between = self._numbers
        along = matrix @ (total / max(1, frames) - centre) * np.sqrt(between)
        return Observed(weight * along, weight * between)

    @classmethod
    def of(cls, vectors: np.ndarray, names: Sequence[str], shrinkage: float = 0.6) -> VoiceModel:
        """The model of vectors whose voices are known.

        Args:
            vectors: of length 1, `[vectors, dim]`, of stretches of `STRETCH_FRAMES`.
            names: whose they are.
            shrinkage: share of the mean variance in what varies within a voice; the rest is as it was observed.

        Raises:
            ConfigurationError: fewer than two voices with three vectors.
        """
        own = np.array(names)
        groups = [g for name in sorted(set(names)) if len(g := vectors[own == name].astype(np.float64)) >= 3]
        if len(groups) < 2:
            raise ConfigurationError(
                f"{len(groups)} voices have three stretches of {STRETCH_FRAMES} frames of speech, expected at least 2"
            )
        rest = np.concatenate([g - g.mean(axis=0) for g in groups])
        within = rest.T @ rest / (len(rest) - len(groups))
        dim = len(within)
        within = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
        means = np.stack([g.mean(axis=0) for g in groups])
        # whitened by what varies within a voice, then turned to where voices differ most
        variances, axes = np.linalg.eigh(within)
        whitening = (axes / np.sqrt(variances)).T
        between, turned = np.linalg.eigh(whitening @ np.cov(means.T) @ whitening.T)
        order = np.argsort(-between)
        model = cls(dim)
        model.centre.copy_(torch.from_numpy(np.concatenate(groups).mean(axis=0)))
        model.matrix = torch.from_numpy(turned[:, order].T @ whitening).float()
        model.between = torch.from_numpy(np.maximum(between[order], 1e-3)).float()
        return model


class Observed:
    """What was heard of somebody, in the terms of a `VoiceModel`.

    Args:
        along: sums in each direction, in units in which a voice has the variance 1, `[kept]`.
        precision: of what is known from them, `[kept]`.
    """

    def __init__(self, along: np.ndarray, precision: np.ndarray) -> None:
        self.along, self.precision = along, precision

    @property
    def evidence(self) -> float:
        """Logarithm of how likely one voice says this, up to what does not depend on whose it is."""
        spread = 1 + self.precision
        return 0.5 * float((self.along**2 / spread - np.log(spread)).sum())

    def with_(self, other: Observed) -> Observed:
        """Both, of one voice."""
        return Observed(self.along + other.along, self.precision + other.precision)

    def same(self, other: Observed) -> float:
        """Natural logarithm of how much likelier both are of one voice than of two."""
        return self.with_(other).evidence - self.evidence - other.evidence
