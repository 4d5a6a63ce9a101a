"""A strided convolution of the front end with its norm and GELU, channels last, for many streams at once.

y[t] = GELU(norm(sum_j W[j] x[t * stride + j] + b)), Chen et al. 2021, section III-A. A stream hands over its inputs in
pieces: the last `kernel - stride` inputs of a piece, its tail, stand before the next piece. Rows find the tail of
their stream by slot, and may have fewer inputs than the widest row.

Registered as `wavlm_live::strided_convolution`. On CUDA it is one Triton kernel (strided_convolution_triton.py);
`reference` below is what it computes, the implementation elsewhere, and wherever gradients or autocast are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import dispatch

NORMS = ("none", "layer", "moments")
KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST_NORM = 1024
"""Channels that one program can hold for the layer norm."""
OP = "strided_convolution"

_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "strided_convolution(Tensor x, Tensor weight, Tensor? bias, int stride, str norm, Tensor? scale, Tensor? shift, "
    "float eps, Tensor? mean, Tensor? variance, int first_hop, int hop, bool gelu, Tensor? tails, Tensor? slots, "
    "Tensor? counts) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def channels_last(weight: Tensor) -> Tensor:
    """The same weight `[outputs, inputs, kernel]`, laid out as the kernel reads it.

    The kernel lays out any other weight anew in each call; callers that keep weights keep them so.
    """
    return weight.transpose(1, 2).contiguous().transpose(1, 2)


def positions_of(inputs: int, kept: int, kernel: int, stride: int) -> int:
    """Outputs of so many inputs behind `kept` ones."""
    return max(0, (kept + inputs - kernel) // stride + 1)


def spread(moments: Tensor, first_hop: int, hop: int) -> Tensor:
    """`[rows, hops, channels]` -> `[rows, positions, channels]`, or `[rows, 1, channels]` where one hop is all."""
    if moments.shape[1] == 1:
        return moments
    return torch.cat([moments[:, :1].expand(-1, first_hop, -1), moments[:, 1:].repeat_interleave(hop, 1)], 1)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    norm: str,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    mean: Tensor | None,
    variance: Tensor | None,
    first_hop: int,
    hop: int,
    gelu: bool,
    tails: Tensor | None,
    slots: Tensor | None,
    counts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The operation in torch's words; arguments as `strided_convolution`, all of them given."""
    kernel = weight.shape[2]
    kept, keep = 0, max(0, kernel - stride)
    if tails is not None:
        kept = tails.shape[1]
        x = torch.cat([tails if slots is None else tails[slots], x], 1)
    if counts is None:
        tail = x[:, x.shape[1] - keep :].clone()
    else:  # each row ends where its own inputs end
        place = (counts + kept - keep)[:, None] + torch.arange(keep, device=x.device)
        tail = x.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, x.shape[2]))
        tail = tail.masked_fill((place < 0)[..., None], 0)
    # A two-dimensional convolution over a channels-last picture of height 1: oneDNN and cuDNN then read and write
    # channels last, and no transposed copy is made for the layer norm that follows.
    picture = x.transpose(1, 2).unsqueeze(2)  # [rows, inputs, 1, positions]
    y = F.conv2d(picture, weight.unsqueeze(2), bias, stride=(1, stride)).squeeze(2).transpose(1, 2)
    if norm == "layer":
        y = F.layer_norm(y, y.shape[-1:], scale, shift, eps)
    elif norm == "moments":
        assert mean is not None
        assert variance is not None
        assert scale is not None
        assert shift is not None
        mean, factor = (spread(part, first_hop, hop) for part in (mean, torch.rsqrt(variance + eps) * scale))
        y = ((y - mean) * factor + shift).to(y.dtype)
    if gelu and torch.is_grad_enabled():
        y = F.gelu(y)
    elif gelu:  # in place: the caller still holds x, and a third large tensor costs fresh pages
        y = torch.ops.aten.gelu_(y)
    if counts is not None:
        ends = torch.arange(y.shape[1], device=y.device) * stride + kernel
        y = y.masked_fill((ends > (counts + kept)[:, None])[..., None], 0)
    return y, tail


