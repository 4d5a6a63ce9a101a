"""`WavLMModel`: front end, position and encoder; whole utterances, and streams of the same function.

forward(x)           everything sees everything, as transformers
forward(x, context)  what a stream computes, all chunks in one parallel pass
listen, step         the stream itself
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import WavLMAdapter
from .config import WavLMConfig
from .context import StreamingContext
from .encoder import Encoder
from .errors import ConfigurationError
from .front_end import FeatureExtractor
from .layouts import ChunkLayout, WholeLayout
from .outputs import BaseOutput
from .pretrained import PretrainedMixin
from .spec_augment import span_mask
from .streaming import StreamingMixin
from .trainable import TrainableMixin


class FeatureProjection(nn.Module):
    """Layer norm and linear map from the front end's width to the encoder's."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = config.feat_proj_dropout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[..., conv_dim[-1]]` -> `[..., hidden]` and the normed input."""
        normed = self.layer_norm(x)
        return F.dropout(self.projection(normed), self.dropout, self.training), normed


def initialise(module: nn.Module, config: WavLMConfig) -> None:
    """Random weights in the manner of the published code: normal for linear maps, Kaiming for convolutions."""
    for part in reversed(list(module.modules())):  # parts of a part first: the whole has the last word
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=config.initializer_range)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv1d) and not hasattr(part, "parametrizations"):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                bound = (part.groups / (part.in_channels * part.kernel_size[0])) ** 0.5
                nn.init.uniform_(part.bias, -bound, bound)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=config.initializer_range)
        elif isinstance(part, FeatureProjection):
            bound = (1 / part.projection.in_features) ** 0.5
            nn.init.uniform_(part.projection.weight, -bound, bound)
            nn.init.uniform_(part.projection.bias, -bound, bound)
        elif isinstance(part, Encoder):
            conv = part.pos_conv_embed.conv
            assert isinstance(conv, nn.Conv1d)
            assert conv.bias is not None
            deviation = 2 * (1 / (conv.kernel_size[0] * conv.in_channels)) ** 0.5
            conv.weight = torch.randn_like(conv.weight) * deviation  # through the weight norm
            nn.init.zeros_(conv.bias)


