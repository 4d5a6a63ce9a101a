"""What the attention kernels cost on GPUs that are not here: no spilled registers, ceilings, tensor cores in use.

The settings are those that a launch takes (kernels/attention_settings.py). docs/kernels.md shows the figures.
"""

from __future__ import annotations

import pytest
import torch

from wavlm_live.kernels import attention_settings as settings

PACKAGE = "wavlm_live.kernels."
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
COUNTS = ("tokens", "heads", "left", "chunk", "right", "chunks", "group", "parts", "bias_columns", "bias_origin")
SHARED_CEILING = {90: 112 * 1024, 80: 96 * 1024}
"""Bytes of a program: two fit a multiprocessor of 228 KB, one of 164 KB."""


def full_job(gate, kernel: str, dtype: torch.dtype, chunked: bool, capability: int, dropout: bool = False):
    """A kernel of full attention with heads of 64, as launched."""
    pointer = TYPES[dtype]
    types = dict.fromkeys(("Q", "K", "V", "GATE", "BIAS"), pointer)
    types |= {"LENGTHS": "*i32", "LSE": "*fp32", "scale": "fp32", "dropout": "fp32", **dict.fromkeys(COUNTS, "i32")}
    constants: dict[str, object] = {
        "SIZE": 64, "WIDTH": 64, "CHUNKED": chunked, "COPIES": chunked, "RAGGED": True, "DROPOUT": dropout,
        "BIAS_ROWS": settings.forward_rows(dtype, chunked, 64),
    }  # fmt: skip
    if dropout:
        types["SEED"] = "*i64"
    else:
        constants["SEED"] = None
    chosen = settings.backward_settings(dtype, 64, dropout, capability)
    if kernel == "full_forward":
        module, chosen = "full_attention_forward", settings.forward_settings(dtype, chunked, 64, dropout)
        types["OUT"] = pointer
        constants["EXACT"] = dtype == torch.float32
    elif kernel == "full_backward_bias":
        module, chosen = "full_attention_bias_gradient", settings.bias_settings(dtype, 64, capability)
        types |= {"GRAD": pointer, "DELTA": "*fp32", "PARTIAL": "*fp32"}
        types |= dict.fromkeys(("batches", "shares", "place_low", "places", "own_places"), "i32")
    else:
        module = "full_attention_backward"
        types |= {"GRAD": pointer, "DELTA": "*fp32", "size_scale": "fp32"}
        names = ("OUT", "DQ", "DGATE") if kernel == "full_backward_rows" else ("DK", "DV")
        types |= dict.fromkeys(names, pointer)
        if kernel == "full_backward_keys":
            constants["COPIES"] = False
        if kernel == "full_backward_copies":
            kernel = "full_backward_keys"
    constants |= {"ROWS": chosen.rows, "KEYS": chosen.keys}
    return gate.Job(
        PACKAGE + module, kernel, types, constants, capability, chosen.warps, chosen.stages,
        divisible=("bias_columns", "bias_origin"),
    )  # fmt: skip


def streaming_job(gate, dtype: torch.dtype, ring: str, frames: int, capability: int, split: bool = False):
    """The streaming kernel for steps of so many frames, its keys shared by several programs or not."""
    chosen = settings.streaming_settings(dtype, frames, 64)
    types = dict.fromkeys(("Q", "K", "V", "GATE", "BIAS", "OUT"), TYPES[dtype])
    types |= dict.fromkeys(("SLOTS", "COMMITTED", "FRAMES"), "*i32") | {"RING_K": ring, "RING_V": ring, "scale": "fp32"}
    types |= dict.fromkeys(("width", "heads", "layers", "layer", "ring", "bias_columns", "bias_origin"), "i32")
    constants = {"SIZE": 64, "WIDTH": 64, "ROWS": chosen.rows, "KEYS": chosen.keys, "SCALED": ring == "*i8"}
    constants["SPLIT"] = split
    if split:
        types |= {"OUT": "*fp32", "SUMS": "*fp32"}
    else:
        constants["SUMS"] = None
    scales = ("SCALE_K", "SCALE_V")
    if ring == "*i8":
        types |= dict.fromkeys(scales, "*fp32")
    else:
        constants |= dict.fromkeys(scales)
    return gate.Job(
        PACKAGE + "streaming_attention_kernel", "streaming_forward", types, constants, capability, chosen.warps,
        chosen.stages, divisible=("bias_columns", "bias_origin"),
    )  # fmt: skip


def join_job(gate, capability: int):
    """The kernel that joins shares of keys."""
    types = {"PARTIAL": "*fp32", "SUMS": "*fp32", "FRAMES": "*i32", "OUT": "*bf16"}
    types |= dict.fromkeys(("width", "heads", "shares"), "i32")
    constants = {"SIZE": 64, "WIDTH": 64, "ROWS": 64}
    return gate.Job(PACKAGE + "streaming_attention_kernel", "streaming_join", types, constants, capability)


