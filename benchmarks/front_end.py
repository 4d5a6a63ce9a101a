"""What do front end, position and CTC head cost, beside torch, torch.compile and the roof of the machine?

    python benchmarks/front_end.py [--device cuda] [--rounds 30] [--streams 1 16 64 256 1024] [--chunks 8 16 32 64]

One row is one streaming step's work for so many streams: `chunk` frames of new samples through the seven strided
convolutions behind kept tails; the position of `chunk` frames behind 64 kept ones; the greedy head over them.

eager     torch's operations in the order in which transformers writes them, channels first, each on its own
compiled  the same under torch.compile
formula   our reference, channels last, in eager torch
ours      the operations as the model calls them: Triton kernels on CUDA, the formula elsewhere
roof      the sum over the parts of max(arithmetic / measured matrix product, bytes / measured copy), in the same type

No speed is printed before the row's result was compared with float64: ours must be as near as twice the eager one,
else the program ends with status 1. The sides take turns; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from machine import RESULTS, write
from torch import Tensor
from torch.nn import functional as F

from wavlm_live.kernels import dispatch
from wavlm_live.kernels.ctc_greedy import ctc_greedy
from wavlm_live.kernels.ctc_greedy import reference as head_formula
from wavlm_live.kernels.position_convolution import position_convolution
from wavlm_live.kernels.position_convolution import reference as position_formula
from wavlm_live.kernels.strided_convolution import OP, channels_last, positions_of, strided_convolution
from wavlm_live.kernels.strided_convolution import reference as layer_formula
from wavlm_live.model import WavLMConfig

SIZES = {
    "base": WavLMConfig(),
    "large": WavLMConfig(
        hidden_size=1024, num_attention_heads=16, feat_extract_norm="layer", do_stable_layer_norm=True
    ),
}
HELD = 64
"""Frames that the position keeps."""


@dataclass
class Row:
    """The sides of one comparison, what they cost at least, and their inputs in float64."""

    name: str
    sides: dict[str, Callable[[], Tensor]]
    exact: Callable[[], Tensor]
    flops: list[float]
    """Of each part."""
    bytes: list[float]
    """That each part reads and writes at least."""


def front_end(config: WavLMConfig, streams: int, chunk: int, dtype: torch.dtype, device: str) -> Row:
    """Seven convolutions behind tails; the first layer's moments of base are given."""
    hop, layers, flops, moved = config.hop_samples, [], [], []
    n, inputs, size = chunk * hop, 1, dtype.itemsize
    x = torch.randn(streams, n, 1, device=device).to(dtype)
    for index, (outputs, kernel, stride) in enumerate(
        zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    ):
        norm = "layer" if config.feat_extract_norm == "layer" else "moments" if index == 0 else "none"
        weight = (torch.randn(outputs, inputs, kernel, device=device) * (2 / (inputs * kernel)) ** 0.5).to(dtype)
        scale, shift = (torch.randn(outputs, device=device).to(dtype) for _ in range(2))
        tails = torch.randn(streams, kernel - stride, inputs, device=device).to(dtype) if kernel > stride else None
        moments = (
            torch.zeros(streams, 1, outputs, device=device),
            torch.full((streams, 1, outputs), 2.0, device=device),
        )
        layers.append((channels_last(weight), weight, stride, norm, scale, shift, moments, tails))
        m = positions_of(n, 0 if tails is None else kernel - stride, kernel, stride)
        flops.append(2.0 * streams * m * outputs * inputs * kernel)
        moved.append(float(size * (streams * (n * inputs + m * outputs) + weight.numel())))
        n, inputs = m, outputs

    def arguments(layer, kind: torch.dtype | None = None):
        packed, weight, stride, norm, scale, shift, moments, tails = layer
        w = packed if kind is None else weight
        parts = [w, scale, shift, *moments, tails]
        if kind is not None:
            parts = [None if p is None else p.to(kind) for p in parts]
        w, scale, shift, mean, variance, tails = parts
        none = norm == "none"
        return w, stride, norm, (None if none else scale), (None if none else shift), mean, variance, tails

    def run(step: Callable[..., Tensor], kind: torch.dtype | None = None) -> Tensor:
        y = x if kind is None else x.to(kind)
        for layer in layers:
            y = step(y, *arguments(layer, kind))
        return y

    def ours(y, w, stride, norm, scale, shift, mean, variance, tails):
        given = (mean, variance) if norm == "moments" else None
        return strided_convolution(
            y, w, stride=stride, norm=norm, scale=scale, shift=shift, moments=given, tails=tails
        )[0]

    def formula(y, w, stride, norm, scale, shift, mean, variance, tails):
        return layer_formula(
            y, w, None, stride, norm, scale, shift, 1e-5, mean, variance, 1, 1, True, tails, None, None
        )[0]

    def plain(y, w, stride, norm, scale, shift, mean, variance, tails):  # y [streams, positions, channels]
        y = y if tails is None else torch.cat([tails, y], 1)
        z = F.conv1d(y.transpose(1, 2), w, None, stride)
        if norm == "layer":
            return F.gelu(F.layer_norm(z.transpose(1, 2), scale.shape, scale, shift))
        if norm == "moments":
            factor = (variance + 1e-5).rsqrt().transpose(1, 2) * scale[:, None]
            z = ((z - mean.transpose(1, 2)) * factor + shift[:, None]).to(w.dtype)
        return F.gelu(z).transpose(1, 2)

    compiled = torch.compile(lambda: run(plain), dynamic=False)
    sides = {
        "eager": lambda: run(plain), "compiled": compiled, "formula": lambda: run(formula), "ours": lambda: run(ours)
    }  # fmt: skip
    return Row("front end", sides, lambda: run(plain, torch.float64), flops, moved)


