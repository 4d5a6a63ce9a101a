"""Attention with WavLM's gated relative position bias: whole sequences and copied chunks.

score(i, j) = q_i . k_j / sqrt(d) + gate_i * rel[j - i]        (Chen et al. 2021, equations 4 to 8)

The gate belongs to the query and the bias to the distance, so no tensor of size frames x frames is needed: the
queries are worked off in blocks, each with the small matrix of its own distances.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .relative_bias import shear

BLOCK_ELEMENTS = 1 << 23
"""Entries of one block's score matrix (all rows and heads): 32 MiB in float32."""
GROUP_QUERIES = 96
"""Chunks are taken together until a block has about this many queries."""


def hidden_score(dtype: torch.dtype) -> float:
    """The score of a pair that must not be seen: far below all others, yet finite, so that a row with nothing
    to see (padding) gives finite numbers."""
    return torch.finfo(dtype).min / 2


def _attend(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, allowed: Tensor | None, dropout: float, weights: bool
) -> tuple[Tensor, Tensor | None]:
    """One block: q [B, h, Q, d], k and v [B, h, K, d], gate [B, h, Q], bias [h, Q, K] -> [B, h, Q, d]."""
    mask = gate.unsqueeze(-1) * bias  # [B, h, Q, K]
    if allowed is not None:
        mask = mask.masked_fill(~allowed, hidden_score(mask.dtype))
    if not weights:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), dropout_p=dropout), None
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask
    probabilities = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return F.dropout(probabilities, dropout) @ v, probabilities


