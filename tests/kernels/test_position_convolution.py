"""The grouped convolution of the position over kept and new frames, against its definition in float64."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from wavlm_live.kernels.position_convolution import position_convolution, reference
from wavlm_live.kernels.strided_convolution import channels_last

SHAPES = {  # hidden, groups, kernel, held
    "even": (32, 4, 16, 8),
    "odd": (36, 3, 9, 4),
    "all_held": (20, 2, 12, 6),
    "none_held": (32, 2, 15, 0),
    "held_beyond_the_kernel": (16, 1, 6, 7),
}


def by_definition(x, weight, bias, groups, kept, slots, known, counts) -> list[Tensor]:
    """Frame by frame and group by group in float64; rows as lists, since they differ in length."""
    hidden, size, kernel = x.shape[2], weight.shape[1], weight.shape[2]
    rows = []
    for row, count in enumerate(counts.tolist()):
        have = int(known[row])
        frames = {t: x[row, t].double() for t in range(count)}
        if kept is not None:
            frames |= {t - have: kept[slots[row], kept.shape[1] - have + t].double() for t in range(have)}
        made = torch.zeros(count, hidden, dtype=torch.float64)
        for t in range(count):
            for tap in range(kernel):
                frame = frames.get(t + tap - kernel // 2)
                if frame is not None:
                    for g in range(groups):
                        part = slice(g * size, (g + 1) * size)
                        made[t, part] += weight[part, :, tap].double() @ frame[part]
        made += bias.double()
        rows.append(made * 0.5 * torch.erfc(-made / math.sqrt(2)))
    return rows


def inputs_of(shape: str, dtype: torch.dtype, device: str, frames: int, rng: random.Random, rows: int = 3) -> dict:
    """Arguments with ragged rows, streams of different ages, NaN in everything that must not be read."""
    hidden, groups, kernel, held = SHAPES[shape]
    counts = [frames] + [rng.randint(0, frames) for _ in range(rows - 1)]
    ages = [rng.choice([0, 1, held, held + 5]) for _ in range(rows)]
    known = [min(age, held) for age in ages]
    slots = rng.sample(range(rows + 2), rows)
    x = torch.randn(rows, frames, hidden).to(dtype)
    kept = torch.full((rows + 2, held, hidden), float("nan"), dtype=dtype)
    for row in range(rows):
        x[row, counts[row] :] = float("nan")
        kept[slots[row], held - known[row] :] = torch.randn(known[row], hidden).to(dtype)
    weight = (torch.randn(hidden, hidden // groups, kernel) * (kernel * hidden / groups) ** -0.5).to(dtype)
    return {
        "x": x.to(device), "weight": weight.to(device), "bias": torch.randn(hidden).to(dtype).to(device),
        "groups": groups, "kept": kept.to(device) if held else None, "slots": torch.tensor(slots, device=device),
        "known": torch.tensor(ages if held else known, device=device), "counts": torch.tensor(counts, device=device),
    }  # fmt: skip


def positional(a: dict) -> tuple:
    """Arguments of `reference` and of the registered operation."""
    return (
        a["x"], a["weight"], a["bias"], a["groups"], True, a["kept"], a["slots"], a["known"], a["counts"]
    )  # fmt: skip


def distance(got: Tensor, expected: list[Tensor]) -> float:
    """Relative error over the valid frames of all rows; infinite where one is NaN."""
    flat = torch.cat([row[: len(e)] for row, e in zip(got.double().cpu(), expected, strict=True)])
    whole = torch.cat(expected)
    error = float((flat - whole).norm() / whole.norm())
    return error if error == error else math.inf


def compare(shape: str, dtype: torch.dtype, device: str, frames: int, rng: random.Random) -> None:
    """The kernel is as near to the definition as twice torch's formula, and zero behind the ends."""
    a = inputs_of(shape, dtype, device, frames, rng)
    on_cpu = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in a.items()}
    on_cpu["known"] = on_cpu["known"].clamp(max=SHAPES[shape][3])
    expected = by_definition(**on_cpu)
    got, eager = position_convolution(**a), reference(*positional(a))
    few = 4 * torch.finfo(torch.float32).eps  # roundings: of some twenty numbers, the formula may have had almost none
    assert distance(got, expected) <= max(2 * distance(eager, expected), few), (a["counts"], a["known"])
    for row, made in enumerate(expected):
        assert not got[row, len(made) :].any()
        assert not eager[row, len(made) :].any()


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_definition(interpreter, poisoned, seed, shape, dtype):
    rng = random.Random(seed)
    for frames in (1, rng.randint(2, 24)):
        compare(shape, dtype, "cpu", frames, rng)


