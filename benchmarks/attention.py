"""Gated relative position bias attention beside attention without bias, and beside other ways to have the bias.

    python benchmarks/attention.py                                  on a GPU: streams, whole utterances, both head sizes
    python benchmarks/attention.py --device cpu --clock cpu         on this CPU: torch's path, by processor time

A row's output (and for training its gradients) is first compared with float64; where it is wrong by more than twice
the error of the plain formula in the same precision, no speed is printed and the program ends with 1.

no bias      torch's fused attention, keys and values ready in one piece
from rings   the same, with keys and values put together from the rings, as a stream has them
eager        transformers' formula; sdpa + mask: torch's fused attention with the bias as its mask, building it counted
flex         FlexAttention, compiled, with the same bias
ours         `streaming_attention` with the writing of the rings, `gated_bias_attention`

A row takes at most --most-seconds of rounds, three at least; one that would need more, or more memory than --most-mb,
is left out and named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from attention_measure import Measure, TooMuch, peak_mb, roofs
from machine import RESULTS, write
from torch import Tensor
from torch.nn import functional as F

from wavlm_live.kernels import (
    attention_bias,
    attention_with_weights,
    bucket_of,
    gated_bias_attention,
    new_ring,
    relative_vector,
    ring_room,
    streaming_attention,
    streaming_bias,
)

STREAMS, CHUNKS, LEFT = (1, 16, 64, 256, 1024), (8, 16, 32, 64), (256, 512)
LENGTHS, HEADS, SIZE = (250, 500, 1500, 3000), {"base": 12, "large": 16}, 64
TABLE = (320, 800)
MODES = ("forward", "frozen", "trained")
WHICH = ("kind", "heads", "count", "frames", "left", "mode", "dtype", "threads")
"""What makes a row another one."""


def error(got: Tensor, expected: Tensor) -> float:
    """Relative; NaN is infinite."""
    value = float((got.double() - expected).norm() / expected.norm())
    return value if value == value else float("inf")


def refuse(name: str, ours: float, plain: float) -> None:
    """End the program where a result is wrong."""
    if not ours <= max(2 * plain, 2e-6):
        sys.exit(f"{name}: relative error {ours:.1e}, the plain formula has {plain:.1e}; no speed is reported")


def plain(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """transformers' eager attention: scores, gate times bias, softmax. [batch, heads, frames, size]."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + gate.unsqueeze(-1) * bias
    return scores.softmax(-1) @ v


