"""The three ways a layer's queries meet their keys: a whole utterance, copied chunks, a stream's rings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import ChunkedAttention, gated_bias_attention
from .context import StreamingContext
from .states import StreamStates


class WholeLayout:
    """Every frame of a row sees all valid frames of the row: x `[batch, frames, hidden]`.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        mask: bool `[batch, frames]`, True where a frame is valid; None: all.
        weights: return the attention weights.
    """

    def __init__(self, rel: Tensor, mask: Tensor | None, weights: bool = False):
        self.rel, self.weights = rel, weights
        self.allowed = None if mask is None else mask[:, None, None, :]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        out, weights = gated_bias_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            gate.transpose(1, 2),
            self.rel,
            allowed=self.allowed,
            dropout=dropout,
            weights=self.weights,
        )
        return out.transpose(1, 2), weights


class ChunkLayout:
    """All chunks of a context at once: x `[batch, chunks, chunk + right, hidden]`."""

    def __init__(self, rel: Tensor, context: StreamingContext, chunks: int, lengths: Tensor):
        self.attention = ChunkedAttention(
            rel, context.left_frames, context.chunk_frames, context.right_frames, chunks, lengths
        )

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        return self.attention(q, k, v, gate, dropout)


class StepLayout:
    """One step of some slots: x `[slots, frames, hidden]`, keys and values of committed frames from the rings.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        states: the rings.
        slots: int64 `[rows]`.
        frames: int64 `[rows]`, valid new frames.
        own: int64 `[rows]`, frames to be written to the rings; None: nothing is written.
    """

    def __init__(
        self, rel: Tensor, states: StreamStates, slots: list[int], frames: Tensor, own: Tensor | None, width: int
    ):
        self.rel, self.states, self.width = rel, states, width
        device = states.keys.device
        left = states.context.left_frames
        slot = torch.tensor(slots)
        committed = states.committed_frames[slot]  # on the host, like all counters
        cached = committed.clamp(max=left)
        self.behind = int(cached.max()) if len(slots) else 0
        column = torch.arange(self.behind)
        ring = (committed[:, None] - self.behind + column) % max(1, left)  # [rows, behind]
        self.read = (slot[:, None] * states.layers * left + ring).to(device)
        old = column >= self.behind - cached[:, None]
        new = torch.arange(width) < frames[:, None]
        self.old = None if bool(old.all()) else old.to(device)[..., None]
        allowed = torch.cat([old, new], 1)
        self.allowed = None if bool(allowed.all()) else allowed.to(device)[:, None, None, :]
        self.write: Tensor | None = None
        if own is not None and left:
            # of a chunk longer than the ring only its end is kept: an index may not be written twice
            frame = torch.arange(width)
            keep = (frame < own[:, None]) & (frame >= own[:, None] - left)
            row, offset = keep.nonzero(as_tuple=True)
            target = slot[row] * states.layers * left + (committed[row] + offset) % left
            self.write = target.to(device)
            self.source = (row * width + offset).to(device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        states = self.states
        rows, _, heads, size = k.shape
        left = states.context.left_frames
        both = []
        for new, ring in ((k, states.keys), (v, states.values)):
            flat = ring.view(-1, heads * size)
            if self.behind:
                old = flat[(self.read + layer * left).flatten()].view(rows, self.behind, heads, size)
                if self.old is not None:  # what was never written may hold anything, and 0 * NaN is NaN
                    old = old.masked_fill(~self.old[..., None], 0)
                both.append(torch.cat([old.to(new.dtype), new], 1).transpose(1, 2))
            else:
                both.append(new.transpose(1, 2))
            if self.write is not None:
                flat[self.write + layer * left] = new.reshape(-1, heads * size)[self.source].to(ring.dtype)
        out, _ = gated_bias_attention(
            q.transpose(1, 2),
            both[0],
            both[1],
            gate.transpose(1, 2),
            self.rel,
            first_distance=-self.behind,
            allowed=self.allowed,
        )
        return out.transpose(1, 2), None
