# pyright: reportCallIssue=false, reportArgumentType=false
"""Triton kernels: a step's frames over the rings of their streams, and the writing of the rings.

Keys are addressed by their distance from the first frame of the step: new frames 0, 1, ..., cached ones -1, -2, ...
So the bias of a row depends on neither the stream's age nor its cached length, and one sheared matrix serves all
streams. Cached keys are walked from the newest to the oldest; the ring is read in place.

Where streams and heads are too few for the GPU, several programs share the keys of one: each takes a run of tiles and
leaves its unfinished sum, maximum and weight, which a second kernel joins in their order. How many, depends on shapes
alone, so a captured graph stays right, and nothing is added atomically, so reruns give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_scores import load_rows, store_rows
from .attention_settings import multiprocessors, streaming_settings
from .attention_tiles import cdiv, round_up, shear_rows

LOG2E = 1.4426950408889634


@triton.jit
def _attend(total, top, weight, q, gate, k, v, key_scale, value_scale, bias, there, scale, SCALED):
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if SCALED:
        s = s * key_scale[None, :]
    s = s + gate[:, None] * bias.to(tl.float32)
    s = tl.where(there[None, :], s, float("-inf"))
    new = tl.maximum(top, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    fade = tl.exp2(top - new)
    weight = weight * fade + tl.sum(p, 1)
    if SCALED:
        p = p * value_scale[None, :]
    return tl.dot(p.to(v.dtype), v, total * fade[:, None], input_precision="ieee"), new, weight


@triton.jit
def streaming_forward(
    Q, K, V, GATE, BIAS, RING_K, RING_V, SCALE_K, SCALE_V, SLOTS, COMMITTED, FRAMES, OUT, SUMS,
    width, heads, layers, layer, ring, bias_columns, bias_origin, scale,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SCALED: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """q, k, v, out [rows, width, heads, SIZE], gate [rows, width, heads], rings [slots, layers, ring, heads * SIZE].

    One program a row of the batch, a head, a tile of ROWS frames and, where SPLIT, a share of the tiles of keys; then
    out is float32 [shares, rows, width, heads, SIZE], and SUMS [shares, 2, rows, width, heads] has maximum and weight.
    """
    stream, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    origin = tl.program_id(1) * ROWS
    stride = heads * SIZE
    frames = tl.load(FRAMES + stream)
    committed = tl.load(COMMITTED + stream)
    slot = tl.load(SLOTS + stream).to(tl.int64)
    base = stream.to(tl.int64) * width * stride + head * SIZE
    row = tl.arange(0, ROWS)
    column = tl.arange(0, KEYS)
    query = origin + row
    valid = query < tl.minimum(frames, width)
    q = load_rows(Q + base, query, valid, stride, SIZE, WIDTH, True)
    at = (stream.to(tl.int64) * width + query) * heads + head
    gate = tl.load(GATE + at, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
    bias_row = BIAS + (head * ROWS + row[:, None]) * bias_columns + (bias_origin - origin)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    top = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    ones = tl.full([KEYS], 1.0, tl.float32)

    cached = tl.minimum(committed, ring)
    new_first = 0
    new_last = frames
    old_first = 0
    old_last = cached
    if SPLIT:  # tiles are counted through, those of new keys first; the last shares may be empty
        new_tiles = tl.cdiv(frames, KEYS)
        share = tl.cdiv(new_tiles + tl.cdiv(cached, KEYS), tl.num_programs(2))
        begin = tl.program_id(2) * share
        new_first = begin * KEYS
        new_last = tl.minimum(frames, (begin + share) * KEYS)
        old_first = tl.maximum(begin - new_tiles, 0) * KEYS
        old_last = tl.minimum(cached, tl.maximum(begin + share - new_tiles, 0) * KEYS)

    for x in range(new_first, new_last, KEYS):
        key = x + column
        there = key < frames
        k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
        v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
        bias = tl.load(bias_row + tl.multiple_of(x, KEYS) + column[None, :])
        total, top, weight = _attend(total, top, weight, q, gate, k, v, ones, ones, bias, there, scale, SCALED)

    rows_base = (slot * layers + layer) * ring
    ring_base = rows_base * stride + head * SIZE
    phase = committed % tl.maximum(ring, 1)
    for age in range(old_first, old_last, KEYS):
        x = -KEYS - age
        there = x + column >= -cached
        place = phase + x + column
        place = tl.where(place < 0, place + ring, place)
        k = load_rows(RING_K + ring_base, place, there, stride, SIZE, WIDTH, True).to(q.dtype)
        v = load_rows(RING_V + ring_base, place, there, stride, SIZE, WIDTH, True).to(q.dtype)
        key_scale = ones
        value_scale = ones
        if SCALED:
            key_scale = tl.load(SCALE_K + rows_base * heads + place * heads + head, mask=there, other=0.0)
            value_scale = tl.load(SCALE_V + rows_base * heads + place * heads + head, mask=there, other=0.0)
        bias = tl.load(bias_row + tl.multiple_of(x, KEYS) + column[None, :])
        total, top, weight = _attend(
            total, top, weight, q, gate, k, v, key_scale, value_scale, bias, there, scale, SCALED
        )

    if SPLIT:
        rows = tl.num_programs(0) // heads
        part = tl.program_id(2).to(tl.int64) * rows * width * heads
        store_rows(OUT + part * SIZE + base, query, query < width, stride, total, SIZE, WIDTH)
        tl.store(SUMS + 2 * part + at, top, mask=query < width)
        tl.store(SUMS + 2 * part + rows * width * heads + at, weight, mask=query < width)
    else:
        total = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        store_rows(OUT + base, query, query < width, stride, tl.where(valid[:, None], total, 0.0), SIZE, WIDTH)


@triton.jit
def streaming_join(
    PARTIAL, SUMS, FRAMES, OUT,
    width, heads, shares,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Shares of `streaming_forward` into out [rows, width, heads, SIZE], one after the other."""
    stream, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    rows = tl.num_programs(0) // heads
    query = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = query < tl.minimum(tl.load(FRAMES + stream), width)
    stride = heads * SIZE
    base = stream.to(tl.int64) * width * stride + head * SIZE
    at = (stream.to(tl.int64) * width + query) * heads + head
    size = rows.to(tl.int64) * width * heads
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    top = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    for share in range(shares):
        other = tl.load(SUMS + 2 * share * size + at, mask=there, other=-1e30)
        heavy = tl.load(SUMS + (2 * share + 1) * size + at, mask=there, other=0.0)
        part = load_rows(PARTIAL + share * size * SIZE + base, query, there, stride, SIZE, WIDTH, True)
        new = tl.maximum(top, other)
        fade = tl.exp2(top - new)
        rise = tl.exp2(other - new)
        total = total * fade[:, None] + part * rise[:, None]
        weight = weight * fade + heavy * rise
        top = new
    total = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
    store_rows(OUT + base, query, query < width, stride, total, SIZE, WIDTH)


