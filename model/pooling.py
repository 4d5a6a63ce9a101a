"""From many layers to one, and from many frames to one vector: the pooling of the classification heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import AudioError


def weighted_layer_sum(hidden_states: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The learned average of all layers (Yang et al. 2021, SUPERB, section 3).

    Args:
        hidden_states: the input of the encoder and the output of each layer, each `[batch, frames, dim]`.
        weights: one a state, `[states]`, before the softmax.

    Returns:
        `[batch, frames, dim]`. The sum is formed state by state, without a stack of all of them.

    Raises:
        ValueError: not as many weights as states.
    """
    if len(hidden_states) != weights.numel():
        raise ValueError(f"{len(hidden_states)} hidden states came with {weights.numel()} weights, expected one each")
    shares = torch.softmax(weights, dim=-1)
    total = hidden_states[0] * shares[0]
    for state, share in zip(hidden_states[1:], shares[1:], strict=True):
        total = total + state * share
    return total


def masked_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid frames; what the others hold, NaN included, does not matter.

    Args:
        hidden: `[batch, frames, dim]`.
        mask: bool `[batch, frames]`, True where valid, at least one a row; None means all.

    Returns:
        `[batch, dim]`.
    """
    if mask is None:
        return hidden.mean(dim=1)
    valid = mask.unsqueeze(-1)
    return hidden.masked_fill(~valid, 0.0).sum(dim=1) / valid.sum(dim=1)


def statistics_pooling(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean and unbiased standard deviation over the valid frames (Snyder et al. 2018, section 2.1).

    A channel that does not vary, as often behind a ReLU, has deviation 0 and, as in torch, gradient 0.

    Args:
        hidden: `[batch, frames, dim]`.
        lengths: valid frames of each row, int64 `[batch]`, cut to `frames`; None means all.

    Returns:
        `[batch, 2 * dim]`, means first.

    Raises:
        AudioError: a row has fewer than two valid frames, from which no deviation follows.
    """
    frames = hidden.shape[1]
    if lengths is None:
        valid = [frames] * hidden.shape[0]
    else:
        valid = [min(frames, int(n)) for n in lengths]
    for row, count in enumerate(valid):
        if count < 2:
            raise AudioError(
                f"row {row} of the batch has {max(0, count)} frames to pool, expected at least 2 for a standard "
                "deviation; give longer recordings"
            )
    if lengths is None:
        return torch.cat([hidden.mean(dim=1), hidden.std(dim=1)], dim=-1)
    # Row by row: a deviation from masked sums would not be exactly 0 for a channel that does not vary, and its
    # gradient then is noise of any size.
    rows = [hidden[row, :count] for row, count in enumerate(valid)]
    return torch.stack([torch.cat([row.mean(dim=0), row.std(dim=0)]) for row in rows])
