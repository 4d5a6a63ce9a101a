"""Streaming attention on the CPU: each stream apart, in as few calls of torch and as little memory as it takes.

A full ring is read where it stands: the sum over keys does not care for their order, so where a ring has wrapped, its
bias is put together in the ring's order, and no key is moved. The step's own keys are copied into the room behind it
(rings.py). Rings that are not full, of another type, or without room are put together with the new keys in memory that
a thread keeps.

Queries are taken in reverse. The bias of query c and key x is rel[x - c]; with the last query first it is rel[x + c'],
and all rows of it are one view of the vector, each a step of one further on. A matrix of them would be as large as the
scores, and reading it costs up to a sixth of the call.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from .rings import frames_of, pieces, room_behind, write

FUSED_FRAMES = 16
"""bfloat16 steps of at most so many frames take torch's fused attention, longer ones plain products."""


class _Memory(threading.local):
    """Memory kept from call to call: new pages cost more than what is computed in them. Views of it are kept too."""

    def __init__(self) -> None:
        self.views: dict[tuple[str, torch.dtype, tuple[int, ...]], Tensor] = {}
        self.whole: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, use: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Contiguous, with anything in it; overwritten by the next call with this use and type."""
        key = use, dtype, shape
        found = self.views.get(key)
        if found is not None:
            return found
        count, whole = math.prod(shape), self.whole.get((use, dtype))
        with torch.inference_mode(False):  # else nobody outside of it could write there
            if whole is None or whole.numel() < count:
                whole = self.whole[use, dtype] = torch.empty(count, dtype=dtype)
                self.views.clear()
            elif len(self.views) >= 64:
                self.views.clear()
            found = self.views[key] = whole[:count].view(shape)
        return found


_memory = _Memory()


def attend(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keys: Tensor, values: Tensor,
    key_scales: Tensor | None, value_scales: Tensor | None, layer: int, slots: list[int], committed: list[int],
    valid: list[int], own: list[int] | None, room: int,
) -> Tensor:  # fmt: skip
    """See streaming_attention.py; contiguous q, k, v and gate, `bias` of `step_bias`; `own` None: writes into no ring.

    There are no generators and no helpers a tensor in here: for one stream, what Python and torch do around the
    arithmetic is a third of the time.
    """
    rows, width, heads, size = q.shape
    ring, dtype, across = keys.shape[2], q.dtype, heads * size
    out = torch.empty_like(q) if min(valid) == width else torch.zeros_like(q)
    q, gate, bias = q.flip(1), gate.flip(1), bias.contiguous()
    in_place = ring > 0 and key_scales is None and keys.dtype == dtype and keys.stride() == values.stride()
    in_place = in_place and width <= room_behind(keys, room)
    by_slot, by_layer, _, by_head, _ = keys.stride()
    held = by_head, size, 1  # strides of [heads, frames, size] in a ring
    first_k, first_v = (x.storage_offset() + layer * by_layer for x in (keys, values))
    by_row, scale = (size, across, 1), size**-0.5
    bias_strides, bias_start = (bias.shape[1], 1, 1), bias.storage_offset()
    for row in range(rows):
        new, total, slot = valid[row], committed[row], slots[row]
        if not new:
            continue
        count = min(total, ring)
        seen, start, shape = count + new, row * width * across, (heads, new, size)
        whole = (heads - 1) * by_head + seen * size  # from the first key of the first head to the last of the last
        last = start + (width - new) * across  # where valid frames begin, taken in reverse
        query = q.as_strided(shape, by_row, last)
        factor = gate.as_strided((heads, new, 1), (1, heads, 1), last // size)
        new_k = k.as_strided(shape, by_row, k.storage_offset() + start)
        new_v = v.as_strided(shape, by_row, v.storage_offset() + start)
        standing = in_place and count == ring
        products = dtype == torch.float32 or (
            dtype == torch.bfloat16 and (new > FUSED_FRAMES or not standing or by_head == seen * size)
        )
        start_k, start_v = first_k + slot * by_slot, first_v + slot * by_slot
        if standing:
            keys.as_strided(shape, held, start_k + ring * size).copy_(new_k)
            values.as_strided(shape, held, start_v + ring * size).copy_(new_v)
            all_k = keys.as_strided((heads, seen, size), held, start_k)
            all_v = values.as_strided((heads, seen, size), held, start_v)
        else:
            all_k = _put_together(new_k, keys, key_scales, layer, slot, total, "keys")
            all_v = _put_together(new_v, values, value_scales, layer, slot, total, "values")
        scores = _memory.take("scores", dtype, (heads, new, seen))
        # columns of the scores, and which frame the first one is, from `ring` frames before the step on
        turned = total % ring if standing else 0
        columns = ((0, ring - count, seen),)
        if turned:
            columns = (0, ring - turned, turned), (turned, 0, ring - turned), (ring, ring, new)
        for column, frame, some in columns:
            part = bias.as_strided((heads, new, some), bias_strides, bias_start + frame + width - new)
            torch.mul(factor, part, out=scores.as_strided((heads, new, some), (new * seen, seen, 1), column))
        # Products of few rows ask for memory in an order that the processor does not foresee. Read through before,
        # from front to back, a ring comes as fast as memory gives it; what the sum is, nobody wants to know.
        if standing:
            keys.as_strided((whole,), (1,), start_k).sum()
        if products:
            scores.baddbmm_(query, all_k.transpose(1, 2), alpha=scale)
            torch.softmax(scores, -1, out=scores)
            if standing:
                values.as_strided((whole,), (1,), start_v).sum()
            result = torch.bmm(scores, all_v)
        else:
            result = _fused(query, all_k, all_v, scores)
        out.as_strided(shape, by_row, last).copy_(result)
        if own is None:
            continue
        if not standing:
            write(new_k, keys, key_scales, layer, slot, total, own[row])
            write(new_v, values, value_scales, layer, slot, total, own[row])
            continue
        kept = min(own[row], ring)
        for place, before, some in pieces(total + own[row], kept, ring):
            if some != new:
                skipped = own[row] - kept + before
                part_k, part_v = new_k.narrow(1, skipped, some), new_v.narrow(1, skipped, some)
            else:
                part_k, part_v = new_k, new_v
            keys.as_strided((heads, some, size), held, start_k + place * size).copy_(part_k)
            values.as_strided((heads, some, size), held, start_v + place * size).copy_(part_v)
    return out.flip(1)


def _put_together(
    new: Tensor, ring: Tensor, scales: Tensor | None, layer: int, slot: int, committed: int, use: str
) -> Tensor:
    """Cached frames in order and new ones: `[heads, cached + new, size]`."""
    length, dtype = ring.shape[2], new.dtype
    count = min(committed, length)
    parts = []
    for place, _, some in pieces(committed, count, length):
        part = frames_of(ring, slot, layer, place, some)  # [heads, some, size]
        parts.append(part if scales is None else part * frames_of(scales, slot, layer, place, some).unsqueeze(-1))
    heads, some, size = new.shape
    if dtype == torch.bfloat16:  # oneDNN wants keys head by head
        target = _memory.take(use, dtype, (heads, count + some, size))
    else:
        target = _memory.take(use, dtype, (count + some, heads, size)).transpose(0, 1)
    torch.cat([*parts, new], 1, out=target)
    return target


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """torch's fused attention: `[heads, queries, size]`."""
    q, k, v, mask = (x.unsqueeze(0) for x in (q, k, v, mask))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)[0][0]
