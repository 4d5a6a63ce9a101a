"""`WavLMForAudioFrameClassification`: classes for every frame (voice activity, who speaks when)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import WavLMConfig
from .context import StreamingContext
from .errors import ConfigurationError
from .head import HeadModel
from .outputs import HeadOutput
from .wavlm import initialise


class WavLMForAudioFrameClassification(HeadModel):
    """A linear classifier on every frame (the diarization head of SUPERB).

    It is trained with a softmax over the classes; published models are then read with a sigmoid and a
    threshold on each of them, since several speakers may speak at once.

    Parameters: `classifier` (hidden_size to num_labels) and those of `HeadModel`.

    Raises:
        ConfigurationError: the configuration has an adapter, whose frames are no longer 20 ms.
    """

    def __init__(self, config: WavLMConfig) -> None:
        if config.add_adapter:
            raise ConfigurationError(
                "WavLMConfig.add_adapter is True, expected False: this head labels the frames of the encoder"
            )
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialise(self.classifier, config)

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
        """Classify every frame.

        Args:
            input_values: `[batch, samples]`, float32.
            attention_mask: `[batch, samples]`, 1 where a sample is valid; None means all. Logits of frames of
                padding have no meaning.
            labels: gives the cross-entropy as `loss`. Either as in transformers, one-hot
                `[batch, frames, num_labels]`, of which the largest entry counts and every frame, padding
                included; or class numbers, int64 `[batch, frames]`, where -100 leaves a frame out.
            context, mask_time_indices, output_hidden_states, output_attentions, statistics: as
                `WavLMModel.forward`.

        Returns:
            `logits` `[batch, frames, num_labels]`.

        Raises:
            ValueError: labels of another shape than the logits ask for.
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
        logits = self.classifier(hidden)
        loss = None if labels is None else frame_loss(logits, labels)
        return HeadOutput(logits, loss, outputs.hidden_states, outputs.attentions)


def frame_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of all labelled frames.

    Args:
        logits: `[batch, frames, classes]`.
        labels: one-hot `[batch, frames, classes]`, or class numbers `[batch, frames]` with -100 for none.

    Raises:
        ValueError: labels of another shape.
    """
    if labels.shape == logits.shape:
        labels = labels.argmax(dim=-1)
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels have shape {list(labels.shape)}, expected {list(logits.shape)} (one-hot) or "
            f"{list(logits.shape[:2])} (class numbers) for these {logits.shape[1]} frames"
        )
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
