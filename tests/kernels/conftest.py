"""Kernels without a GPU: Triton's interpreter for what they compute, its compiler for what they cost."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # before any kernel is imported; CPU tensors still take torch's path unless a test forces triton
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _beside(file: str):
    """A module beside this file; pytest's importlib mode puts no folder on sys.path."""
    name = f"wavlm_live_tests_{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{file}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def oracle():
    """The module attention_oracle.py."""
    return _beside("attention_oracle")


@pytest.fixture(scope="session")
def compile_gate():
    """The module compile_gate.py: `Job`, `Compiled`, `compile_kernels`."""
    pytest.importorskip("triton", reason="the compile gate needs triton (Linux)")
    return _beside("compile_gate")


@pytest.fixture
def interpreter(monkeypatch) -> None:
    """Operations on CPU tensors run their Triton kernels in the interpreter."""
    pytest.importorskip("triton", reason="Triton's interpreter needs triton (Linux)")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernels run on it: pytest -m gpu")
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "triton")


@pytest.fixture(params=["torch", "interpreter"])
def path(request, monkeypatch) -> str:
    """Both implementations, on the CPU."""
    if request.param == "interpreter":
        request.getfixturevalue("interpreter")
    else:
        monkeypatch.setenv("WAVLM_LIVE_KERNELS", "torch")
    return request.param


@pytest.fixture
def poisoned_memory():
    """Memory that torch hands out unwritten holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
