"""Which implementation of an operation runs, and why: Triton kernels on CUDA, torch elsewhere.

`WAVLM_LIVE_KERNELS` = auto | triton | torch decides for all operations, `WAVLM_LIVE_KERNEL_<OPERATION>` (in capitals)
for one. With `TRITON_INTERPRET=1`, set before this package is imported, and triton forced, CPU tensors go through the
kernels in Triton's interpreter: slow, meant for tests.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

Path = Literal["triton", "torch"]

logger = logging.getLogger(__name__)

OPERATIONS = {
    "full_attention": "attention over whole utterances and chunks with copied right context",
    "streaming_attention": "attention of a step's frames over the rings of their streams",
    "strided_convolution": "a convolution of the front end with its norm and GELU, behind the tails of their streams",
    "position_convolution": "the grouped convolution of the position over kept and new frames",
    "ctc_greedy": "the best output of every frame, without the logits",
}
"""Operations with kernels of their own, and what they compute."""

WANTED = ("auto", "triton", "torch")
ALL = "WAVLM_LIVE_KERNELS"


def variable(op: str) -> str:
    """The environment variable that decides for one operation."""
    return f"WAVLM_LIVE_KERNEL_{op.upper()}"


@dataclass(frozen=True)
class Choice:
    """The path of one operation on one kind of device.

    Raises:
        ValueError: an operation that does not exist.
    """

    op: str
    path: Path
    why: str

    def __post_init__(self) -> None:
        if self.op not in OPERATIONS:
            raise ValueError(f"no operation {self.op!r}; there are {', '.join(OPERATIONS)}")

    def __str__(self) -> str:
        return f"{self.op}: {self.path} ({self.why})"


@lru_cache(maxsize=1)
def triton_present() -> bool:
    """Whether triton can be imported, without importing it."""
    return importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=1)
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter.

    Triton reads the variable when it is imported, so it is read once here too: every operation of every step asks, and
    reading the environment takes as long as computing a small tensor."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def choose(op: str, tensor: torch.Tensor) -> Choice:
    """The path for an operation on a tensor; the first time that an answer is given, it is logged.

    Args:
        op: one of `OPERATIONS`.
        tensor: any input of it; its device counts.

    Raises:
        ValueError: no such operation, or an environment variable with a value that is not understood.
    """
    return _choose(op, tensor.device.type)


def _choose(op: str, device: str) -> Choice:
    wish, of = os.environ.get(variable(op)), variable(op)
    if wish is None:
        wish, of = os.environ.get(ALL, "auto"), ALL
    return _decide(op, device, wish, of, interpreted())


@lru_cache(maxsize=256)
def _decide(op: str, device: str, wish: str, of: str, interpret: bool) -> Choice:
    if wish not in WANTED:
        raise ValueError(f"{of} is {wish!r}, expected {', '.join(WANTED)}")
    gpu = device == "cuda"
    if wish == "torch":
        choice = Choice(op, "torch", f"{of}=torch")
    elif not triton_present():
        choice = Choice(op, "torch", "triton is not installed")
    elif gpu:
        choice = Choice(op, "triton", "a CUDA device and triton are there" if wish == "auto" else f"{of}=triton")
    elif wish == "triton" and interpret:
        choice = Choice(op, "triton", f"{of}=triton, in Triton's interpreter: slow")
    elif wish == "triton":
        choice = Choice(op, "torch", f"{of}=triton, but a {device} tensor needs TRITON_INTERPRET=1 for it")
    else:
        choice = Choice(op, "torch", f"kernels are for CUDA, this is {device}")
    level = logging.WARNING if (wish == "triton" or gpu) and choice.path == "torch" else logging.INFO
    logger.log(level, "%s", choice)
    return choice


def takes_kernel(op: str, device: str) -> bool:
    """Whether `op` on a kind of device runs its Triton kernel; torch.compile asks once, while it traces."""
    if device != "cuda" and not interpreted():  # asked for every layer of every step, so the usual no is a quick one
        _tell(op, device)
        return False
    return _choose(op, device).path == "triton"


# What torch.compiler.assume_constant_result does; calling that imports the compiler, for everybody who never compiles:
# 1.5 s and 150 MB at every start.
takes_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _tell(op: str, device: str) -> None:
    """Log the choice the first time."""
    _choose(op, device)


def formula_needed(*tensors: torch.Tensor | None) -> bool:
    """Whether torch's formula must compute, so that gradients flow or autocast chooses the types."""
    found = [t for t in tensors if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in found):
        return True
    return torch.is_autocast_enabled(found[0].device.type)


def report(device: str | None = None) -> list[Choice]:
    """The path of every operation on a kind of device; None: CUDA where there is one, else the CPU."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return [_choose(op, kind) for op in OPERATIONS]
