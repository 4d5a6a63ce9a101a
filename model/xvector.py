"""`WavLMForXVector`: a vector that tells speakers apart (x-vectors, Snyder et al. 2018, on top of WavLM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import WavLMConfig
from .context import StreamingContext
from .errors import AudioError, ConfigurationError
from .head import HeadModel
from .outputs import XVectorOutput
from .pooling import statistics_pooling
from .time_delay import TDNNLayer, TimeDelayNetwork
from .wavlm import initialise

__all__ = ["AMSoftmaxLoss", "TDNNLayer", "WavLMForXVector"]


class AMSoftmaxLoss(nn.Module):
    """Additive margin softmax (Wang et al. 2018): cross-entropy of `s * (cos - m * [own class])`.

    Args:
        inputs: width of the vectors.
        classes: speakers of the training data.
        scale: s.
        margin: m, subtracted from the cosine to the own class.
    """

    def __init__(self, inputs: int, classes: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, classes))
        self.scale = scale
        self.margin = margin

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of `[batch, inputs]` vectors of the speakers int64 `[batch]`."""
        cosine = F.normalize(vectors, dim=1) @ F.normalize(self.weight, dim=0)  # [B, classes]
        own = F.one_hot(labels, self.weight.shape[1])
        return F.cross_entropy(self.scale * (cosine - self.margin * own), labels)


class WavLMForXVector(TimeDelayNetwork, HeadModel):
    """Time delay network, mean and deviation over time, two linear layers.

    Compare speakers by the cosine of their `embeddings`. In training the loss is taken on `logits`, one layer
    later, against a weight vector a speaker (`objective.weight`).

    Parameters: `projector` (hidden_size to tdnn_dim[0]), `tdnn.{i}.kernel`, `feature_extractor` (twice
    tdnn_dim[-1] to xvector_output_dim), `classifier`, `objective.weight`, and those of `HeadModel`.

    Raises:
        ConfigurationError: an adapter of another width than the encoder, which `projector` cannot read.
    """

    def __init__(self, config: WavLMConfig) -> None:
        if config.output_hidden_size != config.hidden_size:
            raise ConfigurationError(
                f"WavLMConfig.output_hidden_size is {config.output_hidden_size}, expected hidden_size "
                f"({config.hidden_size}): the x-vector head reads frames of the encoder's width"
            )
        super().__init__(config)
        self.build(config)
        size = config.xvector_output_dim
        self.classifier = nn.Linear(size, size)
        self.objective = AMSoftmaxLoss(size, config.num_labels)
        for part in (self.projector, self.tdnn, self.feature_extractor, self.classifier):
            initialise(part, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        context: StreamingContext | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        statistics: str | None = None,
    ) -> XVectorOutput:
        """Embed recordings.

        Args:
            input_values: `[batch, samples]`, float32.
            attention_mask: `[batch, samples]`, 1 where a sample is valid; None means all. The pooling then
                follows `pooled_frames`.
            labels: speaker of each recording, int64 `[batch]`, 0 to num_labels - 1; gives the additive margin
                softmax as `loss`.
            context, mask_time_indices, output_hidden_states, output_attentions, statistics: as
                `WavLMModel.forward`.

        Returns:
            `embeddings` and `logits`, both `[batch, xvector_output_dim]`.

        Raises:
            AudioError: a recording too short for the time delay network (by default 16 frames, 0.33 s).
        """
        hidden, outputs = self.encode(
            input_values,
            attention_mask,
            context=context,
            mask_time_indices=mask_time_indices,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            statistics=statistics,
        )
        frames, needed = hidden.shape[1], self.needed_frames
        if frames < needed:
            raise AudioError(
                f"the recordings give {frames} frames, expected at least {needed} for an x-vector; "
                "give longer recordings"
            )
        hidden = self.delayed(self.projector(hidden))
        lengths = None if attention_mask is None else self.pooled_frames(attention_mask.sum(dim=-1))
        embeddings = self.feature_extractor(statistics_pooling(hidden, lengths))
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels.flatten())
        return XVectorOutput(logits, loss, outputs.hidden_states, outputs.attentions, embeddings)

    @property
    def needed_frames(self) -> int:
        """Frames that leave two behind the time delay network, the fewest that have a deviation."""
        return 2 + self.reach_frames

    def pooled_frames(self, samples: Tensor) -> Tensor:
        """Frames behind the time delay network to pool for rows of so many valid samples, int64 `[batch]`.

        This is transformers' formula, kept so that published models give the numbers they were tested with.
        It leaves out the dilation: with the default network it counts 8 frames less than the encoder gives
        where 14 are gone, so that the statistics of a row shorter than the batch include up to 6 frames that
        saw padding. Recordings embedded alone, without a mask, are free of this.
        """
        frames = self.wavlm.output_lengths(samples.long())
        return frames - sum(kernel - 1 for kernel in self.config.tdnn_kernel)
