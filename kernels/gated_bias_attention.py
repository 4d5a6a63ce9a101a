"""Attention with WavLM's gated relative position bias over whole utterances and chunks, with gradients.

score(i, j) = q_i . k_j / sqrt(d) + gate_i * rel[j - i]        (Chen et al. 2021, equations 4 to 8)

The gate belongs to the query and the bias to the distance, so nothing of size frames x frames is kept. Registered as
`wavlm_live::full_attention`: Triton kernels on CUDA (full_attention_forward.py and its neighbours), blocks of torch's
fused attention elsewhere (full_attention_torch.py). kernels/dispatch.py says which runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import dispatch, full_attention_torch
from .attention_settings import forward_rows, tile_rows
from .attention_tiles import Tiles

KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)

_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "attention_bias(Tensor rel, Tensor like, int tokens, int left, int chunk, int right) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "full_attention(Tensor q, Tensor k, Tensor v, Tensor gate, Tensor rel, Tensor sheared, Tensor? lengths, "
    "Tensor? seed, float dropout, int left, int chunk, int right) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "full_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor gate, Tensor rel, Tensor sheared, "
    "Tensor? lengths, Tensor? seed, Tensor out, Tensor lse, float dropout, int left, int chunk, int right, "
    "bool trained) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _by_kernel(tensor: Tensor) -> bool:
    return tensor.dtype in KERNEL_TYPES and dispatch.choose("full_attention", tensor).path == "triton"


def _bias_tiles(like: Tensor, tokens: int, left: int, chunk: int, right: int) -> Tiles:
    return Tiles(tokens, left, chunk, right, forward_rows(like.dtype, chunk > 0, like.shape[-1]))


def _attention_bias(rel: Tensor, like: Tensor, tokens: int, left: int, chunk: int, right: int) -> Tensor:
    if not _by_kernel(like):
        return rel.new_empty(rel.shape[0], 0, 0, dtype=like.dtype)
    return _bias_tiles(like, tokens, left, chunk, right).shear(rel, like.dtype)


def _attention_bias_fake(rel: Tensor, like: Tensor, tokens: int, left: int, chunk: int, right: int) -> Tensor:
    if not _by_kernel(like):
        return rel.new_empty(rel.shape[0], 0, 0, dtype=like.dtype)
    tiles = _bias_tiles(like, tokens, left, chunk, right)
    return rel.new_empty(rel.shape[0], tiles.rows, tiles.columns, dtype=like.dtype)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, dropout: float, left: int, chunk: int, right: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if not _by_kernel(q):
        q, k, v, gate = (x.contiguous() for x in (q, k, v, gate))
        return full_attention_torch.forward(q, k, v, gate, rel, lengths, seed, dropout, left, chunk, right)
    from . import full_attention_forward as kernel

    q, k, v, gate = (x.contiguous() for x in (q, k, v, gate))
    tiles = _bias_tiles(q, q.shape[1], left, chunk, right)
    if sheared.numel() == 0:
        sheared = tiles.shear(rel, q.dtype)
    return kernel.forward(q, k, v, gate, sheared.contiguous(), lengths, seed, dropout, tiles)


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, dropout: float, left: int, chunk: int, right: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, tokens, heads, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty(batch, heads, tokens, dtype=wide)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, out: Tensor, lse: Tensor, dropout: float, left: int, chunk: int, right: int, trained: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad, q, k, v, gate = (x.contiguous() for x in (grad, q, k, v, gate))
    if not _by_kernel(q):
        found = full_attention_torch.backward(grad, q, k, v, gate, rel, lengths, seed, dropout, left, chunk, right)
        drel = found[4] if trained else found[4].new_empty(0)
        return (*found[:4], drel)
    from . import full_attention_backward as kernel
    from .full_attention_bias_gradient import bias_gradient

    if sheared.numel() == 0:
        sheared = _bias_tiles(q, q.shape[1], left, chunk, right).shear(rel, q.dtype)
    sheared = sheared.contiguous()
    tiles = Tiles(q.shape[1], left, chunk, right, tile_rows(q.dtype))
    dq, dk, dv, dgate, delta = kernel.backward(grad, q, k, v, gate, sheared, lengths, seed, out, lse, dropout, tiles)
    drel = lse.new_empty(0)
    if trained:
        reach = rel.shape[1] // 2
        drel = bias_gradient(grad, q, k, v, gate, sheared, lengths, seed, lse, delta, reach, dropout, tiles)
    return dq, dk, dv, dgate, drel


def _backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, lengths: Tensor | None,
    seed: Tensor | None, out: Tensor, lse: Tensor, dropout: float, left: int, chunk: int, right: int, trained: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    drel = lse.new_empty(rel.shape) if trained else lse.new_empty(0)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), gate.new_empty(gate.shape), drel


for _name, _real, _fake in (
    ("attention_bias", _attention_bias, _attention_bias_fake),
    ("full_attention", _forward, _forward_fake),
    ("full_attention_backward", _backward, _backward_fake),
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_name, _real, _key)
    torch.library.register_fake(f"wavlm_live::{_name}", _fake, lib=_library)


class _FullAttention(torch.autograd.Function):
    """The op with its gradients."""

    @staticmethod
    def forward(ctx, q, k, v, gate, rel, sheared, lengths, seed, dropout, left, chunk, right):
        out, lse = torch.ops.wavlm_live.full_attention(
            q, k, v, gate, rel, sheared, lengths, seed, dropout, left, chunk, right
        )
        ctx.save_for_backward(q, k, v, gate, rel, sheared, lengths, seed, out, lse)
        ctx.settings = (dropout, left, chunk, right)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable  # pyright: ignore
    def backward(ctx, grad):  # pyright: ignore
        q, k, v, gate, rel, sheared, lengths, seed, out, lse = ctx.saved_tensors
        trained = ctx.needs_input_grad[4]
        dq, dk, dv, dgate, drel = torch.ops.wavlm_live.full_attention_backward(
            grad, q, k, v, gate, rel, sheared, lengths, seed, out, lse, *ctx.settings, trained
        )
        return dq, dk, dv, dgate, drel.to(rel.dtype) if trained else None, *[None] * 7


def attention_bias(rel: Tensor, like: Tensor, context: tuple[int, int, int] | None = None) -> Tensor:
    """The bias as the kernels read it; made once, it serves all layers of a call with the same tokens.

    Args:
        rel: `[heads, 2 * reach + 1]` of `relative_vector`.
        like: a q of the call, `[batch, tokens, heads, size]`.
        context: as for `gated_bias_attention`.

    Returns:
        For `sheared` of `gated_bias_attention`; empty where torch's path runs, which has no use for it.
    """
    return torch.ops.wavlm_live.attention_bias(rel.detach(), like.detach(), like.shape[1], *(context or (0, 0, 0)))


def gated_bias_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    rel: Tensor,
    *,
    lengths: Tensor | None = None,
    context: tuple[int, int, int] | None = None,
    dropout: float = 0.0,
    sheared: Tensor | None = None,
) -> Tensor:
    """Every query sees all valid keys of its row, or what a streaming context lets it see.

    With a context (L, C, R) the tokens are chunks x (C + R): the own frames of chunk n, then copies of the R frames
    behind it, computed again for this chunk alone. A token of chunk n sees the own frames of [nC - L, nC + C) and the
    copies of its own chunk. Memory grows with the tokens. Gradients for all of q, k, v, gate and rel.

    Args:
        q, k, v: `[batch, tokens, heads, size]`, one dtype.
        gate: `[batch, tokens, heads]`, of any floating dtype.
        rel: `[heads, 2 * reach + 1]`, see `relative_vector`; it must reach every distance that is seen.
        lengths: int32 `[batch]`, valid frames of each row; None: all.
        context: L, C and R in frames; None: the whole utterance.
        dropout: probability on the attention weights.
        sheared: of `attention_bias`, where several layers share it.

    Returns:
        `[batch, tokens, heads, size]`. A row of queries that sees nothing gives finite numbers of no meaning.

    Raises:
        ValueError: shapes that do not fit, or a `rel` too short.
    """
    left, chunk, right = context or (0, 0, 0)
    _check(q, k, v, gate, rel, lengths, context)
    seed = torch.randint(1 << 62, (1,), device=q.device) if dropout > 0 else None
    if sheared is None:
        sheared = q.new_empty(0)
    numbers = (dropout, left, chunk, right)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, gate, rel)):
        return _FullAttention.apply(q, k, v, gate, rel, sheared, lengths, seed, *numbers)  # type: ignore[return-value]
    return torch.ops.wavlm_live.full_attention(q, k, v, gate, rel, sheared, lengths, seed, *numbers)[0]


def _check(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, lengths: Tensor | None,
    context: tuple[int, int, int] | None,
) -> None:  # fmt: skip
    if q.dim() != 4 or k.shape != q.shape or v.shape != q.shape or gate.shape != q.shape[:3]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, gate))
        raise ValueError(
            f"q, k, v, gate have shapes {shapes}, expected three [batch, tokens, heads, size] and one less"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}, expected one")
    if lengths is not None and (lengths.shape != q.shape[:1] or lengths.dtype != torch.int32):
        raise ValueError(
            f"lengths have shape {tuple(lengths.shape)} and dtype {lengths.dtype}, expected int32 [{q.shape[0]}]"
        )
    if context is not None and (context[0] < 0 or context[1] < 1 or context[2] < 0):
        raise ValueError(f"context is {context}, expected left from 0, chunk from 1, right from 0 on")
    reach = Tiles(q.shape[1], *(context or (0, 0, 0)), rows=1).reach
    if rel.dim() != 2 or rel.shape[0] != q.shape[2] or rel.shape[1] // 2 < reach:
        raise ValueError(
            f"rel has shape {tuple(rel.shape)}, expected {q.shape[2]} heads and {reach} frames in both directions: "
            f"[{q.shape[2]}, {2 * reach + 1}] at least"
        )
