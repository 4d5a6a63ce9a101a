"""The kernels of front end, position and head, compiled for Hopper and Ampere in the blocks that would run there.

`WAVLM_LIVE_FULL_GATE=1` compiles every case, which takes minutes; else those that fill the registers most.
"""

from __future__ import annotations

import os
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the compile gate needs triton (Linux)")

SHARED = {90: 227 << 10, 80: 163 << 10}
"""Bytes of shared memory that a program can have."""
PROCESSORS = {90: 132, 80: 108}
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LAYERS = {"first": (1, 10, 5), "middle": (512, 3, 2), "last": (512, 2, 2)}  # inputs, kernel, stride; 512 outputs


def convolution(gate, kind: str, capability: int, layer: str, norm: str, total: int):
    """The job of one layer, with everything that may be given: ragged rows, tails, slots."""
    from wavlm_live.kernels.strided_convolution_triton import blocks_of

    inputs, taps, stride = LAYERS[layer]
    keep = max(0, taps - stride)
    b = blocks_of(TYPES[kind], norm, 512, taps * inputs, total, capability == 90, PROCESSORS[capability])
    pointer, size = f"*{kind}", dict.fromkeys(("rows", "inputs", "positions", "hops", "first_hop", "hop"), "i32")
    types = dict.fromkeys(("x_ptr", "weight_ptr", "out_ptr"), pointer) | size
    types |= {"x_stride": "i64", "slot_stride": "i64", "eps": "fp32", "count_ptr": "*i64"}
    constants = {
        "INPUTS": inputs, "OUTPUTS": 512, "TAPS": taps, "STRIDE": stride, "KEPT": keep, "KEEP": keep, "NORM": norm,
        "GELU": True, "RAGGED": True, "BLOCK_M": b.m, "BLOCK_N": b.n, "BLOCK_K": b.k,
        "BLOCK_TAIL": 1 << max(0, keep * inputs - 1).bit_length(), "bias_ptr": None,
    }  # fmt: skip
    given = {
        "tail_ptr": (pointer, keep), "slot_ptr": ("*i64", keep), "new_tail_ptr": (pointer, keep),
        "scale_ptr": (pointer, norm != "none"), "shift_ptr": (pointer, norm != "none"),
        "mean_ptr": ("*fp32", norm == "moments"), "variance_ptr": ("*fp32", norm == "moments"),
    }  # fmt: skip
    types |= {name: kind for name, (kind, there) in given.items() if there}
    constants |= {name: None for name, (_, there) in given.items() if not there}
    divisible = ("x_stride", "slot_stride") if inputs > 1 else ()
    module = "wavlm_live.kernels.strided_convolution_triton"
    return gate.Job(
        module, "strided_convolution_kernel", types, constants, capability, b.warps, b.stages, divisible=divisible
    )


def position(gate, kind: str, capability: int, channels: int, total: int):
    from wavlm_live.kernels.position_convolution_triton import blocks_of

    b = blocks_of(TYPES[kind], channels, 128, 16, total, capability == 90, PROCESSORS[capability])
    types = dict.fromkeys(("x_ptr", "kept_ptr", "weight_ptr", "bias_ptr", "out_ptr"), f"*{kind}")
    types |= dict.fromkeys(("slot_ptr", "known_ptr", "count_ptr"), "*i64")
    types |= dict.fromkeys(("rows", "frames", "x_stride", "kept_stride"), "i32")
    strides = ("x_row_stride", "kept_row_stride", "x_stride", "kept_stride")
    types |= dict.fromkeys(strides[:2], "i64")
    constants = {
        "GROUPS": 16, "CHANNELS": channels, "TAPS": 128, "HELD": 64, "GELU": True,
        "BLOCK_M": b.m, "BLOCK_N": b.n, "BLOCK_K": b.k,
    }  # fmt: skip
    module, name = "wavlm_live.kernels.position_convolution_triton", "position_convolution_kernel"
    return gate.Job(module, name, types, constants, capability, b.warps, b.stages, divisible=strides)


