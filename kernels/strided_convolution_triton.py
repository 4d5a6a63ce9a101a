# pyright: reportCallIssue=false, reportArgumentType=false
# (what a Triton function takes and computes is no Python that a checker knows)
"""The Triton kernel of `strided_convolution`: one matrix product whose rows overlap, with norm and GELU behind it.

Channels last, a window of `kernel` positions is `kernel * channels` neighbouring numbers, and the next window starts
`stride * channels` further on. So the convolution is a product of a matrix that is never built, with overlapping
rows, and the weight; the rows of all streams stand below each other in one long matrix. A row's first windows
begin in the tail its stream kept: a pointer chosen per element, not a copy.

The layer norm needs all channels of a position in one program: 64 positions x 512 channels on 8 warps is what the
registers of a Hopper hold. Without one (or with moments given) the channels are split too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gelu(x, EXACT: tl.constexpr):
    """x times the normal distribution function of x.

    `EXACT`: by the error function. Else by Abramowitz and Stegun 7.1.26 for the tail, at most 1.5e-7 away, which no
    16-bit float shows. The library's erf selects between two polynomials, so that 128 values a thread do not fit
    into the registers.
    """
    if EXACT:
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
    series = t * (0.254829592 + t * (-0.284496736 + t * series))
    below = x * (0.5 * series * tl.exp(-z * z))  # x times what lies beyond |x|
    return tl.where(x < 0, below, x - below)


@triton.jit
def strided_convolution_kernel(
    x_ptr,  # [rows, inputs, INPUTS], rows x_stride apart
    tail_ptr,  # [slots, KEPT, INPUTS]
    slot_ptr,  # int64 [rows]
    count_ptr,  # int64 [rows], valid inputs
    weight_ptr,  # [OUTPUTS, TAPS * INPUTS]
    bias_ptr,  # [OUTPUTS]
    scale_ptr,  # [OUTPUTS], norm
    shift_ptr,  # [OUTPUTS], norm
    mean_ptr,  # float32 [rows, hops, OUTPUTS]
    variance_ptr,
    out_ptr,  # [rows, positions, OUTPUTS]
    new_tail_ptr,  # [rows, KEEP, INPUTS]
    rows,
    inputs,
    positions,
    hops,
    first_hop,
    hop,
    x_stride,
    slot_stride,
    eps,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    KEPT: tl.constexpr,  # inputs of a tail that stand before x
    KEEP: tl.constexpr,  # inputs of the tail to hand on
    NORM: tl.constexpr,  # "none", "layer", "moments"
    GELU: tl.constexpr,
    RAGGED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,
):
    K: tl.constexpr = TAPS * INPUTS
    TAIL: tl.constexpr = KEPT * INPUTS
    blocks_n: tl.constexpr = (OUTPUTS + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    # neighbouring programs share their inputs, not their weights: these stay in the second-level cache anyway
    m = (pid // blocks_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (pid % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = m // positions
    position = m % positions
    live = row < rows
    row = tl.where(live, row, 0)
    base = row.to(tl.int64)
    x_row = x_ptr + base * x_stride
    if KEPT > 0:
        slot = base
        if slot_ptr is not None:
            slot = tl.load(slot_ptr + row)
        tail_row = tail_ptr + slot * slot_stride
    else:
        tail_row = x_row
    if RAGGED:
        valid = live & (position * STRIDE + TAPS <= KEPT + tl.load(count_ptr + row))
        steps = tl.max(valid.to(tl.int32), 0) * K
    else:
        valid = live
        steps = K

    # the window of output t begins at input t * STRIDE of the tail followed by x; everything counted in numbers
    begin = position * (STRIDE * INPUTS)
    k = tl.arange(0, BLOCK_K)
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # 64-bit before the product: the compiler then reaches a thread's columns by constant offsets from one address
    weight_row = weight_ptr + n.to(tl.int64) * K
    for start in range(0, steps, BLOCK_K):
        at = start + k
        place = begin[:, None] + at[None, :]
        if KEPT > 0:
            source = tl.where(place < TAIL, tail_row[:, None] + place, x_row[:, None] + (place - TAIL))
        else:
            source = x_row[:, None] + place
        weights = weight_row[None, :] + at[:, None]
        if K % BLOCK_K == 0:
            a = tl.load(source, mask=valid[:, None], other=0.0)
        else:
            a = tl.load(source, mask=valid[:, None] & (at < K)[None, :], other=0.0)
        if (K % BLOCK_K == 0) and (OUTPUTS % BLOCK_N == 0):
            w = tl.load(weights)
        else:
            w = tl.load(weights, mask=(n < OUTPUTS)[None, :] & (at < K)[:, None], other=0.0)
        accumulator = tl.dot(a, w, accumulator, input_precision="ieee")

    inside = n < OUTPUTS
    if bias_ptr is not None:
        accumulator += tl.load(bias_ptr + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    if NORM == "layer":
        mean = tl.sum(accumulator, 1) / OUTPUTS  # columns beyond OUTPUTS are zero
        accumulator -= mean[:, None]
        if OUTPUTS % BLOCK_N != 0:
            accumulator = tl.where(inside[None, :], accumulator, 0.0)
        variance = tl.sum(accumulator * accumulator, 1) / OUTPUTS
        accumulator *= tl.math.rsqrt(variance + eps)[:, None]
    if NORM == "moments":
        step = tl.where(position < first_hop, 0, 1 + (position - first_hop) // hop)
        moment = (base * hops + step)[:, None] * OUTPUTS + n[None, :]
        known = live[:, None] & inside[None, :]
        accumulator -= tl.load(mean_ptr + moment, mask=known, other=0.0)
        accumulator *= tl.math.rsqrt(tl.load(variance_ptr + moment, mask=known, other=1.0) + eps)
    if NORM != "none":
        scale = tl.load(scale_ptr + n, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + n, mask=inside, other=0.0)
        accumulator = accumulator * scale[None, :].to(tl.float32) + shift[None, :].to(tl.float32)
    if GELU:
        accumulator = gelu(accumulator, out_ptr.dtype.element_ty == tl.float32)
    if RAGGED:
        accumulator = tl.where(valid[:, None], accumulator, 0.0)
    target = out_ptr + (base * positions + position)[:, None] * OUTPUTS + n[None, :]
    tl.store(target, accumulator.to(out_ptr.dtype.element_ty), mask=live[:, None] & inside[None, :])

    # the program that holds a row's first position also hands on the row's last inputs
    if KEEP > 0 and pid % blocks_n == 0:
        first_row = tl.cdiv((pid // blocks_n) * BLOCK_M, positions)
        last_row = tl.minimum(rows, tl.cdiv((pid // blocks_n + 1) * BLOCK_M, positions))
        element = tl.arange(0, BLOCK_TAIL)
        wanted = element < KEEP * INPUTS
        for line in range(first_row, last_row):
            last = tl.cast(line, tl.int64)
            filled = inputs
            if RAGGED:
                filled = tl.load(count_ptr + last).to(tl.int32)
            place = (filled + KEPT - KEEP) * INPUTS + element
            source = x_ptr + last * x_stride + (place - TAIL)
            if KEPT > 0:
                own = last
                if slot_ptr is not None:
                    own = tl.load(slot_ptr + last)
                source = tl.where(place < TAIL, tail_ptr + own * slot_stride + place, source)
            value = tl.load(source, mask=wanted & (place >= 0), other=0.0)
            tl.store(new_tail_ptr + last * (KEEP * INPUTS) + element, value, mask=wanted)


@dataclass(frozen=True)
class Blocks:
    """Shape of one program's work."""

    m: int
    """Positions."""
    n: int
    """Output channels."""
    k: int
    """Step over the numbers of a window."""
    warps: int
    stages: int


