# pyright: reportCallIssue=false, reportArgumentType=false
# (what a Triton function takes and computes is no Python that a checker knows)
"""The Triton kernel of `ctc_greedy`: projection, running maximum and running sum over blocks of the vocabulary."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .strided_convolution_triton import Blocks, device_facts, step_of


@triton.jit
def ctc_greedy_kernel(
    hidden_ptr,  # [total, HIDDEN]
    weight_ptr,  # [vocabulary, HIDDEN]
    bias_ptr,  # [vocabulary]
    index_ptr,  # int64 [total]
    best_ptr,  # float32 [total]
    silent_ptr,  # float32 [total, SILENT]
    total,
    vocabulary,
    first_silent,
    second_silent,
    HIDDEN: tl.constexpr,
    SILENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    live = m < total
    row = tl.where(live, m, 0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    hidden_row = hidden_ptr + row * HIDDEN
    largest = tl.full((BLOCK_M,), -1e30, tl.float32)  # not -inf: the difference of two is no number
    summed = tl.zeros((BLOCK_M,), tl.float32)
    index = tl.zeros((BLOCK_M,), tl.int32)
    first = tl.zeros((BLOCK_M,), tl.float32)
    second = tl.zeros((BLOCK_M,), tl.float32)
    for begin in range(0, vocabulary, BLOCK_N):
        n = begin + tl.arange(0, BLOCK_N)
        inside = n < vocabulary
        weight_row = weight_ptr + tl.where(inside, n, 0).to(tl.int64) * HIDDEN
        logits = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, HIDDEN, BLOCK_K):
            at = start + k
            if HIDDEN % BLOCK_K == 0:
                h = tl.load(hidden_row[:, None] + at[None, :], mask=live[:, None], other=0.0)
                w = tl.load(weight_row[None, :] + at[:, None])
            else:
                h = tl.load(hidden_row[:, None] + at[None, :], mask=live[:, None] & (at < HIDDEN)[None, :], other=0.0)
                w = tl.load(weight_row[None, :] + at[:, None], mask=(at < HIDDEN)[:, None], other=0.0)
            logits = tl.dot(h, w, logits, input_precision="ieee")
        if bias_ptr is not None:
            logits += tl.load(bias_ptr + n, mask=inside, other=0.0).to(tl.float32)[None, :]
        logits = tl.where(inside[None, :], logits, -1e30)
        top, place = tl.max(logits, 1, return_indices=True)
        index = tl.where(top > largest, begin + place, index)
        largest_now = tl.maximum(largest, top)
        parts = tl.where(inside[None, :], tl.exp(logits - largest_now[:, None]), 0.0)
        summed = summed * tl.exp(largest - largest_now) + tl.sum(parts, 1)
        largest = largest_now
        first += tl.sum(tl.where((n == first_silent)[None, :], logits, 0.0), 1)
        if SILENT > 1:
            second += tl.sum(tl.where((n == second_silent)[None, :], logits, 0.0), 1)
    log_sum = tl.log(summed)
    tl.store(index_ptr + row, index.to(tl.int64), mask=live)
    tl.store(best_ptr + row, -log_sum, mask=live)
    tl.store(silent_ptr + row * SILENT, tl.exp(first - largest - log_sum), mask=live)
    if SILENT > 1:
        tl.store(silent_ptr + row * SILENT + 1, tl.exp(second - largest - log_sum), mask=live)


def blocks_of(dtype: torch.dtype, hidden: int, vocabulary: int, total: int, processors: int) -> Blocks:
    """Few frames a program while there are few, since the head is bound by waiting and not by arithmetic."""
    half = dtype != torch.float32
    m = 64 if half and triton.cdiv(total, 64) >= processors else 16
    n = min(64, max(16, triton.next_power_of_2(vocabulary)))
    return Blocks(m, n, step_of(hidden, 64 if half else 32), 4, 4 if half else 2)


def launch(hidden: Tensor, weight: Tensor, bias: Tensor | None, silent: list[int]) -> tuple[Tensor, ...]:
    """The operation on the device of `hidden`; arguments as in `ctc_greedy.reference`. No synchronisation."""
    shape, size = hidden.shape[:-1], hidden.shape[-1]
    flat = hidden.reshape(-1, size).contiguous()
    total, vocabulary = flat.shape[0], weight.shape[0]
    index = torch.empty(shape, dtype=torch.int64, device=hidden.device)
    best = torch.empty(shape, dtype=torch.float32, device=hidden.device)
    quiet = torch.empty((*shape, len(silent)), dtype=torch.float32, device=hidden.device)
    if total == 0:
        return index, best, quiet
    b = blocks_of(hidden.dtype, size, vocabulary, total, device_facts(hidden)[1])
    with torch.cuda.device_of(hidden):
        ctc_greedy_kernel[(triton.cdiv(total, b.m),)](
            flat,
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            index,
            best,
            quiet,
            total,
            vocabulary,
            silent[0],
            silent[-1],
            HIDDEN=size,
            SILENT=len(silent),
            BLOCK_M=b.m,
            BLOCK_N=b.n,
            BLOCK_K=b.k,
            num_warps=b.warps,
            num_stages=b.stages,
        )
    return index, best, quiet