def flex(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, offset: int) -> Callable[[], Tensor]:
    """FlexAttention, compiled, with the same bias."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    reach = rel.shape[1] // 2

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + gate[b, h, i] * rel[h, j - i + offset + reach]

    return lambda: compiled(q, k, v, score_mod=biased)  # type: ignore[return-value]


def stream_row(heads: int, streams: int, chunk: int, left: int, dtype: torch.dtype, measure: Measure) -> dict[str, Any]:
    """One step of many streams with full rings, one layer; the ring is written."""
    device = measure.device
    q, k, v = (torch.randn(streams, chunk, heads, SIZE, device=device).to(dtype) for _ in range(3))
    gate = (torch.rand(streams, chunk, heads, device=device) * 3).to(dtype)
    room = ring_room(chunk, dtype, dtype, device)
    shape = (streams, 1, left, heads, SIZE)
    rings = [new_ring(*shape, room=room, dtype=dtype, device=device).copy_(torch.randn(shape)) for _ in range(2)]
    table = torch.randn(TABLE[0], heads, device=device)
    rel = relative_vector(table, left + chunk, TABLE[1]).to(dtype)
    sheared = streaming_bias(rel, q, left)
    as_int = {"dtype": torch.int32, "device": device}
    slots, own = torch.arange(streams, **as_int), torch.full((streams,), chunk, **as_int)
    committed = torch.full((streams,), 4 * left + 3, **as_int)

    step = q, k, v, gate, rel, *rings, 0, slots, committed, own

    def in_order() -> list[Tensor]:
        held = [x[:, 0] for x in rings]
        return [torch.cat([a[:, 3:], a[:, :3], b], 1).transpose(1, 2) for a, b in zip(held, (k, v), strict=True)]

    def ready() -> list[Tensor]:
        """Keys and values in one piece. Each side has its own: none finds in the cache what another has read."""
        return [x.clone(memory_format=torch.contiguous_format) for x in in_order()]

    keys, values = ready()
    queries, gates = q.transpose(1, 2).contiguous(), gate.transpose(1, 2).contiguous()
    distance = torch.arange(-left, chunk, device=device) - torch.arange(chunk, device=device)[:, None]
    bias = rel[:, distance + rel.shape[1] // 2]

    def ours() -> Tensor:
        return streaming_attention(*step, None, sheared=sheared, room=room)

    def committing() -> Tensor:
        return streaming_attention(*step, own, sheared=sheared, room=room)

    some = slice(0, min(streams, 4))
    exact_table = table.double()[bucket_of(distance, *TABLE)].permute(2, 0, 1)
    exact = plain(*(x[some].double() for x in (queries, keys, values, gates)), exact_table)
    name = f"stream {streams} x {chunk}, left {left}, {heads} heads, {str(dtype).removeprefix('torch.')}"
    found = error(ours()[some].transpose(1, 2), exact)
    refuse(name, found, error(plain(*(x[some] for x in (queries, keys, values, gates)), bias), exact))
    own_keys = {"no bias": [keys, values], "eager": ready(), "sdpa + mask": ready()}
    sides: dict[str, Callable[[], object]] = {
        "no bias": lambda: F.scaled_dot_product_attention(queries, *own_keys["no bias"]),
        "from rings": lambda: F.scaled_dot_product_attention(q.transpose(1, 2), *in_order()),
        "eager": lambda: plain(queries, *own_keys["eager"], gates, bias),
        "sdpa + mask": lambda: F.scaled_dot_product_attention(
            queries, *own_keys["sdpa + mask"], attn_mask=gates.unsqueeze(-1) * bias
        ),
        "ours": committing,
    }
    if measure.flex:
        sides["flex"] = flex(queries, keys, values, gates, rel, -left)
    memory = peak_mb(ours, device)
    times = measure.timed(sides)
    size = torch.finfo(dtype).bits // 8
    moved = streams * heads * SIZE * size * (2 * left + 6 * chunk)
    return {
        "row": name, "error": found, "ms": times, **ratios(times),
        "share_of_copy_bandwidth": round(moved / (times["ours"] * 1e-3) / measure.roof["bytes_s"], 3),
        "peak_mb": memory,
    }  # fmt: skip


def full_row(heads: int, frames: int, batch: int, mode: str, dtype: torch.dtype, measure: Measure) -> dict[str, Any]:
    """Whole utterances: "forward", or "frozen" and "trained" for forward and backward without and with the table."""
    device = measure.device
    backward = mode != "forward"
    q, k, v = (torch.randn(batch, frames, heads, SIZE, device=device).to(dtype) for _ in range(3))
    gate = (torch.rand(batch, frames, heads, device=device) * 3).to(dtype)
    table = torch.randn(TABLE[0], heads, device=device)
    grad = torch.randn_like(q)
    for x in (q, k, v, gate):
        x.requires_grad_(backward)
    table.requires_grad_(mode == "trained")
    rel = relative_vector(table.detach(), frames, TABLE[1])
    sheared = attention_bias(rel, q)
    queries, keys, values, gates = (x.transpose(1, 2) for x in (q, k, v, gate))
    distance = torch.arange(frames, device=device) - torch.arange(frames, device=device)[:, None]
    places = bucket_of(distance, *TABLE)
    leaves = [x for x in (q, k, v, gate, table) if x.requires_grad]

    def through(function: Callable[[], Tensor], head_first: bool) -> Callable[[], object]:
        if not backward:
            return function
        wanted = grad.transpose(1, 2) if head_first else grad
        return lambda: torch.autograd.grad(function(), leaves, wanted, allow_unused=True)

    def ours() -> Tensor:
        vector = relative_vector(table, frames, TABLE[1]) if mode == "trained" else rel
        return gated_bias_attention(q, k, v, gate, vector, sheared=sheared)

    def masked() -> Tensor:
        bias = table.to(dtype)[places].permute(2, 0, 1)  # building it is counted
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=gates.unsqueeze(-1) * bias)

    def eager() -> Tensor:
        return plain(queries, keys, values, gates, table.to(dtype)[places].permute(2, 0, 1))

    name = f"full {batch} x {frames}, {heads} heads, {mode}, {str(dtype).removeprefix('torch.')}"
    one = [x.detach()[:1].double() for x in (q, k, v, gate)]
    exact = attention_with_weights(*one, relative_vector(table.detach().double(), frames, TABLE[1]))[0]
    found = error(ours().detach()[:1], exact)
    refuse(name, found, error(eager().detach().transpose(1, 2)[:1], exact))
    if backward:
        got, wanted = through(ours, False)(), through(eager, True)()
        assert isinstance(got, tuple)
        assert isinstance(wanted, tuple)
        for a, b in zip(got, wanted, strict=True):
            refuse(name + " gradients", error(a, b.double()), 2e-2 if dtype != torch.float32 else 1e-5)
    sides = {
        "no bias": through(lambda: F.scaled_dot_product_attention(queries, keys, values), True),
        "eager": through(eager, True),
        "sdpa + mask": through(masked, True),
        "ours": through(ours, False),
    }
    if measure.flex and (device == "cuda" or not backward):  # on a CPU it has no backward
        sides["flex"] = through(flex(queries, keys, values, gates, rel, 0), True)
    memory = peak_mb(sides["ours"], device)
    times = measure.timed(sides)
    flop = 4 * batch * heads * frames * frames * SIZE * (3.5 if backward else 1)
    return {
        "row": name, "error": found, "ms": times, **ratios(times),
        "share_of_flop": round(flop / (times["ours"] * 1e-3) / measure.roof["flop_s"], 3), "peak_mb": memory,
    }  # fmt: skip


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Ours by each way to have no bias."""
    names = {"no bias": "ours_to_no_bias", "from rings": "ours_to_from_rings"}
    return {name: round(times["ours"] / times[side], 3) for side, name in names.items() if side in times}