@triton.jit
def _rounded(x, limit):
    """int8 of x / limit * 127, to the nearest, halves away from zero."""
    scaled = x * (127.0 / limit)[:, None]
    return tl.where(scaled < 0, scaled - 0.5, scaled + 0.5).to(tl.int8)


@triton.jit
def ring_write(
    K, V, RING_K, RING_V, SCALE_K, SCALE_V, SLOTS, COMMITTED, OWN,
    width, heads, layers, layer, ring,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Own frames of a step into the rings; of more than the ring holds, the last."""
    stream, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    stride = heads * SIZE
    own = tl.load(OWN + stream)
    frame = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = (frame < own) & (frame >= own - ring)
    base = stream.to(tl.int64) * width * stride + head * SIZE
    rows_base = (tl.load(SLOTS + stream).to(tl.int64) * layers + layer) * ring
    place = (tl.load(COMMITTED + stream) + frame) % tl.maximum(ring, 1)
    ring_base = rows_base * stride + head * SIZE
    k = load_rows(K + base, frame, there, stride, SIZE, WIDTH, True)
    v = load_rows(V + base, frame, there, stride, SIZE, WIDTH, True)
    if SCALED:
        k = k.to(tl.float32)
        v = v.to(tl.float32)
        largest_k = tl.maximum(tl.max(tl.abs(k), 1), 1e-12)
        largest_v = tl.maximum(tl.max(tl.abs(v), 1), 1e-12)
        at = rows_base * heads + place * heads + head
        tl.store(SCALE_K + at, largest_k / 127.0, mask=there)
        tl.store(SCALE_V + at, largest_v / 127.0, mask=there)
        k = _rounded(k, largest_k)
        v = _rounded(v, largest_v)
    store_rows(RING_K + ring_base, place, there, stride, k, SIZE, WIDTH)
    store_rows(RING_V + ring_base, place, there, stride, v, SIZE, WIDTH)


def bias_shape(dtype: torch.dtype, frames: int, ring: int, size: int) -> tuple[int, int, int]:
    """Rows, columns and the first place of the sheared matrix of a step."""
    settings = streaming_settings(dtype, frames, max(16, triton.next_power_of_2(size)))
    low = -round_up(ring + round_up(frames, settings.rows), 64) - 64
    return settings.rows, round_up(frames, 64) + 64 - low, low


def step_bias(rel: Tensor, dtype: torch.dtype, frames: int, ring: int, size: int) -> Tensor:
    """The sheared matrix `[heads, rows, columns]`."""
    rows, columns, low = bias_shape(dtype, frames, ring, size)
    return shear_rows(rel, torch.arange(rows, device=rel.device), rows - 1, low, columns).to(dtype)


def shares_of(programs: int, tiles: int, device: torch.device) -> int:
    """Programs that share the keys of one tile of queries, from shapes alone: as many as fill the GPU once."""
    return max(1, min(tiles, multiprocessors(device) // programs))


def forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, sheared: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor, own: Tensor, commit: bool,
) -> Tensor:  # fmt: skip
    """Launch both; contiguous tensors, see streaming_attention.py."""
    batch, width, heads, size = q.shape
    layers, ring = keys.shape[1:3]
    out = torch.empty_like(q)
    if q.numel() == 0:
        return out
    padded = max(16, triton.next_power_of_2(size))
    settings = streaming_settings(q.dtype, width, padded)
    _, _, low = bias_shape(q.dtype, width, ring, size)
    scaled = key_scales is not None
    grid = batch * heads, cdiv(width, settings.rows)
    shares = shares_of(grid[0] * grid[1], cdiv(width, settings.keys) + cdiv(ring, settings.keys), q.device)
    target, sums = out, None
    if shares > 1:
        target, sums = (q.new_empty(shares, *s, dtype=torch.float32) for s in (q.shape, (2, *q.shape[:3])))
    streaming_forward[(*grid, shares)](
        q, k, v, gate, sheared, keys, values, key_scales, value_scales, slots, committed, frames, target, sums,
        width, heads, layers, layer, ring, sheared.shape[2], -low, size**-0.5 * LOG2E,
        SIZE=size, WIDTH=padded, SCALED=scaled, SPLIT=shares > 1, **settings.launch(),
    )  # fmt: skip
    if shares > 1:
        streaming_join[grid](
            target, sums, frames, out, width, heads, shares, SIZE=size, WIDTH=padded, ROWS=settings.rows, num_warps=4
        )
    if commit and ring:
        rows = 16
        ring_write[(batch * heads, cdiv(width, rows))](
            k, v, keys, values, key_scales, value_scales, slots, committed, own,
            width, heads, layers, layer, ring,
            SIZE=size, WIDTH=padded, ROWS=rows, SCALED=scaled, num_warps=4,
        )  # fmt: skip
    return out
