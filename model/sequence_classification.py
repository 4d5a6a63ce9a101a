"""`WavLMForSequenceClassification`: one class a recording (keywords, emotions, languages, intents)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import WavLMConfig
from .context import StreamingContext
from .errors import ConfigurationError
from .head import HeadModel
from .outputs import HeadOutput
from .pooling import masked_mean
from .wavlm import initialise


class WavLMForSequenceClassification(HeadModel):
    """Projection of each frame, mean over the valid frames, linear classifier (the head of SUPERB).

    Parameters: `projector` (hidden_size to classifier_proj_size), `classifier` (to num_labels), and those of
    `HeadModel`.

    Raises:
        ConfigurationError: the configuration has an adapter, which this head does not read (nor does that of
            transformers).
    """

    def __init__(self, config: WavLMConfig) -> None:
        if config.add_adapter:
            raise ConfigurationError(
                "WavLMConfig.add_adapter is True, expected False: this head reads the frames of the encoder"
            )
        super().__init__(config)
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        for layer in (self.projector, self.classifier):
            initialise(layer, config)

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
    ) -> HeadOutput:
        """Classify recordings.

        Args:
            input_values: `[batch, samples]`, float32.
            attention_mask: `[batch, samples]`, 1 where a sample is valid; None means all. The mean leaves out
                frames of padding.
            labels: class of each recording, int64 `[batch]`; gives the cross-entropy as `loss`. -100 leaves a
                recording out.
            context, mask_time_indices, output_hidden_states, output_attentions, statistics: as
                `WavLMModel.forward`.

        Returns:
            `logits` `[batch, num_labels]`.
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
        valid = None
        if attention_mask is not None:
            valid = self.wavlm.frame_mask(hidden.shape[1], attention_mask)
        logits = self.classifier(masked_mean(self.projector(hidden), valid))
        loss = None if labels is None else F.cross_entropy(logits, labels.flatten())
        return HeadOutput(logits, loss, outputs.hidden_states, outputs.attentions)
