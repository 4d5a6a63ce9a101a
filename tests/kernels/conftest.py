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


def _gate():
    name = "wavlm_live_compile_gate"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("compile_gate.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def compile_gate():
    """The module compile_gate.py: `Job`, `Compiled`, `compile_kernels`."""
    pytest.importorskip("triton", reason="the compile gate needs triton (Linux)")
    return _gate()


@pytest.fixture
def interpreter(monkeypatch) -> None:
    """Operations on CPU tensors run their Triton kernels in the interpreter."""
    pytest.importorskip("triton", reason="Triton's interpreter needs triton (Linux)")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernels run on it: pytest -m gpu")
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "triton")
