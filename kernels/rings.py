"""Rings of keys and values: how they lie in memory, and reading and writing frames of them with torch.

Frame t of a stream stands at t modulo the ring's length. A ring is `[slots, layers, ring, heads, size]` to whoever
indexes it. Torch's path on the CPU computes a head after the other, so there the memory is head by head, and behind the
ring of each head is room for the frames of a step: once a ring is full, it and the room are one piece, and attention
reads cached and new keys where they stand. The room is no part of the ring's tensor and nothing in it outlives a call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import dispatch


def new_ring(
    slots: int, layers: int, ring: int, heads: int, size: int, *, room: int = 0, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """Empty rings for `streaming_attention`.

    Args:
        slots, layers: rings of so many streams and layers.
        ring: frames that a ring holds.
        heads, size: of a key.
        room: of `ring_room`; more than 0: rings lie head by head, with room for so many frames behind each.
        dtype, device: of the tensor.

    Returns:
        `[slots, layers, ring, heads, size]` of zeros, contiguous where there is no room.
    """
    if not room:
        return torch.zeros(slots, layers, ring, heads, size, dtype=dtype, device=device)
    memory = torch.zeros(slots, layers, heads, ring + room, size, dtype=dtype, device=device)
    return memory[:, :, :, :ring].transpose(2, 3)


def ring_room(frames: int, dtype: torch.dtype, ring_dtype: torch.dtype, device: torch.device | str = "cpu") -> int:
    """Frames of room behind each ring that the path which runs on this device can use; 0: none.

    Args:
        frames: the longest step.
        dtype: of the steps.
        ring_dtype: of the rings; where it is another, keys must be converted and cannot be read where they stand.
        device: of both.
    """
    if torch.device(device).type != "cpu" or dtype != ring_dtype:
        return 0
    return 0 if dispatch.takes_kernel("streaming_attention", "cpu") else frames


def room_behind(ring: Tensor, room: int) -> int:
    """How much of the promised room there really is: a copy that a compiler made of a ring's tensor may have none."""
    slots, layers, frames, heads, size = ring.shape
    by_slot, by_layer, along, across, step = ring.stride()
    if (along, step) != (size, 1):
        return 0
    last = (slots - 1) * by_slot + (layers - 1) * by_layer + (heads - 1) * across  # the last head of all
    there = int(ring.untyped_storage().nbytes()) // ring.element_size() - int(ring.storage_offset()) - last
    return min(room, across // size - frames, there // size - frames)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """`[..., heads, size]` -> int8 of that shape, and the scale of each row `[..., heads]`."""
    largest = x.float().abs().amax(-1).clamp(min=1e-12)
    return (x.float() * (127 / largest).unsqueeze(-1)).round().to(torch.int8), largest / 127


def pieces(committed: int, count: int, ring: int) -> list[tuple[int, int, int]]:
    """The last `count` frames before frame `committed` in the ring: (place, frames before it, frames) each."""
    if not count:
        return []
    start = (committed - count) % ring
    first = min(count, ring - start)
    return [(start, 0, first)] + ([(0, first, count - first)] if count > first else [])


def frames_of(ring: Tensor, slot: int, layer: int, place: int, some: int) -> Tensor:
    """`[heads, some, size]` of a ring, or `[heads, some]` of its scales, from a place on; in one call of torch."""
    by_slot, by_layer, by_frame, *rest = ring.stride()
    offset = ring.storage_offset() + slot * by_slot + layer * by_layer + place * by_frame
    return ring.as_strided((ring.shape[3], some, *ring.shape[4:]), (rest[0], by_frame, *rest[1:]), offset)


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
        for place, before, some in pieces(total, count, length):
            target = both[row, behind - count + before :][:some].transpose(0, 1)
            source = frames_of(ring, slot, layer, place, some)
            if scales is None:
                target.copy_(source)
            else:
                target.copy_(source * frames_of(scales, slot, layer, place, some).unsqueeze(-1))
    return both


def write(new: Tensor, ring: Tensor, scales: Tensor | None, layer: int, slot: int, committed: int, own: int) -> None:
    """The first `own` frames of `[heads, frames, size]` into a stream's ring; of more than it holds, the last."""
    length = ring.shape[2]
    kept = min(own, length)
    factors = None
    if scales is not None:
        new, factors = quantise(new)
    for place, before, some in pieces(committed + own, kept, length):
        first = own - kept + before
        whole = some == new.shape[1]
        frames_of(ring, slot, layer, place, some).copy_(new if whole else new.narrow(1, first, some))
        if scales is not None and factors is not None:
            frames_of(scales, slot, layer, place, some).copy_(factors.narrow(1, first, some))
