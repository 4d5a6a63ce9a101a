"""Attention of the frames of a step over the rings of their streams, with gated relative position bias.

Every frame of a stream sees the last frames committed before the step, out of the stream's ring, and all frames of
the step. Registered as `wavlm_live::streaming_attention`, which writes the rings when it commits: a Triton kernel on
CUDA (streaming_attention_kernel.py), torch's fused attention elsewhere (streaming_attention_torch.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling

from . import dispatch, streaming_attention_torch

KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)
RING_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8)

_modes = torch._C._len_torch_dispatch_stack

_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "streaming_bias(Tensor rel, Tensor like, int ring) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "streaming_attention(Tensor q, Tensor k, Tensor v, Tensor gate, Tensor rel, Tensor sheared, Tensor(a!) keys, "
    "Tensor(b!) values, Tensor(c!)? key_scales, Tensor(d!)? value_scales, int layer, Tensor slots, Tensor committed, "
    "Tensor frames, Tensor own, bool commit, int room) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _by_kernel(tensor: Tensor) -> bool:
    return tensor.dtype in KERNEL_TYPES and dispatch.takes_kernel("streaming_attention", tensor.device.type)


def _bias(rel: Tensor, like: Tensor, ring: int) -> Tensor:
    if not _by_kernel(like):
        return streaming_attention_torch.step_bias(rel, like.shape[1], ring)
    from .streaming_attention_kernel import step_bias

    return step_bias(rel, like.dtype, like.shape[1], ring, like.shape[-1])


def _bias_fake(rel: Tensor, like: Tensor, ring: int) -> Tensor:
    if not _by_kernel(like):
        return rel.new_empty(rel.shape[0], ring + 2 * like.shape[1] - 1)
    from .streaming_attention_kernel import bias_shape

    rows, columns, _ = bias_shape(like.dtype, like.shape[1], ring, like.shape[-1])
    return rel.new_empty(rel.shape[0], rows, columns, dtype=like.dtype)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor, own: Tensor, commit: bool, room: int,
) -> Tensor:  # fmt: skip
    q, k, v, gate = (x.contiguous() for x in (q, k, v, gate))
    rest = (keys, values, key_scales, value_scales, layer, slots, committed, frames, own, commit)
    if q.numel() == 0:
        return torch.empty_like(q)
    if not _by_kernel(q):
        if sheared.numel() == 0:
            sheared = streaming_attention_torch.step_bias(rel, q.shape[1], keys.shape[2])
        return streaming_attention_torch.forward(q, k, v, gate, sheared, *rest, room)
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("these rings have room for torch's path on the CPU; the kernels want contiguous ones")
    from . import streaming_attention_kernel as kernel

    if sheared.numel() == 0:
        sheared = kernel.step_bias(rel, q.dtype, q.shape[1], keys.shape[2], q.shape[-1])
    return kernel.forward(q, k, v, gate, sheared.contiguous(), *rest)


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, sheared: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor, own: Tensor, commit: bool, room: int,
) -> Tensor:  # fmt: skip
    return q.new_empty(q.shape)


for _name, _real, _fake in (
    ("streaming_bias", _bias, _bias_fake),
    ("streaming_attention", _forward, _forward_fake),
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_name, _real, _key)
    torch.library.register_fake(f"wavlm_live::{_name}", _fake, lib=_library)


def streaming_bias(rel: Tensor, like: Tensor, ring: int) -> Tensor:
    """The bias as the path that runs here reads it; made once, it serves all layers and streams of a step.

    Args:
        rel: `[heads, 2 * reach + 1]` of `relative_vector`.
        like: a q of the step, `[rows, width, heads, size]`.
        ring: frames that a ring holds.

    Returns:
        For `sheared` of `streaming_attention`.
    """
    return torch.ops.wavlm_live.streaming_bias(rel, like, ring)


def streaming_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    rel: Tensor,
    keys: Tensor,
    values: Tensor,
    layer: int,
    slots: Tensor,
    committed: Tensor,
    frames: Tensor,
    own: Tensor | None = None,
    *,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    sheared: Tensor | None = None,
    room: int = 0,
) -> Tensor:
    """New frames of some streams see each other and what their rings hold; no gradients.

    Frame t of a stream stands in its ring at t modulo the ring's length. Entries of frames that were never written
    are not read, whatever they hold. Streams may have different ages and numbers of new frames.

    Args:
        q, k, v: `[rows, width, heads, size]`, the step's frames, one dtype.
        gate: `[rows, width, heads]`.
        rel: `[heads, 2 * reach + 1]`; must reach ring + width - 1 frames.
        keys, values: the rings, `[slots, layers, ring, heads, size]` or `[slots, layers, ring, heads * size]`,
            floating or int8; contiguous, or of `new_ring`.
        layer: whose ring.
        slots: int32 `[rows]`, where each row's stream stands in the rings; no slot twice.
        committed: int32 `[rows]`, frames of the stream before this step.
        frames: int32 `[rows]`, valid new frames.
        own: int32 `[rows]`, how many of these are written to the rings, after they have been read; None: none are.
        key_scales, value_scales: float32 `[slots, layers, ring, heads]` for rings of int8: value = int8 * scale.
        sheared: of `streaming_bias`, where several layers share it.
        room: of rings that `new_ring` made with it: a call may write there, and there alone without `own`.

    Returns:
        `[rows, width, heads, size]`; zero behind a row's valid frames.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    if keys.dim() == 4 and values.dim() == 4 and q.dim() == 4 and keys.shape[3] == values.shape[3] == q[0, 0].numel():
        keys, values = (x.unflatten(3, q.shape[2:]) for x in (keys, values))
    _check(q, k, v, gate, rel, keys, values, key_scales, value_scales, layer, room)
    for name, counter in (("slots", slots), ("committed", committed), ("frames", frames), ("own", own)):
        if counter is not None and (counter.shape != q.shape[:1] or counter.dtype != torch.int32):
            found = f"{tuple(counter.shape)} of {counter.dtype}"
            raise ValueError(f"{name} has shape {found}, expected int32 [{q.shape[0]}]")
    given = (
        q, k, v, gate, rel, q.new_empty(0) if sheared is None else sheared, keys, values, key_scales, value_scales,
        layer, slots, committed, frames, frames if own is None else own, own is not None, room,
    )  # fmt: skip
    # Where nothing follows operations, neither a compiler nor autograd nor a mode, as a tracer's, the registry is only
    # the longer way to the same function: a tenth of the time of a step of one stream.
    if not is_compiling() and q.is_cpu and type(q) is Tensor and not is_grad_enabled() and not _modes():
        return _forward(*given)
    return torch.ops.wavlm_live.streaming_attention(*given)


