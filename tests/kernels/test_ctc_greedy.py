"""The greedy CTC head without logits, against its definition in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from wavlm_live.kernels.ctc_greedy import ctc_greedy, reference


def by_definition(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Log-probabilities in float64."""
    logits = torch.einsum("...h,vh->...v", hidden.double(), weight.double())
    logits = logits if bias is None else logits + bias.double()
    return logits - logits.exp().sum(-1, keepdim=True).log()


def compare(frames: tuple[int, ...], size: int, vocabulary: int, dtype: torch.dtype, device: str) -> None:
    """As near to the definition as twice torch's formula; a best output that is within that error of the best."""
    hidden = torch.randn(*frames, size).to(dtype)
    weight = (torch.randn(vocabulary, size) * 2 * size**-0.5).to(dtype)
    bias = torch.randn(vocabulary).to(dtype) if random.random() < 0.7 else None
    silent = [random.randrange(vocabulary) for _ in range(random.choice([1, 2]))]
    exact = by_definition(hidden, weight, bias)
    placed = [None if t is None else t.to(device) for t in (hidden, weight, bias)]
    got = [t.cpu() for t in ctc_greedy(*placed, silent)]
    eager = [t.cpu() for t in reference(*placed, silent)]
    assert got[0].dtype == torch.int64
    chosen = exact.gather(-1, got[0][..., None])[..., 0]

    def distance(found: list[Tensor]) -> tuple[float, float]:
        best = exact.gather(-1, found[0][..., None])[..., 0]
        return float((found[1] - best).norm()), float((found[2] - exact[..., silent].exp()).norm())

    ours, theirs = distance(got), distance(eager)
    # four roundings of a float32 logit below 16 in every frame: of its sums, of the largest taken off, of the logarithm
    floor = 2e-6 * exact.max(-1).values.numel() ** 0.5
    assert ours[0] <= 2 * theirs[0] + floor
    assert ours[1] <= 2 * theirs[1] + floor
    assert float((exact.max(-1).values - chosen).max()) <= (1e-5 if dtype == torch.float32 else 1e-2)
    assert got[2].shape == (*frames, len(silent))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("vocabulary", [2, 16, 29, 32, 63, 64, 65, 200])
def test_against_the_definition(interpreter, seed, vocabulary, dtype):
    random.seed(seed)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # unwritten memory holds NaN
    try:
        for frames in ((1,), (15,), (2, 8), (17,), (3, 1, 11)):
            compare(frames, random.choice([16, 40, 96]), vocabulary, dtype, "cpu")
    finally:
        torch.use_deterministic_algorithms(before)


def test_frames_do_not_see_each_other(interpreter, seed):
    """NaN in one frame, as where a row has ended, stays there; its index stays in the vocabulary."""
    hidden, weight = torch.randn(5, 32), torch.randn(40, 32)
    clean = ctc_greedy(hidden, weight, None, [0])
    hidden[2] = float("nan")
    got = ctc_greedy(hidden, weight, None, [0])
    others = [0, 1, 3, 4]
    assert torch.equal(got.token[others], clean.token[others])
    assert torch.equal(got.best[others], clean.best[others])
    assert torch.equal(got.silent[others], clean.silent[others])
    assert 0 <= int(got.token[2]) < 40


def test_of_equals_the_first(interpreter, seed):
    weight = torch.zeros(130, 16)
    weight[[7, 70, 100]] = 1.0  # in three blocks of the vocabulary
    hidden = torch.randint(1, 9, (6, 16)).float()  # sums without rounding, in any order
    assert ctc_greedy(hidden, weight, None, [0]).token.tolist() == [7] * 6
    assert ctc_greedy(-hidden, weight, None, [0]).token.tolist() == [0] * 6


@pytest.mark.parametrize("path", ["triton", "torch"])
def test_opcheck_and_one_graph(interpreter, monkeypatch, seed, path):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", path)
    a = (torch.randn(2, 5, 24), torch.randn(30, 24), torch.randn(30), [0, 4])
    torch.library.opcheck(torch.ops.wavlm_live.ctc_greedy.default, a)
    torch.compiler.reset()
    compiled = torch.compile(ctc_greedy, backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(*a), ctc_greedy(*a), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("silent", [[], [0, 1, 2], [30], [-1]])
def test_outputs_that_do_not_exist(silent):
    with pytest.raises(ValueError, match=r"expected 1 to 2 outputs from 0 to 29"):
        ctc_greedy(torch.randn(2, 8), torch.randn(30, 8), None, silent)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_the_gpu(monkeypatch, seed, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    random.seed(seed)
    for size in (256, 768, 1024):
        for vocabulary in (29, 32, 65, 1000):
            for frames in ((1,), (16, 24), (3, 171)):
                compare(frames, size, vocabulary, dtype, "cuda")
    a = (torch.randn(64, 16, 768).cuda().to(dtype), torch.randn(32, 768).cuda().to(dtype), None, [0])
    first = ctc_greedy(*a)
    for _ in range(20):
        assert all(torch.equal(p, q) for p, q in zip(ctc_greedy(*a), first, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ctc_greedy(*a)
    a[0].copy_(torch.randn_like(a[0]))
    graph.replay()
    assert all(torch.equal(p, q) for p, q in zip(captured, ctc_greedy(*a), strict=True))
