"""Tile sizes, warps and stages of the attention kernels, by dtype and GPU.

Chosen by compiling (tests/kernels/test_attention_gate.py): the largest tiles that need no register in memory. float32
multiplies exactly, without tensor cores, on smaller tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Settings:
    """How one kernel is compiled.

    Raises:
        ValueError: a tile that kernels cannot have.
    """

    rows: int
    """Queries of a tile."""
    keys: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        if self.rows < 16 or self.keys < 16:
            raise ValueError(f"tiles of {self.rows} x {self.keys}: tensor cores take 16 x 16 at least")

    def launch(self) -> dict[str, int]:
        """Keyword arguments of a launch."""
        return {"ROWS": self.rows, "KEYS": self.keys, "num_warps": self.warps, "num_stages": self.stages}


@lru_cache(maxsize=16)
def capability(device: torch.device) -> int:
    """80 for Ampere, 90 for Hopper; in the interpreter 90."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@lru_cache(maxsize=16)
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; in the interpreter 1."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def tile_rows(dtype: torch.dtype) -> int:
    """Queries of a tile, but for the forward pass of whole utterances."""
    return 32 if dtype == torch.float32 else 64


def forward_rows(dtype: torch.dtype, chunked: bool, width: int) -> int:
    """Queries of a tile of the forward pass, and rows of the sheared bias that all kernels of a call share."""
    return 128 if dtype != torch.float32 and not chunked and width <= 64 else tile_rows(dtype)


def forward_settings(dtype: torch.dtype, chunked: bool, width: int, dropout: bool) -> Settings:
    """`full_forward`."""
    rows = forward_rows(dtype, chunked, width)
    if dtype == torch.float32:
        return Settings(rows, 32, 8, 1)
    if rows == 128:
        return Settings(rows, 64, 8, 3)
    return Settings(rows, 64 if width <= 64 and not dropout else 32, 4, 2)


def backward_settings(dtype: torch.dtype, width: int, dropout: bool, device: int) -> Settings:
    """`full_backward_rows` and `full_backward_keys`, for a GPU of capability `device`."""
    rows = tile_rows(dtype)
    if dtype == torch.float32:
        return Settings(rows, 32, 8, 1)
    return Settings(rows, 64 if device >= 90 and width <= 64 and not dropout else 32, 4, 2)


def bias_settings(dtype: torch.dtype, width: int, device: int) -> Settings:
    """`full_backward_bias`."""
    rows = tile_rows(dtype)
    if dtype == torch.float32:
        return Settings(rows, 32, 8, 1)
    return Settings(rows, 64, 8, 1) if device >= 90 and width <= 64 else Settings(rows, 32, 4, 1)


def streaming_settings(dtype: torch.dtype, frames: int, width: int) -> Settings:
    """`streaming_forward`, for steps of so many frames."""
    if dtype == torch.float32:
        return Settings(16 if frames <= 16 else 32, 32, 4, 2)
    rows = 16 if frames <= 16 else 32 if frames <= 32 else 64
    return Settings(rows, 64 if width <= 64 else 32, 4, 3)