def megabytes(kind: str, heads: int, count: int, frames: int, left: int, dtype: torch.dtype) -> float:
    """What the tensors of a row take at least: keys and values five times (of utterances three times), scores of the
    eager formula twice (of utterances, with gradients, four times)."""
    seen, (pairs, scores) = left + frames, (5, 2) if kind == "stream" else (3, 4)
    return dtype.itemsize * count * seen * heads * (2 * pairs * SIZE + scores * frames) / 1e6


def run(options: argparse.Namespace, dtype: torch.dtype, threads: int, measure: Measure) -> Iterator[dict[str, Any]]:
    """All rows of one type and number of threads."""
    jobs: list[tuple[str, int, int, int, int, str]] = []
    for size in options.sizes:
        heads = HEADS[size]
        steps = itertools.product(options.left, options.chunks, options.streams)
        jobs += [("stream", heads, streams, chunk, left, "") for left, chunk, streams in steps]
        for frames in options.lengths:
            batch = max(1, 24_000 // frames) if measure.device == "cuda" else 1
            jobs += [("full", heads, batch, frames, 0, mode) for mode in options.modes]
    for kind, heads, count, frames, left, mode in jobs:
        try:
            if megabytes(kind, heads, count, frames, left, dtype) > options.most_mb:
                raise TooMuch(f"its tensors take more than {options.most_mb} MB")
            if kind == "stream":
                with torch.no_grad():
                    row = stream_row(heads, count, frames, left, dtype, measure)
            else:
                row = full_row(heads, frames, count, mode, dtype, measure)
        except TooMuch as why:
            what = f"{kind} {count} x {frames}, left {left}" if kind == "stream" else f"{kind} {count} x {frames}"
            row = {"row": f"{what}, {heads} heads", "left_out": str(why)}
        row |= {
            "kind": kind, "heads": heads, "count": count, "frames": frames, "left": left, "mode": mode,
            "dtype": str(dtype).removeprefix("torch."), "threads": threads,
        }  # fmt: skip
        row["row"] = f"{row['row']}, {threads} threads"
        print(row, flush=True)
        yield row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of a CPU's rows")
    parser.add_argument("--dtypes", nargs="+", help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--sizes", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS)
    parser.add_argument("--left", type=int, nargs="+", default=LEFT)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS, help="of whole utterances")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="of whole utterances")
    parser.add_argument("--flex", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--most-seconds", type=float, default=10.0)
    parser.add_argument("--most-mb", type=float, default=40_000.0)
    parser.add_argument("--name", help="of the result, default attention_DEVICE")
    parser.add_argument("--add", action="store_true", help="keep other rows of the result that is there")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu measures torch's path")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    flexible = device == "cuda" if options.flex is None else options.flex
    name = options.name or f"attention_{device}"
    result: dict[str, Any] = {"clock": options.clock, "roofs": {}, "rows": []}
    if options.add and (RESULTS / f"{name}.json").is_file():
        before = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        result |= {key: before[key] for key in ("roofs", "rows")}
    for dtype_name in options.dtypes or ["bfloat16" if device == "cuda" else "float32"]:
        dtype = getattr(torch, dtype_name)
        for threads in options.threads:
            torch.set_num_threads(threads)
            result["roofs"][f"{dtype_name}, {threads}"] = roof = roofs(device, dtype, clock)
            measure = Measure(device, options.rounds, options.most_seconds, clock, flexible, roof)
            for row in run(options, dtype, threads, measure):
                result["rows"] = [old for old in result["rows"] if any(old[k] != row[k] for k in WHICH)] + [row]
                write(name, result)  # at once: what ends this program early takes no row with it


if __name__ == "__main__":
    main()
