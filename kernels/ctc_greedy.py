"""The greedy half of a CTC head: the best output of every frame and how probable it is, without the logits.

Graves et al. 2006, section 3.2 (best path): what a greedy decoder reads of a frame is the output with the largest
posterior, that posterior, and the posteriors of the outputs that say nothing.

Registered as `wavlm_live::ctc_greedy`. On CUDA it is one Triton kernel (ctc_greedy_triton.py) that projects, compares
and sums block by block of the vocabulary; `reference` below is what it computes, and the implementation elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import dispatch
from .strided_convolution import KERNEL_TYPES

OP = "ctc_greedy"
MOST_SILENT = 2
"""Outputs whose probability can be asked for."""

_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "ctc_greedy(Tensor hidden, Tensor weight, Tensor? bias, int[] silent) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


class Greedy(NamedTuple):
    """What `ctc_greedy` finds for every frame."""

    token: Tensor
    """int64 `[...]`: the best output, the first of equals."""
    best: Tensor
    """float32 `[...]`: its natural log-probability."""
    silent: Tensor
    """float32 `[..., len(silent)]`: probabilities of the outputs asked for."""


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, silent: Sequence[int]) -> tuple[Tensor, ...]:
    """The operation in torch's words; arguments as `ctc_greedy`."""
    logits = F.linear(hidden, weight, bias).float()
    total = logits.logsumexp(-1)
    best, index = logits.max(-1)
    quiet = torch.stack([logits[..., i] for i in silent], -1) - total[..., None]
    return index, best - total, quiet.exp()


def _on_cpu(hidden: Tensor, weight: Tensor, bias: Tensor | None, silent: list[int]) -> tuple[Tensor, ...]:
    if dispatch.takes_kernel(OP, "cpu"):  # in Triton's interpreter
        return _on_cuda(hidden, weight, bias, silent)
    return reference(hidden, weight, bias, silent)


def _on_cuda(*arguments: Any) -> tuple[Tensor, ...]:
    from .ctc_greedy_triton import launch  # triton is not everywhere

    return launch(*arguments)


def _fake(hidden: Tensor, weight: Tensor, bias: Tensor | None, silent: list[int]) -> tuple[Tensor, ...]:
    shape = hidden.shape[:-1]
    return (
        hidden.new_empty(shape, dtype=torch.int64),
        hidden.new_empty(shape, dtype=torch.float32),
        hidden.new_empty((*shape, len(silent)), dtype=torch.float32),
    )


_library.impl(OP, _on_cpu, "CPU")
_library.impl(OP, _on_cuda, "CUDA")
torch.library.register_fake(f"wavlm_live::{OP}", _fake, lib=_library)


def ctc_greedy(hidden: Tensor, weight: Tensor, bias: Tensor | None, silent: Sequence[int]) -> Greedy:
    """Project, and keep the best output alone. No gradient: the best output has none.

    Args:
        hidden: `[..., hidden]`.
        weight: `[vocabulary, hidden]`.
        bias: `[vocabulary]` or None.
        silent: one or two outputs whose probabilities are wanted: the blank, and the delimiter of words.

    Raises:
        ValueError: outputs that do not exist, or too many of them.
    """
    silent = list(silent)
    if not 1 <= len(silent) <= MOST_SILENT or not all(0 <= i < weight.shape[0] for i in silent):
        raise ValueError(f"silent is {silent}, expected 1 to {MOST_SILENT} outputs from 0 to {weight.shape[0] - 1}")
    with torch.no_grad():
        kernel = dispatch.takes_kernel(OP, hidden.device.type) and hidden.dtype in KERNEL_TYPES
        if not kernel or dispatch.formula_needed(hidden):
            return Greedy(*reference(hidden, weight, bias, silent))
        return Greedy(*torch.ops.wavlm_live.ctc_greedy(hidden, weight, bias, silent))