def head(gate, kind: str, capability: int, hidden: int, total: int):
    from wavlm_live.kernels.ctc_greedy_triton import blocks_of

    b = blocks_of(TYPES[kind], hidden, 32, total, PROCESSORS[capability])
    types = dict.fromkeys(("hidden_ptr", "weight_ptr", "bias_ptr"), f"*{kind}")
    types |= {"index_ptr": "*i64", "best_ptr": "*fp32", "silent_ptr": "*fp32"}
    types |= dict.fromkeys(("total", "vocabulary", "first_silent", "second_silent"), "i32")
    constants = {"HIDDEN": hidden, "SILENT": 2, "BLOCK_M": b.m, "BLOCK_N": b.n, "BLOCK_K": b.k}
    module, name = "wavlm_live.kernels.ctc_greedy_triton", "ctc_greedy_kernel"
    return gate.Job(module, name, types, constants, capability, b.warps, b.stages)


MANY, FEW = 1 << 18, 64
CASES = [  # those of large checkpoints, of base, and the float32 ones with the most registers
    (convolution, "bf16", 90, "middle", "layer", MANY),
    (convolution, "bf16", 90, "middle", "none", MANY),
    (convolution, "fp16", 90, "first", "moments", MANY),
    (convolution, "bf16", 80, "middle", "layer", MANY),
    (convolution, "fp32", 80, "middle", "none", MANY),
    (convolution, "fp32", 80, "first", "layer", MANY),
    (position, "bf16", 90, 48, MANY),
    (position, "fp32", 80, 48, MANY),
    (head, "bf16", 90, 768, MANY),
    (head, "fp16", 80, 768, FEW),
]
if os.environ.get("WAVLM_LIVE_FULL_GATE"):
    CASES = [
        (convolution, kind, capability, layer, norm, total)
        for kind in TYPES
        for capability in SHARED
        for layer in LAYERS
        for norm in (("layer", "moments") if layer == "first" else ("layer", "none"))
        for total in (MANY, FEW)
    ]
    CASES += [
        (position, k, c, channels, t) for k in TYPES for c in SHARED for channels in (48, 64) for t in (MANY, FEW)
    ]
    CASES += [(head, k, c, hidden, t) for k in TYPES for c in SHARED for hidden in (768, 1024) for t in (MANY, FEW)]


def test_no_spills_and_tensor_cores(compile_gate):
    jobs = [make(compile_gate, *arguments) for make, *arguments in CASES]
    results = compile_gate.compile_kernels(jobs, sass=True)
    faults = []
    for (make, kind, capability, *rest), job, got in zip(CASES, jobs, results, strict=True):
        what = f"{make.__name__} {kind} sm_{capability} {rest}"
        blocks = "x".join(str(job.constants[f"BLOCK_{d}"]) for d in "MNK")
        print(f"{what:50} {blocks:11} {got.registers} registers, {got.shared_bytes} B, {got.instructions} instructions")  # noqa: T201
        if got.spilled or got.stack_bytes:
            faults.append(f"{what}: {got.spilled} spills")
        if got.shared_bytes > SHARED[capability]:
            faults.append(f"{what}: {got.shared_bytes} bytes of shared memory")
        if got.registers * job.warps * 32 > 65536:
            faults.append(f"{what}: {got.registers} registers on {job.warps} warps do not fit")
        if kind == "fp32":
            continue
        wide = job.constants["BLOCK_M"] >= 64 and capability == 90  # wgmma works on 64 rows
        if not got.tensor_core["HGMMA" if wide else "HMMA"]:
            faults.append(f"{what}: {got.tensor_core}, not the tensor cores expected")
        if "first" not in rest and not re.search(r"LDGSTS\S*\.128", got.sass):
            faults.append(f"{what}: inputs are not copied 16 bytes at a time")
    assert not faults, "\n".join(faults)