def _on_cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    if dispatch.takes_kernel(OP, "cpu"):  # in Triton's interpreter
        return _on_cuda(*arguments)
    y, tail = reference(*arguments)
    return y.contiguous(), tail


def _on_cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from .strided_convolution_triton import launch  # triton is not everywhere

    return launch(*arguments)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *others: Any) -> tuple[Tensor, Tensor]:
    tails, kernel = others[-3], weight.shape[2]
    kept = 0 if tails is None else tails.shape[1]
    return (
        x.new_empty(x.shape[0], (kept + x.shape[1] - kernel) // stride + 1, weight.shape[0]),
        x.new_empty(x.shape[0], max(0, kernel - stride), x.shape[2]),
    )


_library.impl(OP, _on_cpu, "CPU")
_library.impl(OP, _on_cuda, "CUDA")
torch.library.register_fake(f"wavlm_live::{OP}", _fake, lib=_library)


def strided_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int,
    norm: str = "none",
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    moments: tuple[Tensor, Tensor] | None = None,
    first_hop: int = 1,
    hop: int = 1,
    gelu: bool = True,
    tails: Tensor | None = None,
    slots: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve, normalise, activate.

    Args:
        x: `[rows, n, inputs]`, new inputs of each row.
        weight: `[outputs, inputs, kernel]`, best as `channels_last` gives it.
        bias: `[outputs]` or None.
        stride: positions from one output to the next.
        norm: "none"; "layer", over the channels of each position; "moments", with mean and variance as given.
        scale, shift: `[outputs]`, of the norm.
        eps: of the norm.
        moments: mean and variance, float32 (float64 in float64) `[rows, hops, outputs]`. Positions before `first_hop`
            take hop 0, each further `hop` positions the next one; with one hop, all take that one.
        gelu: the exact GELU behind the norm.
        tails: `[slots, kernel - stride, inputs]`, what earlier calls gave back; None at the start of a stream, and
            where the kernel is no wider than the stride.
        slots: int64 `[rows]`, each row's place in `tails`; None: row r has slot r.
        counts: int64 `[rows]`, valid inputs of each row; None: all. What lies behind is not read.

    Returns:
        `[rows, positions, outputs]` with zeros behind a row's end, and its tail for the next call
        `[rows, max(0, kernel - stride), inputs]`.

    Raises:
        ValueError: arguments that do not fit together.
    """
    n, inputs = x.shape[1:]
    outputs, expected, kernel = weight.shape
    kept = 0 if tails is None else tails.shape[1]
    if norm not in NORMS or (norm == "moments") != (moments is not None) or (norm != "none") != (scale is not None):
        raise ValueError(f"norm {norm!r} is one of {', '.join(NORMS)}, with scale and shift, and moments for the last")
    if inputs != expected or (tails is not None and tails.shape[1:] != (max(0, kernel - stride), inputs)):
        raise ValueError(
            f"x has {inputs} channels and tails {None if tails is None else list(tails.shape[1:])}; the weight "
            f"{list(weight.shape)} with stride {stride} needs {expected} channels, tails of {kernel - stride} inputs"
        )
    if kept + n < kernel:
        raise ValueError(f"{kept} + {n} inputs are fewer than the {kernel} of one output; hand over more at once")
    mean, variance = moments if moments is not None else (None, None)
    if mean is not None and mean.shape[1] == 1:
        first_hop = positions_of(n, kept, kernel, stride)  # one hop is all
    arguments = (x, weight, bias, stride, norm, scale, shift, eps, mean, variance, first_hop, hop, gelu)
    if (
        not dispatch.takes_kernel(OP, x.device.type)
        or x.dtype not in KERNEL_TYPES
        or (norm == "layer" and outputs > WIDEST_NORM)
        or dispatch.formula_needed(x, weight, bias, scale, shift, mean, tails)
    ):
        return reference(*arguments, tails, slots, counts)
    return torch.ops.wavlm_live.strided_convolution(*arguments, tails, slots, counts)
