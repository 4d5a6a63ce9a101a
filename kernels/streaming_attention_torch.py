"""Attention of a step's frames over the rings of their streams, in torch alone: the CPU's path and a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention_tiles import shear_rows
from .full_attention_torch import hidden_score


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """`[..., heads, size]` -> int8 of that shape, and the scale of each row `[..., heads]`."""
    largest = x.float().abs().amax(-1).clamp(min=1e-12)
    return (x.float() * (127 / largest).unsqueeze(-1)).round().to(torch.int8), largest / 127


def _pieces(committed: int, count: int, ring: int) -> list[tuple[int, int, int]]:
    """The last `count` frames before frame `committed` in the ring: (place, frames before it, frames) each."""
    start = (committed - count) % ring
    first = min(count, ring - start)
    return [(start, 0, first)] + ([(0, first, count - first)] if count > first else [])


def gather(
    new: Tensor, ring: Tensor, scales: Tensor | None, layer: int, slots: list[int], committed: list[int], behind: int
) -> Tensor:
    """Cached rows in order, right-aligned, then the new ones: `[rows, behind + width, heads, size]`."""
    rows, width, heads, size = new.shape
    length = ring.shape[2]
    both = new.new_empty(rows, behind + width, heads, size)
    both[:, behind:] = new
    for row, (slot, total) in enumerate(zip(slots, committed, strict=True)):
        count = min(total, length)
        if count < behind:  # what was never written may hold anything, and 0 * NaN is NaN
            both[row, : behind - count] = 0
        if not count:
            continue
        for place, before, some in _pieces(total, count, length):
            target = both[row, behind - count + before :][:some]
            source = ring[slot, layer, place : place + some].view(some, heads, size)
            if scales is None:
                target.copy_(source)
            else:
                target.copy_(source * scales[slot, layer, place : place + some].unsqueeze(-1))
    return both


def write(
    new: Tensor, ring: Tensor, scales: Tensor | None, layer: int, slots: list[int], committed: list[int], own: list[int]
) -> None:
    """Own frames into the rings; of more than a ring holds, the last."""
    length = ring.shape[2]
    for row, (slot, total, count) in enumerate(zip(slots, committed, own, strict=True)):
        kept = min(count, length)
        if not kept:
            continue
        for place, before, some in _pieces(total + count, kept, length):
            source = new[row, count - kept + before :][:some]
            if scales is not None:
                source, scales[slot, layer, place : place + some] = quantise(source)
            ring[slot, layer, place : place + some] = source.flatten(1)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """torch's fused attention with the logarithm of each row's sum: `[B, h, Q, d]`, `[B, h, Q]`."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask.to(q.dtype))[:2]


def step_bias(rel: Tensor, width: int, ring: int) -> Tensor:
    """The bias of every place from `ring` frames before a step to its last frame: `[heads, width, ring + width]`."""
    return shear_rows(rel, torch.arange(width, device=rel.device), width - 1, -ring, ring + width)


def _in_place(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: list[int], committed: list[int],
    valid: list[int],
) -> Tensor:  # fmt: skip
    """On the CPU rings are read where they are: attention does not mind the order of its keys, so the bias is put
    into the order of the ring instead. Each stream is computed apart, whatever it is batched with."""
    rows, _, heads, size = q.shape
    ring = keys.shape[2]
    out = torch.zeros_like(q)
    for row in range(rows):
        new, count = valid[row], min(committed[row], ring)
        if not new:
            continue
        qr, kr, vr, gr = (x[row, :new].transpose(0, 1).unsqueeze(0) for x in (q, k, v, gate.unsqueeze(-1)))
        found, weight = _fused(qr, kr, vr, gr * bias[:, :new, ring : ring + new])
        if count:
            mask = torch.empty(1, heads, new, count, dtype=torch.promote_types(gate.dtype, bias.dtype))
            for place, before, some in _pieces(committed[row], count, ring):
                column = ring - count + before
                torch.mul(gr, bias[:, :new, column : column + some], out=mask[..., place : place + some])
            held = []
            for cached, scales in ((keys, key_scales), (values, value_scales)):
                part = cached[slots[row], layer, :count].view(count, heads, size)
                if scales is not None:
                    part = part * scales[slots[row], layer, :count].unsqueeze(-1)
                held.append(part.to(q.dtype).transpose(0, 1).unsqueeze(0))
            old, old_weight = _fused(qr, held[0], held[1], mask)
            share = torch.sigmoid(old_weight - weight).unsqueeze(-1)  # of the cached keys in the sum
            found = torch.lerp(found.to(share.dtype), old.to(share.dtype), share)
        out[row, :new] = found[0].transpose(0, 1).to(out.dtype)
    return out


def forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: Tensor, committed: Tensor,
    frames: Tensor, own: Tensor, commit: bool,
) -> Tensor:  # fmt: skip
    """See streaming_attention.py; `bias` is of `step_bias`. Asks the device for the counters where they are not on
    the host."""
    width, ring = q.shape[1], keys.shape[2]
    slot, total, valid = slots.tolist(), committed.tolist(), frames.tolist()
    if q.device.type == "cpu":
        out = _in_place(q, k, v, gate, bias, keys, values, key_scales, value_scales, layer, slot, total, valid)
        if commit and ring:
            write(k, keys, key_scales, layer, slot, total, own.tolist())
            write(v, values, value_scales, layer, slot, total, own.tolist())
        return out
    behind = max((min(t, ring) for t in total), default=0)
    offsets = torch.arange(width, device=q.device)
    if min(valid) < width:  # what is not there may hold anything, and 0 * NaN is NaN
        k, v = (x.masked_fill((offsets >= frames[:, None])[..., None, None], 0) for x in (k, v))
    all_keys = gather(k, keys, key_scales, layer, slot, total, behind)
    all_values = gather(v, values, value_scales, layer, slot, total, behind)
    mask = gate.transpose(1, 2).unsqueeze(-1) * bias[:, :, ring - behind :]
    if min(valid) < width or min(total) < behind:
        column = torch.arange(-behind, width, device=q.device)
        seen = (column >= -committed.clamp(max=ring)[:, None]) & (column < frames[:, None])
        mask = mask.masked_fill_(~seen[:, None, None, :], hidden_score(mask.dtype))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), all_keys.transpose(1, 2), all_values.transpose(1, 2), attn_mask=mask.to(q.dtype)
    ).transpose(1, 2)
    if commit and ring:
        write(k, keys, key_scales, layer, slot, total, own.tolist())
        write(v, values, value_scales, layer, slot, total, own.tolist())
    if min(valid) < width:
        out = out.masked_fill(offsets[:, None, None] >= frames[:, None, None, None], 0)
    return out.contiguous()
