"""The attention against a float64 reference made from the raw table, sharing no code but the bucket function."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from wavlm_live.kernels import ChunkedAttention, bucket_of, gated_bias_attention, relative_vector, shear

BUCKETS, FARTHEST = 320, 800


def published_bucket(distance: int) -> int:
    """One distance, by the formula of the paper's code."""
    half, size = BUCKETS // 2, abs(distance)
    if size < half // 2:
        bucket = size
    else:
        bucket = half // 2 + int(math.log(size / (half // 2)) / math.log(FARTHEST / (half // 2)) * (half // 2))
    return min(half - 1, bucket) + (half if distance > 0 else 0)


def reference(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, table: Tensor, distance: Tensor, allowed: Tensor
) -> Tensor:
    """q [B, h, Q, d], k and v [B, h, K, d], gate [B, h, Q], distance and allowed [.., Q, K], all in float64."""
    q, k, v, gate, table = (x.double() for x in (q, k, v, gate, table))
    bias = table[bucket_of(distance, BUCKETS, FARTHEST)].permute(2, 0, 1)
    score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + gate[..., None] * bias
    return score.masked_fill(~allowed, -math.inf).softmax(-1) @ v


def attention_module():
    """The module itself; the package exports its function under the same name."""
    return sys.modules["wavlm_live.kernels.gated_bias_attention"]


def relative_error(got: Tensor, expected: Tensor) -> float:
    error = float((got.double() - expected).norm() / expected.norm())
    return error if error == error else math.inf


def inputs(batch: int, heads: int, queries: int, keys: int, size: int = 64, dtype: torch.dtype = torch.float32):
    made = [torch.randn(batch, heads, n, size, dtype=dtype) for n in (queries, keys, keys)]
    gate = torch.rand(batch, heads, queries, dtype=dtype) * 3
    return (*made, gate, torch.randn(BUCKETS, heads))


def test_buckets_are_the_published_ones():
    distances = torch.arange(-1500, 1501)
    expected = [published_bucket(int(d)) for d in distances]
    assert bucket_of(distances, BUCKETS, FARTHEST).tolist() == expected
    # the last bucket begins at 778 frames, one index of the table is never used
    assert published_bucket(-777) == 158
    assert published_bucket(-778) == published_bucket(-5000) == 159
    assert 160 not in expected


def test_buckets_equal_transformers():
    from transformers import WavLMConfig
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    for buckets, farthest in ((320, 800), (32, 100), (64, 130)):
        peer = WavLMAttention(64, 2, num_buckets=buckets, max_distance=farthest)
        distances = torch.arange(-2000, 2001)
        assert torch.equal(bucket_of(distances, buckets, farthest), peer._relative_positions_bucket(distances))
    assert WavLMConfig().num_buckets == BUCKETS


