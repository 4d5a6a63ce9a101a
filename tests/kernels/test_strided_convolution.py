"""The strided convolution with its norm, GELU and kept tails, against its definition in float64."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from wavlm_live.kernels import dispatch
from wavlm_live.kernels.strided_convolution import channels_last, reference, strided_convolution

LAYERS = {  # inputs, outputs, kernel, stride
    "samples": (1, 20, 10, 5),
    "middle": (16, 48, 3, 2),
    "no_tail": (24, 16, 2, 2),
    "long_tail": (5, 17, 7, 2),
    "skipping": (3, 16, 2, 4),
}


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def by_definition(x, weight, bias, stride, norm, scale, shift, moments, first_hop, hop, tails, slots, counts):
    """Output by output in float64; rows as lists, since they differ in length."""
    kernel = weight.shape[2]
    outputs, ends = [], []
    for row in range(len(x)):
        kept = tails[slots[row]] if tails is not None else x[row, :0]
        heard = torch.cat([kept, x[row, : counts[row]]]).double()
        made = []
        for t in range(max(0, (len(heard) - kernel) // stride + 1)):
            window = heard[t * stride : t * stride + kernel]
            y = torch.einsum("kc,ock->o", window, weight.double()) + (0 if bias is None else bias.double())
            if norm == "layer":
                y = (y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt()
            if norm == "moments":
                step = 0 if t < first_hop else 1 + (t - first_hop) // hop
                y = (y - moments[0][row, step].double()) / (moments[1][row, step].double() + 1e-5).sqrt()
            if norm != "none":
                y = y * scale.double() + shift.double()
            made.append(y * 0.5 * torch.erfc(-y / math.sqrt(2)))
        outputs.append(torch.stack(made) if made else heard.new_zeros(0, len(weight)))
        ends.append(heard)
    return outputs, ends


def inputs_of(
    layer: str, norm: str, dtype: torch.dtype, device: str, positions: int, rng: random.Random, rows: int = 3
):
    """Arguments with ragged rows, NaN in everything that must not be read, and slots in disorder."""
    inputs, outputs, kernel, stride = LAYERS[layer]
    keep = max(0, kernel - stride)
    streaming = keep > 0 and rng.random() < 0.8

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype)

    n = (positions - 1) * stride + kernel - (keep if streaming else 0) + rng.randrange(stride)
    least = 0 if streaming else kernel
    counts = [n] + [rng.randint(min(least, n), n) for _ in range(rows - 1)]
    x = normal(rows, n, inputs)
    for row, count in enumerate(counts):
        x[row, count:] = float("nan")
    slots = rng.sample(range(rows + 2), rows)
    tails = None
    if streaming:
        tails = torch.full((rows + 2, keep, inputs), float("nan"), dtype=dtype)
        tails[slots] = normal(rows, keep, inputs)
    scale = shift = moments = None
    hop = rng.randint(1, 5)
    first = positions % hop + hop if positions > 2 * hop else positions
    if norm != "none":
        scale, shift = normal(outputs), normal(outputs)
    if norm == "moments":
        hops = 1 + (positions - first) // hop
        moments = (torch.randn(rows, hops, outputs), torch.rand(rows, hops, outputs) + 0.5)
    weight = normal(outputs, inputs, kernel) * (inputs * kernel) ** -0.5
    place = {"device": device}
    return {
        "x": x.to(**place), "weight": weight.to(**place), "bias": rng.choice([None, normal(outputs).to(**place)]),
        "stride": stride, "norm": norm,
        "scale": None if scale is None else scale.to(**place), "shift": None if shift is None else shift.to(**place),
        "moments": None if moments is None else tuple(m.to(**place) for m in moments),
        "first_hop": first, "hop": hop, "tails": None if tails is None else tails.to(**place),
        "slots": torch.tensor(slots, device=device), "counts": torch.tensor(counts, device=device),
    }  # fmt: skip


def positional(a: dict) -> tuple:
    """Arguments of `reference` and of the registered operation."""
    mean, variance = a["moments"] or (None, None)
    return (
        a["x"], a["weight"], a["bias"], a["stride"], a["norm"], a["scale"], a["shift"], 1e-5, mean, variance,
        a["first_hop"], a["hop"], True, a["tails"], a["slots"], a["counts"],
    )  # fmt: skip


def distance(got: Tensor, expected: list[Tensor]) -> float:
    """Relative error over the valid outputs of all rows; infinite where one is NaN."""
    flat = torch.cat([row[: len(e)] for row, e in zip(got.double().cpu(), expected, strict=True)])
    whole = torch.cat(expected)
    error = float((flat - whole).norm() / whole.norm())
    return error if error == error else math.inf


def compare(layer: str, norm: str, dtype: torch.dtype, device: str, positions: int, rng: random.Random) -> None:
    """The kernel is as near to the definition as twice torch's formula, zero behind the ends, exact in its tails."""
    a = inputs_of(layer, norm, dtype, device, positions, rng)
    on_cpu = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in a.items()}
    if a["moments"] is not None:
        on_cpu["moments"] = tuple(m.cpu() for m in a["moments"])
    expected, heard = by_definition(**on_cpu)
    got, tail = strided_convolution(**a)
    eager, _ = reference(*positional(a))
    few = 4 * torch.finfo(torch.float32).eps  # roundings: of some twenty numbers, the formula may have had almost none
    assert distance(got, expected) <= max(2 * distance(eager, expected), few), (a["counts"], a["slots"])
    keep = tail.shape[1]
    for row, (made, before) in enumerate(zip(expected, heard, strict=True)):
        assert not got[row, len(made) :].any()
        end = torch.cat([before.new_zeros(keep, before.shape[1]), before])[len(before) :]
        assert torch.equal(tail[row].double().cpu(), end)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("norm", ["none", "layer", "moments"])
