"""Buckets, the vector over distances with its gradient, and the sheared matrix that kernels read."""

from __future__ import annotations

import pytest
import torch

from wavlm_live.kernels import bucket_of, relative_vector
from wavlm_live.kernels.attention_tiles import Tiles, shear_rows

BUCKETS, FARTHEST = 320, 800


def test_buckets_are_the_published_ones(oracle):
    distances = torch.arange(-1500, 1501)
    expected = [oracle.published_bucket(int(d)) for d in distances]
    assert bucket_of(distances, BUCKETS, FARTHEST).tolist() == expected
    # the last bucket begins at 778 frames, one index of the table is never used
    assert oracle.published_bucket(-777) == 158
    assert oracle.published_bucket(-778) == oracle.published_bucket(-5000) == 159
    assert 160 not in expected


def test_buckets_equal_transformers():
    from transformers import WavLMConfig
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    for buckets, farthest in ((320, 800), (32, 100), (64, 130)):
        peer = WavLMAttention(64, 2, num_buckets=buckets, max_distance=farthest)
        distances = torch.arange(-2000, 2001)
        assert torch.equal(bucket_of(distances, buckets, farthest), peer._relative_positions_bucket(distances))
    assert WavLMConfig().num_buckets == BUCKETS


@pytest.mark.parametrize(("buckets", "farthest"), [(320, 800), (32, 100)])
@pytest.mark.parametrize("reach", [0, 1, 79, 500, 1300])
def test_the_vector_and_its_gradient(seed, reach, buckets, farthest):
    table = torch.randn(buckets, 3, dtype=torch.float64, requires_grad=True)
    places = bucket_of(torch.arange(-reach, reach + 1), buckets, farthest)
    rel = relative_vector(table, reach, farthest)
    assert torch.equal(rel, table[places].t())
    grad = torch.randn_like(rel)
    (got,) = torch.autograd.grad(rel, table, grad)
    expected = torch.zeros(buckets, 3, dtype=torch.float64).index_add_(0, places, grad.t())
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_shear_places_every_distance(seed, oracle):
    table = torch.randn(BUCKETS, 2)
    rel = relative_vector(table, 1000, FARTHEST)
    offsets = torch.tensor([0, 1, 2, 30, 31, 60])
    for low, columns in ((0, 1), (-40, 50), (-900, 1700)):
        got = shear_rows(rel, offsets, 60, low, columns)
        assert got.is_contiguous()
        for r, offset in enumerate(offsets.tolist()):
            for c in range(0, columns, max(1, columns // 13)):
                distance = max(-1000, min(1000, low + c - offset))
                assert torch.equal(got[:, r, c], table[oracle.published_bucket(distance)])


@pytest.mark.parametrize("rows", [32, 64, 128])
@pytest.mark.parametrize(
    ("tokens", "left", "chunk", "right"),
    [(1, 0, 0, 0), (200, 0, 0, 0), (6 * 9, 7, 6, 3), (3 * 80, 30, 70, 10), (11 * 40, 100, 32, 8), (8, 0, 8, 0)],
)
def test_tiles_cover_every_token_once(oracle, rows, tokens, left, chunk, right):
    """Every row at its frame, and every pair that may be seen inside the sheared matrix, at its distance."""
    tiles = Tiles(tokens, left, chunk, right, rows)
    frame, sees = oracle.layout(tokens, (left, chunk, right) if chunk else None)
    offsets = tiles.offsets(torch.device("cpu"))
    covered = []
    for tile in range(tiles.count):
        if chunk:
            first, inside = tile // tiles.parts * tiles.group, tile % tiles.parts * rows
            token, origin = first * tiles.step + inside, first * chunk + inside
            count = min(tiles.group * tiles.step - inside, rows, tokens - token)
        else:
            token = origin = tile * rows
            count = min(rows, tokens - token)
        for r in range(count):
            covered.append(token + r)
            assert origin + int(offsets[r]) == int(frame[token + r])
            places = frame[sees[token + r]] - origin
            assert int(places.min()) >= tiles.low
            assert int(places.max()) < tiles.low + tiles.columns
            assert int((frame[sees[token + r]] - frame[token + r]).abs().max()) <= tiles.reach
    assert covered == list(range(tokens))


def test_tiles_refuse_parts_of_chunks():
    with pytest.raises(ValueError, match="41 tokens are no whole number of chunks of 16 frames with 4 copies"):
        Tiles(41, 10, 16, 4, 64)
