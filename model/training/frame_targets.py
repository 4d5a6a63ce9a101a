"""`WavLMForCTCAndFrames`: letters from the last layer, and the label of every frame from one below, while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import WavLMConfig
from ..ctc import WavLMForCTC
from ..outputs import HeadOutput
from .frame_labels import NO_LABEL

PREFIX = "frame_head."


@dataclass
class FramesOutput(HeadOutput):
    """Output of the model."""

    frame_logits: Tensor | None = None
    """[batch, frames, classes]."""


class WavLMForCTCAndFrames(WavLMForCTC):
    """`WavLMForCTC` with a second head: layer norm and a linear map to labels of frames, on the output of a layer.

    Parameters: those of `WavLMForCTC`, and `frame_head.*`, which stays in training.

    Args:
        config: of the model.
        classes: labels of frames.
        layer: whose output the second head reads; 1 is the first.
    """

    def __init__(self, config: WavLMConfig, classes: int, layer: int) -> None:
        super().__init__(config)
        self.layer = layer
        self.frame_head = nn.Sequential(nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, classes))

    def forward(self, *inputs: Any, **options: Any) -> FramesOutput:
        """Logits of letters, and those of the frames' labels; arguments as `WavLMForCTC.forward`."""
        output = super().forward(*inputs, **options | {"output_hidden_states": True})
        assert output.hidden_states is not None  # asked for above
        logits = self.frame_head(output.hidden_states[self.layer])
        return FramesOutput(output.logits, output.loss, frame_logits=logits)


def frame_loss(logits: Tensor, labels: Tensor, labelled_frames: int) -> Tensor:
    """Cross-entropy of labelled frames, divided by how many the whole batch has.

    Args:
        logits: [batch, frames, classes].
        labels: int64 [batch, frames], `NO_LABEL` where there is none.
        labelled_frames: of the whole batch, of which this may be one process's part.
    """
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
    return total / max(1, labelled_frames)


def right_frames(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """Labelled frames whose label is the likeliest one, and all that are labelled."""
    labelled = labels != NO_LABEL
    return int(((logits.argmax(-1) == labels) & labelled).sum()), int(labelled.sum())


def without_frame_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `WavLMForCTC` alone."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}
