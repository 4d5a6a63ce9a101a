"""Attention with gated relative position bias in torch alone: the CPU's path, and a reference in any precision.

Queries are worked off in blocks of a few heads, each with the matrix of its own distances, so that memory grows with
the frames. The forward pass is torch's fused attention with gate * bias as its mask; the backward pass computes the
probabilities of a block again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .attention_tiles import shear_rows
from .chunk_blocks import ChunkBlocks

BLOCK_SCORES = 1 << 22
"""Scores of a block (rows of the batch x heads x queries x keys): 16 MiB in float32."""
BLOCK_QUERIES = 256
"""Queries of a block where that fits."""
LOG2E = math.log2(math.e)


def hidden_score(dtype: torch.dtype) -> float:
    """The score of a pair that must not be seen: far below all others, yet finite, so that a row with nothing
    to see (padding) gives finite numbers."""
    return torch.finfo(dtype).min / 2


def mask_of(gate: Tensor, bias: Tensor, allowed: Tensor | None) -> Tensor:
    """gate `[B, h, Q]`, bias `[h, Q, K]`, allowed broadcast to `[B, h, Q, K]` -> what is added to the scores."""
    mask = gate.unsqueeze(-1) * bias
    return mask if allowed is None else mask.masked_fill_(~allowed, hidden_score(mask.dtype))


def keep_mask(shape: tuple[int, ...], dropout: float, source: torch.Generator, device: torch.device) -> Tensor:
    """What dropout keeps, scaled up: 0 or 1 / (1 - dropout)."""
    return (torch.rand(shape, generator=source, device=device) >= dropout).float() / (1 - dropout)


def generator(seed: Tensor | None, device: torch.device) -> torch.Generator | None:
    """The source of a call's dropout, the same in both directions."""
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def attend_block(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, allowed: Tensor | None, dropout: float,
    source: torch.Generator | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q `[B, h, Q, d]`, k and v `[B, h, K, d]`, gate, bias and allowed as for `mask_of` -> out, and log2 of the sum
    `[B, h, Q]`; a row that sees nothing gives zeros."""
    mask = mask_of(gate, bias, allowed)
    out, lse = _attend(q, k, v, mask, dropout, source)
    if allowed is not None and allowed.dim() == 4:
        out = out.masked_fill(~allowed.any(-1, keepdim=True), 0)
    return out, lse


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, source: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu" and not dropout:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = fused(q, k, v, attn_mask=mask.to(q.dtype))[:2]
        return out, lse * LOG2E
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(-1, -2)).to(wide) * q.shape[-1] ** -0.5 + mask
    lse = scores.logsumexp(-1)
    p = (scores - lse.unsqueeze(-1)).exp()
    if source is not None:
        p = p * keep_mask(p.shape, dropout, source, p.device)
    return p.to(v.dtype) @ v, lse * LOG2E


def attend_block_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, allowed: Tensor | None,
    dropout: float, source: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, gate and bias `[h, Q, K]` (summed over the batch) of one block."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5
    scores = (q @ k.transpose(-1, -2)).to(wide).mul_(scale).add_(mask_of(gate, bias, allowed))
    p = scores.softmax(-1)
    if allowed is not None:
        p = p.masked_fill_(~allowed, 0)
    dp = (grad @ v.transpose(-1, -2)).to(wide)
    dropped = p
    if source is not None:
        keep = keep_mask(p.shape, dropout, source, p.device)
        dp, dropped = dp * keep, p * keep
    dv = dropped.to(grad.dtype).transpose(-1, -2) @ grad
    # rowsum(out * grad) is the same number, but of a rounded output
    delta = (p * dp).sum(-1, keepdim=True)
    ds = dp.sub_(delta).mul_(p)
    # not einsum: it brings the scores of a batch into the order of a matrix product first
    dgate = (ds * bias.to(wide)).sum(-1)
    dbias = (ds * gate.to(wide).unsqueeze(-1)).sum(0)
    ds = ds.to(q.dtype)
    return (ds @ k).mul_(scale), (ds.transpose(-1, -2) @ q).mul_(scale), dv, dgate, dbias


def unshear(dbias: Tensor) -> Tensor:
    """Sums over equal column - row: `[h, Q, K]` -> `[h, Q + K - 1]`, from distance -(Q - 1) on."""
    heads, queries, keys = dbias.shape
    # a row padded by Q columns is Q + K long; read in rows one shorter, row i begins i columns later
    padded = torch.nn.functional.pad(dbias.flip(1), (0, queries)).reshape(heads, -1)[
        :, : queries * (queries + keys - 1)
    ]
    return padded.view(heads, queries, queries + keys - 1).sum(1)


def _blocks(batch: int, heads: int, tokens: int) -> tuple[int, int]:
    """Heads and queries of a block."""
    queries = min(tokens, BLOCK_QUERIES, max(32, BLOCK_SCORES // max(1, batch * tokens)))
    return max(1, min(heads, BLOCK_SCORES // max(1, batch * queries * tokens))), queries


def _allowed(lengths: Tensor | None, tokens: int) -> Tensor | None:
    if lengths is None or (lengths.device.type == "cpu" and int(lengths.min()) >= tokens):
        return None
    return (torch.arange(tokens, device=lengths.device) < lengths[:, None])[:, None, None, :]


def _clean(x: Tensor, lengths: Tensor | None, left: int, chunk: int, right: int) -> Tensor:
    """Keys or values with zeros where no frame is: what stands there may be NaN, and 0 * NaN is NaN."""
    if lengths is None:
        return x
    frame = torch.arange(x.shape[1], device=x.device)
    if chunk:
        frame = frame // (chunk + right) * chunk + frame % (chunk + right)
    there = frame < lengths[:, None]
    return x if x.device.type == "cpu" and bool(there.all()) else x.masked_fill(~there[..., None, None], 0)


def forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, lengths: Tensor | None, seed: Tensor | None,
    dropout: float, left: int, chunk: int, right: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q, k, v `[batch, tokens, heads, size]`, gate `[batch, tokens, heads]`, rel `[heads, 2 * reach + 1]`.

    Returns:
        out, shaped as q, and log2 of each row's sum of exponentials `[batch, heads, tokens]`.
    """
    batch, tokens, heads, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.empty_like(q), q.new_empty(batch, heads, tokens, dtype=wide)
    if q.numel() == 0:
        return out, lse
    source = generator(seed, q.device) if dropout else None
    k, v = (_clean(x, lengths, left, chunk, right) for x in (k, v))
    qh, kh, vh, gh, oh = (x.transpose(1, 2) for x in (q, k, v, gate, out))
    if chunk:
        plan = ChunkBlocks(rel.detach(), left, chunk, right, tokens, lengths)
        for block in plan.blocks():
            keys, values = plan.gather(block, kh), plan.gather(block, vh)
            rows = slice(block.low_token, block.high_token)
            oh[:, :, rows], lse[:, :, rows] = attend_block(
                qh[:, :, rows], keys, values, gh[:, :, rows], block.bias, block.allowed, dropout, source
            )
        return out, lse
    allowed = _allowed(lengths, tokens)
    some_heads, some = _blocks(batch, heads, tokens)
    zero = torch.arange(some, device=q.device)
    for h in range(0, heads, some_heads):
        at = slice(h, h + some_heads)
        for start in range(0, tokens, some):
            rows = slice(start, start + some)
            offsets = zero[: min(some, tokens - start)]
            bias = shear_rows(rel[at], offsets, some - 1, -start, tokens)
            oh[:, at, rows], lse[:, at, rows] = attend_block(
                qh[:, at, rows], kh[:, at], vh[:, at], gh[:, at, rows], bias, allowed, dropout, source
            )
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, lengths: Tensor | None,
    seed: Tensor | None, dropout: float, left: int, chunk: int, right: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, gate and rel; the last in float32 or wider."""
    batch, tokens, heads, _ = q.shape
    dq, dk, dv, dgate = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), torch.empty_like(gate)
    drel = rel.new_zeros(rel.shape, dtype=torch.promote_types(q.dtype, torch.float32))
    if q.numel() == 0:
        return dq, dk, dv, dgate, drel
    source = generator(seed, q.device) if dropout else None
    k, v = (_clean(x, lengths, left, chunk, right) for x in (k, v))
    qh, kh, vh, gh, grads, dqh, dkh, dvh, dgh = (x.transpose(1, 2) for x in (q, k, v, gate, grad, dq, dk, dv, dgate))
    if chunk:
        plan = ChunkBlocks(rel, left, chunk, right, tokens, lengths)
        for block in plan.blocks():
            rows = slice(block.low_token, block.high_token)
            dqh[:, :, rows], one_k, one_v, dgh[:, :, rows], dbias = attend_block_backward(
                grads[:, :, rows], qh[:, :, rows], plan.gather(block, kh), plan.gather(block, vh), gh[:, :, rows],
                block.bias, block.allowed, dropout, source,
            )  # fmt: skip
            plan.scatter(block, dkh, one_k)
            plan.scatter(block, dvh, one_v)
            plan.collect(block, dbias)
        return dq, dk, dv, dgate, plan.relative_gradient(drel)
    allowed = _allowed(lengths, tokens)
    some_heads, some = _blocks(batch, heads, tokens)
    reach = rel.shape[1] // 2
    zero = torch.arange(some, device=q.device)
    for h in range(0, heads, some_heads):
        at = slice(h, h + some_heads)
        for start in range(0, tokens, some):
            stop = min(tokens, start + some)
            rows = slice(start, stop)
            bias = shear_rows(rel[at], zero[: stop - start], some - 1, -start, tokens)
            dqh[:, at, rows], one_k, one_v, dgh[:, at, rows], dbias = attend_block_backward(
                grads[:, at, rows], qh[:, at, rows], kh[:, at], vh[:, at], gh[:, at, rows], bias, allowed,
                dropout, source,
            )  # fmt: skip
            dkh[:, at] += one_k
            dvh[:, at] += one_v
            drel[at, reach - stop + 1 : reach - start + tokens] += unshear(dbias)
    return dq, dk, dv, dgate, drel