def write_job(gate, ring: str, capability: int):
    """The kernel that writes rings."""
    types = dict.fromkeys(("K", "V"), "*bf16") | dict.fromkeys(("RING_K", "RING_V"), ring)
    types |= dict.fromkeys(("SLOTS", "COMMITTED", "OWN"), "*i32")
    types |= dict.fromkeys(("width", "heads", "layers", "layer", "ring"), "i32")
    scales = dict.fromkeys(("SCALE_K", "SCALE_V"), "*fp32") if ring == "*i8" else {}
    constants = {"SIZE": 64, "WIDTH": 64, "ROWS": 16, "SCALED": ring == "*i8"}
    if not scales:
        constants |= dict.fromkeys(("SCALE_K", "SCALE_V"))
    return gate.Job(PACKAGE + "streaming_attention_kernel", "ring_write", types | scales, constants, capability)


def all_jobs(gate, capability: int) -> dict[str, object]:
    """By name; heads of 64, lengths and both kinds of chunk keys included."""
    half, single = torch.bfloat16, torch.float32
    jobs = {
        f"{kernel} {'chunks' if chunked else 'whole'} bf16": full_job(gate, kernel, half, chunked, capability)
        for chunked in (False, True)
        for kernel in ("full_forward", "full_backward_rows", "full_backward_keys", "full_backward_bias")
    }
    jobs["full_backward_copies chunks bf16"] = full_job(gate, "full_backward_copies", half, True, capability)
    jobs["full_forward whole fp32"] = full_job(gate, "full_forward", single, False, capability)
    jobs["full_forward whole fp16, dropout"] = full_job(gate, "full_forward", torch.float16, False, capability, True)
    jobs["streaming_forward 16 bf16"] = streaming_job(gate, half, "*bf16", 16, capability)
    jobs["streaming_forward 64 bf16"] = streaming_job(gate, half, "*bf16", 64, capability)
    jobs["streaming_forward 16 bf16, int8 ring"] = streaming_job(gate, half, "*i8", 16, capability)
    jobs["streaming_forward 16 bf16, shared"] = streaming_job(gate, half, "*bf16", 16, capability, True)
    jobs["streaming_forward 64 bf16, shared"] = streaming_job(gate, half, "*bf16", 64, capability, True)
    jobs["streaming_join bf16"] = join_job(gate, capability)
    jobs["ring_write bf16"] = write_job(gate, "*bf16", capability)
    if capability == 80:  # the rest of Ampere's settings is Hopper's; compiling all takes a minute
        fewer = ("full_forward whole bf16", "streaming_forward 16 bf16", "streaming_forward 64 bf16")
        fewer += ("streaming_forward 64 bf16, shared", "streaming_join bf16")
        return {n: job for n, job in jobs.items() if n in fewer or (n.startswith("full_") and "chunks" in n)}
    return jobs


@pytest.mark.slow
@pytest.mark.parametrize("capability", [90, 80], ids=["sm_90", "sm_80"])
def test_nothing_spills(compile_gate, capability):
    jobs = all_jobs(compile_gate, capability)
    for name, found in zip(jobs, compile_gate.compile_kernels(list(jobs.values())), strict=True):
        print(  # noqa: T201
            f"sm_{capability} | {name} | {found.registers} | {found.shared_bytes} | {found.instructions} | "
            f"{found.tensor_core['HGMMA']} | {found.tensor_core['HMMA']}"
        )
        assert found.spilled == 0, f"{name}: {found.spilled} spills"
        assert found.stack_bytes == 0, name
        assert found.shared_bytes <= SHARED_CEILING[capability], name
        if "fp32" in name or name.startswith(("ring", "streaming_join")):
            continue  # exact products and copies have no tensor cores
        assert found.uses_tensor_cores, name
        if capability == 90 and not name.startswith("streaming_forward 16"):
            assert found.tensor_core["HGMMA"], name
    small = compile_gate.compile_kernels([jobs["streaming_forward 16 bf16"]])[0]
    assert small.registers <= 128  # four programs a multiprocessor hide the rings' latency


def test_the_gate_sees_spills_and_wrong_types(compile_gate):
    """128 rows on four warps are too many, and a call that leaves an argument out is refused."""
    job = full_job(compile_gate, "full_forward", torch.bfloat16, False, 90)
    too_many = compile_gate.Job(**{**vars(job), "warps": 4})
    assert compile_gate.compile_kernels([too_many])[0].spilled > 0
    with pytest.raises(RuntimeError, match=r"no type for \['Q'\]"):
        compile_gate.compile_kernels(
            [compile_gate.Job(**{**vars(job), "types": {k: v for k, v in job.types.items() if k != "Q"}})]
        )
