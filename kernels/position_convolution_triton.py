# pyright: reportCallIssue=false, reportArgumentType=false
# (what a Triton function takes and computes is no Python that a checker knows)
"""The Triton kernel of `position_convolution`: a matrix product over taps and channels of one group.

Channels last, output t of a group is the product of a window of `taps * channels` numbers, cut from frames of all
groups, and the group's weight. Rows of all streams stand below each other in one long matrix. A program visits
only the taps that meet a frame of its rows: in a step of 24 frames the last 40 of 128 taps read beyond its end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .strided_convolution_triton import Blocks, device_facts, gelu


@triton.jit
def position_convolution_kernel(
    x_ptr,  # [rows, frames, GROUPS * CHANNELS]
    kept_ptr,  # [slots, HELD, GROUPS * CHANNELS]
    slot_ptr,  # int64 [rows]
    known_ptr,  # int64 [rows]
    count_ptr,  # int64 [rows]
    weight_ptr,  # [GROUPS * CHANNELS, TAPS, CHANNELS]
    bias_ptr,  # [GROUPS * CHANNELS]
    out_ptr,  # [rows, frames, GROUPS * CHANNELS]
    rows,
    frames,
    x_row_stride,
    x_stride,
    kept_row_stride,
    kept_stride,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    HELD: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    K: tl.constexpr = TAPS * CHANNELS
    BEFORE: tl.constexpr = TAPS // 2
    blocks_n: tl.constexpr = (CHANNELS + BLOCK_N - 1) // BLOCK_N
    tiles = tl.cdiv(rows * frames, BLOCK_M)
    pid = tl.program_id(0)
    part = pid // tiles  # neighbouring programs share a group's weight
    group = part // blocks_n
    m = (pid % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (part % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = m // frames
    frame = m % frames
    live = row < rows
    row = tl.where(live, row, 0)
    base = row.to(tl.int64)

    # frame + tap - BEFORE must lie in [-known, count)
    if count_ptr is not None:
        count = tl.load(count_ptr + row).to(tl.int32)
    else:
        count = tl.zeros((BLOCK_M,), tl.int32) + frames
    known = tl.zeros((BLOCK_M,), tl.int32)
    kept_row = x_ptr + base * x_row_stride
    if HELD > 0:
        known += HELD
        if known_ptr is not None:
            known = tl.minimum(known, tl.load(known_ptr + row).to(tl.int32))
        slot = base
        if slot_ptr is not None:
            slot = tl.load(slot_ptr + row)
        kept_row = kept_ptr + slot * kept_row_stride + group * CHANNELS
    valid = live & (frame < count)
    x_row = x_ptr + base * x_row_stride + group * CHANNELS
    lowest = tl.where(valid, tl.maximum(BEFORE - frame - known, 0), TAPS)
    highest = tl.where(valid, tl.minimum(BEFORE - frame + count, TAPS), 0)
    begin = tl.min(lowest, 0) * CHANNELS // BLOCK_K * BLOCK_K
    end = tl.max(highest, 0) * CHANNELS

    k = tl.arange(0, BLOCK_K)
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # 64-bit before the product, see strided_convolution_triton.py
    weight_row = weight_ptr + (group * CHANNELS + n).to(tl.int64) * K
    for start in range(begin, end, BLOCK_K):
        at = start + k
        place = frame[:, None] + (at // CHANNELS)[None, :] - BEFORE
        channel = (at % CHANNELS)[None, :]
        seen = valid[:, None] & (place < count[:, None]) & (place >= -known[:, None])
        source = x_row[:, None] + place * x_stride + channel
        if HELD > 0:
            source = tl.where(place < 0, kept_row[:, None] + (place + HELD) * kept_stride + channel, source)
        if K % BLOCK_K != 0:
            seen = seen & (at < K)[None, :]
        a = tl.load(source, mask=seen, other=0.0)
        weights = weight_row[None, :] + at[:, None]
        if (K % BLOCK_K == 0) and (CHANNELS % BLOCK_N == 0):
            w = tl.load(weights)
        else:
            w = tl.load(weights, mask=(n < CHANNELS)[None, :] & (at < K)[:, None], other=0.0)
        accumulator = tl.dot(a, w, accumulator, input_precision="ieee")

    inside = n < CHANNELS
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + group * CHANNELS + n, mask=inside, other=0.0)
        accumulator += bias[None, :].to(tl.float32)
    if GELU:
        accumulator = gelu(accumulator, out_ptr.dtype.element_ty == tl.float32)
    accumulator = tl.where(valid[:, None], accumulator, 0.0)
    target = out_ptr + (base * frames + frame)[:, None] * (GROUPS * CHANNELS) + (group * CHANNELS + n)[None, :]
    tl.store(target, accumulator.to(out_ptr.dtype.element_ty), mask=live[:, None] & inside[None, :])


def blocks_of(dtype: torch.dtype, channels: int, taps: int, groups: int, total: int, hopper: bool, processors: int):
    """Blocks for `total` frames: large ones once they fill the processors, narrow ones before.

    Chosen by what compiles without spilled registers, not by timings.
    """
    half = dtype != torch.float32
    wide = max(16, min(64, triton.next_power_of_2(channels)))
    sizes = [(128, wide), (64, wide), (32, wide), (32, 16)] if half else [(32, min(wide, 32)), (32, 16)]
    m, n = next(
        (s for s in sizes if triton.cdiv(total, s[0]) * groups * triton.cdiv(channels, s[1]) >= processors), sizes[-1]
    )
    m = min(m, max(16, triton.next_power_of_2(total)))
    k = min(64 if half else 32, max(16, triton.next_power_of_2(taps * channels)))
    return Blocks(m, n, k, 8 if m == 128 else 4, 4 if half else 2)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    gelu: bool,
    kept: Tensor | None,
    slots: Tensor | None,
    known: Tensor | None,
    counts: Tensor | None,
) -> Tensor:
    """The operation on the device of `x`; arguments as in `position_convolution.reference`. No synchronisation."""
    rows, frames, hidden = x.shape
    channels, taps = weight.shape[1:]
    x = x if x.stride(2) == 1 else x.contiguous()
    if kept is not None:
        kept = kept.to(x.dtype) if kept.stride(2) == 1 else kept.to(x.dtype).contiguous()
        if kept.shape[1] == 0:
            kept = None
    packed = weight.transpose(1, 2).contiguous()  # [hidden, taps, channels]; no copy where it is kept so
    out = torch.empty(rows, frames, hidden, dtype=x.dtype, device=x.device)
    if rows == 0 or frames == 0:
        return out
    hopper, processors = device_facts(x)
    b = blocks_of(x.dtype, channels, taps, groups, rows * frames, hopper, processors)
    grid = (triton.cdiv(rows * frames, b.m) * groups * triton.cdiv(channels, b.n),)
    with torch.cuda.device_of(x):
        position_convolution_kernel[grid](
            x,
            kept,
            slots,
            known,
            counts,
            packed,
            None if bias is None else bias.contiguous(),
            out,
            rows,
            frames,
            x.stride(0),
            x.stride(1),
            0 if kept is None else kept.stride(0),
            0 if kept is None else kept.stride(1),
            GROUPS=groups,
            CHANNELS=channels,
            TAPS=taps,
            HELD=0 if kept is None else kept.shape[1],
            GELU=gelu,
            BLOCK_M=b.m,
            BLOCK_N=b.n,
            BLOCK_K=b.k,
            num_warps=b.warps,
            num_stages=b.stages,
        )
    return out
