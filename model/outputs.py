"""What the models return. Fields that were not asked for are None."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..kernels import Greedy


@dataclass
class BaseOutput:
    """Output of `WavLMModel`."""

    last_hidden_state: Tensor
    """`[batch, frames, hidden]` (after the adapter: fewer frames, its width)."""
    extract_features: Tensor
    """`[batch, frames, conv_dim[-1]]`: the front end after its layer norm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """Input of the first layer and output of each layer, `[batch, frames, hidden]`. For the stable encoder
    the last one is taken before the final norm, as transformers does from 5.16 on."""
    attentions: tuple[Tensor, ...] | None = None
    """Attention weights of each layer, `[batch, heads, frames, frames]`."""


@dataclass
class HeadOutput:
    """Output of a model with a head."""

    logits: Tensor
    """CTC and audio frames: `[batch, frames, labels]`; sequences and speakers: `[batch, labels]`."""
    loss: Tensor | None = None
    """Scalar, where labels were given."""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class XVectorOutput(HeadOutput):
    """Output of `WavLMForXVector`."""

    embeddings: Tensor | None = None
    """`[batch, xvector_output_dim]`."""


@dataclass
class StepOutput:
    """Output of one streaming step for some slots. Entries beyond `frames` of a row have no meaning."""

    last_hidden_state: Tensor
    """`[slots, frames, hidden]`."""
    first_frame: list[int]
    """For each row, the index in its stream of its first frame."""
    own_frames: list[int]
    """For each row, the frames that belong to the chunk; the committed ones in a committing step."""
    frames: list[int]
    """For each row, the valid frames: own ones, then right context."""
    logits: Tensor | None = None
    """`[slots, frames, vocab]`, float32, of a model with a CTC head."""
    hidden_states: tuple[Tensor, ...] | None = None
    """Input of the first layer and output of each, `[slots, frames, hidden]`, where they were asked for."""
    greedy: Greedy | None = None
    """What a greedy decoder reads, `[slots, frames]`, where it was asked for in place of logits."""
