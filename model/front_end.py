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
from torch.utils.checkpoint import checkpoint

from ..kernels.strided_convolution import spread, strided_convolution
from .activations import activation
from .config import WavLMConfig
from .cumulative import convolution_prior, convolved_moments, grow, grow_convolved, waveform_prior
from .errors import AudioError
from .kernel_weights import KernelWeight

BLOCK_FRAMES = 500
"""Frames convolved at once when no gradient is needed (10 s: 66 MB behind the first layer of base)."""


@dataclass
class FrontEndCarry:
    """What the front end keeps between two blocks, for rows of equal age."""

    tails: list[Tensor]
    """For each layer, its last `kernel - stride` inputs `[batch, kept, channels]`; none at the start of a stream."""
    norm: Tensor | None
    """float64 `[batch, 3, channels]`: cumulative statistics of the group norm."""
    wave: Tensor | None
    """float64 `[batch, 3, 1]`: cumulative statistics of the waveform."""
    slots: Tensor | None = None
    """int64 `[batch]`: the tails are those of all streams, and row r has `tails[slots[r]]`; None: row r has tail r."""


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
        self.gelu = config.feat_extract_activation == "gelu"
        self.activation = activation(config.feat_extract_activation)
        self.stride = config.conv_stride[index]
        self.kept = config.conv_kernel[index] - config.conv_stride[index]
        self.kernel_weight = KernelWeight()

    def forward(
        self,
        x: Tensor,
        moments: tuple[Tensor, Tensor] | None = None,
        *,
        first_hop: int = 1,
        hop: int = 1,
        tails: Tensor | None = None,
        slots: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`[batch, inputs, channels]` -> `[batch, positions, channels']` and the inputs that the next call needs.

        `moments` are the mean and variance that a group norm is to use; the other arguments and the shapes are
        those of `kernels.strided_convolution`.
        """
        norm, scale, shift, eps = "none", None, None, 0.0
        if self.norm is not None:
            norm = "layer" if self.norm == "layer" else "moments"
            scale, shift, eps = self.layer_norm.weight, self.layer_norm.bias, self.layer_norm.eps
        out, tail = strided_convolution(
            x,
            self.kernel_weight.of(self.conv.weight),
            self.conv.bias,
            stride=self.stride,
            norm=norm,
            scale=scale,
            shift=shift,
            eps=eps,
            moments=moments if norm == "moments" else None,
            first_hop=first_hop,
            hop=hop,
            gelu=self.gelu,
            tails=tails,
            slots=slots,
            counts=counts,
        )
        return (out if self.gelu else self.activation(out)), tail


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
        config, dtype = self.config, self.layers[0].conv.weight.dtype
        rows = torch.arange(samples.shape[0], device=samples.device)
        most = config.frames_of(samples.shape[1]) if fresh else samples.shape[1] // self.hops[0]

        def last(after: Tensor) -> Tensor:  # statistics behind the last hop of each row
            return after[:, -1] if frames is None else after[rows, (frames - 1).clamp(min=0)]

        x = samples.unsqueeze(-1)  # [B, n, 1]
        norm, wave = carry.norm, carry.wave
        if wave is not None:
            first = config.receptive_samples if fresh else self.hops[0]
            mean, variance, after = grow(x, wave, first, self.hops[0])
            mean, variance = (spread(part, first, self.hops[0]).to(x.dtype) for part in (mean, variance))
            x = (x - mean) * torch.rsqrt(variance + 1e-7)
            wave = last(after)
        x = x.to(dtype)
        tails = []
        for index, layer in enumerate(self.layers):
            kept = None
            if layer.kept > 0 and not fresh:
                kept = carry.tails[index]
                if kept.dtype != dtype:
                    kept = kept.to(dtype)
            elif layer.kept < 0 and not fresh:
                x = x[:, -layer.kept :]  # stride beyond the kernel: inputs that no output reads
            counts = None if frames is None else (x.shape[1] - (most - frames) * self.hops[index]).clamp(min=0)
            use, first, hop = moments, 1, 1
            if layer.norm == "group" and moments is None:
                assert norm is not None
                first, hop = self._first_positions() if fresh else self.hops[1], self.hops[1]
                heard = x if kept is None else torch.cat([kept if carry.slots is None else kept[carry.slots], x], 1)
                mean, variance, after = grow_convolved(
                    heard, layer.conv.weight, layer.conv.bias, layer.stride, norm, first, hop
                )
                norm = last(after)
                use = _rounded((mean, variance), dtype)
            x, tail = layer(x, use, first_hop=first, hop=hop, tails=kept, slots=carry.slots, counts=counts)
            tails.append(tail)
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
                moments = self._moments(samples, lengths)
            return self._with_gradient(samples, total, moments, cumulative)
        moments = None
        if config.feat_extract_norm == "group" and not cumulative:
            moments = self._moments(samples, lengths)
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
        for layer in self.layers:
            x, _ = checkpoint(layer, x, moments, use_reentrant=False)
        return x

    def _moments(self, samples: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the first layer's output over whole utterances, with gradient where it is wanted."""
        first = self.layers[0]
        weight, bias, stride = first.conv.weight, first.conv.bias, first.stride
        counts = None
        if lengths is not None and self.config.masked_group_norm:
            counts = ((lengths - weight.shape[2]) // stride + 1).clamp(min=1)
        x = samples.unsqueeze(-1).to(weight.dtype)
        block = BLOCK_FRAMES * self.hops[1]
        return _rounded(convolved_moments(x, weight, bias, stride, counts, block), weight.dtype)


def _rounded(moments: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `strided_convolution` takes them: float32, or float64 in a float64 model."""
    kind = torch.promote_types(dtype, torch.float32)
    return moments[0].to(kind), moments[1].to(kind)
