"""Gated relative position bias attention beside attention without bias, and beside other ways to have the bias.

    python benchmarks/attention.py                      on a GPU: streams, whole utterances, base and large heads
    python benchmarks/attention.py --device cpu         on this CPU: the streaming rows that fit, torch's path

A row's output (and for training its gradients) is first compared with float64; where it is wrong by more than twice
the error of the plain formula in the same precision, no speed is printed and the program ends with 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from machine import alternate, median_ms, write
from torch import Tensor
from torch.nn import functional as F

from wavlm_live.kernels import (
    attention_bias,
    attention_with_weights,
    bucket_of,
    gated_bias_attention,
    relative_vector,
    streaming_attention,
    streaming_bias,
)

STREAMS, CHUNKS, LEFT = (1, 16, 64, 256, 1024), (8, 16, 32, 64), (256, 512)
LENGTHS, HEADS, SIZE = (250, 500, 1500, 3000), {"base": 12, "large": 16}, 64
TABLE = (320, 800)


def timed(sides: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median milliseconds of each side, run in turn."""
    for _ in range(3):
        for side in sides.values():
            side()
    if device == "cpu":
        return {name: median_ms(times) for name, times in alternate(sides, rounds).items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            side()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: round(statistics.median(t), 4) for name, t in times.items()}


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


def peak_mb(side: Callable[[], object], device: str) -> float | None:
    """Device memory that a call adds at most."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    side()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 2)


def roofs(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measured here: bytes a second of a copy, FLOP a second of a large product."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    n = 1 << (28 if device == "cuda" else 24)
    source = torch.empty(n, dtype=torch.int32, device=device).zero_()
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = {"bytes_s": 0.0, "flop_s": 0.0}
    for _ in range(8):
        for name, work, amount in (
            ("bytes_s", lambda: target.copy_(source), 8 * n),
            ("flop_s", lambda: a @ b, 2 * side**3),
        ):
            sync()
            start = time.perf_counter()
            work()
            sync()
            best[name] = max(best[name], amount / (time.perf_counter() - start))
    return best


def flex(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, offset: int) -> Callable[[], Tensor]:
    """FlexAttention, compiled, with the same bias."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    reach = rel.shape[1] // 2

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + gate[b, h, i] * rel[h, j - i + offset + reach]

    return lambda: compiled(q, k, v, score_mod=biased)  # type: ignore[return-value]


def stream_row(heads: int, streams: int, chunk: int, left: int, dtype: torch.dtype, device: str, rounds: int, roof):
    """One step of many streams with full rings, one layer; the ring is written."""
    q, k, v = (torch.randn(streams, chunk, heads, SIZE, device=device).to(dtype) for _ in range(3))
    gate = (torch.rand(streams, chunk, heads, device=device) * 3).to(dtype)
    rings = [torch.randn(streams, 1, left, heads * SIZE, device=device).to(dtype) for _ in range(2)]
    table = torch.randn(TABLE[0], heads, device=device)
    rel = relative_vector(table, left + chunk, TABLE[1]).to(dtype)
    sheared = streaming_bias(rel, q, left)
    as_int = {"dtype": torch.int32, "device": device}
    slots, own = torch.arange(streams, **as_int), torch.full((streams,), chunk, **as_int)
    committed = torch.full((streams,), 4 * left + 3, **as_int)
    # keys in order, as the others want them; gathering is part of neither side but ours
    order = (3 + torch.arange(left, device=device)) % left
    old = [x[:, 0, order].view(streams, left, heads, SIZE) for x in rings]
    keys, values = (torch.cat([a, b], 1).transpose(1, 2).contiguous() for a, b in zip(old, (k, v), strict=True))
    queries, gates = q.transpose(1, 2).contiguous(), gate.transpose(1, 2).contiguous()
    distance = torch.arange(-left, chunk, device=device) - torch.arange(chunk, device=device)[:, None]
    bias = rel[:, distance + rel.shape[1] // 2]

    def ours() -> Tensor:
        return streaming_attention(q, k, v, gate, rel, *rings, 0, slots, committed, own, None, sheared=sheared)

    def committing() -> Tensor:
        return streaming_attention(q, k, v, gate, rel, *rings, 0, slots, committed, own, own, sheared=sheared)

    some = slice(0, min(streams, 4))
    exact_table = table.double()[bucket_of(distance, *TABLE)].permute(2, 0, 1)
    exact = plain(*(x[some].double() for x in (queries, keys, values, gates)), exact_table)
    name = f"stream {streams} x {chunk}, left {left}, {heads} heads"
    found = error(ours()[some].transpose(1, 2), exact)
    refuse(name, found, error(plain(*(x[some] for x in (queries, keys, values, gates)), bias), exact))
    sides: dict[str, Callable[[], object]] = {
        "no bias": lambda: F.scaled_dot_product_attention(queries, keys, values),
        "eager": lambda: plain(queries, keys, values, gates, bias),
        "sdpa + mask": lambda: F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=gates.unsqueeze(-1) * bias
        ),
        "ours": committing,
    }
    if device == "cuda":
        sides["flex"] = flex(queries, keys, values, gates, rel, -left)
    memory = peak_mb(ours, device)
    times = timed(sides, rounds, device)
    size = torch.finfo(dtype).bits // 8
    moved = streams * heads * SIZE * size * (2 * left + 6 * chunk)
    return {
        "row": name, "error": found, "ms": times, "ours_to_no_bias": round(times["ours"] / times["no bias"], 3),
        "share_of_copy_bandwidth": round(moved / (times["ours"] * 1e-3) / roof["bytes_s"], 3), "peak_mb": memory,
    }  # fmt: skip


def full_row(heads: int, frames: int, batch: int, mode: str, dtype: torch.dtype, device: str, rounds: int, roof):
    """Whole utterances: "forward", or "frozen" and "trained" for forward and backward without and with the table."""
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

    name = f"full {batch} x {frames}, {heads} heads, {mode}"
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
    if device == "cuda":
        sides["flex"] = through(flex(queries, keys, values, gates, rel, 0), True)
    memory = peak_mb(sides["ours"], device)
    times = timed(sides, rounds, device)
    flop = 4 * batch * heads * frames * frames * SIZE * (3.5 if backward else 1)
    return {
        "row": name, "error": found, "ms": times, "ours_to_no_bias": round(times["ours"] / times["no bias"], 3),
        "share_of_flop": round(flop / (times["ours"] * 1e-3) / roof["flop_s"], 3), "peak_mb": memory,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu measures torch's path")
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    roof = roofs(device, dtype)
    rows = []
    streams, lengths = (STREAMS, LENGTHS) if device == "cuda" else ((1, 16), (250, 500))
    for model, heads in HEADS.items():
        if device == "cpu" and model == "large":
            continue
        for left in LEFT:
            for chunk in CHUNKS:
                for count in streams:
                    with torch.no_grad():
                        rows.append(stream_row(heads, count, chunk, left, dtype, device, options.rounds, roof))
                    print(rows[-1], flush=True)
        for frames in lengths:
            for mode in ("forward", "frozen", "trained"):
                batch = max(1, 24_000 // frames) if device == "cuda" else 1
                rows.append(full_row(heads, frames, batch, mode, dtype, device, options.rounds, roof))
                print(rows[-1], flush=True)
    write(f"attention_{device}", {"dtype": str(dtype), "roofs": roof, "rows": rows})


if __name__ == "__main__":
    main()
