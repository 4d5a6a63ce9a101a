"""Attention over whole utterances and chunks, by torch and by Triton kernels, against float64 from the raw table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wavlm_live.kernels import attention_bias, attention_with_weights, gated_bias_attention, relative_vector
from wavlm_live.kernels import full_attention_torch as torch_path
from wavlm_live.kernels.attention_tiles import Tiles

FARTHEST = 800
NAMES = ("out", "q", "k", "v", "gate", "table")

SHAPES = {
    "one frame": (1, 1, 2, 64, None, None),
    "12 heads, tile - 1": (1, 63, 12, 8, None, None),
    "16 heads, tile": (1, 64, 16, 8, None, None),
    "tile + 1, mixed lengths": (3, 65, 2, 64, None, (65, 64, 1)),
    "two tiles of rows": (2, 129, 1, 32, None, (129, 70)),
    "heads of 80": (1, 40, 2, 80, None, (33,)),
    "chunks, several a tile": (2, 4 * 9, 3, 16, (7, 6, 3), (24, 11)),
    "chunks without left": (1, 5 * 8, 2, 16, (0, 8, 0), None),
    "chunks longer than a tile": (1, 2 * 80, 1, 64, (30, 70, 10), None),
    "chunks of the usual size": (1, 3 * 40, 1, 64, (50, 32, 8), (70,)),
    "chunks shorter than their copies": (1, 6 * 14, 1, 16, (9, 5, 9), (28,)),
    "one chunk": (1, 24, 2, 16, (100, 20, 4), (17,)),
}


def run(arguments: list[Tensor], grad: Tensor, function) -> list[Tensor]:
    """Output and gradients of fresh leaves."""
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(x.grad for x in leaves)]


def ours(lengths, context, dropout: float = 0.0):
    def function(q, k, v, gate, table):
        reach = Tiles(q.shape[1], *(context or (0, 0, 0)), rows=64).reach
        rel = relative_vector(table, reach, FARTHEST)
        return gated_bias_attention(q, k, v, gate, rel, lengths=lengths, context=context, dropout=dropout)

    return function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("poisoned_memory")
def test_values_and_gradients(seed, oracle, path, shape, dtype):
    """Error at most twice that of the formula in the same precision; dead memory is NaN and read by nobody."""
    batch, tokens, heads, size, context, lengths = SHAPES[shape]
    *arguments, table = oracle.inputs(batch, tokens, heads, size, dtype)
    grad = torch.randn(batch, tokens, heads, size).to(dtype)
    short = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    if short is not None:
        frame, _ = oracle.layout(tokens, context)
        dead = frame >= short[:, None]
        for keys in arguments[1:3]:
            keys[dead] = math.nan
    got = run([*arguments, table], grad, ours(short, context))
    expected = run(
        [x.double() for x in (*arguments, table)], grad, lambda *x: oracle.full(*x, lengths=short, context=context)
    )
    plain = run([*arguments, table], grad, lambda *x: oracle.full(*x, lengths=short, context=context, dtype=dtype))
    floor = 2e-6 if dtype == torch.float32 else 2e-3
    for name, a, b, c in zip(NAMES, got, expected, plain, strict=True):
        if short is not None and name in ("k", "v"):
            assert not a[dead].any(), name  # no gradient where no frame is
        error, allowed = oracle.error(a, b), 2 * oracle.error(c, b)
        # With a single key the true gradient is zero, the difference of two sums that are each tens in size.
        least = floor if b.abs().max() > 1e-9 else 10 * floor
        assert error <= max(allowed, least), f"{name}: {error:.2e}, the plain formula {allowed / 2:.2e}"
    if dtype == torch.float16:  # a floor must not hide a wrong kernel
        assert oracle.error(got[0], expected[0]) <= 2 * oracle.error(plain[0], expected[0]) + 1e-4


@pytest.mark.parametrize("context", [None, (850, 64, 0)], ids=["whole", "chunks"])
def test_distances_beyond_the_last_bucket(seed, oracle, path, context):
    dtype = torch.float16 if path == "interpreter" else torch.float32  # larger tiles, fewer of them
    *arguments, table = oracle.inputs(1, 14 * 64, 1, 16, dtype)
    grad = torch.randn(1, 14 * 64, 1, 16).to(dtype)
    got = run([*arguments, table], grad, ours(None, context))
    expected = run([x.double() for x in (*arguments, table)], grad, lambda *x: oracle.full(*x, context=context))
    for name, a, b in zip(NAMES, got, expected, strict=True):
        # float16: 5e-4 to 2e-3 at ten seeds, 3.8e-3 at another
        assert oracle.error(a, b) < (6e-3 if dtype == torch.float16 else 3e-6), name
    far = [oracle.published_bucket(d) for d in (-800, -895)]
    assert far == [159, 159]
    # thousands of pairs of either sign add up to one number, which may be next to nothing; its neighbours say how large
    # such sums are, and a pair in the wrong bucket would be off by as much
    size = float(expected[-1][140:160].square().mean().sqrt())
    assert abs(float(got[-1][159] - expected[-1][159])) < (2e-2 if dtype == torch.float16 else 1e-4) * size


@pytest.mark.parametrize("context", [None, (10, 12, 4)], ids=["whole", "chunks"])
def test_dropout(seed, oracle, path, context):
    """The mask is read off a call whose weights are all alike; with it, all must be as in float64."""
    tokens, heads, size, rate = 32, 2, 32, 0.3
    q, k, v, gate, table = oracle.inputs(1, tokens, heads, size)
    alike = torch.eye(tokens, size)[None, :, None].expand(1, tokens, heads, size).contiguous()
    rel = relative_vector(table, tokens, FARTHEST)
    state = torch.get_rng_state()
    seen = gated_bias_attention(
        torch.zeros_like(q), k, alike, torch.zeros_like(gate), rel, context=context, dropout=rate
    )
    keep = seen[..., :tokens].permute(0, 2, 1, 3)  # [1, heads, tokens, tokens], keep / (1 - rate) / count
    _, sees = oracle.layout(tokens, context)
    keep = keep * sees.sum(-1, keepdim=True)
    share = float((keep[sees.expand_as(keep)] == 0).float().mean())
    assert abs(share - rate) < 0.08  # of 2048 or 1100 pairs: more than five deviations
    assert torch.allclose(keep[keep > 0], torch.tensor(1 / (1 - rate)))
    grad = torch.randn_like(q)
    torch.set_rng_state(state)
    got = run([q, k, v, gate, table], grad, ours(None, context, rate))
    expected = run(
        [x.double() for x in (q, k, v, gate, table)], grad,
        lambda *x: oracle.full(*x, context=context, keep=keep.double()),
    )  # fmt: skip
    for name, a, b in zip(NAMES, got, expected, strict=True):
        assert oracle.error(a, b) < 3e-6, name
    again = run([q, k, v, gate, table], grad, ours(None, context, rate))
    assert not torch.equal(got[0], again[0])  # another call, another mask


@pytest.mark.parametrize("context", [None, (7, 5, 2)], ids=["whole", "chunks"])
def test_gradcheck(seed, oracle, monkeypatch, context):
    """torch's path in float64, in small blocks too."""
    monkeypatch.setattr(torch_path, "BLOCK_SCORES", 64)
    arguments = [x.double().requires_grad_() for x in oracle.inputs(1, 14, 2, 4)]
    assert torch.autograd.gradcheck(ours(torch.tensor([9], dtype=torch.int32), context), arguments)


