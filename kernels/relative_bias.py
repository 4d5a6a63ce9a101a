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


@lru_cache(maxsize=64)
def _segments(
    reach: int, num_buckets: int, max_distance: int, device: str
) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Which places of the vector a bucket sums up: `[num_buckets, most]`, `2 * reach + 1` for none, and apart from them
    the two long runs, (bucket, frames), of the distances beyond all others: before the start, and behind the end."""
    with torch.inference_mode(False):
        buckets = bucket_of(torch.arange(-reach, reach + 1), num_buckets, max_distance)
        places: list[list[int]] = [[] for _ in range(num_buckets)]
        for place, bucket in enumerate(buckets.tolist()):
            places[bucket].append(place)
        ends = []
        for bucket in {int(buckets[0]), int(buckets[-1])}:
            run = places[bucket]
            if len(run) > 64 and run[-1] - run[0] == len(run) - 1 and (run[0] == 0 or run[-1] == 2 * reach):
                ends.append((bucket, len(run) if run[0] == 0 else -len(run)))
                places[bucket] = []
        most = max(1, *(len(p) for p in places))
        padded = [p + [2 * reach + 1] * (most - len(p)) for p in places]
        return torch.tensor(padded, device=device), tuple(ends)


_library = torch.library.Library("wavlm_live", "FRAGMENT")
_library.define(
    "relative_vector(Tensor table, int reach, int max_distance) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
_library.define(
    "relative_vector_backward(Tensor grad, int num_buckets, int max_distance) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _expand(table: Tensor, reach: int, max_distance: int) -> Tensor:
    return table[_buckets(reach, table.shape[0], max_distance, str(table.device))].t().contiguous()


def _collect(grad: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    places, ends = _segments(grad.shape[1] // 2, num_buckets, max_distance, str(grad.device))
    padded = torch.cat([grad, grad.new_zeros(grad.shape[0], 1)], 1)
    result = padded[:, places].sum(-1)  # [heads, buckets]
    for bucket, frames in ends:
        result[:, bucket] = (grad[:, :frames] if frames > 0 else grad[:, frames:]).sum(1)
    return result.t().contiguous()


def _expand_fake(table: Tensor, reach: int, max_distance: int) -> Tensor:
    return table.new_empty(table.shape[1], 2 * reach + 1)


def _collect_fake(grad: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    return grad.new_empty(num_buckets, grad.shape[0])


for _name, _real, _fake in (
    ("relative_vector", _expand, _expand_fake),
    ("relative_vector_backward", _collect, _collect_fake),
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_name, _real, _key)
    torch.library.register_fake(f"wavlm_live::{_name}", _fake, lib=_library)


class _RelativeVector(torch.autograd.Function):
    """The expansion; its gradient adds up in a fixed order, without atomics."""

    @staticmethod
    def forward(ctx, table, reach, max_distance):
        ctx.settings = (table.shape[0], max_distance)
        return torch.ops.wavlm_live.relative_vector(table, reach, max_distance)

    @staticmethod
    @torch.autograd.function.once_differentiable  # pyright: ignore
    def backward(ctx, grad):  # pyright: ignore
        return torch.ops.wavlm_live.relative_vector_backward(grad.contiguous(), *ctx.settings), None, None


def relative_vector(table: Tensor, reach: int, max_distance: int) -> Tensor:
    """Expand the table of buckets to a vector over distances.

    Args:
        table: `[num_buckets, heads]`, the learned biases.
        reach: largest distance needed, in frames.
        max_distance: frames, see `bucket_of`.

    Returns:
        `[heads, 2 * reach + 1]`; the bias of distance d stands at index `d + reach`.
    """
    if torch.is_grad_enabled() and table.requires_grad:
        return _RelativeVector.apply(table, reach, max_distance)  # type: ignore[return-value]
    return torch.ops.wavlm_live.relative_vector(table, reach, max_distance)
