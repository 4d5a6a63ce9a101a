"""The part of an x-vector network behind the encoder: `TimeDelayNetwork`, for recordings and for streams.

A recording goes through `delayed` and is pooled whole. A stream goes through `delayed_step` piece by piece, with what
each layer still needs in an explicit carry, and the statistics of any of its frames are summed up with `moments_of` and
`joined`, so that a vector of an hour of speech takes no more memory than one of a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import WavLMConfig

Moments = tuple[int, np.ndarray, np.ndarray]
"""Frames, their mean and the sum of squared differences from it, float64 `[dim]` each."""


class TDNNLayer(nn.Module):
    """A dilated convolution over time and a ReLU, without padding (a time delay layer).

    `kernel.weight` is `[outputs, kernel * inputs]`, the inputs of one time step side by side: the layout of
    transformers, which keeps a linear layer for the sake of its first checkpoints.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(inputs * kernel, outputs)
        self.taps = kernel
        self.dilation = dilation

    @property
    def reach_frames(self) -> int:
        """Frames before the newest that an output needs."""
        return (self.taps - 1) * self.dilation

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, frames, inputs]` -> `[batch, frames - (kernel - 1) * dilation, outputs]`."""
        weight = self.kernel.weight.unflatten(1, (self.taps, -1)).transpose(1, 2)  # [outputs, inputs, taps]
        out = F.conv1d(hidden.transpose(1, 2), weight, self.kernel.bias, dilation=self.dilation)
        return F.relu(out).transpose(1, 2)


class TimeDelayNetwork(nn.Module):
    """`projector`, `tdnn` and `feature_extractor` of an x-vector model; `build` makes them.

    A base class of the whole model and of the head alone, so that both have the same names of parameters.
    """

    projector: nn.Linear
    tdnn: nn.ModuleList
    feature_extractor: nn.Linear

    def build(self, config: WavLMConfig) -> None:
        """Make the layers that a configuration asks for."""
        widths = config.tdnn_dim
        self.projector = nn.Linear(config.hidden_size, widths[0])
        self.tdnn = nn.ModuleList(
            TDNNLayer(inputs, outputs, kernel, dilation)
            for inputs, outputs, kernel, dilation in zip(
                (widths[0], *widths[:-1]), widths, config.tdnn_kernel, config.tdnn_dilation, strict=True
            )
        )
        self.feature_extractor = nn.Linear(2 * widths[-1], config.xvector_output_dim)

    @property
    def reach_frames(self) -> int:
        """Frames that the network takes away: an output sees itself and so many more."""
        return sum(layer.reach_frames for layer in self.layers)

    @property
    def layers(self) -> list[TDNNLayer]:
        """The time delay layers."""
        return [layer for layer in self.tdnn if isinstance(layer, TDNNLayer)]

    def delayed(self, projected: Tensor) -> Tensor:
        """`[batch, frames, tdnn_dim[0]]` behind `projector` -> `[batch, frames - reach_frames, tdnn_dim[-1]]`."""
        for layer in self.layers:
            projected = layer(projected)
        return projected

    def empty_carry(self) -> list[np.ndarray]:
        """What a stream remembers that has heard nothing: for each layer the inputs of outputs to come."""
        return [np.zeros((0, layer.kernel.in_features // layer.taps), np.float32) for layer in self.layers]

    @torch.no_grad()
    def delayed_step(self, projected: np.ndarray, carry: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """`delayed` for the next frames of a stream; any pieces give the same outputs.

        Args:
            projected: float32 `[frames, tdnn_dim[0]]` behind `projector`.
            carry: of the call before, or `empty_carry`; it is not written to.

        Returns:
            The outputs that became possible, float32 `[frames, tdnn_dim[-1]]`, and the next carry, whose size does
            not grow.
        """
        kept: list[np.ndarray] = []
        for layer, before in zip(self.layers, carry, strict=True):
            inputs = np.concatenate([before, projected])
            reach = layer.reach_frames
            kept.append(inputs[max(0, len(inputs) - reach) :].copy())
            if len(inputs) > reach:
                projected = layer(torch.from_numpy(inputs)[None])[0].numpy()
            else:
                projected = np.zeros((0, layer.kernel.out_features), np.float32)
        return projected, kept

    @torch.no_grad()
    def embedding(self, moments: Moments) -> np.ndarray:
        """The vector of pooled frames, float32 `[xvector_output_dim]`; at least two frames."""
        count, mean, squares = moments
        deviation = np.sqrt(squares / (count - 1))  # unbiased, as in `statistics_pooling`
        pooled = torch.from_numpy(np.concatenate([mean, deviation]).astype(np.float32))
        return self.feature_extractor(pooled).numpy()


def moments_of(frames: np.ndarray) -> Moments:
    """Of frames `[frames, dim]`; none of them give zeros."""
    values = frames.astype(np.float64)
    if not len(values):
        zeros = np.zeros(frames.shape[1])
        return 0, zeros, zeros
    mean = values.mean(axis=0)
    return len(values), mean, np.square(values - mean).sum(axis=0)


def joined(first: Moments, second: Moments) -> Moments:
    """Of the frames of both (Chan, Golub and LeVeque 1979)."""
    if not first[0] or not second[0]:
        return first if first[0] else second
    count = first[0] + second[0]
    apart = second[1] - first[1]
    mean = first[1] + apart * (second[0] / count)
    return count, mean, first[2] + second[2] + np.square(apart) * (first[0] * second[0] / count)
