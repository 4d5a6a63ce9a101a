"""What does a step of WavLM-base cost on this CPU, by each way to compute it?

    python benchmarks/cpu_step.py [--rounds 40] [--clock cpu] [--only NAME ...] [--whole]

One committing step of one stream with full caches, context 250,16,0, random weights of the true size: the transformer
part (12 layers behind the position, one tensor in, one out, keys and values written), and with --whole the step from
samples to frames. All ways compute the same step in turn; medians are reported, and how far the output is from that of
eager float32. Ways whose packages are not there, or that do not work with this torch, are named with the
reason: compile and AOTInductor need a C++ compiler; torchao, onnx and onnxscript are no dependencies of this project.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cpu_step_onnx import onnx_sides
from machine import RESULTS, median_ms, percentile_ms, write
from torch import Tensor, nn

from wavlm_live.kernels import new_ring, relative_vector, streaming_attention, streaming_bias
from wavlm_live.model import StreamingContext, WavLMConfig, WavLMModel
from wavlm_live.model.packed_linear import pack_linears

CONTEXT = StreamingContext(250, 16, 0)
ROOM = CONTEXT.step_frames
COMMITTED = 3 * CONTEXT.left_frames + 7
"""Frames before the step: the ring is full and begins somewhere in its middle, as those of a stream mostly do."""
EXACT = "eager float32"
"""What errors and times are compared with; it is always measured."""


@dataclass
class Way:
    """A way to compute the step."""

    run: Callable[[], Tensor]
    model: WavLMModel | None = None
    """For the step from samples, where the way is a model in eager torch."""
    rings: Sequence[Tensor] = ()
    """Which every run writes."""

    def __post_init__(self) -> None:
        self._before = [ring.clone() for ring in self.rings]

    def first(self) -> Tensor:
        """The output over the rings as they were in the beginning."""
        for ring, before in zip(self.rings, self._before, strict=True):
            ring.copy_(before)
        return self.run()


class _Rings:
    """The layout of a step over given full rings: what a graph can hold."""

    def __init__(self, rel: Tensor, sheared: Tensor, keys: Tensor, values: Tensor, counters: Tensor):
        self.given = rel, sheared, keys, values, counters

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float):
        rel, sheared, keys, values, counters = self.given
        slots, committed, frames = counters
        return streaming_attention(
            q, k, v, gate, rel, keys, values, layer, slots, committed, frames, frames, sheared=sheared, room=ROOM
        ), None


class Step(nn.Module):
    """The transformer part of a step as a function of tensors."""

    def __init__(self, model: WavLMModel):
        super().__init__()
        self.encoder = model.encoder

    def forward(
        self, x: Tensor, position: Tensor, rel: Tensor, sheared: Tensor, keys: Tensor, values: Tensor, counters: Tensor
    ) -> Tensor:
        return self.encoder(x, position, _Rings(rel, sheared, keys, values, counters))[0]


def inputs(model: WavLMModel, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same numbers for every way, in its type; rings of its own."""
    config = model.config
    torch.manual_seed(1)
    x, position = (torch.randn(1, CONTEXT.chunk_frames, config.hidden_size) for _ in range(2))
    ring, heads, size = CONTEXT.left_frames, config.num_attention_heads, config.head_size
    shape = (1, config.num_hidden_layers, ring, heads, size)
    keys, values = (new_ring(*shape, room=ROOM, dtype=dtype).copy_(torch.randn(shape) * 0.5) for _ in range(2))
    table = model.encoder.layers[0].attention.rel_attn_embed.weight.detach().float()  # type: ignore[union-attr]
    rel = relative_vector(table, ring + CONTEXT.chunk_frames, config.max_bucket_distance).to(dtype)
    sheared = streaming_bias(rel, torch.empty(1, CONTEXT.chunk_frames, heads, size, dtype=dtype), ring)
    counters = torch.tensor([[0], [COMMITTED], [CONTEXT.chunk_frames]], dtype=torch.int32)
    halves = [t.to(dtype) for t in (x, position)]
    return (*halves, rel, sheared, keys, values, counters)


def plain(model: WavLMModel, dtype: torch.dtype) -> Way:
    """Eager torch, with whatever linear layers the model has."""
    step, arguments = Step(model), inputs(model, dtype)
    return Way(lambda: step(*arguments), model, arguments[4:6])


def of_type(model: WavLMModel, dtype: torch.dtype) -> WavLMModel:
    return copy.deepcopy(model).to(dtype)


def packed(model: WavLMModel, dtype: torch.dtype) -> Way:
    changed = of_type(model, dtype)
    pack_linears(changed.encoder)
    return plain(changed, dtype)


def compiled(model: WavLMModel, dtype: torch.dtype, **options: bool) -> Way:
    """torch.compile with frozen weights."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    changed = of_type(model, dtype)
    arguments = inputs(changed, dtype)
    graph = torch.compile(Step(changed), options={"freezing": True, **options}, fullgraph=True, dynamic=False)
    with inductor.patch(freezing=True, **options):
        graph(*inputs(model, dtype))  # compiles; over other rings, for it writes them
    return Way(lambda: graph(*arguments), rings=arguments[4:6])


def aot_inductor(model: WavLMModel, dtype: torch.dtype) -> Way:
    """Exported and compiled to a library of its own."""
    changed = of_type(model, dtype)
    arguments = inputs(changed, dtype)
    exported = torch.export.export(Step(changed), arguments)
    with tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(Path(folder) / "step.pt2"),
            inductor_configs={"freezing": True, "max_autotune": True},
        )
        loaded = torch._inductor.aoti_load_package(package)
    return Way(lambda: loaded(*arguments), rings=arguments[4:6])


def names_of_linears(model: WavLMModel) -> list[str]:
    """Linear layers of the encoder's layers; the gate's is tiny and read elsewhere."""
    found = model.encoder.named_modules()
    return [n for n, m in found if type(m) is nn.Linear and not n.endswith("gru_rel_pos_linear")]


def quantised(model: WavLMModel) -> Way:
    """torch.ao's quantize_dynamic, int8."""
    from torch.ao.quantization import quantize_dynamic
    from torch.ao.quantization.qconfig import default_dynamic_qconfig

    changed = copy.deepcopy(model)
    torch.backends.quantized.engine = "onednn"
    names = dict.fromkeys(names_of_linears(model), default_dynamic_qconfig)
    changed.encoder = quantize_dynamic(changed.encoder, names, dtype=torch.qint8)
    return plain(changed, torch.float32)