@pytest.mark.parametrize("layer", LAYERS)
def test_against_the_definition(interpreter, poisoned, seed, layer, norm, dtype):
    rng = random.Random(seed)
    for positions in (1, rng.randint(2, 40)):
        compare(layer, norm, dtype, "cpu", positions, rng)


@pytest.mark.parametrize("total", [15, 16, 17, 63, 64, 65, 127, 129])
def test_lengths_around_a_tile(interpreter, poisoned, seed, total):
    rng = random.Random(seed)
    a = inputs_of("middle", "layer", torch.float32, "cpu", total, rng, rows=1)
    expected, _ = by_definition(**a)
    assert distance(strided_convolution(**a)[0], expected) < 1e-6


@pytest.mark.parametrize("path", ["triton", "torch"])
def test_pieces_are_the_whole(interpreter, monkeypatch, seed, path):
    """Any pieces, the tails handed on: the same outputs as in one piece."""
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", path)
    rng = random.Random(seed)
    for layer in ("samples", "middle", "long_tail"):
        inputs, outputs, kernel, stride = LAYERS[layer]
        whole, weight = torch.randn(1, kernel + 30 * stride, inputs), torch.randn(outputs, inputs, kernel)
        expected, _ = strided_convolution(whole, weight, stride=stride)
        at, tail, got = kernel, None, []
        piece, tail = strided_convolution(whole[:, :at], weight, stride=stride)
        got.append(piece)
        while at < whole.shape[1]:
            size = stride * rng.randint(1, min(6, (whole.shape[1] - at) // stride))
            piece, tail = strided_convolution(whole[:, at : at + size], weight, stride=stride, tails=tail)
            got.append(piece)
            at += size
        torch.testing.assert_close(torch.cat(got, 1), expected, rtol=1e-5, atol=1e-5)


def test_permuted_streams(interpreter, seed):
    rng = random.Random(seed)
    a = inputs_of("middle", "layer", torch.float32, "cpu", 20, rng, rows=4)
    y, tail = strided_convolution(**a)
    order = torch.randperm(4)
    b = {**a, "x": a["x"][order], "slots": a["slots"][order], "counts": a["counts"][order]}
    permuted, permuted_tail = strided_convolution(**b)
    torch.testing.assert_close(permuted, y[order], rtol=1e-6, atol=1e-6)
    assert torch.equal(permuted_tail, tail[order])


def test_layouts_of_the_weight_and_of_x(interpreter, seed):
    x, weight = torch.randn(2, 11, 40)[:, :, :16], torch.randn(24, 16, 3)
    expected, _ = reference(x, weight, None, 2, "none", None, None, 0.0, None, None, 1, 1, True, None, None, None)
    for layout in (weight, channels_last(weight)):
        assert torch.equal(layout, weight)
        got, _ = strided_convolution(x, layout, stride=2)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_gradients_take_the_formula(interpreter, seed):
    x, weight = torch.randn(2, 21, 4), torch.randn(8, 4, 3, requires_grad=True)
    strided_convolution(x, weight, stride=2)[0].square().sum().backward()
    exact = weight.detach().double().requires_grad_()
    rows = [by_definition(x, exact, None, 2, "none", *[None] * 5, None, None, [21, 21])[0][r] for r in range(2)]
    sum(r.square().sum() for r in rows).backward()
    torch.testing.assert_close(weight.grad, exact.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["triton", "torch"])
@pytest.mark.parametrize("layer", ["samples", "no_tail"])
def test_opcheck(interpreter, monkeypatch, seed, layer, path):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", path)
    a = inputs_of(layer, "moments", torch.float32, "cpu", 7, random.Random(seed))
    a["x"] = a["x"].nan_to_num()
    torch.library.opcheck(torch.ops.wavlm_live.strided_convolution.default, positional(a))


@pytest.mark.parametrize("path", ["triton", "torch"])
def test_one_graph(interpreter, monkeypatch, seed, path):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", path)
    a = inputs_of("middle", "layer", torch.float32, "cpu", 9, random.Random(seed))
    torch.compiler.reset()
    compiled = torch.compile(lambda **k: strided_convolution(**k)[0], backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**a), strided_convolution(**a)[0])


def test_what_does_not_fit(seed):
    x, weight = torch.randn(1, 9, 4), torch.randn(8, 4, 3)
    with pytest.raises(ValueError, match="norm 'batch' is one of none, layer, moments"):
        strided_convolution(x, weight, stride=2, norm="batch")
    with pytest.raises(ValueError, match="needs 4 channels, tails of 1 inputs"):
        strided_convolution(x, weight, stride=2, tails=torch.randn(1, 2, 4))
    with pytest.raises(ValueError, match=r"0 \+ 2 inputs are fewer than the 3 of one output"):
        strided_convolution(x[:, :2], weight, stride=2)
    assert not dispatch.formula_needed(x, None, weight)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", ["none", "layer", "moments"])
def test_on_the_gpu(poisoned, monkeypatch, seed, norm, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rng = random.Random(seed)
    monkeypatch.setitem(LAYERS, "true_first", (1, 512, 10, 5))
    monkeypatch.setitem(LAYERS, "true_middle", (512, 512, 3, 2))
    for layer in LAYERS:
        for positions in (1, 63, 65, 300):
            compare(layer, norm, dtype, "cuda", positions, rng)
    a = inputs_of("true_middle", norm, dtype, "cuda", 200, rng)
    first = strided_convolution(**a)
    for _ in range(20):
        assert all(torch.equal(p, q) for p, q in zip(strided_convolution(**a), first, strict=True))


@pytest.mark.gpu
def test_in_a_cuda_graph(seed):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    a = inputs_of("middle", "layer", torch.float16, "cuda", 40, random.Random(seed))
    strided_convolution(**a)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = strided_convolution(**a)
    a["x"].copy_(torch.randn_like(a["x"]))
    graph.replay()
    for got, expected in zip(captured, strided_convolution(**a), strict=True):
        assert torch.equal(got, expected)
