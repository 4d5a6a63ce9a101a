"""The three ways a layer's queries meet their keys: a whole utterance, copied chunks, a stream's rings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import (
    attention_bias,
    attention_with_weights,
    gated_bias_attention,
    streaming_attention,
    streaming_bias,
)
from .context import StreamingContext
from .states import StreamStates


class WholeLayout:
    """Every frame of a row sees all valid frames of the row: x `[batch, frames, hidden]`.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        mask: bool `[batch, frames]`, True where a frame is valid, from the first on; None: all.
        weights: return the attention weights.
    """

    def __init__(self, rel: Tensor, mask: Tensor | None, weights: bool = False):
        self.rel, self.weights = rel, weights
        self.lengths = None if mask is None else mask.sum(-1, dtype=torch.int32)
        self.sheared: Tensor | None = None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        if self.weights:
            return attention_with_weights(q, k, v, gate, self.rel, lengths=self.lengths, dropout=dropout)
        if self.sheared is None:
            self.sheared = attention_bias(self.rel, q)
        out = gated_bias_attention(q, k, v, gate, self.rel, lengths=self.lengths, dropout=dropout, sheared=self.sheared)
        return out, None


class ChunkLayout:
    """All chunks of a context at once: x `[batch, chunks, chunk + right, hidden]`.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        context: left, chunk and right frames.
        lengths: int64 `[batch]`, valid frames of each row.
    """

    def __init__(self, rel: Tensor, context: StreamingContext, lengths: Tensor):
        self.rel, self.lengths = rel, lengths.to(torch.int32)
        self.context = (context.left_frames, context.chunk_frames, context.right_frames)
        self.sheared: Tensor | None = None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        shape = q.shape
        q, k, v, gate = (x.flatten(1, 2) for x in (q, k, v, gate))  # [B, chunks * (C + R), heads, size]
        if self.sheared is None:
            self.sheared = attention_bias(self.rel, q, self.context)
        out = gated_bias_attention(
            q, k, v, gate, self.rel, lengths=self.lengths, context=self.context, dropout=dropout, sheared=self.sheared
        )
        return out.view(shape), None


class StepLayout:
    """One step of some slots: x `[slots, frames, hidden]`, keys and values of committed frames from the rings.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        states: the rings.
        slots: int64 `[rows]`.
        frames: int64 `[rows]`, valid new frames.
        own: int64 `[rows]`, frames to be written to the rings; None: nothing is written.
    """

    def __init__(self, rel: Tensor, states: StreamStates, slots: list[int], frames: Tensor, own: Tensor | None):
        self.rel, self.states = rel, states
        # counters live on the host; the kernels read them on the device
        slot = torch.tensor(slots)
        wanted = (slot, states.committed_frames[slot], frames) + (() if own is None else (own,))
        numbers = torch.stack(wanted).to(torch.int32).to(states.keys.device)
        self.slots, self.committed, self.frames = numbers[:3]
        self.own = None if own is None else numbers[3]
        self.sheared: Tensor | None = None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        states = self.states
        if self.sheared is None:
            self.sheared = streaming_bias(self.rel, q, states.context.left_frames)
        out = streaming_attention(
            q, k, v, gate, self.rel, states.keys, states.values, layer, self.slots, self.committed, self.frames,
            self.own, key_scales=states.key_scales, value_scales=states.value_scales, sheared=self.sheared,
            room=states.ring_room,
        )  # fmt: skip
        return out, None
