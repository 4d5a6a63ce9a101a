"""What the models with a classification head share: the base model and the choice of layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import WavLMConfig
from .context import StreamingContext
from .outputs import BaseOutput
from .pooling import weighted_layer_sum
from .pretrained import PretrainedMixin
from .trainable import TrainableMixin
from .wavlm import WavLMModel


class HeadModel(PretrainedMixin, TrainableMixin, nn.Module):
    """A `WavLMModel` under the name `wavlm` and, with `use_weighted_layer_sum`, a weight a layer.

    Parameters, besides those of the head: `wavlm.*` and `layer_weights`, `[num_hidden_layers + 1]`.
    """

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.config = config
        self.wavlm = WavLMModel(config)
        self.layer_weights: nn.Parameter | None = None
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = nn.Parameter(torch.full((states,), 1 / states))

    def encode(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None,
        *,
        context: StreamingContext | None,
        mask_time_indices: Tensor | None,
        output_hidden_states: bool,
        output_attentions: bool,
        statistics: str | None,
    ) -> tuple[Tensor, BaseOutput]:
        """Run the base model; arguments as `WavLMModel.forward`.

        Returns:
            What the head reads, `[batch, frames, dim]`: the last hidden state or the weighted sum of all
            layers; and the output of the base model, with hidden states only where they were asked for.
        """
        outputs = self.wavlm(
            input_values,
            attention_mask,
            context=context,
            mask_time_indices=mask_time_indices,
            output_hidden_states=output_hidden_states or self.layer_weights is not None,
            output_attentions=output_attentions,
            statistics=statistics,
        )
        if self.layer_weights is None:
            return outputs.last_hidden_state, outputs
        assert outputs.hidden_states is not None  # asked for above
        hidden = weighted_layer_sum(outputs.hidden_states, self.layer_weights)
        if not output_hidden_states:
            outputs.hidden_states = None
        return hidden, outputs
