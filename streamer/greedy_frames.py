"""`GreedyFrames`: what greedy decoding reads of some frames, in place of all their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class GreedyFrames:
    """The best output of each frame, its probability and that of silence, as the device found them.

    Segmenters and greedy decoders ask log-probabilities `[frames, labels]` for nothing else, and so may be given this:
    it answers what they ask in numpy's words. A beam needs all outputs.
    """

    tokens: np.ndarray
    """int64 `[frames]`: the best outputs."""
    best: np.ndarray
    """float32 `[frames]`: their natural log-probabilities."""
    silent: np.ndarray
    """float32 `[frames]`: the probability that a frame says nothing, of the blank and the delimiter together."""
    labels: int
    """Outputs of the model."""
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Of the log-probabilities that it stands for."""
        return len(self.tokens), self.labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> GreedyFrames:
        return GreedyFrames(self.tokens[part], self.best[part], self.silent[part], self.labels)

    def argmax(self, axis: int) -> np.ndarray:
        """The best outputs."""
        assert axis == 1
        return self.tokens

    def max(self, axis: int) -> np.ndarray:
        """Their log-probabilities."""
        assert axis == 1
        return self.best


def greedy_rows(values: np.ndarray, frames: Sequence[int], labels: int) -> list[GreedyFrames]:
    """What a greedy static step fetched, stream by stream.

    Args:
        values: float32 `[rows, frames, token + log-probability + silence...]`; rows that are not asked for may follow.
        frames: of each row, its frames.
        labels: outputs of the model.
    """
    values = values[: len(frames)]
    tokens, best, silent = values[..., 0].astype(np.int64), values[..., 1].copy(), values[..., 2:].sum(-1)
    return [GreedyFrames(tokens[n, :f], best[n, :f], silent[n, :f], labels) for n, f in enumerate(frames)]
