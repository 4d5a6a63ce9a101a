"""`WavLMForMaskedPrediction`: pre-training's model, which names the cluster of every frame (WavLM, section III)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import WavLMConfig
from ..context import StreamingContext
from ..pretrained import PretrainedMixin
from ..trainable import TrainableMixin
from ..wavlm import WavLMModel


@dataclass
class Prediction:
    """Output of the model."""

    logits: Tensor
    """float32 [batch, frames, clusters]: cosines over the temperature."""


class WavLMForMaskedPrediction(PretrainedMixin, TrainableMixin, nn.Module):
    """WavLM, a projection, and an embedding for each cluster; the logit is their cosine over a temperature.

    Parameters: `wavlm.*`, `final_proj` (hidden_size to `projection`), `label_embeddings` [clusters, projection].
    """

    def __init__(self, config: WavLMConfig, clusters: int, projection: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.temperature = temperature
        self.wavlm = WavLMModel(config)
        self.final_proj = nn.Linear(config.hidden_size, projection)
        self.label_embeddings = nn.Parameter(torch.empty(clusters, projection).uniform_())

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        mask_time_indices: Tensor | None = None,
        context: StreamingContext | None = None,
    ) -> Prediction:
        """Logits of every frame; arguments as `WavLMModel.forward`."""
        hidden = self.wavlm(
            input_values, attention_mask, context=context, mask_time_indices=mask_time_indices
        ).last_hidden_state
        projected = F.normalize(self.final_proj(hidden).float(), dim=-1)
        return Prediction(projected @ F.normalize(self.label_embeddings.float(), dim=-1).T / self.temperature)

    def feature_lengths(self, sample_lengths: Tensor) -> Tensor:
        """See `WavLMModel.feature_lengths`."""
        return self.wavlm.feature_lengths(sample_lengths)