def step_of(length: int, widest: int) -> int:
    """The widest power of two up to `widest` that divides a length; else one that covers it or a fair compromise."""
    step = widest
    while step > 16 and length % step:
        step //= 2
    if length % step:
        step = min(widest, max(16, triton.next_power_of_2(length)))
    return step


def blocks_of(dtype: torch.dtype, norm: str, outputs: int, length: int, total: int, hopper: bool, processors: int):
    """Blocks for `total` positions of windows of `length` numbers.

    Chosen by what compiles without spilled registers (tests/kernels/test_front_end_gate.py) and so that small batches
    still reach many processors; not by timings.
    """
    half = dtype != torch.float32
    wide = max(16, triton.next_power_of_2(outputs))
    k = step_of(length, 64 if half else 32)
    if norm == "layer":
        budget = (64 if hopper else 32) * 512 if half else 16 * 512
        tiles = [(max(16, min(64, budget // wide)), wide)]
    elif norm == "moments" or not half:
        tiles = [(64, 64)]
    else:
        tiles = [(128, 256), (128, 128), (64, 64)] if hopper else [(128, 128), (64, 64)]
    tiles = [(m, min(n, wide)) for m, n in tiles]
    m, n = next((t for t in tiles if triton.cdiv(total, t[0]) * triton.cdiv(outputs, t[1]) >= processors), tiles[-1])
    m = min(m, max(16, triton.next_power_of_2(total)))
    warps = 8 if m * n > 64 * 64 else 4
    if norm == "layer" and not half and length <= k:
        warps = 16  # the whole window in one step: on 8 warps Ampere spills
    room = (220 if hopper else 150) << 10  # bytes of shared memory
    stages = min(4 if half else 2, room // ((m + n) * k * dtype.itemsize)) if length > k else 1
    return Blocks(m, n, k, warps, max(1, stages))


def device_facts(x: Tensor) -> tuple[bool, int]:
    """Whether the device is a Hopper or newer, and its processors; a small Ampere for the interpreter."""
    if x.device.type != "cuda":
        return False, 1
    facts = torch.cuda.get_device_properties(x.device)
    return facts.major >= 9, facts.multi_processor_count


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    norm: str,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    mean: Tensor | None,
    variance: Tensor | None,
    first_hop: int,
    hop: int,
    gelu: bool,
    tails: Tensor | None,
    slots: Tensor | None,
    counts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The operation on the device of `x`; arguments as in `strided_convolution.reference`. No synchronisation."""
    rows, n, inputs = x.shape
    outputs, _, kernel = weight.shape
    if x.stride()[1:] != (inputs, 1):
        x = x.contiguous()
    if tails is not None and tails.stride()[1:] != (inputs, 1):
        tails = tails.contiguous()
    packed = weight.transpose(1, 2).contiguous()  # [outputs, kernel, inputs]; no copy where it is kept so
    kept, keep = 0 if tails is None else tails.shape[1], max(0, kernel - stride)
    positions = (kept + n - kernel) // stride + 1
    out = x.new_empty(rows, positions, outputs)
    new_tails = x.new_empty(rows, keep, inputs)
    if rows == 0:
        return out, new_tails
    hopper, processors = device_facts(x)
    b = blocks_of(x.dtype, norm, outputs, kernel * inputs, rows * positions, hopper, processors)
    grid = (triton.cdiv(rows * positions, b.m) * triton.cdiv(outputs, b.n),)
    scale, shift, bias = (None if part is None else part.contiguous() for part in (scale, shift, bias))
    mean, variance = (None if part is None else part.to(torch.float32).contiguous() for part in (mean, variance))
    with torch.cuda.device_of(x):
        strided_convolution_kernel[grid](
            x,
            tails,
            slots,
            counts,
            packed,
            bias,
            scale,
            shift,
            mean,
            variance,
            out,
            new_tails,
            rows,
            n,
            positions,
            1 if mean is None else mean.shape[1],
            first_hop,
            hop,
            x.stride(0),
            0 if tails is None else tails.stride(0),
            eps,
            INPUTS=inputs,
            OUTPUTS=outputs,
            TAPS=kernel,
            STRIDE=stride,
            KEPT=kept,
            KEEP=keep,
            NORM=norm,
            GELU=gelu,
            RAGGED=counts is not None,
            BLOCK_M=b.m,
            BLOCK_N=b.n,
            BLOCK_K=b.k,
            BLOCK_TAIL=triton.next_power_of_2(max(1, keep * inputs)),
            num_warps=b.warps,
            num_stages=b.stages,
        )
    return out, new_tails
