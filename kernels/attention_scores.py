# pyright: reportCallIssue=false, reportArgumentType=false
"""What all attention kernels share: where a tile stands, which keys a row sees, a score. Imports triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_tile(tile, tokens, chunk, step, group, parts, ROWS: tl.constexpr, CHUNKED: tl.constexpr):
    """A tile's first token, its number of valid rows, the frame of its origin and its first chunk."""
    if CHUNKED:
        first = tile // parts * group
        inside = tile % parts * ROWS
        token = first * step + inside
        rows = tl.minimum(tl.minimum(group * step - inside, ROWS), tokens - token)
        frame = first * chunk + inside
    else:
        first = tile * 0
        token = tile * ROWS
        rows = tl.minimum(ROWS, tokens - token)
        frame = token
    return token, rows, frame, first


@triton.jit
def own_token(frame, chunk, right, CHUNKED: tl.constexpr):
    """The token that owns a frame."""
    if CHUNKED:
        token = frame + frame // chunk * right
    else:
        token = frame
    return token


@triton.jit
def visible(own, valid, left, chunk, length):
    """The own frames [low, high) that each row sees, from its chunk; none for rows that are not there."""
    low = tl.maximum(own * chunk - left, 0)
    high = tl.minimum(own * chunk + chunk, length)
    return low, tl.where(valid, high, 0)


@triton.jit
def copy_column(column, first, chunk, step, right):
    """Chunk, token and frame of the copies of a tile's chunks, counted through: R of the first chunk and so on."""
    which = first + column // right
    inside = chunk + column % right
    return which, which * step + inside, which * chunk + inside


@triton.jit
def load_rows(POINTER, token, valid, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr):
    """Rows of a head: [rows, WIDTH], of which SIZE are there; zero where not valid.

    Offsets inside one row of a batch fit 32 bits, which spares registers; `POINTER` is already that row's.
    """
    column = tl.arange(0, WIDTH)
    place = POINTER + token[:, None] * stride + column[None, :]
    if SIZE < WIDTH:
        rows = tl.load(place, mask=valid[:, None] & (column[None, :] < SIZE), other=0.0)
    elif MASKED:
        rows = tl.load(place, mask=valid[:, None], other=0.0)
    else:
        rows = tl.load(place)
    return rows


@triton.jit
def store_rows(POINTER, token, valid, stride, rows, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """The other way round."""
    column = tl.arange(0, WIDTH)
    place = POINTER + token[:, None] * stride + column[None, :]
    tl.store(place, rows.to(POINTER.dtype.element_ty), mask=valid[:, None] & (column[None, :] < SIZE))


@triton.jit
def score(q, k, gate, bias, scale):
    """q k^T scale + gate bias, all to base 2: [rows, keys]."""
    return tl.dot(q, tl.trans(k), input_precision="ieee") * scale + gate[:, None] * bias.to(tl.float32)


@triton.jit
def kept(SEED, stream, query, key, tokens, dropout):
    """Whether dropout keeps a pair, a function of the seed, the stream (row of the batch and head) and the pair."""
    return tl.rand(tl.load(SEED) + stream, query[:, None] * tokens + key[None, :]) >= dropout