def gated_bias_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    rel: Tensor,
    *,
    first_distance: int = 0,
    allowed: Tensor | None = None,
    dropout: float = 0.0,
    weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Every query sees every allowed key; memory grows with the keys, not with queries times keys.

    Args:
        q: `[batch, heads, queries, size]`.
        k, v: `[batch, heads, keys, size]`.
        gate: `[batch, heads, queries]`.
        rel: `[heads, 2 * reach + 1]`, see `relative_vector`.
        first_distance: distance in frames of key 0 from query 0.
        allowed: bool, broadcast to `[batch, 1, queries or 1, keys]`; None: all.
        dropout: probability on the attention weights.
        weights: also return the attention weights `[batch, heads, queries, keys]` (memory queries x keys).

    Returns:
        `[batch, heads, queries, size]` and the weights or None.

    Raises:
        ValueError: `rel` does not reach a distance that occurs.
    """
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    block = max(16, BLOCK_ELEMENTS // max(1, batch * heads * keys))
    outputs, probabilities = [], []
    for start in range(0, queries, block):
        stop = min(queries, start + block)
        bias = shear(rel, stop - start, keys, first_distance - start)
        seen = allowed if allowed is None or allowed.shape[-2] == 1 else allowed[..., start:stop, :]
        out, p = _attend(q[:, :, start:stop], k, v, gate[:, :, start:stop], bias, seen, dropout, weights)
        outputs.append(out)
        probabilities.append(p)
    if len(outputs) == 1:
        return outputs[0], probabilities[0]
    return torch.cat(outputs, 2), torch.cat(probabilities, 2) if weights else None


class ChunkedAttention:
    """Attention of all chunks of a streaming context in one pass, the right context copied behind each chunk.

    Tokens are laid out `[batch, chunks, chunk + right]`: the own frames of chunk n, then the frames that follow
    it, computed again for this chunk alone. A token of chunk n sees the own frames of [nC - L, nC + C) and the
    copies of its own chunk. Chunks are worked off in groups that share one bias matrix, since the distances in a
    group do not depend on where it stands.

    Args:
        rel: `[heads, 2 * reach + 1]`; must reach `left + group + right` frames, see `reach_of`.
        left, chunk, right: the context in frames.
        chunks: number of chunks.
        lengths: int64 `[batch]`, valid frames a row.
    """

    def __init__(self, rel: Tensor, left: int, chunk: int, right: int, chunks: int, lengths: Tensor):
        self.left, self.chunk, self.right, self.chunks = left, chunk, right, chunks
        self.group = self.group_of(chunk, right, chunks)
        # no more columns to the left than there are frames
        self.behind = min(left, (chunks - 1) * chunk)
        device = rel.device
        group = torch.arange(self.group, device=device)
        inside = torch.arange(chunk + right, device=device)
        copies = torch.arange(chunk, chunk + right, device=device)
        query_chunk = group.repeat_interleave(chunk + right)  # [Q]
        query = (group[:, None] * chunk + inside).flatten()  # [Q], frames from the start of the group
        own_key = torch.arange(-self.behind, self.group * chunk, device=device)
        copy_key = (group[:, None] * chunk + copies).flatten()
        copy_chunk = group.repeat_interleave(right)
        start = query_chunk[:, None] * chunk
        sees_own = (own_key >= start - left) & (own_key < start + chunk)
        sees_copy = copy_chunk == query_chunk[:, None]
        self.allowed = torch.cat([sees_own, sees_copy], 1)  # [Q, K]
        self.key = torch.cat([own_key, copy_key])  # [K]
        distance = self.key - query[:, None]
        reach = rel.shape[1] // 2
        # distances of hidden pairs may lie beyond the reach; their value does not matter
        self.bias = rel[:, distance.clamp(-reach, reach) + reach]  # [h, Q, K]
        self.lengths = lengths
        self.shortest = int(lengths.min())

    @staticmethod
    def group_of(chunk: int, right: int, chunks: int) -> int:
        """Chunks that are worked off together."""
        return min(chunks, max(1, GROUP_QUERIES // (chunk + right)))

    @staticmethod
    def reach_of(left: int, chunk: int, right: int, chunks: int) -> int:
        """Largest distance in frames between a query and a key that it sees."""
        return min(left, (chunks - 1) * chunk) + chunk + right

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float = 0.0, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """q, k, v `[batch, chunks, chunk + right, heads, size]`, gate `[..., heads]` -> the same shape as q.

        Raises:
            ValueError: weights asked for; they have no common layout over chunks.
        """
        if weights:
            raise ValueError("attention weights are not available with a streaming context; call without `context`")
        batch, _, _, heads, size = q.shape
        own, right = self.chunk, self.right
        own_k, own_v = (x[:, :, :own].flatten(1, 2) for x in (k, v))  # [B, chunks * C, h, d]
        outputs = []
        for first in range(0, self.chunks, self.group):
            count = min(self.group, self.chunks - first)
            behind = min(self.behind, first * own)
            rows = count * (own + right)
            # columns of this group: drop what lies before the first frame and the chunks it does not have
            columns = [slice(self.behind - behind, self.behind + count * own)]
            low = first * own - behind
            keys, values = own_k[:, low : (first + count) * own], own_v[:, low : (first + count) * own]
            if right:
                base = self.behind + self.group * own
                columns.append(slice(base, base + count * right))
                copies = slice(first, first + count)
                keys = torch.cat([keys, k[:, copies, own:].flatten(1, 2)], 1)
                values = torch.cat([values, v[:, copies, own:].flatten(1, 2)], 1)
            bias = torch.cat([self.bias[:, :rows, c] for c in columns], 2)
            allowed = torch.cat([self.allowed[:rows, c] for c in columns], 1)
            frame = torch.cat([self.key[c] for c in columns]) + first * own  # [K]
            if self.shortest < (first + count) * own + right:
                allowed = allowed & (frame < self.lengths[:, None, None, None])  # [B, 1, Q, K]
            take = slice(first, first + count)
            out, _ = _attend(
                q[:, take].flatten(1, 2).transpose(1, 2),
                keys.transpose(1, 2),
                values.transpose(1, 2),
                gate[:, take].flatten(1, 2).transpose(1, 2),
                bias,
                allowed,
                dropout,
                False,
            )
            outputs.append(out.transpose(1, 2).reshape(batch, count, own + right, heads, size))
        return (torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]), None
