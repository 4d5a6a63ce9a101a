"""The layout of chunks in blocks for torch: groups of chunks that share one bias matrix.

Tokens are laid out `[batch, chunks * (C + R)]`: the own frames of chunk n, then copies of the R frames that follow it.
A token of chunk n sees the own frames of [nC - L, nC + C) and the copies of its own chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention_tiles import shear_rows

GROUP_QUERIES = 96
"""Chunks are taken together until a block has about this many queries."""


@dataclass(frozen=True)
class ChunkBlock:
    """A group of chunks: its queries, its keys, their bias."""

    first: int
    """The first chunk."""
    count: int
    """Chunks."""
    low_token: int
    high_token: int
    """Its queries are the tokens [low, high)."""
    behind: int
    """Own frames before the first chunk that it sees."""
    bias: Tensor
    """`[heads, queries, keys]`; keys are own frames, then copies."""
    allowed: Tensor
    """bool `[queries, keys]` or `[batch, 1, queries, keys]`."""


class ChunkBlocks:
    """All groups of one call, and the way of keys and gradients between them and the tokens.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        left, chunk, right: the context in frames.
        tokens: chunks x (chunk + right).
        lengths: int `[batch]`, valid frames a row; None: all.
    """

    def __init__(self, rel: Tensor, left: int, chunk: int, right: int, tokens: int, lengths: Tensor | None):
        self.left, self.chunk, self.right = left, chunk, right
        self.step = chunk + right
        self.chunks = tokens // self.step
        self.group = min(self.chunks, max(1, GROUP_QUERIES // self.step))
        self.behind = min(left, (self.chunks - 1) * chunk)  # no more columns than there are frames
        self.lengths = lengths
        self.shortest = None if lengths is None else int(lengths.min())
        device = rel.device
        inside = torch.arange(self.step, device=device)
        group = torch.arange(self.group, device=device)
        row = (group[:, None] * chunk + inside).flatten()  # [Q], frames from the start of the group
        row_chunk = group.repeat_interleave(self.step)
        own = torch.arange(-self.behind, self.group * chunk, device=device)
        copy = (group[:, None] * chunk + inside[chunk:]).flatten()
        copy_chunk = group.repeat_interleave(right)
        start = row_chunk[:, None] * chunk
        sees_own = (own >= start - left) & (own < start + chunk)
        self.allowed = torch.cat([sees_own, copy_chunk == row_chunk[:, None]], 1)
        self.key = torch.cat([own, copy])  # [K]
        width = self.behind + self.group * chunk + right  # places from -behind on
        sheared = shear_rows(rel, row, self.group * chunk + right, -self.behind, width)
        self.bias = torch.cat([sheared[:, :, : len(own)], sheared[:, :, copy + self.behind]], 2)
        self.row, self.total = row, None

    def blocks(self) -> Iterator[ChunkBlock]:
        """Group by group."""
        for first in range(0, self.chunks, self.group):
            count = min(self.group, self.chunks - first)
            behind = min(self.behind, first * self.chunk)
            rows, columns = count * self.step, self._columns(count, behind)
            bias = torch.cat([self.bias[:, :rows, c] for c in columns], 2)
            allowed = torch.cat([self.allowed[:rows, c] for c in columns], 1)
            if self.shortest is not None and self.shortest < (first + count) * self.chunk + self.right:
                assert self.lengths is not None
                frame = torch.cat([self.key[c] for c in columns]) + first * self.chunk
                allowed = allowed & (frame < self.lengths[:, None, None, None])
            yield ChunkBlock(first, count, first * self.step, first * self.step + rows, behind, bias, allowed)

    def _columns(self, count: int, behind: int) -> list[slice]:
        """Columns of the full group that a smaller one, or one near the start, has."""
        columns = [slice(self.behind - behind, self.behind + count * self.chunk)]
        if self.right:
            base = self.behind + self.group * self.chunk
            columns.append(slice(base, base + count * self.right))
        return columns

    def _split(self, block: ChunkBlock, x: Tensor) -> tuple[Tensor, Tensor, slice]:
        """x `[B, h, tokens, d]` by chunk: own frames `[B, h, chunks, C, d]`, copies, and the chunks whose own frames
        the block sees any of."""
        apart = x.unflatten(2, (self.chunks, self.step))
        first = (block.first * self.chunk - block.behind) // self.chunk
        return apart[:, :, :, : self.chunk], apart[:, :, :, self.chunk :], slice(first, block.first + block.count)

    def gather(self, block: ChunkBlock, x: Tensor) -> Tensor:
        """The keys (or values) of a block: `[B, h, tokens, d]` -> `[B, h, K, d]`."""
        own, copies, seen = self._split(block, x)
        skipped = (block.first * self.chunk - block.behind) % self.chunk
        parts = [own[:, :, seen].flatten(2, 3)[:, :, skipped:]]
        if self.right:
            parts.append(copies[:, :, block.first : block.first + block.count].flatten(2, 3))
        return torch.cat(parts, 2)

    def scatter(self, block: ChunkBlock, total: Tensor, part: Tensor) -> None:
        """Add a block's `[B, h, K, d]` to `[B, h, tokens, d]`."""
        own, copies, seen = self._split(block, total)
        skipped = (block.first * self.chunk - block.behind) % self.chunk
        count = block.behind + block.count * self.chunk
        padded = torch.nn.functional.pad(part[:, :, :count], (0, 0, skipped, 0))
        own[:, :, seen] += padded.unflatten(2, (-1, self.chunk))
        if self.right:
            copies[:, :, block.first : block.first + block.count] += part[:, :, count:].unflatten(2, (-1, self.right))

    def collect(self, block: ChunkBlock, dbias: Tensor) -> None:
        """Add up the gradient of the group's bias matrix."""
        if self.total is None:
            self.total = dbias.new_zeros(self.bias.shape)
        start = 0
        for columns in self._columns(block.count, block.behind):
            size = columns.stop - columns.start
            self.total[:, : dbias.shape[1], columns] += dbias[:, :, start : start + size]
            start += size

    def relative_gradient(self, drel: Tensor) -> Tensor:
        """The collected gradient by distance, into `[heads, 2 * reach + 1]`."""
        if self.total is not None:
            reach = drel.shape[1] // 2
            distance = (self.key - self.row[:, None]).clamp(-reach, reach) + reach  # hidden pairs add zero
            drel.index_add_(1, distance.flatten(), self.total.flatten(1))
        return drel
