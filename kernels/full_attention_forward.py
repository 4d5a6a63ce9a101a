# pyright: reportCallIssue=false, reportArgumentType=false
"""Triton kernel: forward of attention with gated relative position bias over whole utterances and chunks.

One program a tile of queries and a head, online softmax to base 2 (Dao 2023). The bias costs one load of a sheared
tile, one conversion and one multiplication a score. Tiles of keys that no row sees are skipped; in whole utterances
only the last tile is masked.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_scores import copy_column, kept, load_rows, own_token, row_tile, score, store_rows, visible
from .attention_settings import forward_settings
from .attention_tiles import Tiles

LOG2E = 1.4426950408889634


@triton.jit
def _attend(total, top, weight, q, gate, k, v, bias, seen, keep, scale, rescale, MASKED, DROPOUT):
    """One tile of keys into the running sum, maximum and weight."""
    s = score(q, k, gate, bias, scale)
    if MASKED:
        s = tl.where(seen, s, float("-inf"))
    new = tl.maximum(top, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    fade = tl.exp2(top - new)
    weight = weight * fade + tl.sum(p, 1)
    if DROPOUT:
        p = tl.where(keep, p * rescale, 0.0)
    total = tl.dot(p.to(v.dtype), v, total * fade[:, None], input_precision="ieee")
    return total, new, weight


@triton.jit
def full_forward(
    Q, K, V, GATE, BIAS, LENGTHS, SEED, OUT, LSE,
    tokens, heads, left, chunk, right, chunks, group, parts, bias_columns, bias_origin, scale, dropout,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BIAS_ROWS: tl.constexpr,
    CHUNKED: tl.constexpr, COPIES: tl.constexpr, RAGGED: tl.constexpr, DROPOUT: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """q, k, v, out [batch, tokens, heads, SIZE]; gate [batch, tokens, heads]; lse [batch, heads, tokens], base 2."""
    stream = tl.program_id(1)
    batch, head = stream // heads, stream % heads
    step = chunk + right
    token, rows, frame, first = row_tile(tl.program_id(0), tokens, chunk, step, group, parts, ROWS, CHUNKED)
    stride = heads * SIZE
    base = batch.to(tl.int64) * tokens * stride + head * SIZE
    length = tokens
    if CHUNKED:
        length = chunks * chunk + right
    if RAGGED:
        length = tl.minimum(length, tl.load(LENGTHS + batch))

    row = tl.arange(0, ROWS)
    query = token + row
    valid = row < rows
    q = load_rows(Q + base, query, valid, stride, SIZE, WIDTH, True)
    at = batch.to(tl.int64) * tokens * heads + query * heads + head
    gate = tl.load(GATE + at, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
    bias_row = BIAS + (head * BIAS_ROWS + row[:, None]) * bias_columns + bias_origin
    rescale = 1.0 / (1.0 - dropout)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    top = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    column = tl.arange(0, KEYS)
    seen = valid[:, None] & (column >= 0)[None, :]
    keep = seen

    if CHUNKED:
        own = query // step
        low, high = visible(own, valid, left, chunk, length)
        last = tl.minimum(first + group, chunks)
        lowest = tl.maximum(0, first * chunk - left)
        highest = tl.minimum(last * chunk, length)
        place = -tl.cdiv(frame - lowest, KEYS) * KEYS
        for x in range(place, highest - frame, KEYS):
            f = frame + x + column
            there = (f >= lowest) & (f < highest)
            key = own_token(f, chunk, right, CHUNKED)
            k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
            v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
            bias = tl.load(bias_row + tl.multiple_of(x, KEYS) + column[None, :])
            seen = (f[None, :] >= low[:, None]) & (f[None, :] < high[:, None])
            if DROPOUT:
                keep = kept(SEED, stream, query, key, tokens, dropout)
            total, top, weight = _attend(
                total, top, weight, q, gate, k, v, bias, seen, keep, scale, rescale, True, DROPOUT
            )
        if COPIES:
            for c in range(0, (last - first) * right, KEYS):
                which, key, f = copy_column(c + column, first, chunk, step, right)
                there = (which < last) & (f < length)
                k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
                v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
                bias = tl.load(bias_row + (f - frame)[None, :], mask=there[None, :], other=0.0)
                seen = tl.where(there, which, -1)[None, :] == own[:, None]
                if DROPOUT:
                    keep = kept(SEED, stream, query, key, tokens, dropout)
                total, top, weight = _attend(
                    total, top, weight, q, gate, k, v, bias, seen, keep, scale, rescale, True, DROPOUT
                )
    else:
        whole = length // KEYS * KEYS
        if EXACT:  # float32 holds operands in registers; the plain loop alone would fill them
            whole = whole * 0
        for f0 in range(0, whole, KEYS):
            key = f0 + column
            k = load_rows(K + base, key, column >= 0, stride, SIZE, WIDTH, False)
            v = load_rows(V + base, key, column >= 0, stride, SIZE, WIDTH, False)
            bias = tl.load(bias_row + tl.multiple_of(f0 - frame, KEYS) + column[None, :])
            if DROPOUT:
                keep = kept(SEED, stream, query, key, tokens, dropout)
            total, top, weight = _attend(
                total, top, weight, q, gate, k, v, bias, seen, keep, scale, rescale, False, DROPOUT
            )
        for f0 in range(whole, length, KEYS):
            key = f0 + column
            there = key < length
            k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
            v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
            bias = tl.load(bias_row + tl.multiple_of(f0 - frame, KEYS) + column[None, :])
            seen = there[None, :] & (row >= 0)[:, None]
            if DROPOUT:
                keep = kept(SEED, stream, query, key, tokens, dropout)
            total, top, weight = _attend(
                total, top, weight, q, gate, k, v, bias, seen, keep, scale, rescale, True, DROPOUT
            )

    # a row that sees nothing gives zeros, and a weight that makes its probabilities zero in the backward pass
    empty = weight == 0.0
    out = total / tl.where(empty, 1.0, weight)[:, None]
    store_rows(OUT + base, query, valid, stride, out, SIZE, WIDTH)
    lse = tl.where(empty, 1e30, top + tl.log2(tl.where(empty, 1.0, weight)))
    tl.store(LSE + stream.to(tl.int64) * tokens + query, lse, mask=valid)


def forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, sheared: Tensor, lengths: Tensor | None, seed: Tensor | None,
    dropout: float, tiles: Tiles,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch it: contiguous q, k, v `[batch, tokens, heads, size]`, gate `[batch, tokens, heads]`, int32 lengths."""
    batch, tokens, heads, size = q.shape
    out = torch.empty_like(q)
    lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    if q.numel() == 0:
        return out, lse
    width = max(16, triton.next_power_of_2(size))
    settings = forward_settings(q.dtype, tiles.chunk > 0, width, dropout > 0)
    assert settings.rows == tiles.rows
    full_forward[(tiles.count, batch * heads)](
        q, k, v, gate, sheared, lengths, seed, out, lse,
        tokens, heads, tiles.left, tiles.chunk, tiles.right, tiles.chunks, tiles.group, tiles.parts,
        sheared.shape[2], -tiles.low, size**-0.5 * LOG2E, dropout,
        SIZE=size, WIDTH=width, BIAS_ROWS=sheared.shape[1],
        CHUNKED=tiles.chunk > 0, COPIES=tiles.right > 0, RAGGED=lengths is not None, DROPOUT=dropout > 0,
        EXACT=q.dtype == torch.float32, **settings.launch(),
    )  # fmt: skip
    return out, lse