def _check(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, room: int,
) -> None:  # fmt: skip
    if q.dim() != 4 or k.shape != q.shape or v.shape != q.shape or gate.shape != q.shape[:3]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, gate))
        raise ValueError(f"q, k, v, gate have shapes {shapes}, expected [rows, width, heads, size] and no size")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}, expected one")
    shape, heads = keys.shape, q.shape[2]
    if len(shape) != 5 or shape != values.shape or shape[3:] != q.shape[2:] or keys.dtype != values.dtype:
        raise ValueError(
            f"rings have shapes {tuple(shape)} of {keys.dtype} and {tuple(values.shape)} of {values.dtype}, "
            f"expected two [slots, layers, ring, {heads}, {q.shape[3]}] of one dtype"
        )
    if keys.dtype not in RING_TYPES:
        raise ValueError(f"rings are of {keys.dtype}, expected one of {', '.join(map(str, RING_TYPES))}")
    if not room and not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("rings without room must be contiguous")
    if not 0 <= layer < shape[1]:
        raise ValueError(f"layer {layer} of rings with {shape[1]} layers")
    for scales in (key_scales, value_scales):
        if (keys.dtype == torch.int8) != (scales is not None):
            raise ValueError(f"rings of {keys.dtype} {'need' if scales is None else 'have no'} scales")
        if scales is not None and (scales.shape != shape[:4] or scales.dtype != torch.float32):
            raise ValueError(f"scales have shape {tuple(scales.shape)}, expected {tuple(shape[:4])} float32")
    reach = shape[2] + q.shape[1] - 1
    if rel.dim() != 2 or rel.shape[0] != heads or rel.shape[1] // 2 < reach:
        raise ValueError(f"rel has shape {tuple(rel.shape)}, expected {heads} heads and {reach} frames each way")
