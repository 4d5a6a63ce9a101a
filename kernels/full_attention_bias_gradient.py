# pyright: reportCallIssue=false, reportArgumentType=false
"""Triton kernels: the gradient of the relative vector, without atomics.

All tiles of rows meet the keys at place x with the same distances, x - offset(row). So one program adds gate * dS of
all its tiles of rows up as a tile; the sum is written once, and a second kernel adds up each distance over rows and
shares in a fixed order.

In a whole utterance place x = i * KEYS has n - i tiles of keys and place (i - n) * KEYS the other i: one program takes
both, so that all are equally long ("wrapped diagonals").
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_scores import copy_column, kept, load_rows, own_token, row_tile, visible
from .attention_settings import bias_settings, capability
from .attention_tiles import Tiles, cdiv
from .full_attention_backward import score_gradient

LOG2E = 1.4426950408889634
PROGRAMS = 512
"""Batches are shared among programs until there are about so many: several for each multiprocessor."""


@triton.jit
def full_backward_bias(
    Q, K, V, GATE, BIAS, LENGTHS, SEED, LSE, GRAD, DELTA, PARTIAL,
    batches, shares, place_low, places, own_places,
    tokens, heads, left, chunk, right, chunks, group, parts, bias_columns, bias_origin, scale, dropout,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BIAS_ROWS: tl.constexpr,
    CHUNKED: tl.constexpr, COPIES: tl.constexpr, RAGGED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """partial [shares, heads, places, ROWS, KEYS]: places of own keys first, then those of copies, by part."""
    head, share = tl.program_id(1), tl.program_id(2)
    step = chunk + right
    stride = heads * SIZE
    row = tl.arange(0, ROWS)
    column = tl.arange(0, KEYS)
    rescale = 1.0 / (1.0 - dropout)
    tiles = tl.cdiv(tokens, ROWS)
    turns = 2
    if CHUNKED:
        tiles = tl.cdiv(chunks, group) * parts
        turns = 1
    bias_row = BIAS + (head * BIAS_ROWS + row[:, None]) * bias_columns + bias_origin
    for turn in range(turns):
        index = tl.program_id(0)
        copies = index >= own_places
        begin = index * 0
        end = tiles + index * 0
        stride_tile = index * 0 + 1
        c = index * 0
        if CHUNKED:
            x = place_low + index * KEYS
            if COPIES:  # those of one part of a chunk: every `parts`-th tile
                per_part = tl.cdiv(group * right, KEYS)
                begin = tl.where(copies, (index - own_places) // per_part, 0)
                c = tl.where(copies, (index - own_places) % per_part * KEYS, 0)
                stride_tile = tl.where(copies, parts, 1)
        else:
            # turn 0: places from the diagonal on; turn 1: those before it
            index += (1 - turn) * (own_places // 2)
            x = place_low + index * KEYS
            begin = tl.cdiv(tl.maximum(-x, 0), ROWS)
            end = tl.minimum(tiles, tl.cdiv(tokens - x, ROWS))
        total = tl.zeros([ROWS, KEYS], tl.float32)
        for batch in range(share, batches, shares):
            stream = head + batch * heads  # a tensor, as `batch` is not in the interpreter
            base = (stream // heads).to(tl.int64) * tokens * stride + head * SIZE
            length = tokens
            if CHUNKED:
                length = chunks * chunk + right
            if RAGGED:
                length = tl.minimum(length, tl.load(LENGTHS + batch))
            for tile in range(begin, end, stride_tile):
                token, rows, frame, first = row_tile(tile, tokens, chunk, step, group, parts, ROWS, CHUNKED)
                query = token + row
                valid = row < rows
                f = frame + x + column
                if CHUNKED:
                    own = query // step
                    last = tl.minimum(first + group, chunks)
                    there = (f >= 0) & (f < tl.minimum(length, last * chunk))
                    low, high = visible(own, valid, left, chunk, length)
                    seen = (f[None, :] >= low[:, None]) & (f[None, :] < high[:, None])
                    key = own_token(f, chunk, right, CHUNKED)
                    if COPIES:
                        which, copy_token, copy_frame = copy_column(c + column, first, chunk, step, right)
                        f = tl.where(copies, copy_frame, f)
                        key = tl.where(copies, copy_token, key)
                        there = tl.where(copies, (which < last) & (f < length), there)
                        seen = tl.where(copies, tl.where(there, which, -1)[None, :] == own[:, None], seen)
                    bias = tl.load(bias_row + (f - frame)[None, :], mask=there[None, :], other=0.0)
                else:
                    key = f
                    there = (f >= 0) & (f < length)
                    seen = there[None, :] & (row >= 0)[:, None]
                    bias = tl.load(bias_row + tl.multiple_of(x, KEYS) + column[None, :])
                q = load_rows(Q + base, query, valid, stride, SIZE, WIDTH, True)
                k = load_rows(K + base, key, there, stride, SIZE, WIDTH, True)
                v = load_rows(V + base, key, there, stride, SIZE, WIDTH, True)
                grad = load_rows(GRAD + base, query, valid, stride, SIZE, WIDTH, True)
                sums = stream.to(tl.int64) * tokens + query
                lse = tl.load(LSE + sums, mask=valid, other=1e30)
                delta = tl.load(DELTA + sums, mask=valid, other=0.0)
                at = (stream // heads).to(tl.int64) * tokens * heads + query * heads + head
                gate = tl.load(GATE + at, mask=valid, other=0.0).to(tl.float32)
                keep = seen
                if DROPOUT:
                    keep = kept(SEED, stream, query, key, tokens, dropout)
                _, ds = score_gradient(
                    q, k, v, gate * 1.4426950408889634, bias, grad, lse, delta, seen, keep, scale, rescale, True,
                    DROPOUT,
                )  # fmt: skip
                total += gate[:, None] * ds
        at = ((share * heads + head) * places + index).to(tl.int64) * ROWS * KEYS
        tl.store(PARTIAL + at + row[:, None] * KEYS + column[None, :], total)


@triton.jit
def full_collect_bias(
    PARTIAL, DREL,
    shares, heads, place_low, places, own_places, chunk, right, group, parts, reach,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr, COPIES: tl.constexpr,
):  # fmt: skip
    """drel [heads, 2 * reach + 1]: each distance summed over the rows of the partial tiles, in their order."""
    head = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    distance = index - reach
    step = chunk + right
    total = tl.zeros([BLOCK], tl.float32)
    for first_row in range(0, ROWS, 16):
        row = first_row + tl.arange(0, 16)
        which = row * 0
        offset = row
        if group > 1:
            which = row // step
            offset = which * chunk + row % step
        x = distance[None, :] + offset[:, None]
        place = (x - place_low) // KEYS
        inside = (x >= place_low) & (place < own_places)
        at = place * ROWS * KEYS + row[:, None] * KEYS + (x - place_low) % KEYS
        for share in range(shares):
            base = (head + share * heads).to(tl.int64) * places * ROWS * KEYS
            total += tl.sum(tl.load(PARTIAL + base + at, mask=inside, other=0.0), 0)
        if COPIES:
            per_part = tl.cdiv(group * right, KEYS)
            for part in range(parts):
                ahead = x + part * ROWS - which[:, None] * chunk - chunk  # behind the end of the chunk, in frames
                c = which[:, None] * right + ahead
                inside = (ahead >= 0) & (ahead < right)
                place = own_places + part * per_part + c // KEYS
                at = place * ROWS * KEYS + row[:, None] * KEYS + c % KEYS
                for share in range(shares):
                    base = (head + share * heads).to(tl.int64) * places * ROWS * KEYS
                    total += tl.sum(tl.load(PARTIAL + base + at, mask=inside, other=0.0), 0)
    tl.store(DREL + head * (2 * reach + 1) + index, total, mask=index < 2 * reach + 1)


def bias_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, lse: Tensor, delta: Tensor, reach: int, dropout: float, tiles: Tiles,
) -> Tensor:  # fmt: skip
    """float32 `[heads, 2 * reach + 1]`; `tiles` with `tile_rows`."""
    batch, tokens, heads, size = q.shape
    result = torch.zeros(heads, 2 * reach + 1, dtype=torch.float32, device=q.device)
    if q.numel() == 0:
        return result
    width = max(16, triton.next_power_of_2(size))
    settings = bias_settings(q.dtype, width, capability(q.device))
    keys = settings.keys
    assert settings.rows == tiles.rows
    if tiles.chunk:
        behind = min(tiles.left, (tiles.chunks - 1) * tiles.chunk) + (tiles.parts - 1) * tiles.rows
        place_low = -cdiv(behind, keys) * keys
        own_places = cdiv(tiles.group * tiles.chunk - place_low, keys)
        programs = own_places + (tiles.parts * cdiv(tiles.group * tiles.right, keys) if tiles.right else 0)
        places = programs
    else:
        programs = tiles.count * tiles.rows // keys
        places = own_places = 2 * programs
        place_low = -programs * keys
    shares = max(1, min(batch, PROGRAMS // max(1, programs * heads)))
    partial = torch.empty(shares, heads, places, tiles.rows, keys, dtype=torch.float32, device=q.device)
    full_backward_bias[(programs, heads, shares)](
        q, k, v, gate, sheared, lengths, seed, lse, grad, delta, partial,
        batch, shares, place_low, places, own_places,
        tokens, heads, tiles.left, tiles.chunk, tiles.right, tiles.chunks, tiles.group, tiles.parts,
        sheared.shape[2], -tiles.low, size**-0.5 * LOG2E, dropout,
        SIZE=size, WIDTH=width, BIAS_ROWS=sheared.shape[1],
        CHUNKED=tiles.chunk > 0, COPIES=tiles.right > 0, RAGGED=lengths is not None, DROPOUT=dropout > 0,
        **settings.launch(),
    )  # fmt: skip
    block = 128
    full_collect_bias[(cdiv(2 * reach + 1, block), heads)](
        partial, result, shares, heads, place_low, places, own_places, tiles.chunk, tiles.right, tiles.group,
        tiles.parts, reach, ROWS=tiles.rows, KEYS=keys, BLOCK=block, COPIES=tiles.right > 0, num_warps=4,
    )  # fmt: skip
    return result