def torchao_int8(model: WavLMModel, **options: bool) -> Way:
    """torchao's int8 weights with activations quantised as they come, compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_  # pyright: ignore[reportMissingImports]

    changed = copy.deepcopy(model)
    names = set(names_of_linears(model))
    quantize_(changed.encoder, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda _, name: name in names)
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    arguments = inputs(model, torch.float32)
    graph = torch.compile(Step(changed), options={"freezing": True, **options}, fullgraph=True, dynamic=False)
    with inductor.patch(freezing=True, **options):
        graph(*inputs(model, torch.float32))  # compiles; over other rings, for it writes them
    return Way(lambda: graph(*arguments), rings=arguments[4:6])


def whole(model: WavLMModel) -> Callable[[], object]:
    """From samples to frames: `listen` and a committing `step`, rings full."""
    dtype = next(p.dtype for p in model.feature_projection.parameters())
    states = model.new_states(1, CONTEXT, dtype=dtype)
    chunk = torch.randn(1, CONTEXT.chunk_frames * model.config.hop_samples) * 0.05

    def step() -> None:
        model.listen(states, [0], chunk)
        if states.waiting(0) >= CONTEXT.step_frames:
            model.step(states, [0])

    while states.committed(0) < CONTEXT.left_frames + CONTEXT.chunk_frames:
        step()
    return step


def ways(model: WavLMModel) -> dict[str, Callable[[], Way]]:
    """How to build each way."""
    single, half = torch.float32, torch.bfloat16
    return {
        EXACT: lambda: plain(model, single),
        "eager bfloat16": lambda: plain(of_type(model, half), half),
        "packed float32": lambda: packed(model, single),
        "packed bfloat16": lambda: packed(model, half),
        "compile float32": lambda: compiled(model, single),
        "compile bfloat16": lambda: compiled(model, half),
        "compile bfloat16, max-autotune": lambda: compiled(model, half, max_autotune=True),
        "AOTInductor bfloat16, max-autotune": lambda: aot_inductor(model, half),
        "quantize_dynamic int8": lambda: quantised(model),
        "torchao int8, compiled": lambda: torchao_int8(model),
        "torchao int8, max-autotune": lambda: torchao_int8(model, max_autotune=True),
        **{
            name: (lambda make=make: Way(make()))
            for name, make in onnx_sides(model, inputs, CONTEXT.left_frames, COMMITTED).items()
        },
    }


def build(model: WavLMModel, only: list[str] | None) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways that work, and why others do not."""
    built: dict[str, Way] = {}
    missing: dict[str, str] = {}
    for name, make in ways(model).items():
        if only and name not in (EXACT, *only):
            continue
        start = time.perf_counter()
        try:
            built[name] = make()
            built[name].run()
        except Exception as error:  # whatever a way has against this machine is a result
            missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            built.pop(name, None)
        print(f"{name}: {missing.get(name, 'built')} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return built, missing


def in_turn(sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 3):
        for name, side in sides.items():
            start = clock()
            side()
            if number >= 3:
                times[name].append(clock() - start)
    return times


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="+", help="names of ways")
    parser.add_argument("--layers", type=int, default=12, help="fewer only to see what works; nothing is written then")
    parser.add_argument("--add", action="store_true", help="keep the rows of other ways in the result that is there")
    parser.add_argument("--whole", action="store_true", help="also from samples to frames, for ways in eager torch")
    options = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(num_hidden_layers=options.layers)).eval().requires_grad_(False)
    exact = plain(model, torch.float32).run().double()
    built, missing = build(model, options.only)
    times = in_turn({name: way.run for name, way in built.items()}, options.rounds, clock)
    full: dict[str, Callable[[], object]] = {}
    if options.whole:
        full = {name: whole(way.model) for name, way in built.items() if way.model is not None}
    whole_times = in_turn(full, options.rounds, clock)
    rows: list[dict[str, Any]] = []
    for name, way in built.items():
        got = way.first().double()
        rows.append(
            {
                "way": name,
                "transformer_ms": median_ms(times[name]),
                "transformer_p90_ms": percentile_ms(times[name], 0.9),
                "of_eager_float32": round(median_ms(times[name]) / median_ms(times[EXACT]), 3),
                "whole_ms": median_ms(whole_times[name]) if name in whole_times else None,
                "error": float(f"{float((got - exact).norm() / exact.norm()):.1e}"),
            }
        )
        print(rows[-1], flush=True)
    if options.layers != 12:
        return
    before = RESULTS / "cpu_step.json"
    if options.add and before.is_file():
        old = json.loads(before.read_text(encoding="utf-8"))
        mine = {row["way"] for row in rows} | set(missing)
        rows = [row for row in old["rows"] if row["way"] not in mine] + rows
        missing = {name: why for name, why in old["missing"].items() if name not in built} | missing
    write(
        "cpu_step",
        {"context": str(CONTEXT), "rounds": options.rounds, "clock": options.clock, "rows": rows, "missing": missing},
    )


if __name__ == "__main__":
    main()
