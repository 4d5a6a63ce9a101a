"""The convolutional front end: samples in, frames out, whole or as a stream (Chen et al. 2021, section III-A).

All tensors are channels last. `run` is the one way through the convolutions: it takes samples and what was kept
of the former ones, so the whole utterance, an utterance in blocks (memory) and a stream are the same code.

A stream hands over samples in units of frames: the first frame needs 400 samples, each further one 320. Then every
layer keeps exactly `kernel - stride` inputs for its next output, whatever sizes the blocks had.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .activations import activation
from .config import WavLMConfig
from .cumulative import convolution_prior, grow, waveform_prior
from .errors import AudioError

BLOCK_FRAMES = 500
"""Frames convolved at once when no gradient is needed (10 s: 66 MB behind the first layer of base)."""


@dataclass
class FrontEndCarry:
    """What the front end keeps between two blocks, for rows of equal age."""

    tails: list[Tensor]
    """For each layer, its last `kernel - stride` inputs `[batch, kept, channels]`."""
    norm: Tensor | None
    """float64 `[batch, 3, channels]`: cumulative statistics of the group norm."""
    wave: Tensor | None
    """float64 `[batch, 3, 1]`: cumulative statistics of the waveform."""


def strided_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`[batch, positions, channels]` -> `[batch, positions', channels']`, no padding.

    Written as a two-dimensional convolution over a channels-last picture of height 1: oneDNN and cuDNN then
    read and write channels last, and no transposed copy is made for the layer norm that follows.
    """
    picture = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, P], strides of channels last
    out = F.conv2d(picture, weight.unsqueeze(2), bias, stride=(1, stride))
    return out.squeeze(2).transpose(1, 2)


