"""Which path runs: devices, environment variables, and that it is said once."""

from __future__ import annotations

import importlib.util
import logging

import pytest
import torch

from wavlm_live.kernels import dispatch

CPU = torch.zeros(1)
META = torch.zeros(1, device="meta")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No wishes, and nothing said yet."""
    for name in (dispatch.ALL, *(dispatch.variable(op) for op in dispatch.OPERATIONS)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dispatch, "triton_present", lambda: True)
    dispatch._decide.cache_clear()
    yield
    dispatch._decide.cache_clear()


def paths(device: str) -> dict[str, str]:
    return {choice.op: choice.path for choice in dispatch.report(device)}


def test_without_wishes():
    assert dispatch.choose("full_attention", CPU).path == "torch"
    assert "this is meta" in dispatch.choose("full_attention", META).why
    assert set(paths("cuda").values()) == {"triton"}
    assert set(paths("cpu").values()) == {"torch"}


def test_without_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "triton_present", lambda: False)
    assert set(paths("cuda").values()) == {"torch"}
    assert dispatch.report("cuda")[0].why == "triton is not installed"


def test_triton_present_is_what_python_finds(monkeypatch):
    monkeypatch.undo()
    dispatch.triton_present.cache_clear()
    assert dispatch.triton_present() == (importlib.util.find_spec("triton") is not None)


@pytest.mark.parametrize("op", list(dispatch.OPERATIONS))
def test_wishes_for_one_and_for_all(monkeypatch, op):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "torch")
    assert set(paths("cuda").values()) == {"torch"}
    monkeypatch.setenv(f"WAVLM_LIVE_KERNEL_{op.upper()}", "triton")
    assert paths("cuda") == {name: "triton" if name == op else "torch" for name in dispatch.OPERATIONS}


def test_the_interpreter_must_be_there_for_the_cpu(monkeypatch):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "triton")
    monkeypatch.setattr(dispatch, "interpreted", dispatch.interpreted.__wrapped__)  # it is read once
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert set(paths("cpu").values()) == {"triton"}
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    choice = dispatch.choose("streaming_attention", CPU)
    assert choice.path == "torch"
    assert "needs TRITON_INTERPRET=1" in choice.why


def test_it_is_said_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="wavlm_live.kernels.dispatch")
    for _ in range(3):
        dispatch.choose("full_attention", CPU)
    assert [r.message for r in caplog.records] == ["full_attention: torch (kernels are for CUDA, this is cpu)"]
    # a GPU whose kernels are not used is worth a warning
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "torch")
    dispatch.report("cuda")
    assert {r.levelname for r in caplog.records[1:]} == {"WARNING"}


def test_what_is_not_understood(monkeypatch):
    with pytest.raises(ValueError, match="no operation 'convolution'; there are full_attention"):
        dispatch.choose("convolution", CPU)
    monkeypatch.setenv("WAVLM_LIVE_KERNEL_FULL_ATTENTION", "yes")
    with pytest.raises(ValueError, match="WAVLM_LIVE_KERNEL_FULL_ATTENTION is 'yes', expected auto, triton, torch"):
        dispatch.choose("full_attention", CPU)
