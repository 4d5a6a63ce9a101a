"""The activations a configuration may name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a name in `config.ACTIVATIONS`; "gelu" is the exact one, by the error function."""
    return {"gelu": F.gelu, "gelu_new": _gelu_new, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}[name]