class ConvLayer(nn.Module):
    """Convolution, its norm (if it has one) and activation."""

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        inputs = config.conv_dim[index - 1] if index else 1
        outputs = config.conv_dim[index]
        self.conv = nn.Conv1d(
            inputs, outputs, config.conv_kernel[index], stride=config.conv_stride[index], bias=config.conv_bias
        )
        self.norm = config.feat_extract_norm if config.feat_extract_norm == "layer" or index == 0 else None
        if self.norm == "group":
            self.layer_norm = nn.GroupNorm(outputs, outputs)
        elif self.norm == "layer":
            self.layer_norm = nn.LayerNorm(outputs)
        self.activation = activation(config.feat_extract_activation)
        self.stride = config.conv_stride[index]
        self.kept = config.conv_kernel[index] - config.conv_stride[index]

    def convolve(self, x: Tensor) -> Tensor:
        """`[batch, positions, channels]` -> `[batch, positions', channels']`, before the norm."""
        return strided_convolution(x, self.conv.weight, self.conv.bias, self.stride)

    def finish(self, x: Tensor, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Norm and activation; `moments` are the mean and variance a group norm is to use."""
        if self.norm == "layer":
            x = self.layer_norm(x)
        elif self.norm == "group":
            assert moments is not None
            mean, variance = moments
            scale = self.layer_norm.weight * torch.rsqrt(variance + self.layer_norm.eps)
            x = (x - mean) * scale + self.layer_norm.bias
        return self.activation(x)


class FeatureExtractor(nn.Module):
    """Seven strided convolutions from samples to frames (names of transformers)."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.config = config
        self.conv_layers = nn.ModuleList(ConvLayer(config, i) for i in range(len(config.conv_dim)))
        self.gradient_checkpointing = False
        # positions that one frame adds at the input of each layer, and behind the last
        self.hops = [config.hop_samples]
        for stride in config.conv_stride:
            self.hops.append(self.hops[-1] // stride)

    @property
    def layers(self) -> list[ConvLayer]:
        return list(self.conv_layers)  # type: ignore[arg-type]

    # Streams ---------------------------------------------------------------------------------------------

    def start(self, batch: int, *, cumulative: bool, device: torch.device | str) -> FrontEndCarry:
        """The carry of streams that have heard nothing: no tails, statistics at their prior."""
        config = self.config
        first = self.layers[0]
        norm = wave = None
        if cumulative and config.feat_extract_norm == "group":
            level = 1.0 if config.stream_normalize else config.stream_prior_rms
            norm = convolution_prior(
                first.conv.weight.detach(),
                None if first.conv.bias is None else first.conv.bias.detach(),
                float(config.stream_prior_frames * self.hops[1]),
                level,
            ).expand(batch, -1, -1)
        if cumulative and config.stream_normalize:
            count = float(config.stream_prior_frames * self.hops[0])
            wave = waveform_prior(count, config.stream_prior_rms, device).expand(batch, -1, -1)
        return FrontEndCarry([], norm, wave)

    def run(
        self,
        samples: Tensor,
        carry: FrontEndCarry,
        frames: Tensor | None = None,
        moments: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, FrontEndCarry]:
        """Convolve samples that end where a frame ends.

        Args:
            samples: `[batch, n]`, n = 400 + 320 (m - 1) at the start of a stream, 320 m later, for m frames.
            carry: of `start` or of the call before, all rows of equal kind (fresh or running).
            frames: int64 `[batch]`, frames of each row where they differ; what lies behind is not kept.
            moments: mean and variance for the group norm, `[batch, 1, channels]`; None: cumulative ones.

        Returns:
            `[batch, m, conv_dim[-1]]` and the new carry.
        """
        fresh = not carry.tails
        config = self.config
        rows = torch.arange(samples.shape[0], device=samples.device)

        def last(after: Tensor) -> Tensor:  # statistics behind the last hop of each row
            return after[:, -1] if frames is None else after[rows, (frames - 1).clamp(min=0)]

        x = samples.unsqueeze(-1)  # [B, n, 1]
        norm, wave = carry.norm, carry.wave
        if wave is not None:
            first = config.receptive_samples if fresh else self.hops[0]
            mean, variance, after = grow(x, wave, first, self.hops[0])
            x = (x - mean) * torch.rsqrt(variance + 1e-7)
            wave = last(after)
        x = x.to(self.layers[0].conv.weight.dtype)
        tails = []
        for index, layer in enumerate(self.layers):
            if layer.kept > 0 and not fresh:
                x = torch.cat([carry.tails[index].to(x.dtype), x], 1)
            elif layer.kept < 0 and not fresh:
                x = x[:, -layer.kept :]  # stride beyond the kernel: inputs that no output reads
            keep = max(0, layer.kept)
            if frames is None:
                tails.append(x[:, x.shape[1] - keep :])
            else:
                # each row ends where its own frames end
                behind = (x.shape[1] - (frames.max() - frames) * self.hops[index]).clamp(min=keep)
                tails.append(x[rows[:, None], behind[:, None] - keep + torch.arange(keep, device=x.device)])
            x = layer.convolve(x)
            if layer.norm == "group" and moments is None:
                assert norm is not None
                first = self._first_positions() if fresh else self.hops[1]
                mean, variance, after = grow(x, norm, first, self.hops[1])
                norm = last(after)
                x = layer.finish(x, (mean, variance))
            else:
                x = layer.finish(x, moments)
        return x, FrontEndCarry(tails, norm, wave)

    def _first_positions(self) -> int:
        """Outputs of the first layer that the first frame reads."""
        return (self.config.receptive_samples - self.config.conv_kernel[0]) // self.config.conv_stride[0] + 1

    # Whole utterances --------------------------------------------------------------------------------------

    def forward(self, samples: Tensor, lengths: Tensor | None = None, *, cumulative: bool = False) -> Tensor:
        """All frames of whole utterances.

        Args:
            samples: `[batch, n]`.
            lengths: int64 `[batch]`, valid samples a row; used by the group norm where
                `config.masked_group_norm` asks for it.
            cumulative: statistics as in a stream, see `cumulative`; else of the utterance.

        Returns:
            `[batch, frames, conv_dim[-1]]`.

        Raises:
            AudioError: fewer samples than the first frame needs.
        """
        config = self.config
        total = config.frames_of(samples.shape[1])
        if total < 1:
            raise AudioError(
                f"{samples.shape[1]} samples are too short for one frame, which needs {config.receptive_samples}; "
                "pad the audio with zeros"
            )
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            moments = None
            if config.feat_extract_norm == "group" and not cumulative:
                moments = self._moments_of(samples, lengths)
            return self._with_gradient(samples, total, moments, cumulative)
        moments = None
        if config.feat_extract_norm == "group" and not cumulative:
            moments = self._moments_in_blocks(samples, lengths)
        carry = self.start(samples.shape[0], cumulative=cumulative, device=samples.device)
        blocks, done, position = [], 0, 0
        while done < total:
            count = min(BLOCK_FRAMES, total - done)
            need = config.hop_samples * count + (0 if done else config.receptive_samples - config.hop_samples)
            block, carry = self.run(samples[:, position : position + need], carry, moments=moments)
            blocks.append(block)
            done, position = done + count, position + need
        return torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]

    def _with_gradient(
        self, samples: Tensor, total: int, moments: tuple[Tensor, Tensor] | None, cumulative: bool
    ) -> Tensor:
        config = self.config
        need = config.receptive_samples + config.hop_samples * (total - 1)
        in_one_piece = cumulative and (config.stream_normalize or config.feat_extract_norm == "group")
        if in_one_piece or not (self.gradient_checkpointing and self.training):
            carry = self.start(samples.shape[0], cumulative=cumulative, device=samples.device)
            return self.run(samples[:, :need], carry, moments=moments)[0]
        x = samples[:, :need].unsqueeze(-1).to(self.layers[0].conv.weight.dtype)
        for index, layer in enumerate(self.layers):

            def one(x: Tensor, layer: ConvLayer = layer, use: bool = index == 0) -> Tensor:
                return layer.finish(layer.convolve(x), moments if use else None)

            x = checkpoint(one, x, use_reentrant=False)
        return x

    def _positions(self, lengths: Tensor) -> Tensor:
        """Outputs of the first layer that lie within each row's valid samples, at least one."""
        kernel, stride = self.config.conv_kernel[0], self.config.conv_stride[0]
        return ((lengths - kernel) // stride + 1).clamp(min=1)

    def _moments_of(self, samples: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the first layer's output, with gradient."""
        x = self.layers[0].convolve(samples.unsqueeze(-1).to(self.layers[0].conv.weight.dtype))
        if lengths is None or not self.config.masked_group_norm:
            return x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        count = self._positions(lengths)[:, None, None]
        inside = torch.arange(x.shape[1], device=x.device)[:, None] < count
        x = x.masked_fill(~inside, 0)
        mean = x.sum(1, keepdim=True) / count
        return mean, (x - mean).square().masked_fill(~inside, 0).sum(1, keepdim=True) / count

    def _moments_in_blocks(self, samples: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same without gradient, in blocks of samples: a first pass over the first layer alone."""
        layer, config = self.layers[0], self.config
        kernel, stride = config.conv_kernel[0], config.conv_stride[0]
        positions = (samples.shape[1] - kernel) // stride + 1
        count = torch.full((samples.shape[0],), positions, device=samples.device)
        if lengths is not None and config.masked_group_norm:
            count = self._positions(lengths)
        block = BLOCK_FRAMES * self.hops[1]
        total = square = torch.zeros((), dtype=torch.float64, device=samples.device)
        for start in range(0, positions, block):
            stop = min(positions, start + block)
            piece = samples[:, start * stride : (stop - 1) * stride + kernel]
            x = layer.convolve(piece.unsqueeze(-1).to(layer.conv.weight.dtype)).double()
            inside = torch.arange(start, stop, device=x.device)[:, None] < count[:, None, None]
            x = x.masked_fill(~inside, 0)
            total, square = total + x.sum(1, keepdim=True), square + x.square().sum(1, keepdim=True)
        n = count[:, None, None]
        mean = total / n
        variance = (square / n - mean * mean).clamp(min=0)
        dtype = layer.conv.weight.dtype
        return mean.to(dtype), variance.to(dtype)