class WavLMModel(StreamingMixin, PretrainedMixin, TrainableMixin, nn.Module):
    """WavLM without a head.

    Raises:
        ConfigurationError: `forward(context=)` or streaming asked of a model with an adapter.
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
        self.encoder = Encoder(config)
        self.adapter = WavLMAdapter(config) if config.add_adapter else None
        initialise(self, config)

    # Lengths and masks -----------------------------------------------------------------------------------

    def feature_lengths(self, sample_lengths: Tensor) -> Tensor:
        """Frames of rows with so many samples, before the adapter: int64 `[batch]` -> int64 `[batch]`.

        As in transformers, the formula goes on below 400 samples: 0 and negative values mean no frame.
        """
        lengths = sample_lengths
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths

    def output_lengths(self, sample_lengths: Tensor) -> Tensor:
        """Frames of the output: after the adapter where there is one."""
        lengths = self.feature_lengths(sample_lengths)
        return lengths if self.adapter is None else self.adapter.output_lengths(lengths)

    def frame_mask(self, frames: int, attention_mask: Tensor) -> Tensor:
        """The samples' mask as a mask of frames: bool `[batch, frames]`.

        transformers marks the last valid frame and accumulates from there to the left; a row too short for a
        frame marks index -1, which makes all its frames valid. The same here.
        """
        lengths = self.output_lengths(attention_mask.sum(-1).long())
        lengths = torch.where(lengths < 1, lengths + frames, lengths)
        return torch.arange(frames, device=attention_mask.device) < lengths[:, None]

    # Whole utterances --------------------------------------------------------------------------------------

    def _mask_features(self, x: Tensor, mask_time_indices: Tensor | None, mask: Tensor | None) -> Tensor:
        """SpecAugment: spans of frames replaced by a learned vector, spans of channels by zero, in training."""
        config = self.config
        if not config.apply_spec_augment:
            return x
        batch, frames, hidden = x.shape
        if mask_time_indices is None and self.training and config.mask_time_prob > 0:
            lengths = None if mask is None else mask.sum(-1).cpu()
            mask_time_indices = span_mask(
                (batch, frames), config.mask_time_prob, config.mask_time_length, lengths, config.mask_time_min_masks
            ).to(x.device)
        if mask_time_indices is not None:
            x = torch.where(mask_time_indices.bool()[..., None], self.masked_spec_embed.to(x.dtype), x)
        if self.training and config.mask_feature_prob > 0:
            channels = span_mask((batch, hidden), config.mask_feature_prob, config.mask_feature_length)
            x = x.masked_fill(channels.to(x.device)[:, None], 0)
        return x

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        context: StreamingContext | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        statistics: str | None = None,
    ) -> BaseOutput:
        """Encode whole utterances.

        Args:
            input_values: `[batch, samples]` at 16 kHz.
            attention_mask: `[batch, samples]`, 1 where a sample is valid.
            context: compute what a stream under this context computes.
            mask_time_indices: bool `[batch, frames]`, frames replaced by the mask vector.
            output_hidden_states, output_attentions: fill these fields.
            statistics: "utterance" or "cumulative", for front ends that normalise; None: cumulative exactly
                when a context is given. Cumulative includes the normalisation of the waveform where
                `config.stream_normalize` is set; for the utterance's, the processor does it beforehand.

        Raises:
            AudioError: too short for one frame.
            ConfigurationError: options that exclude each other.
        """
        if statistics not in (None, "utterance", "cumulative"):
            raise ConfigurationError(f'statistics is {statistics!r}, expected "utterance", "cumulative" or None')
        cumulative = statistics == "cumulative" or (statistics is None and context is not None)
        if context is not None:
            if self.adapter is not None:
                raise ConfigurationError(
                    "a model with an adapter cannot stream: its strided convolutions look beyond the chunk; "
                    "load the checkpoint with add_adapter=False"
                )
            if output_attentions:
                raise ConfigurationError("attention weights have no common layout over chunks; call without context")
        lengths = None if attention_mask is None else attention_mask.sum(-1).long()
        features = self.feature_extractor(input_values, lengths, cumulative=cumulative)
        x, normed = self.feature_projection(features)
        frames = x.shape[1]
        mask = None
        if attention_mask is not None:
            before_adapter = self.feature_lengths(lengths)  # type: ignore[arg-type]
            before_adapter = torch.where(before_adapter < 1, before_adapter + frames, before_adapter)
            mask = torch.arange(frames, device=x.device) < before_adapter[:, None]
        x = self._mask_features(x, mask_time_indices, mask)
        if mask is not None:
            x = torch.where(mask[..., None], x, 0)
        if context is not None:
            out, hidden, attentions = self._encode_chunks(x, mask, context, output_hidden_states)
        else:
            layout = WholeLayout(self.encoder.relative_vector(frames), mask, output_attentions)
            position = self.encoder.pos_conv_embed(x)
            out, hidden, attentions = self.encoder(x, position, layout, output_hidden_states)
        if self.adapter is not None:
            out = self.adapter(out)
        return BaseOutput(
            out,
            normed,
            tuple(hidden) if output_hidden_states else None,
            tuple(a for a in attentions if a is not None) if output_attentions else None,
        )

    def _encode_chunks(
        self, x: Tensor, mask: Tensor | None, context: StreamingContext, collect: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """x `[batch, frames, hidden]`: every chunk with a copy of its right context, as its step would see it."""
        batch, frames, _ = x.shape
        left, chunk, right = context.left_frames, context.chunk_frames, context.right_frames
        if chunk >= frames:  # one chunk that holds everything
            chunk, right = frames, 0
        chunks = -(-frames // chunk)
        lengths = torch.full((batch,), frames, device=x.device) if mask is None else mask.sum(-1)
        padded = F.pad(x, (0, 0, 0, chunks * chunk + right - frames))
        copied = padded.unfold(1, chunk + right, chunk).transpose(2, 3)  # [B, chunks, C + R, H]
        position = self.encoder.pos_conv_embed.chunked(padded, left, chunk, right)
        rel = self.encoder.relative_vector(left + chunk + right)
        if chunks == 1:  # no copies and no group of chunks: the memory-saving blocks of the whole layout
            layout = WholeLayout(rel, None if mask is None else mask)
            out, hidden, attentions = self.encoder(x, position[:, 0], layout, collect)
            return out, hidden, attentions
        layout = ChunkLayout(rel, StreamingContext(left, chunk, right), lengths)
        out, hidden, attentions = self.encoder(copied, position, layout, collect)

        def own(y: Tensor) -> Tensor:  # [B, chunks, C + R, H] -> [B, frames, H]
            return y[:, :, :chunk].flatten(1, 2)[:, :frames]

        return own(out), [own(y) for y in hidden], attentions
