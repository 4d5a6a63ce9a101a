"""The grouped convolution of WavLM's position over kept and new frames, with bias and GELU.

y[t] = GELU(b + sum_j W[j] x[t + j - K // 2]) with frames that a row does not have counting as zeros: a kernel K reads
K // 2 frames to the left and K - 1 - K // 2 to the right. In a stream the frames to the left are the last committed
ones, kept by slot; to the right there is only what the step may see.

Registered as `wavlm_live::position_convolution`. On CUDA it is one Triton kernel (position_convolution_triton.py);
`reference` below is what it computes, the implementation elsewhere, and wherever gradients or autocast are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import dispatch
from .strided_convolution import KERNEL_TYPES

OP = "position_convolution"

_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "position_convolution(Tensor x, Tensor weight, Tensor? bias, int groups, bool gelu, Tensor? kept, Tensor? slots, "
    "Tensor? known, Tensor? counts) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    gelu: bool,
    kept: Tensor | None,
    slots: Tensor | None,
    known: Tensor | None,
    counts: Tensor | None,
) -> Tensor:
    """The operation in torch's words; arguments as `position_convolution`, all of them given."""
    frames, kernel, held = x.shape[1], weight.shape[2], 0
    before, ended = kernel // 2, None
    if counts is not None:
        ended = (torch.arange(frames, device=x.device) >= counts[:, None])[..., None]
        x = x.masked_fill(ended, 0)
    if kept is not None:
        held = kept.shape[1]
        kept = kept if slots is None else kept[slots]
        if known is not None:
            age = torch.arange(held, 0, -1, device=x.device)  # 1 for the newest
            kept = kept.masked_fill((age > known[:, None])[..., None], 0)
        x = torch.cat([kept, x], 1)
    # taps that meet nothing but zeros in every frame are left out: a third of them in a short step
    first = max(0, before - held - (frames - 1))
    last = min(kernel, before + frames)
    window = F.pad(x.transpose(1, 2), (before - first - held, last - 1 - before))
    y = F.conv1d(window, weight[:, :, first:last], bias, groups=groups).transpose(1, 2)
    if gelu:
        y = F.gelu(y)
    return y if ended is None else y.masked_fill(ended, 0)


def _on_cpu(*arguments: Any) -> Tensor:
    if dispatch.takes_kernel(OP, "cpu"):  # in Triton's interpreter
        return _on_cuda(*arguments)
    return reference(*arguments).contiguous()


def _on_cuda(*arguments: Any) -> Tensor:
    from .position_convolution_triton import launch  # triton is not everywhere

    return launch(*arguments)


def _fake(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


_library.impl(OP, _on_cpu, "CPU")
_library.impl(OP, _on_cuda, "CUDA")
torch.library.register_fake(f"wavlm_live::{OP}", _fake, lib=_library)


def position_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    groups: int,
    gelu: bool = True,
    kept: Tensor | None = None,
    slots: Tensor | None = None,
    known: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The position of every new frame.

    Args:
        x: `[rows, frames, hidden]`, new frames of each row.
        weight: `[hidden, hidden / groups, kernel]`, best as `strided_convolution.channels_last` gives it.
        bias: `[hidden]` or None.
        groups: groups of channels.
        gelu: the exact GELU behind it.
        kept: `[slots, held, hidden]`, frames before the new ones, the newest last; None: there are none.
        slots: int64 `[rows]`, each row's place in `kept`; None: row r has slot r.
        known: int64 `[rows]`, how many of the newest kept frames count; the others are not read. None: all.
        counts: int64 `[rows]`, valid new frames; None: all. What lies behind is not read.

    Returns:
        `[rows, frames, hidden]`, zeros behind a row's end.

    Raises:
        ValueError: shapes that do not fit together.
    """
    hidden = x.shape[-1]
    if weight.shape[:2] != (hidden, hidden // groups) or (kept is not None and kept.shape[2] != hidden):
        raise ValueError(
            f"frames of {hidden} channels in {groups} groups need a weight [{hidden}, {hidden // groups}, kernel], it "
            f"is {list(weight.shape)}" + ("" if kept is None else f"; kept frames are {list(kept.shape)}")
        )
    if x.shape[1] == 0:
        return x.new_empty(x.shape)
    arguments = (x, weight, bias, groups, gelu, kept, slots, known, counts)
    if (
        not dispatch.takes_kernel(OP, x.device.type)
        or x.dtype not in KERNEL_TYPES
        or dispatch.formula_needed(x, weight, bias, kept)
    ):
        return reference(*arguments)
    return torch.ops.wavlm_live.position_convolution(*arguments)
