# pyright: reportCallIssue=false, reportArgumentType=false
"""Triton kernels: gradients of q and gate by tiles of rows, then of k and v by tiles of keys.

Probabilities are computed again from the saved sum (Dao 2023). The gate's gradient, sum_j dS_ij rel[j - i], is a row
sum of the first kernel. Each result is written by one program, in one order: no atomics, the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_scores import copy_column, kept, load_rows, own_token, row_tile, score, store_rows, visible
from .attention_settings import backward_settings, capability
from .attention_tiles import Tiles, cdiv

LOG2E = 1.4426950408889634


@triton.jit
def score_gradient(q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, MASKED, DROPOUT):
    """Probabilities as the values saw them, and the gradient of the scores (to base e): [rows, keys] both."""
    p = tl.exp2(score(q, k, gate, bias, scale) - lse[:, None])
    if MASKED:
        p = tl.where(seen, p, 0.0)
    dp = tl.dot(grad, tl.trans(v), input_precision="ieee")
    dropped = p
    if DROPOUT:
        dp = tl.where(keep, dp * rescale, 0.0)
        dropped = tl.where(keep, p * rescale, 0.0)
    return dropped, p * (dp - delta[:, None])


@triton.jit
def _row_part(dq, dgate, q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, MASKED, DROPOUT):
    _, ds = score_gradient(q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, MASKED, DROPOUT)
    dgate += tl.sum(ds * bias.to(tl.float32), 1)
    return tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee"), dgate


@triton.jit
def full_backward_rows(
    Q, K, V, GATE, BIAS, LENGTHS, SEED, OUT, LSE, GRAD, DELTA, DQ, DGATE,
    tokens, heads, left, chunk, right, chunks, group, parts, bias_columns, bias_origin, scale, dropout, size_scale,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BIAS_ROWS: tl.constexpr,
    CHUNKED: tl.constexpr, COPIES: tl.constexpr, RAGGED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """dq and dgate of a tile of queries; also writes delta = rowsum(out * grad) `[batch, heads, tokens]`."""
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
    grad = load_rows(GRAD + base, query, valid, stride, SIZE, WIDTH, True)
    out = load_rows(OUT + base, query, valid, stride, SIZE, WIDTH, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    sums = stream.to(tl.int64) * tokens + query
    tl.store(DELTA + sums, delta, mask=valid)
    lse = tl.load(LSE + sums, mask=valid, other=1e30)
    at = batch.to(tl.int64) * tokens * heads + query * heads + head
    gate = tl.load(GATE + at, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
    bias_row = BIAS + (head * BIAS_ROWS + row[:, None]) * bias_columns + bias_origin
    rescale = 1.0 / (1.0 - dropout)
    dq = tl.zeros([ROWS, WIDTH], tl.float32)
    dgate = tl.zeros([ROWS], tl.float32)
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
            dq, dgate = _row_part(
                dq, dgate, q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, True, DROPOUT
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
                dq, dgate = _row_part(
                    dq, dgate, q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, True, DROPOUT
                )
    else:
        for f0 in range(0, length, KEYS):
            key = f0 + column
            there = key < length
            k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
            v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
            bias = tl.load(bias_row + tl.multiple_of(f0 - frame, KEYS) + column[None, :])
            seen = there[None, :] & (row >= 0)[:, None]
            if DROPOUT:
                keep = kept(SEED, stream, query, key, tokens, dropout)
            dq, dgate = _row_part(
                dq, dgate, q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, True, DROPOUT
            )
    store_rows(DQ + base, query, valid, stride, dq * size_scale, SIZE, WIDTH)
    tl.store(DGATE + at, dgate.to(DGATE.dtype.element_ty), mask=valid)


@triton.jit
def full_backward_keys(
    Q, K, V, GATE, BIAS, LENGTHS, SEED, LSE, GRAD, DELTA, DK, DV,
    tokens, heads, left, chunk, right, chunks, group, parts, bias_columns, bias_origin, scale, dropout, size_scale,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BIAS_ROWS: tl.constexpr,
    CHUNKED: tl.constexpr, COPIES: tl.constexpr, RAGGED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """dk and dv of a tile of keys: own frames, or (COPIES) the copies of the chunks of a tile of rows."""
    stream = tl.program_id(1)
    batch, head = stream // heads, stream % heads
    step = chunk + right
    stride = heads * SIZE
    base = batch.to(tl.int64) * tokens * stride + head * SIZE
    length = tokens
    if CHUNKED:
        length = chunks * chunk + right
    if RAGGED:
        length = tl.minimum(length, tl.load(LENGTHS + batch))
    column = tl.arange(0, KEYS)
    if COPIES:
        # as many programs a group as tiles of keys cover its copies
        per_group = tl.cdiv(group * right, KEYS)
        which_group = tl.program_id(0) // per_group
        first_chunk = which_group * group
        last_chunk = tl.minimum(first_chunk + group, chunks)
        which, key, f = copy_column(tl.program_id(0) % per_group * KEYS + column, first_chunk, chunk, step, right)
        inside = which < last_chunk
        low_tile = which_group * parts
        high_tile = low_tile + parts
        smallest = first_chunk * chunk + chunk
    else:
        smallest = tl.program_id(0) * KEYS
        f = smallest + column
        which = f * 0
        key = own_token(f, chunk, right, CHUNKED)
        low_tile = tl.program_id(0) * 0
        high_tile = tl.cdiv(tokens, ROWS)
        inside = f < tokens
        if CHUNKED:
            inside = f < chunks * chunk
            low_tile = smallest // chunk // group * parts
            high_tile = (tl.minimum((smallest + KEYS - 1 + left) // chunk, chunks - 1) // group + 1) * parts
    there = inside & (f < length)
    if smallest >= length:
        high_tile = low_tile  # nobody sees these keys
    k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
    v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
    rescale = 1.0 / (1.0 - dropout)
    dk = tl.zeros([KEYS, WIDTH], tl.float32)
    dv = tl.zeros([KEYS, WIDTH], tl.float32)
    row = tl.arange(0, ROWS)
    for tile in range(low_tile, high_tile):
        token, rows, frame, _ = row_tile(tile, tokens, chunk, step, group, parts, ROWS, CHUNKED)
        query = token + row
        valid = row < rows
        q = load_rows(Q + base, query, valid, stride, SIZE, WIDTH, True)
        grad = load_rows(GRAD + base, query, valid, stride, SIZE, WIDTH, True)
        sums = stream.to(tl.int64) * tokens + query
        lse = tl.load(LSE + sums, mask=valid, other=1e30)
        delta = tl.load(DELTA + sums, mask=valid, other=0.0)
        at = batch.to(tl.int64) * tokens * heads + query * heads + head
        gate = tl.load(GATE + at, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
        bias_row = BIAS + (head * BIAS_ROWS + row[:, None]) * bias_columns + bias_origin
        if CHUNKED:
            own = query // step
            if COPIES:
                seen = tl.where(there, which, -1)[None, :] == own[:, None]
                bias = tl.load(bias_row + (f - frame)[None, :], mask=inside[None, :], other=0.0)
            else:
                low, high = visible(own, valid, left, chunk, length)
                seen = (f[None, :] >= low[:, None]) & (f[None, :] < high[:, None])
                bias = tl.load(bias_row + (f - frame)[None, :])
        else:  # what belongs to keys that are not there is thrown away at the end
            seen = valid[:, None] & there[None, :]
            bias = tl.load(bias_row + tl.multiple_of(smallest - frame, KEYS) + column[None, :])
        keep = seen
        if DROPOUT:
            keep = kept(SEED, stream, query, key, tokens, dropout)
        p, ds = score_gradient(q, k, v, gate, bias, grad, lse, delta, seen, keep, scale, rescale, CHUNKED, DROPOUT)
        dv = tl.dot(tl.trans(p.to(grad.dtype)), grad, dv, input_precision="ieee")
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    dk = tl.where(there[:, None], dk * size_scale, 0.0)
    dv = tl.where(there[:, None], dv, 0.0)
    store_rows(DK + base, key, inside, stride, dk, SIZE, WIDTH)
    store_rows(DV + base, key, inside, stride, dv, SIZE, WIDTH)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, out: Tensor, lse: Tensor, dropout: float, tiles: Tiles,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv, dgate and delta `[batch, heads, tokens]`; `tiles` with `tile_rows`."""
    batch, tokens, heads, size = q.shape
    dq, dk, dv, dgate = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty_like(gate)
    delta = torch.empty_like(lse)
    if q.numel() == 0:
        return dq, dk, dv, dgate, delta
    width = max(16, triton.next_power_of_2(size))
    settings = backward_settings(q.dtype, width, dropout > 0, capability(q.device))
    assert settings.rows == tiles.rows
    numbers = (
        tokens, heads, tiles.left, tiles.chunk, tiles.right, tiles.chunks, tiles.group, tiles.parts,
        sheared.shape[2], -tiles.low, size**-0.5 * LOG2E, dropout, size**-0.5,
    )  # fmt: skip
    flags = {
        "SIZE": size, "WIDTH": width, "BIAS_ROWS": sheared.shape[1], "CHUNKED": tiles.chunk > 0,
        "RAGGED": lengths is not None, "DROPOUT": dropout > 0,
    }  # fmt: skip
    full_backward_rows[(tiles.count, batch * heads)](
        q, k, v, gate, sheared, lengths, seed, out, lse, grad, delta, dq, dgate,
        *numbers, COPIES=tiles.right > 0, **flags, **settings.launch(),
    )  # fmt: skip
    arguments = (q, k, v, gate, sheared, lengths, seed, lse, grad, delta, dk, dv, *numbers)
    full_backward_keys[(cdiv(tiles.frames, settings.keys), batch * heads)](
        *arguments, COPIES=False, **flags, **settings.launch()
    )
    if tiles.chunk and tiles.right:
        groups = cdiv(tiles.chunks, tiles.group)
        programs = groups * cdiv(tiles.group * tiles.right, settings.keys)
        full_backward_keys[(programs, batch * heads)](*arguments, COPIES=True, **flags, **settings.launch())
    return dq, dk, dv, dgate, delta
