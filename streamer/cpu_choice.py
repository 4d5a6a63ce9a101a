"""Which arithmetic a CPU computes a model fastest in, found by trying: `choose_for_cpu` and `adopt`.

What was tried on processors with AVX-512: torch's plain layers in float32 and bfloat16; the same with weights packed
once (`model.packed_linear`); dynamic int8. Packed float32 gives the same numbers as plain and takes about half the
time for one stream; packed bfloat16 is faster again where the processor multiplies bfloat16 itself; int8 was not
faster than that for the 16 rows of one stream's chunk, and is not used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..model import WavLMForCTC
from ..model.encoder import EncoderLayer
from ..model.packed_linear import PackedLinear, pack_linears, packing_works

logger = logging.getLogger(__name__)

CHUNK_ROWS = 16
"""Frames of one stream's chunk of 320 ms."""
WORTH = 0.85
"""Fewer digits must save at least so much: bfloat16 is taken if it needs at most this share of float32's time."""
SMALLEST_WIDTH = 256
"""Narrower models are left as they are: their steps are calls, not arithmetic."""
SMALLEST_BFLOAT16_WIDTH = 512
"""Narrower models stay in float32: their convolutions and many small calls lose in bfloat16 what the layers gain
(the bundled model, 256 wide: 24.0 ms a step in bfloat16, 19.9 ms in float32, see `benchmarks/latency.py`)."""
TRIED_LAYERS = 4
ROUNDS = 5


@dataclass(frozen=True)
class CpuChoice:
    """How a model is computed on this CPU."""

    dtype: torch.dtype
    packed: bool
    times_ms: dict[str, float]
    """Of the feed-forward layers that were tried, by the name of the way."""

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.") + (", weights packed" if self.packed else "")
        times = ", ".join(f"{way} {ms:.2f} ms" for way, ms in self.times_ms.items())
        return f"{name} ({times})" if times else name


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); else it is emulated, and slow."""
    cpu = torch.cpu
    return any(getattr(cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


@torch.no_grad()
def choose_for_cpu(model: WavLMForCTC) -> CpuChoice:
    """Try the ways that this processor has on some of the model's own layers, in turn, for a few milliseconds.

    Args:
        model: in float32, on the CPU; it is not changed.
    """
    layers = [layer for layer in model.wavlm.encoder.layers[:TRIED_LAYERS] if isinstance(layer, EncoderLayer)]
    linears = [layer.feed_forward.intermediate_dense for layer in layers]
    linears = [linear for linear in linears if isinstance(linear, nn.Linear)]
    if not linears or linears[0].weight.dtype != torch.float32 or linears[0].in_features < SMALLEST_WIDTH:
        return CpuChoice(model.lm_head.weight.dtype, False, {})
    ways: dict[str, tuple[torch.dtype, bool, list[nn.Module]]] = {"float32": (torch.float32, False, [*linears])}
    if packing_works(torch.float32):
        ways["packed float32"] = torch.float32, True, [PackedLinear(linear) for linear in linears]
    wide = linears[0].in_features >= SMALLEST_BFLOAT16_WIDTH
    if wide and has_bfloat16() and packing_works(torch.bfloat16):
        halves = [_as_bfloat16(linear) for linear in linears]
        ways["packed bfloat16"] = torch.bfloat16, True, [PackedLinear(linear) for linear in halves]
    x = torch.randn(CHUNK_ROWS, linears[0].in_features)
    times = _alternate({name: _run(mods, x.to(dtype)) for name, (dtype, _, mods) in ways.items()})
    exact = min((name for name in times if ways[name][0] == torch.float32), key=times.__getitem__)
    best = exact
    if "packed bfloat16" in times and times["packed bfloat16"] <= WORTH * times[exact]:
        best = "packed bfloat16"
    dtype, packed, _ = ways[best]
    return CpuChoice(dtype, packed, {name: 1000 * seconds for name, seconds in times.items()})


def adopt(model: WavLMForCTC, choice: CpuChoice) -> str:
    """Prepare a model for a choice, in place; if its weights are packed, it cannot be trained or saved any more.

    Returns:
        The choice in words.
    """
    model.to(choice.dtype).eval().requires_grad_(False)
    if choice.packed:
        pack_linears(model.wavlm.encoder)
    logger.info("computing on the CPU in %s", choice)
    return str(choice)


def _as_bfloat16(linear: nn.Linear) -> nn.Linear:
    copy = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, dtype=torch.bfloat16)
    copy.load_state_dict(linear.state_dict())
    return copy


def _run(modules: list[nn.Module], x: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        for module in modules:
            module(x)

    return run


def _alternate(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """The shortest time of each way; what else runs on the machine only makes times longer."""
    times = dict.fromkeys(ways, float("inf"))
    for number in range(ROUNDS + 1):
        for name, run in ways.items():
            start_s = time.perf_counter()
            run()
            if number:
                times[name] = min(times[name], time.perf_counter() - start_s)
    return times
