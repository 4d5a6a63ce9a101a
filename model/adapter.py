"""The optional adapter after the encoder: strided convolutions that shorten the sequence of frames.

Each layer is a convolution to twice the width and a gated linear unit (Dauphin et al. 2017), as in the speech
translation models of Li et al. 2021 ("Multilingual speech translation with efficient finetuning"); names and
arithmetic are those of transformers' `WavLMAdapter`. A layer sees frames to its right, so a model with an
adapter does not stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import WavLMConfig

_PADDING = 1
"""Zeros at either end of every convolution, whatever its kernel (as in transformers)."""


class WavLMAdapter(nn.Module):
    """`[batch, frames, hidden_size]` to `[batch, fewer frames, output_hidden_size]`.

    Parameters: `proj` and `proj_layer_norm`, where the widths differ, and `layers.{i}.conv`.
    """

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        width = config.output_hidden_size
        assert width is not None  # the configuration fills it in
        self.proj: nn.Linear | None = None
        self.proj_layer_norm: nn.LayerNorm | None = None
        if width != config.hidden_size:
            self.proj = nn.Linear(config.hidden_size, width)
            self.proj_layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            AdapterLayer(width, config.adapter_kernel_size, config.adapter_stride)
            for _ in range(config.num_adapter_layers)
        )
        self.stride = config.adapter_stride
        self.layerdrop = config.layerdrop

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames after the adapter for rows of so many frames before it, integers of any shape.

        This is transformers' formula, that of a kernel of 3 whatever `adapter_kernel_size` says. A wider
        kernel gives fewer frames, so a caller bounds the result by the frames it has.
        """
        for _ in self.layers:
            lengths = torch.div(lengths - 1, self.stride, rounding_mode="floor") + 1
        return lengths

    def forward(self, hidden: Tensor) -> Tensor:
        """Shorten and, where the widths differ, project the frames.

        In training each layer is left out with probability `layerdrop`, which leaves the sequence longer by
        that layer's stride.

        Args:
            hidden: `[batch, frames, hidden_size]`.

        Returns:
            `[batch, frames', output_hidden_size]`; see `output_lengths`.
        """
        if self.proj is not None and self.proj_layer_norm is not None:
            hidden = self.proj_layer_norm(self.proj(hidden))
        hidden = hidden.transpose(1, 2)  # [batch, width, frames]
        for layer in self.layers:
            if not self.training or torch.rand(()).item() >= self.layerdrop:
                hidden = layer(hidden)
        return hidden.transpose(1, 2)


class AdapterLayer(nn.Module):
    """One strided convolution and its gate, `[batch, width, frames]` in and out."""

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 2 * width, kernel, stride=stride, padding=_PADDING)

    def forward(self, hidden: Tensor) -> Tensor:
        """Convolve and gate."""
        return F.glu(self.conv(hidden), dim=1)