def position_row(config: WavLMConfig, streams: int, chunk: int, dtype: torch.dtype, device: str) -> Row:
    """The grouped convolution behind 64 kept frames."""
    hidden, groups, kernel = config.hidden_size, config.num_conv_pos_embedding_groups, config.num_conv_pos_embeddings
    weight = torch.randn(hidden, hidden // groups, kernel, device=device) * (kernel * hidden / groups) ** -0.5
    weight, bias = weight.to(dtype), torch.randn(hidden, device=device).to(dtype)
    x, kept = (torch.randn(streams, t, hidden, device=device).to(dtype) for t in (chunk, HELD))
    packed, before, behind = channels_last(weight), kernel // 2, kernel - 1 - kernel // 2

    def plain(kind: torch.dtype = dtype) -> Tensor:
        window = F.pad(torch.cat([kept, x], 1), (0, 0, before - HELD, behind)).to(kind)
        return F.gelu(F.conv1d(window.transpose(1, 2), weight.to(kind), bias.to(kind), groups=groups)).transpose(1, 2)

    sides = {
        "eager": plain,
        "compiled": torch.compile(plain, dynamic=False),
        "formula": lambda: position_formula(x, weight, bias, groups, True, kept, None, None, None),
        "ours": lambda: position_convolution(x, packed, bias, groups=groups, kept=kept),
    }
    taps = sum(min(kernel, before + chunk - t) - max(0, before - HELD - t) for t in range(chunk))  # that meet a frame
    flops = 2.0 * streams * taps * hidden * (hidden // groups)
    moved = dtype.itemsize * (streams * hidden * (2 * chunk + HELD) + weight.numel())
    return Row("position", sides, lambda: plain(torch.float64), [flops], [float(moved)])


def head_row(config: WavLMConfig, streams: int, chunk: int, dtype: torch.dtype, device: str) -> Row:
    """Best output, its log-probability and the blank's probability."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    weight = (torch.randn(vocabulary, hidden, device=device) * 4 * hidden**-0.5).to(dtype)
    bias = torch.randn(vocabulary, device=device).to(dtype)
    x = torch.randn(streams, chunk, hidden, device=device).to(dtype)

    def plain(kind: torch.dtype = dtype) -> Tensor:
        logits = F.linear(x.to(kind), weight.to(kind), bias.to(kind))
        logprobs = (logits if kind == torch.float64 else logits.float()).log_softmax(-1)
        best, index = logprobs.max(-1)
        return torch.stack([best, logprobs[..., 0].exp(), torch.zeros_like(best) * index], -1)

    def numbers(found) -> Tensor:
        return torch.stack([found[1], found[2][..., 0], torch.zeros_like(found[1])], -1)

    sides = {
        "eager": plain,
        "compiled": torch.compile(plain, dynamic=False),
        "formula": lambda: numbers(head_formula(x, weight, bias, [0])),
        "ours": lambda: numbers(ctc_greedy(x, weight, bias, [0])),
    }
    flops = 2.0 * streams * chunk * hidden * vocabulary
    moved = dtype.itemsize * (streams * chunk * hidden + weight.numel()) + 16.0 * streams * chunk
    return Row("greedy head", sides, lambda: plain(torch.float64), [flops], [moved])


def timed(
    sides: dict[str, Callable[[], Tensor]], rounds: int, device: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median milliseconds of each side."""
    if device != "cuda":
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                start = clock()
                side()
                taken[name].append(clock() - start)
        return {k: 1000 * statistics.median(t) for k, t in taken.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    flush = torch.empty(1 << 26, dtype=torch.int32, device=device)  # 256 MiB: beyond the second-level cache
    for _ in range(rounds):
        for name, side in sides.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            side()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(t) for name, t in times.items()}


def roof(dtype: torch.dtype, device: str, clock: Callable[[], float]) -> tuple[float, float]:
    """Measured FLOP/s of a large matrix product and bytes/s of a large copy."""
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.empty((1 << 30 if device == "cuda" else 1 << 28) // 4, dtype=torch.float32, device=device).zero_()
    target = torch.empty_like(source)
    sides = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    timed(sides, 3, device)
    found = timed(sides, 10, device, clock)
    return 2.0 * n**3 / found["product"] * 1e3, 2.0 * source.nbytes / found["copy"] * 1e3


def error(got: Tensor, exact: Tensor) -> float:
    value = float((got.double() - exact).norm() / exact.norm())
    return value if value == value else float("inf")


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of a CPU's rows")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--add", action="store_true", help="keep the rows of the result that is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    name = f"front_end_{options.device}"
    rows: list[dict[str, Any]] = []
    roofs: dict[str, dict[str, float]] = {}
    if options.add and (RESULTS / f"{name}.json").is_file():
        before = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        rows, roofs = before["rows"], before["roofs"]
    for dtype_name in options.dtypes:
        dtype = getattr(torch, dtype_name)
        flop_rate, byte_rate = roof(dtype, options.device, clock)
        roofs[dtype_name] = {"tflops": round(flop_rate / 1e12, 3), "gbytes_per_s": round(byte_rate / 1e9, 1)}
        print(f"{dtype_name}: {flop_rate / 1e12:.2f} TFLOP/s, {byte_rate / 1e9:.1f} GB/s", file=sys.stderr, flush=True)
        for size in options.sizes:
            for streams in options.streams:
                for chunk in options.chunks:
                    for make in (front_end, position_row, head_row):
                        torch.compiler.reset()
                        row = make(SIZES[size], streams, chunk, dtype, options.device)
                        what = f"{row.name:11} {size:5} {dtype_name:8} {streams:4} x {chunk:2}"
                        exact = row.exact()
                        errors = {name: error(side(), exact) for name, side in row.sides.items()}
                        if not errors["ours"] <= 2 * errors["eager"] + 1e-7:
                            print(f"{what}: WRONG, errors {errors}; no speed is given", file=sys.stderr)
                            return 1
                        timed(row.sides, 3, options.device)
                        ms = timed(row.sides, options.rounds, options.device, clock)
                        least = 1e3 * sum(
                            max(f / flop_rate, b / byte_rate) for f, b in zip(row.flops, row.bytes, strict=True)
                        )
                        rows.append(
                            {
                                "part": row.name, "threads": options.threads, "rounds": options.rounds,
                                "size": size, "dtype": dtype_name, "streams": streams, "chunk": chunk,
                                "path": "triton" if dispatch.takes_kernel(OP, options.device) else "torch",
                                "ms": {name: round(value, 4) for name, value in ms.items()},
                                "roof_ms": round(least, 4), "share_of_roof": round(least / ms["ours"], 3),
                                "times_faster_than_compiled": round(ms["compiled"] / ms["ours"], 2),
                                "error": {name: float(f"{value:.2e}") for name, value in errors.items()},
                            }
                        )  # fmt: skip
                        write(name, {"clock": options.clock, "roofs": roofs, "rows": rows})
                        print(
                            f"{what}  " + "  ".join(f"{k} {v:8.3f}" for k, v in ms.items()) + f"  roof {least:8.3f} ms"
                            f"  {least / ms['ours']:.0%} of it, {ms['compiled'] / ms['ours']:.2f} x compiled",
                            flush=True,
                        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
