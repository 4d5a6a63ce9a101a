"""Compiles Triton kernels for GPUs that are not there and counts what came out.

Reached through the fixture `compile_kernels` of conftest.py. The compiling happens in a process of its own, since the
tests of this folder run kernels in the interpreter, and a process has either the interpreter or the compiler.

As a program: reads a JSON list of jobs from standard input, writes a JSON list of results.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One kernel with one set of types and constants, for one GPU."""

    module: str
    """Such as wavlm_live.kernels.full_attention_forward."""
    kernel: str
    """Name of the @triton.jit function."""
    types: dict[str, str]
    """Triton's types of arguments: "*fp16", "*i32", "i32", "fp32"; all that are not in `constants`."""
    constants: dict[str, Any]
    """Values of constexpr arguments. A pointer may stand here too, as None."""
    capability: int = 90
    """90: Hopper, 80: Ampere."""
    warps: int = 4
    stages: int = 3
    unaligned: tuple[str, ...] = ()
    """Arguments that are not divisible by 16; pointers are, and so are the integers named in `divisible`."""
    divisible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a job."""

    registers: int
    spilled: int
    """Instructions that store registers to or load them from local memory."""
    stack_bytes: int
    shared_bytes: int
    instructions: int
    tensor_core: dict[str, int] = field(default_factory=dict)
    """Count of HMMA (mma.sync), HGMMA (wgmma), IMMA and IGMMA instructions."""
    sass: str = ""

    @property
    def uses_tensor_cores(self) -> bool:
        return any(self.tensor_core.values())


def compile_kernels(jobs: list[Job], sass: bool = False) -> list[Compiled]:
    """Compile all jobs in one fresh process.

    Args:
        jobs: what to compile.
        sass: keep the disassembly in the results.

    Raises:
        RuntimeError: a job that does not compile, with the compiler's last words.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TRITON_CACHE_DIR")}
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve())],
            input=json.dumps([asdict(job) for job in jobs]),
            capture_output=True,
            text=True,
            env={**environment, "TRITON_CACHE_DIR": cache},
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    results = [Compiled(**one) for one in json.loads(done.stdout.splitlines()[-1])]
    return results if sass else [Compiled(**{**asdict(one), "sass": ""}) for one in results]


def _compile(job: Job) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import __file__ as backend
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(job.module), job.kernel)
    names = list(function.arg_names)
    missing = [n for n in names if n not in job.types and n not in job.constants]
    strange = [n for n in (*job.types, *job.constants) if n not in names]
    if missing or strange:
        raise ValueError(f"{job.kernel}: no type for {missing}, no argument {strange}; it takes {names}")
    signature = {n: "constexpr" if n in job.constants else job.types[n] for n in names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if n not in job.constants and n not in job.unaligned and (job.types[n].startswith("*") or n in job.divisible)
    }
    source = ASTSource(function, signature, {n: v for n, v in job.constants.items() if n in names}, attributes)
    options = {"num_warps": job.warps, "num_stages": job.stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", job.capability, 32), options=options)
    tools = Path(backend).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True)
        text = subprocess.run([tools / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", usage.stdout)}
    body = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(.*?);", text, re.M)
    opcodes = [re.sub(r"^(@!?U?P\w+\s+)", "", line).split()[0] for line in body]
    return Compiled(
        registers=found["REG"],
        spilled=sum(o.startswith(("STL", "LDL")) for o in opcodes),
        stack_bytes=found["STACK"],
        shared_bytes=kernel.metadata.shared,
        instructions=len(opcodes),
        tensor_core={
            name: sum(o.startswith(name + ".") or o == name for o in opcodes)
            for name in ("HMMA", "HGMMA", "IMMA", "IGMMA")
        },
        sass=text,
    )


if __name__ == "__main__":
    jobs = [Job(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in json.load(sys.stdin)]
    print(json.dumps([asdict(_compile(job)) for job in jobs]))  # noqa: T201
