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
    """Statistics at the end of each hop.

    Args:
        values: `[batch, positions, channels]`.
        before: float64 `[batch, 3, channels]`: count, sum and sum of squares up to here (prior included).
        first: positions of the first hop where it is longer (start of a stream), else `hop`.
        hop: positions a hop. `positions` is `first` plus a multiple of it.

    Returns:
        float64: mean and variance `[batch, hops, channels]`, and the statistics after each hop
        `[batch, hops, 3, channels]`.
    """
    exact = values.double()
    powers = torch.stack([torch.ones_like(exact), exact, exact * exact], 2)  # [B, P, 3, C]
    head, tail = _hops(powers, first, hop)
    return _moments(torch.cat([head.sum(2), tail.sum(2)], 1), before)


def grow_convolved(
    values: Tensor, weight: Tensor, bias: Tensor | None, stride: int, before: Tensor, first: int, hop: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`grow` for what a convolution with one input channel makes of its inputs, without making it.

    Args:
        values: `[batch, inputs, 1]`.
        weight: `[channels, 1, kernel]`.
        bias: `[channels]` or None.
        stride: of the convolution.
        before, first, hop: as for `grow`, positions counted behind the convolution.

    Returns:
        As `grow`.
    """
    parts = _hops(_windows(values, weight, stride), first, hop)
    return _moments(torch.cat([convolved_sums(part, weight, bias) for part in parts], 1), before)


def convolved_sums(windows: Tensor, weight: Tensor, bias: Tensor | None, inside: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares of a convolution's outputs, from the windows that it reads.

    With u the sum of the windows and R the sum of their outer products, the outputs w.x + b of a filter w sum up to
    w.u + n b, and their squares to w'Rw + 2 b w.u + n b b: a matrix of kernel x kernel takes the place of outputs
    of hundreds of channels.

    Args:
        windows: float64 `[..., positions, kernel]`.
        weight: `[channels, 1, kernel]`.
        bias: `[channels]` or None.
        inside: bool `[..., positions]`, positions that count; None: all.

    Returns:
        float64 `[..., 3, channels]`.
    """
    filters = weight.double().squeeze(1)  # [C, k]
    if inside is None:
        count = windows.new_full(windows.shape[:-2], windows.shape[-2])[..., None]
    else:
        windows = windows.masked_fill(~inside[..., None], 0)
        count = inside.sum(-1, keepdim=True)
    total = windows.sum(-2) @ filters.t()
    products = (windows.transpose(-1, -2) @ windows).flatten(-2)  # [..., k * k]
    square = products @ (filters[:, :, None] * filters[:, None, :]).flatten(1).t()
    if bias is not None:
        b = bias.double()
        square = square + 2 * b * total + count * b * b
        total = total + count * b
    return torch.stack([count.expand_as(total), total, square], -2)


def convolved_moments(
    values: Tensor, weight: Tensor, bias: Tensor | None, stride: int, counts: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the outputs of a convolution with one input channel over whole rows.

    Args:
        values: `[batch, inputs, 1]`.
        weight, bias, stride: of the convolution.
        counts: int64 `[batch]`, positions of each row that count, at least one; None: all.
        block: positions worked off at once.

    Returns:
        float64 `[batch, 1, channels]` each.
    """
    windows = _windows(values, weight, stride)
    sums = values.new_zeros((), dtype=torch.float64)
    for start in range(0, windows.shape[1], block):
        part = windows[:, start : start + block]
        inside = None
        if counts is not None:
            inside = torch.arange(start, start + part.shape[1], device=values.device) < counts[:, None]
        sums = sums + convolved_sums(part, weight, bias, inside)
    mean, variance, _ = _moments(sums.unsqueeze(1), torch.zeros_like(sums))
    return mean, variance


def _hops(x: Tensor, first: int, hop: int) -> tuple[Tensor, Tensor]:
    """`[batch, positions, ...]` as the first hop `[batch, 1, first, ...]` and the others `[batch, hops, hop, ...]`."""
    hops = (x.shape[1] - first) // hop
    return x[:, None, :first], x[:, first:].reshape(x.shape[0], hops, hop, *x.shape[2:])


def _windows(values: Tensor, weight: Tensor, stride: int) -> Tensor:
    """What each output reads, float64 `[batch, positions, kernel]`."""
    return values.squeeze(-1).double().unfold(1, weight.shape[2], stride)


def _moments(powers: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of each hop, float64 `[batch, hops, 3, channels]` -> mean, variance and sums after each hop."""
    after = powers.cumsum(1) + before.unsqueeze(1)
    mean = after[:, :, 1] / after[:, :, 0]
    return mean, (after[:, :, 2] / after[:, :, 0] - mean * mean).clamp(min=0), after


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
