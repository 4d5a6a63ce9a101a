"""How attention kernels cut their work: tiles of query rows, the keys that they may see, the bias as a sheared matrix.

A tile of rows has a first frame, its origin. A key is addressed by its place x relative to that origin, so that the
bias of row r and key x is `rel[x - offset(r)]` in every tile: the matrix `sheared[h, r, x]` serves all tiles, and a
row of it is one contiguous load. In the layout of a whole utterance offset(r) = r. In the layout of chunks, where each
chunk of C own tokens is followed by R copies of the next frames, a tile holds whole chunks (offset jumps back by R
from one to the next) or a part of a longer one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = 128
"""Columns kept on both sides of a sheared matrix: tiles may reach beyond what they see."""


def cdiv(a: int, b: int) -> int:
    """Division rounded up."""
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    """The next multiple of b."""
    return cdiv(a, b) * b


@dataclass(frozen=True)
class Tiles:
    """Tiles of query rows over the tokens of one row of a batch.

    Raises:
        ValueError: tokens that are no whole number of chunks.
    """

    tokens: int
    """Frames of a whole utterance, or chunks x (chunk + right)."""
    left: int
    """Frames before its chunk that a token sees."""
    chunk: int
    """Own frames of a chunk; 0: whole utterance, everything sees everything."""
    right: int
    """Copied frames behind each chunk."""
    rows: int
    """Queries of a tile."""

    def __post_init__(self) -> None:
        if self.chunk and self.tokens % self.step:
            raise ValueError(
                f"{self.tokens} tokens are no whole number of chunks of {self.chunk} frames with {self.right} copies"
            )

    @property
    def step(self) -> int:
        """Tokens of a chunk with its copies."""
        return self.chunk + self.right

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.tokens // self.step if self.chunk else 1

    @property
    def group(self) -> int:
        """Chunks of a tile."""
        return max(1, min(self.chunks, self.rows // self.step)) if self.chunk else 1

    @property
    def parts(self) -> int:
        """Tiles that share a chunk longer than a tile."""
        return cdiv(self.step, self.rows) if self.chunk and self.group == 1 else 1

    @property
    def count(self) -> int:
        """Tiles of a row of the batch."""
        return cdiv(self.chunks, self.group) * self.parts if self.chunk else cdiv(self.tokens, self.rows)

    @property
    def frames(self) -> int:
        """Own frames of all chunks."""
        return self.chunks * self.chunk if self.chunk else self.tokens

    @property
    def reach(self) -> int:
        """Largest distance in frames between a query and a key that it sees."""
        if not self.chunk:
            return max(0, self.tokens - 1)
        return min(self.left, (self.chunks - 1) * self.chunk) + self.step - 1

    @property
    def low(self) -> int:
        """No tile reads keys before this place (a multiple of 64, not positive)."""
        if not self.chunk:
            return -round_up(self.tokens, PADDING)
        behind = min(self.left, (self.chunks - 1) * self.chunk)
        return -round_up(behind + self.parts * self.rows + PADDING, 64)

    @property
    def columns(self) -> int:
        """Columns of the sheared matrix; column c stands for place `low + c`."""
        high = self.tokens + PADDING if not self.chunk else self.group * self.chunk + self.right + PADDING
        return round_up(high, 64) - self.low

    def offsets(self, device: torch.device) -> Tensor:
        """Frames from a tile's origin to each of its rows, int64 `[rows]`."""
        row = torch.arange(self.rows, device=device)
        if not self.chunk or self.group == 1:
            return row
        return row // self.step * self.chunk + row % self.step

    def shear(self, rel: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix `[heads, rows, columns]` that kernels read, from `rel` `[heads, 2 * reach + 1]`.

        Places beyond the reach of `rel`, which no query sees, repeat its ends.
        """
        offsets = self.offsets(rel.device)
        return shear_rows(rel, offsets, self.rows, self.low, self.columns).to(dtype)


def shear_rows(rel: Tensor, offsets: Tensor, most: int, low: int, columns: int) -> Tensor:
    """Rows of the Toeplitz vector, each shifted by its offset.

    Args:
        rel: `[heads, 2 * reach + 1]`.
        offsets: int64 `[rows]`, each from 0 to `most`.
        most: a bound on offsets, so that a device need not be asked.
        low: distance at row offset 0, column 0.
        columns: of the result.

    Returns:
        `[heads, rows, columns]`, contiguous, entry (r, c) the bias of distance `low + c - offsets[r]`; beyond the ends
        of `rel` its last value.
    """
    reach = rel.shape[1] // 2
    before = max(0, -(low - most) - reach)
    after = max(0, low + columns - 1 - reach)
    heads = rel.shape[0]
    if before or after:
        rel = torch.cat([rel[:, :1].expand(heads, before), rel, rel[:, -1:].expand(heads, after)], 1)
    start = low + reach + before
    # Neighbouring rows as `unfold(...).flip(1)` would be shorter, and wrong: its rows and columns have the same stride,
    # and what flip, clone or another dtype make of such a view lies in memory column by column.
    if rel.device.type != "cpu":
        return rel.unfold(1, columns, 1)[:, start - offsets]
    rows = offsets.tolist()  # on the CPU whole rows are copied, which indexing does not do
    return torch.stack([rel[:, start - r : start - r + columns] for r in rows], 1)
