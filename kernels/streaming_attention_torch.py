"""Attention of a step's frames over the rings of their streams, in torch alone: the CPU's path and a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import streaming_attention_cpu
from .full_attention_torch import hidden_score
from .rings import gather, write


def step_bias(rel: Tensor, width: int, ring: int) -> Tensor:
    """The biases of a step, `[heads, ring + 2 * width - 1]`: from its last frame and the oldest one in a ring, to its
    first frame and its last."""
    start = rel.shape[1] // 2 - ring - width + 1
    return rel[:, start : start + ring + 2 * width - 1].clone(memory_format=torch.contiguous_format)


def forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor, own: Tensor, commit: bool, room: int,
) -> Tensor:  # fmt: skip
    """See streaming_attention.py; `bias` is of `step_bias`. Asks the device for the counters where they are not on
    the host."""
    ring, slot, total, valid = keys.shape[2], slots.tolist(), committed.tolist(), frames.tolist()
    written = own.tolist() if commit and ring else None
    if q.device.type == "cpu":
        return streaming_attention_cpu.attend(
            q, k, v, gate, bias, keys, values, key_scales, value_scales, layer, slot, total, valid, written, room
        )
    out = together(q, k, v, gate, bias, keys, values, key_scales, value_scales, layer, slots, committed, frames)
    for row, own_frames in enumerate(written or []):
        for new, ring_of, scales in ((k, keys, key_scales), (v, values, value_scales)):
            write(new[row].transpose(0, 1), ring_of, scales, layer, slot[row], total[row], own_frames)
    return out


def together(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor,
) -> Tensor:  # fmt: skip
    """All streams in one call of torch's attention, cached keys of younger ones masked."""
    width, ring = q.shape[1], keys.shape[2]
    slot, total, valid = slots.tolist(), committed.tolist(), frames.tolist()
    behind = max((min(t, ring) for t in total), default=0)
    offsets = torch.arange(width, device=q.device)
    if min(valid) < width:  # what is not there may hold anything, and 0 * NaN is NaN
        k, v = (x.masked_fill((offsets >= frames[:, None])[..., None, None], 0) for x in (k, v))
    all_keys = gather(k, keys, key_scales, layer, slot, total, behind)
    all_values = gather(v, values, value_scales, layer, slot, total, behind)
    rows = bias.unfold(1, ring + width, 1).flip(1)  # [heads, width, ring + width], one frame further back each
    mask = gate.transpose(1, 2).unsqueeze(-1) * rows[:, :, ring - behind :]
    if min(valid) < width or min(total) < behind:
        column = torch.arange(-behind, width, device=q.device)
        seen = (column >= -committed.clamp(max=ring)[:, None]) & (column < frames[:, None])
        mask = mask.masked_fill_(~seen[:, None, None, :], hidden_score(mask.dtype))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), all_keys.transpose(1, 2), all_values.transpose(1, 2), attn_mask=mask.to(q.dtype)
    ).transpose(1, 2)
    if min(valid) < width:
        out = out.masked_fill(offsets[:, None, None] >= frames[:, None, None, None], 0)
    return out.contiguous()
