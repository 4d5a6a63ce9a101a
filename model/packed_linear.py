"""Linear layers whose weights were put into oneDNN's own order once, for inference on a CPU.

torch gives oneDNN a weight as it lies in memory, and for few rows (one chunk of one stream has 16) oneDNN spends about
half of the time on bringing it into the blocks that it multiplies by. Here that is done once. The operations are those
that torch's own compiler emits for frozen weights; where they are missing or give other numbers, nothing is packed.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import Encoder, FeedForward

logger = logging.getLogger(__name__)

ROWS_HINT = 16
"""Rows for which oneDNN chooses the order; it works with any."""


class PackedLinear(nn.Module):
    """`F.linear` with a packed copy of a layer's weight, and GELU behind it if asked for. No gradients.

    Args:
        linear: whose weight is copied.
        gelu: apply the exact GELU in the same pass.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gelu = linear.in_features, linear.out_features, gelu
        weight = linear.weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
        self._bias = None if linear.bias is None else linear.bias.detach().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        post = "gelu" if self.gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, post, [], "none" if self.gelu else "")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}{', gelu' if self.gelu else ''}"


def _identity(x: Tensor) -> Tensor:
    return x


@lru_cache(maxsize=4)
def packing_works(dtype: torch.dtype) -> bool:
    """Whether packed layers are there in this torch, and give what plain ones give."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        plain = nn.Linear(96, 64).to(dtype)
        x = torch.randn(2, 5, 96, dtype=dtype)
        try:
            got = PackedLinear(plain)(x), PackedLinear(plain, gelu=True)(x)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            logger.debug("no packed linear layers in torch %s: %s", torch.__version__, error)
            return False
        exact = F.linear(x.float(), plain.weight.float(), plain.bias.float())
        allowed = 1e-5 if dtype == torch.float32 else 2e-2
        return all(
            bool((a.float() - b).norm() <= allowed * b.norm()) for a, b in zip(got, (exact, F.gelu(exact)), strict=True)
        )


@torch.no_grad()
def pack_linears(encoder: Encoder) -> int:
    """Exchange the linear layers inside an encoder's layers for packed ones; returns how many.

    The encoder can then be neither trained nor saved.
    """
    count = 0
    for module in list(encoder.layers.modules()):
        gelu = isinstance(module, FeedForward) and module.activation is F.gelu and not module.training
        for name, child in list(module.named_children()):
            # the gate's projection is tiny, and its weights are read elsewhere
            if type(child) is not nn.Linear or name == "gru_rel_pos_linear":
                continue
            fuse = gelu and name == "intermediate_dense"
            setattr(module, name, PackedLinear(child, fuse))
            if fuse:
                unfused: Any = module
                unfused.activation = _identity
            count += 1
    return count