@pytest.mark.parametrize("frames", [31, 32, 33, 65])
def test_lengths_around_a_tile(interpreter, poisoned, seed, frames):
    compare("even", torch.float32, "cpu", frames, random.Random(seed))


def test_the_true_kernel(interpreter, poisoned, monkeypatch, seed):
    """128 taps over 64 kept frames; a chunk of 24 meets 88 of them."""
    monkeypatch.setitem(SHAPES, "true", (32, 2, 128, 64))
    compare("true", torch.float32, "cpu", 24, random.Random(seed))


def test_permuted_streams(interpreter, seed):
    a = inputs_of("even", torch.float32, "cpu", 12, random.Random(seed), rows=4)
    order = torch.randperm(4)
    b = {**a, **{k: a[k][order] for k in ("x", "slots", "known", "counts")}}
    torch.testing.assert_close(position_convolution(**b), position_convolution(**a)[order], rtol=1e-6, atol=1e-6)


def test_layouts(interpreter, seed):
    """Views of wider tensors, no bias, no counts."""
    frames, weight = torch.randn(2, 14, 40)[..., :32], torch.randn(32, 8, 16) * 0.1
    expected = reference(frames[:, 5:], weight, None, 4, False, frames[:, :5], None, None, None)
    for layout in (weight, channels_last(weight)):
        got = position_convolution(frames[:, 5:], layout, None, groups=4, gelu=False, kept=frames[:, :5])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_gradients_take_the_formula(interpreter, seed):
    a = inputs_of("even", torch.float32, "cpu", 9, random.Random(seed), rows=1)
    a["weight"].requires_grad_()
    position_convolution(**a).square().sum().backward()
    exact = a["weight"].detach().double().requires_grad_()
    b = {**a, "weight": exact, "known": a["known"].clamp(max=8)}
    sum(r.square().sum() for r in by_definition(**b)).backward()
    torch.testing.assert_close(a["weight"].grad, exact.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["triton", "torch"])
def test_opcheck_and_one_graph(interpreter, monkeypatch, seed, path):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", path)
    a = inputs_of("even", torch.float32, "cpu", 7, random.Random(seed))
    a = {k: v.nan_to_num() if k in ("x", "kept") else v for k, v in a.items()}
    torch.library.opcheck(torch.ops.wavlm_live.position_convolution.default, positional(a))
    torch.compiler.reset()
    compiled = torch.compile(lambda **k: position_convolution(**k), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**a), position_convolution(**a))


def test_what_does_not_fit(seed):
    with pytest.raises(ValueError, match=r"need a weight \[32, 8, kernel\], it is \[32, 4, 3\]"):
        position_convolution(torch.randn(1, 5, 32), torch.randn(32, 4, 3), None, groups=4)
    assert position_convolution(torch.randn(2, 0, 32), torch.randn(32, 8, 3), None, groups=4).shape == (2, 0, 32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_the_gpu(poisoned, monkeypatch, seed, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rng = random.Random(seed)
    monkeypatch.setitem(SHAPES, "base", (768, 16, 128, 64))
    monkeypatch.setitem(SHAPES, "large", (1024, 16, 128, 64))
    for shape in SHAPES:
        for frames in (1, 24, 65):
            compare(shape, dtype, "cuda", frames, rng)
    a = inputs_of("base", dtype, "cuda", 24, rng, rows=64)
    first = position_convolution(**a)
    assert all(torch.equal(position_convolution(**a), first) for _ in range(20))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = position_convolution(**a)
    a["x"].copy_(torch.randn_like(a["x"]))
    graph.replay()
    assert torch.equal(captured, position_convolution(**a))
