"""The relative position bias of WavLM as one Toeplitz vector a head.

Chen et al. 2021, section IV-A, equation (5) and the bucket function of T5 that it takes over: the bias between a
query at frame i and a key at frame j depends on the distance d = j - i alone. So a table of 320 buckets becomes a
vector `rel[head, d + reach]`, and nothing of size frames x frames is kept for all layers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def bucket_of(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance (key minus query, in frames).

    Half of the buckets serve positive distances. In each direction the first half is exact, the rest grows
    logarithmically up to `max_distance`, beyond which all distances share the last bucket.

    Args:
        distance: integers of any shape.
        num_buckets: rows of the table, both directions together.
        max_distance: frames.

    Returns:
        int64 tensor of the same shape, values in [0, num_buckets).
    """
    half = num_buckets // 2
    exact = half // 2
    size = distance.abs()
    # float32 and truncation as in the published code: bucket borders depend on them
    ratio = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + ratio * (half - exact)).long().clamp(max=half - 1)
    return half * (distance > 0).long() + torch.where(size < exact, size.long(), logarithmic)


@lru_cache(maxsize=64)
def _buckets(reach: int, num_buckets: int, max_distance: int, device: str) -> Tensor:
    # a table once made inside inference_mode could never be used in training, hence the guard
    with torch.inference_mode(False):
        return bucket_of(torch.arange(-reach, reach + 1, device=device), num_buckets, max_distance)


def relative_vector(table: Tensor, reach: int, max_distance: int) -> Tensor:
    """Expand the table of buckets to a vector over distances.

    Args:
        table: `[num_buckets, heads]`, the learned biases.
        reach: largest distance needed, in frames.
        max_distance: frames, see `bucket_of`.

    Returns:
        `[heads, 2 * reach + 1]`; the bias of distance d stands at index `d + reach`.
    """
    return table[_buckets(reach, table.shape[0], max_distance, str(table.device))].t()


def shear(rel: Tensor, queries: int, keys: int, first_distance: int) -> Tensor:
    """The bias of every pair of a block, as a matrix made from the Toeplitz vector.

    Args:
        rel: `[heads, 2 * reach + 1]` of `relative_vector`.
        queries: rows.
        keys: columns.
        first_distance: distance of key 0 from query 0, in frames.

    Returns:
        `[heads, queries, keys]` with entry (i, j) the bias of distance `first_distance + j - i`.

    Raises:
        ValueError: a distance lies beyond the reach of `rel`.
    """
    reach = rel.shape[1] // 2
    low, high = first_distance - (queries - 1), first_distance + keys - 1
    if low < -reach or high > reach:
        raise ValueError(f"distances {low}..{high} asked for, but the relative vector reaches {reach} frames")
    windows = rel[:, low + reach : high + reach + 1].unfold(1, keys, 1)  # row w starts at distance low + w
    return windows.flip(1)
