"""Mean and variance that grow with a stream, so that per-utterance normalisation can stream.

Base checkpoints normalise the first convolution's output over the whole utterance (group norm with one channel a
group), large ones the waveform. Neither is known while a stream runs. Here each hop of 320 samples is normalised
with the statistics of everything up to its own end, and of a prior that stands for two seconds of speech, so
the result depends on the audio alone and not on the sizes of the blocks it came in.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRIOR_CORRELATION = 0.9
"""Correlation of neighbouring samples of the speech-like signal that the prior stands for (16 kHz)."""


def grow(values: Tensor, before: Tensor, first: int, hop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics at the end of each hop, spread over its positions.

    Args:
        values: `[batch, positions, channels]`.
        before: float64 `[batch, 3, channels]`: count, sum and sum of squares up to here (prior included).
        first: positions of the first hop where it is longer (start of a stream), else `hop`.
        hop: positions a hop. `positions` is `first` plus a multiple of it.

    Returns:
        mean and variance, `[batch, positions, channels]` in the dtype of values, and the statistics after each
        hop, float64 `[batch, hops, 3, channels]`.
    """
    batch, positions, channels = values.shape
    exact = values.double()
    powers = torch.stack([torch.ones_like(exact), exact, exact * exact], 2)  # [B, P, 3, C]
    head = powers[:, :first].sum(1, keepdim=True)
    tail = powers[:, first:].reshape(batch, (positions - first) // hop, hop, 3, channels).sum(2)
    after = torch.cat([head, tail], 1).cumsum(1) + before.unsqueeze(1)
    mean = after[:, :, 1] / after[:, :, 0]
    variance = (after[:, :, 2] / after[:, :, 0] - mean * mean).clamp(min=0)

    def spread(x: Tensor) -> Tensor:  # [B, hops, C] -> [B, P, C]
        x = x.to(values.dtype)
        return torch.cat([x[:, :1].expand(-1, first, -1), x[:, 1:].repeat_interleave(hop, 1)], 1)

    return spread(mean), spread(variance), after


def convolution_prior(weight: Tensor, bias: Tensor | None, count: float, rms: float) -> Tensor:
    """What the prior's signal gives behind the first convolution.

    A zero-mean signal of level `rms` whose neighbouring samples correlate by `PRIOR_CORRELATION` has, behind a
    filter w, the variance w' R w with R the correlation matrix.

    Args:
        weight: `[channels, 1, kernel]`.
        bias: `[channels]` or None.
        count: weight of the prior, in positions.
        rms: level in full scale.

    Returns:
        float64 `[3, channels]`: count, sum, sum of squares.
    """
    filters = weight.double().squeeze(1)  # [C, K]
    lag = torch.arange(filters.shape[1], device=weight.device)
    correlation = PRIOR_CORRELATION ** (lag[:, None] - lag).abs().double()
    variance = rms**2 * torch.einsum("ck,kl,cl->c", filters, correlation, filters)
    mean = torch.zeros_like(variance) if bias is None else bias.double()
    return torch.stack([torch.full_like(variance, count), count * mean, count * (variance + mean * mean)])


def waveform_prior(count: float, rms: float, device: torch.device | str) -> Tensor:
    """float64 `[3, 1]`: `count` samples of zero mean and level `rms`."""
    return torch.tensor([[count], [0.0], [count * rms**2]], dtype=torch.float64, device=device)
