"""Attention with gated relative position bias from the definition: the raw table, a loop over distances, full matrices.

Shares no code with kernels/, not even the bucket function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BUCKETS, FARTHEST = 320, 800


def published_bucket(distance: int) -> int:
    """One distance, by the formula of the paper's code."""
    half, size = BUCKETS // 2, abs(distance)
    if size < half // 2:
        bucket = size
    else:
        bucket = half // 2 + int(math.log(size / (half // 2)) / math.log(FARTHEST / (half // 2)) * (half // 2))
    return min(half - 1, bucket) + (half if distance > 0 else 0)


def bias_of(table: Tensor, distance: Tensor) -> Tensor:
    """table `[buckets, heads]`, distance `[Q, K]` -> `[heads, Q, K]`."""
    low, high = int(distance.min()), int(distance.max())
    buckets = torch.tensor([published_bucket(d) for d in range(low, high + 1)])
    return table[buckets[distance - low]].permute(2, 0, 1)


def layout(tokens: int, context: tuple[int, int, int] | None) -> tuple[Tensor, Tensor]:
    """Each token's frame `[tokens]`, and who sees whom `[tokens, tokens]`."""
    token = torch.arange(tokens)
    if context is None:
        return token, torch.ones(tokens, tokens, dtype=torch.bool)
    left, chunk, right = context
    number, inside = token // (chunk + right), token % (chunk + right)
    frame, own = number * chunk + inside, inside < chunk
    start = (number * chunk)[:, None]
    sees = torch.where(own, (frame >= start - left) & (frame < start + chunk), number == number[:, None])
    return frame, sees


def full(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, table: Tensor, lengths: Tensor | None = None,
    context: tuple[int, int, int] | None = None, keep: Tensor | None = None, dtype: torch.dtype = torch.float64,
) -> Tensor:  # fmt: skip
    """The formula in one precision; rows that see nothing give zeros. q `[batch, tokens, heads, size]`."""
    q, k, v, gate, table = (x.to(dtype) for x in (q, k, v, gate, table))
    frame, sees = layout(q.shape[1], context)
    sees = sees[None]
    if lengths is not None:
        there = frame < lengths[:, None]
        sees = sees & there[:, None]
        k, v = (x.masked_fill(~there[:, :, None, None], 0) for x in (k, v))  # whatever is there, NaN too
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    scores = scores + gate.permute(0, 2, 1)[..., None] * bias_of(table, frame - frame[:, None])
    scores = scores.masked_fill(~sees[:, None], -math.inf)
    weights = torch.where(sees.any(-1)[:, None, :, None], scores.softmax(-1), 0)
    return torch.einsum("bhij,bjhd->bihd", weights if keep is None else weights * keep, v)


def step(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, table: Tensor, old: list[tuple[Tensor, Tensor]], frames: list[int],
    dtype: torch.dtype = torch.float64,
) -> Tensor:  # fmt: skip
    """Streaming: `old` has the cached keys and values of each row, oldest first, `[cached, heads, size]` each."""
    out = torch.zeros(q.shape, dtype=dtype)
    for row, (old_k, old_v) in enumerate(old):
        new = frames[row]
        if not new:
            continue
        keys = torch.cat([old_k.to(dtype), k[row, :new].to(dtype)])
        values = torch.cat([old_v.to(dtype), v[row, :new].to(dtype)])
        distance = torch.arange(-len(old_k), new)[None] - torch.arange(new)[:, None]
        scores = torch.einsum("ihd,jhd->hij", q[row, :new].to(dtype), keys) / math.sqrt(q.shape[-1])
        scores = scores + gate[row, :new].to(dtype).t()[..., None] * bias_of(table.to(dtype), distance)
        out[row, :new] = torch.einsum("hij,jhd->ihd", scores.softmax(-1), values)
    return out


def error(got: Tensor, expected: Tensor) -> float:
    """Relative, in the 2-norm; NaN counts as infinite; where nothing is expected, absolute."""
    expected = expected.double()
    norm = float(expected.norm())
    value = float((got.detach().double() - expected).norm()) / (norm if norm > 1e-9 else 1.0)
    return value if value == value else math.inf


def inputs(
    batch: int, tokens: int, heads: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v, gate (0 to 3) and table (float32)."""
    q, k, v = (torch.randn(batch, tokens, heads, size).to(dtype) for _ in range(3))
    return q, k, v, (torch.rand(batch, tokens, heads) * 3).to(dtype), torch.randn(BUCKETS, heads)