@pytest.mark.parametrize(
    ("queries", "keys", "first"), [(1, 1, 0), (3, 7, -4), (5, 2, 0), (4, 4, 900), (2, 2000, -1000)]
)
def test_shear_places_every_distance(seed, queries, keys, first):
    table = torch.randn(BUCKETS, 3)
    rel = relative_vector(table, 2500, FARTHEST)
    got = shear(rel, queries, keys, first)
    for i in range(queries):
        for j in range(0, keys, max(1, keys // 13)):
            assert torch.equal(got[:, i, j], table[published_bucket(first + j - i)])


def test_shear_refuses_what_it_does_not_reach():
    rel = relative_vector(torch.randn(BUCKETS, 2), 10, FARTHEST)
    with pytest.raises(ValueError, match="reaches 10 frames"):
        shear(rel, 4, 12, 0)


@pytest.mark.parametrize("block", [1 << 23, 64])  # one block, and blocks of 16 queries
@pytest.mark.parametrize(("heads", "queries", "keys"), [(12, 1, 1), (16, 63, 65), (12, 130, 70), (2, 33, 1700)])
def test_whole(seed, monkeypatch, block, heads, queries, keys):
    monkeypatch.setattr(attention_module(), "BLOCK_ELEMENTS", block)
    q, k, v, gate, table = inputs(2, heads, queries, keys)
    lengths = torch.tensor([keys, max(1, keys // 2)])
    allowed = (torch.arange(keys) < lengths[:, None])[:, None, None, :]
    first = -(keys // 3)
    rel = relative_vector(table, queries + keys, FARTHEST)
    distance = first + torch.arange(keys)[None] - torch.arange(queries)[:, None]
    expected = reference(q, k, v, gate, table, distance, allowed)
    out, none = gated_bias_attention(q, k, v, gate, rel, first_distance=first, allowed=allowed)
    assert none is None
    assert relative_error(out, expected) < 2e-6
    out, weights = gated_bias_attention(q, k, v, gate, rel, first_distance=first, allowed=allowed, weights=True)
    assert relative_error(out, expected) < 2e-6
    assert torch.allclose(weights.sum(-1), torch.ones(()))
    assert not weights.masked_select(~allowed.expand_as(weights)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_the_plain_formula(seed, dtype):
    q, k, v, gate, table = inputs(2, 12, 40, 200, dtype=dtype)
    rel = relative_vector(table, 400, FARTHEST).to(dtype)
    distance = torch.arange(200)[None] - torch.arange(40)[:, None] - 160
    expected = reference(q, k, v, gate, table, distance, torch.ones(40, 200, dtype=torch.bool))
    bias = rel[:, distance + 400]
    plain = (q @ k.transpose(-1, -2) / 8 + gate[..., None] * bias).softmax(-1) @ v
    out, _ = gated_bias_attention(q, k, v, gate, rel, first_distance=-160)
    assert relative_error(out, expected) < 2 * relative_error(plain, expected)


def test_gradients_of_all_inputs(seed):
    q, k, v, gate, table = (x.double().requires_grad_() for x in inputs(1, 2, 9, 11, size=4))
    allowed = torch.rand(9, 11) < 0.7
    allowed[:, 0] = True

    def ours(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, table: Tensor) -> Tensor:
        rel = relative_vector(table, 20, FARTHEST)
        return gated_bias_attention(q, k, v, gate, rel, first_distance=-3, allowed=allowed)[0]

    assert torch.autograd.gradcheck(ours, (q, k, v, gate, table))


@pytest.mark.parametrize("group", [1, 40, 1000])
@pytest.mark.parametrize(
    ("left", "chunk", "right", "frames"), [(7, 4, 3, 30), (0, 5, 0, 22), (100, 3, 8, 40), (5, 9, 12, 9)]
)
def test_chunks(seed, monkeypatch, group, left, chunk, right, frames):
    """Every token of the chunk layout against the definition: which frames it sees, at which distance."""
    monkeypatch.setattr(attention_module(), "GROUP_QUERIES", group)
    heads, size = 3, 8
    chunks = -(-frames // chunk)
    step = chunk + right
    q, k, v = (torch.randn(2, chunks, step, heads, size) for _ in range(3))
    gate, table = torch.rand(2, chunks, step, heads) * 3, torch.randn(BUCKETS, heads)
    lengths = torch.tensor([frames, max(1, frames - chunk - 1)])
    # what lies behind the end of a row holds anything finite; it must not be seen
    rel = relative_vector(table, left + step, FARTHEST)
    out, _ = ChunkedAttention(rel, left, chunk, right, chunks, lengths)(q, k, v, gate)
    for row in range(2):
        for n in range(chunks):
            keys, values, places = [], [], []
            for t in range(max(0, n * chunk - left), n * chunk):
                keys.append(k[row, t // chunk, t % chunk])
                values.append(v[row, t // chunk, t % chunk])
                places.append(t)
            for j in range(step):
                if n * chunk + j < lengths[row]:
                    keys.append(k[row, n, j])
                    values.append(v[row, n, j])
                    places.append(n * chunk + j)
            valid = [j for j in range(step) if n * chunk + j < lengths[row]]
            if not valid:
                continue
            distance = torch.tensor(places)[None] - torch.tensor([n * chunk + j for j in valid])[:, None]
            expected = reference(
                q[row, n, valid].transpose(0, 1)[None],
                torch.stack(keys, 1)[None],
                torch.stack(values, 1)[None],
                gate[row, n, valid].t()[None],
                table,
                distance,
                torch.ones_like(distance, dtype=torch.bool),
            )
            got = out[row, n, valid].transpose(0, 1)[None]
            assert relative_error(got, expected) < 2e-6, (row, n)
    assert torch.isfinite(out).all()
