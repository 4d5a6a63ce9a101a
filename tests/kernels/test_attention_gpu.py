"""The attention kernels on a GPU: run with `pytest -m gpu`. Skipped aloud where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from wavlm_live.kernels import attention_bias, gated_bias_attention, relative_vector, streaming_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the kernels have not been run here"),
]
FARTHEST = 800
SHAPES = {
    "whole, 1500": (2, 1500, 12, 64, None, (1500, 1043)),
    "whole, 16 heads": (1, 257, 16, 64, None, None),
    "chunks": (2, 20 * 40, 12, 64, (250, 32, 8), (640, 333)),
    "long chunks": (1, 4 * 150, 12, 64, (300, 128, 22), None),
}


def leaves(arguments, dtype=None):
    return [x.detach().cuda().to(dtype or x.dtype).requires_grad_() for x in arguments]


def run(arguments, grad, lengths, context):
    q, k, v, gate, table = arguments
    rel = relative_vector(table, 1600, FARTHEST)
    out = gated_bias_attention(q, k, v, gate, rel, lengths=lengths, context=context)
    return [out.detach(), *torch.autograd.grad(out, arguments, grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_twenty_reruns(seed, oracle, shape, dtype):
    batch, tokens, heads, size, context, lengths = SHAPES[shape]
    *arguments, table = oracle.inputs(batch, tokens, heads, size, dtype)
    grad = torch.randn(batch, tokens, heads, size).to(dtype)
    short = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    on_gpu = leaves([*arguments, table])
    device_lengths = None if short is None else short.cuda()
    got = run(on_gpu, grad.cuda(), device_lengths, context)
    both = []
    for kind in (torch.float64, dtype):
        own = [x.detach().to(kind).requires_grad_() for x in (*arguments, table)]
        out = oracle.full(*own, lengths=short, context=context, dtype=kind)
        both.append([out.detach(), *torch.autograd.grad(out, own, grad.to(kind))])
    for name, a, expected, plain in zip(("out", "q", "k", "v", "gate", "table"), got, *both, strict=True):
        allowed = max(2 * oracle.error(plain, expected), 2e-6 if dtype == torch.float32 else 1e-3)
        assert oracle.error(a.cpu(), expected) <= allowed, name
    for _ in range(20):
        for a, b in zip(got, run(on_gpu, grad.cuda(), device_lengths, context), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("ring_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [8, 32, 80])
def test_streaming_and_a_captured_graph(seed, oracle, width, ring_dtype):
    rows, heads, size, ring = 5, 12, 64, 300
    q, k, v, gate, table = oracle.inputs(rows, width, heads, size, ring_dtype)
    committed = [0, 7, 300, 1234, 299]
    frames = [width, 1, width, width - 1, width]
    past = [tuple(torch.randn(min(c, ring), heads, size).to(ring_dtype) for _ in range(2)) for c in committed]
    rings = [torch.full((rows + 1, 2, ring, heads * size), float("nan"), dtype=ring_dtype) for _ in range(2)]
    for row, pair in enumerate(past):
        for held, x in zip(rings, pair, strict=True):
            for n, frame in enumerate(x):
                held[rows - row, 1, (committed[row] - len(x) + n) % ring] = frame.flatten()
    rings = [x.cuda() for x in rings]
    counters = [
        torch.tensor(x, dtype=torch.int32).cuda() for x in ([rows - r for r in range(rows)], committed, frames, frames)
    ]
    rel = relative_vector(table.cuda(), ring + width, FARTHEST)
    new = [x.cuda() for x in (q, k, v, gate)]
    expected = oracle.step(q, k, v, gate, table, past, frames)
    plain = oracle.step(q, k, v, gate, table, past, frames, ring_dtype)
    before = [x.clone() for x in rings]
    out = streaming_attention(*new, rel, *rings, 1, *counters[:3])
    assert oracle.error(out.cpu(), expected) <= max(2 * oracle.error(plain, expected), 1e-3)
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(before, rings, strict=True))
    for _ in range(20):
        assert torch.equal(streaming_attention(*new, rel, *rings, 1, *counters[:3]), out)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        streaming_attention(*new, rel, *rings, 1, *counters[:3])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = streaming_attention(*new, rel, *rings, 1, *counters)  # with commit
    captured.fill_(float("nan"))
    graph.replay()
    assert torch.equal(captured, out)


def test_full_attention_in_a_captured_graph(seed, oracle):
    arguments = [x.cuda() for x in oracle.inputs(2, 300, 12, 64, torch.bfloat16)]
    q, k, v, gate, table = arguments
    rel = relative_vector(table, 300, FARTHEST)
    sheared = attention_bias(rel, q)
    expected = gated_bias_attention(q, k, v, gate, rel, sheared=sheared)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gated_bias_attention(q, k, v, gate, rel, sheared=sheared)
    captured.fill_(float("nan"))
    graph.replay()
    assert torch.equal(captured, expected)


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
def test_memory_is_clean():
    code = (
        "import torch; from wavlm_live.kernels import *;"
        "q, k, v = (torch.randn(2, 130, 2, 64, device='cuda', dtype=torch.half, requires_grad=True) for _ in 'qkv');"
        "g = torch.rand(2, 130, 2, device='cuda', dtype=torch.half);"
        "t = torch.randn(320, 2, device='cuda', requires_grad=True);"
        "n = torch.tensor([130, 65], dtype=torch.int32, device='cuda');"
        "r = relative_vector(t, 130, 800);"
        "gated_bias_attention(q, k, v, g, r, lengths=n).sum().backward();"
        "gated_bias_attention(q, k, v, g, r, lengths=n, context=(20, 8, 2)).sum().backward();"
        "i = lambda *x: torch.tensor(x, dtype=torch.int32, device='cuda');"
        "x = [torch.randn(3, 2, 70, 128, device='cuda', dtype=torch.half) for _ in 'kv'];"
        "a, b, c, d, r = (y.detach() for y in (q, k, v, g, relative_vector(t, 200, 800)));"
        "streaming_attention(a, b, c, d, r, *x, 1, i(2, 0), i(100, 5), n, n);"  # few programs: they share the keys
        "torch.cuda.synchronize()"
    )
    done = subprocess.run(
        ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
