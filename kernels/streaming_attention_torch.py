"""Attention of a step's frames over the rings of their streams, in torch alone: the CPU's path and a reference."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

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
    if not count:
        return []
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
    """Own frames `[rows, width, heads, size]`, contiguous, into the rings; of more than a ring holds, the last."""
    layers, length = ring.shape[1:3]
    width = new.shape[1]
    taken, places, whole = [], [], ring.view(-1, ring.shape[3])
    if scales is None:
        values, factors, wholes = new.view(-1, ring.shape[3]), None, None
    else:
        values, factors = (x.flatten(0, 1) for x in quantise(new))
        values, wholes = values.flatten(1), scales.view(-1, scales.shape[3])
    for row, (slot, total, count) in enumerate(zip(slots, committed, own, strict=True)):
        kept = min(count, length)
        for place, before, some in _pieces(total + count, kept, length):
            source, target = row * width + count - kept + before, (slot * layers + layer) * length + place
            places.append(whole.narrow(0, target, some))
            taken.append(values.narrow(0, source, some))
            if wholes is not None and factors is not None:
                places.append(wholes.narrow(0, target, some))
                taken.append(factors.narrow(0, source, some))
    for place, source in zip(places, taken, strict=True):
        place.copy_(source)


def step_bias(rel: Tensor, width: int, ring: int) -> Tensor:
    """The bias of every place from `ring` frames before a step to its last frame: `[heads, width, ring + width]`."""
    return shear_rows(rel, torch.arange(width, device=rel.device), width - 1, -ring, ring + width)


@dataclass(frozen=True)
class _Workspace:
    """Memory for one stream, kept from call to call: new pages cost more than what is computed in them."""

    shape: tuple[int, int, int, int]
    """heads, size, new frames, keys"""
    rows: tuple[Tensor, Tensor]
    """Keys and values as they are written: `[keys, heads, size]`."""
    keys: Tensor
    """As they are read: `[1, heads, keys, size]`."""
    values: Tensor
    scores: Tensor
    """`[1, heads, new frames, keys]`"""


class _Kept(threading.local):
    """One workspace a type and thread."""

    def __init__(self) -> None:
        self.made: dict[torch.dtype, _Workspace] = {}


_kept = _Kept()


def _workspace(like: Tensor, products: bool, shape: tuple[int, int, int, int]) -> _Workspace:
    """This thread's, for a type and shape; the last shape's views are kept, the memory grows and stays."""
    last = _kept.made.get(like.dtype)
    if last is not None and last.shape == shape:
        return last
    heads, size, new, seen = shape

    def memory(before: Tensor | None, *wanted: int) -> Tensor:
        count = math.prod(wanted)
        if before is None or before.untyped_storage().nbytes() < count * like.dtype.itemsize:
            return torch.empty(wanted, dtype=like.dtype)
        return before.as_strided((count,), (1,), 0).view(wanted)

    with torch.inference_mode(False):
        before = (None, None, None) if last is None else (last.keys, last.values, last.scores)
        if products:
            k, v = (memory(x, heads, seen, size) for x in before[:2])
            rows = k.transpose(0, 1), v.transpose(0, 1)
        else:
            rows = memory(before[0], seen, heads, size), memory(before[1], seen, heads, size)
            k, v = (x.transpose(0, 1) for x in rows)
        scores = memory(before[2], 1, heads, new, seen)
        found = _Workspace(shape, rows, k.unsqueeze(0), v.unsqueeze(0), scores)
    _kept.made[like.dtype] = found
    return found


def _on_cpu(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: list[int], committed: list[int],
    valid: list[int],
) -> Tensor:  # fmt: skip
    """Each stream is computed apart, whatever it is batched with: its keys and values are put together in memory that
    stays in the processor's cache, which costs less than to attend to cached and new ones apart and join the sums.

    bfloat16 goes through plain products and a softmax instead of torch's fused attention. oneDNN, which computes these,
    wants keys head by head."""
    rows, width, heads, size = q.shape
    layers, ring = keys.shape[1:3]
    products = q.dtype == torch.bfloat16
    out = torch.empty_like(q) if min(valid) == width else torch.zeros_like(q)
    queries, gates = (q * size**-0.5 if products else q).transpose(1, 2), gate.transpose(1, 2).unsqueeze(-1)
    sources = []
    for x, cached, scales in ((k, keys, key_scales), (v, values, value_scales)):
        flat = None if scales is None else scales.view(-1, heads, 1)
        sources.append((x.view(-1, heads, size), cached.view(-1, heads, size), flat))
    for row in range(rows):
        new, count = valid[row], min(committed[row], ring)
        if not new:
            continue
        seen, entry = count + new, (slots[row] * layers + layer) * ring
        space = _workspace(q, products, (heads, size, new, seen))
        pieces = [(entry + place, some) for place, _, some in _pieces(committed[row], count, ring)]
        for target, (x, cached, scales) in zip(space.rows, sources, strict=True):
            parts = [cached.narrow(0, *piece) for piece in pieces]
            if scales is not None:
                parts = [part * scales.narrow(0, *piece) for part, piece in zip(parts, pieces, strict=True)]
            parts.append(x.narrow(0, row * width, new))
            torch.cat(parts, out=target)
        query, factor, target = (x.narrow(0, row, 1) for x in (queries, gates, out))  # [1, heads, width, ...]
        if new < width:
            query, factor, target = query.narrow(2, 0, new), factor.narrow(2, 0, new), target.narrow(1, 0, new)
        part = bias.narrow(2, ring - count, seen) if new == width else bias[:, :new].narrow(2, ring - count, seen)
        if products:
            torch.bmm(query[0], space.keys[0].transpose(1, 2), out=space.scores[0])
            torch.addcmul(space.scores, factor, part, out=space.scores)
            target.copy_(torch.bmm(space.scores[0].softmax(-1), space.values[0]).transpose(0, 1))
        else:
            torch.mul(factor, part, out=space.scores)
            target.copy_(_fused(query, space.keys, space.values, space.scores).transpose(1, 2))
    return out


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """torch's fused attention: `[1, heads, queries, size]`."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)[0]


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
        out = _on_cpu(q, k, v, gate, bias, keys, values, key_scales, value_scales, layer, slot, total, valid)
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