def test_blocks_of_queries_and_heads(seed, oracle, monkeypatch):
    monkeypatch.setattr(torch_path, "BLOCK_SCORES", 2 * 40 * 130)
    monkeypatch.setattr(torch_path, "BLOCK_QUERIES", 40)
    q, k, v, gate, table = oracle.inputs(2, 130, 3, 16)
    assert torch_path._blocks(2, 3, 130) == (1, 40)
    got = ours(None, None)(q, k, v, gate, table)
    assert oracle.error(got, oracle.full(q, k, v, gate, table)) < 2e-6


def test_mixed_types_of_autocast(seed, oracle, path):
    """Half-precision q, k and v with a float32 gate and table."""
    q, k, v, gate, table = oracle.inputs(1, 70, 2, 64)
    half = [x.half() for x in (q, k, v)]
    grad = torch.randn_like(q)
    got = run([*half, gate, table], grad, ours(None, None))
    assert [x.dtype for x in got] == [*[torch.float16] * 4, torch.float32, torch.float32]
    expected = run([x.double() for x in (*half, gate, table)], grad.half(), oracle.full)
    for name, a, b in zip(NAMES, got, expected, strict=True):
        assert oracle.error(a, b) < 4e-3, name


def test_weights(seed, oracle):
    q, k, v, gate, table = oracle.inputs(2, 30, 3, 16)
    lengths = torch.tensor([30, 11], dtype=torch.int32)
    rel = relative_vector(table, 29, FARTHEST)
    out, weights = attention_with_weights(q, k, v, gate, rel, lengths=lengths)
    assert oracle.error(out, oracle.full(q, k, v, gate, table, lengths)) < 2e-6
    assert torch.allclose(weights.sum(-1), torch.ones(()))
    assert not weights[1, :, :, 11:].any()


@pytest.mark.parametrize("context", [None, (7, 5, 2)], ids=["whole", "chunks"])
def test_opcheck(seed, oracle, path, context):
    q, k, v, gate, table = oracle.inputs(1, 14, 1, 16)
    rel = relative_vector(table, 20, FARTHEST)
    lengths = torch.tensor([9], dtype=torch.int32)
    numbers = context or (0, 0, 0)
    ops = torch.ops.wavlm_live
    sheared = attention_bias(rel, q, context)
    assert (sheared.numel() > 0) == (path == "interpreter")
    arguments = (q, k, v, gate, rel, sheared, lengths, None, 0.0, *numbers)
    torch.library.opcheck(ops.attention_bias, (rel, q, 14, *numbers))
    torch.library.opcheck(ops.full_attention, arguments)
    out, lse = ops.full_attention(*arguments)
    for trained in (True, False):
        torch.library.opcheck(
            ops.full_attention_backward,
            (torch.randn_like(q), *arguments[:8], out, lse, 0.0, *numbers, trained),
        )
    torch.library.opcheck(ops.relative_vector, (table, 30, FARTHEST))
    torch.library.opcheck(ops.relative_vector_backward, (torch.randn(1, 61), 320, FARTHEST))


@pytest.mark.parametrize("context", [None, (7, 5, 2)], ids=["whole", "chunks"])
def test_one_graph_under_compile(seed, oracle, path, context):
    arguments = list(oracle.inputs(1, 14, 2, 16))
    grad = torch.randn(1, 14, 2, 16)
    compiled = torch.compile(ours(None, context), fullgraph=True, backend="aot_eager")
    for a, b in zip(run(arguments, grad, compiled), run(arguments, grad, ours(None, context)), strict=True):
        assert oracle.error(a, b) < 1e-6


def test_what_does_not_fit_is_told(oracle):
    q, k, v, gate, table = oracle.inputs(1, 20, 2, 16)
    rel = relative_vector(table, 19, FARTHEST)
    with pytest.raises(ValueError, match=r"expected 2 heads and 19 frames in both directions: \[2, 39\] at least"):
        gated_bias_attention(q, k, v, gate, rel[:, 1:-1])
    with pytest.raises(ValueError, match="q, k, v, gate have shapes"):
        gated_bias_attention(q, k[:, :5], v, gate, rel)
    with pytest.raises(ValueError, match="expected one"):
        gated_bias_attention(q, k.half(), v, gate, rel)
    with pytest.raises(ValueError, match=r"expected int32 \[1\]"):
        gated_bias_attention(q, k, v, gate, rel, lengths=torch.tensor([20]))
    with pytest.raises(ValueError, match="no whole number of chunks"):
        gated_bias_attention(q, k, v, gate, rel, context=(5, 7, 2))
    with pytest.raises(ValueError, match="expected left from 0, chunk from 1"):
        gated_bias_attention(q, k, v, gate, rel, context=(5, 0, 2))
    assert gated_bias_attention(q[:0], k[:0], v[:0], gate[:0], rel).shape == (0, 20, 2, 16)
