"""The benchmarks of kernels print no speed and write no result when what they measure is wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ["--device", "cpu", "--sizes", "base", "--streams", "1", "--chunks", "8", "--rounds", "3", "--threads", "1"]


@pytest.fixture
def load(monkeypatch, tmp_path):
    """A benchmark by its name, which would write into a folder of the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("machine"), "RESULTS", tmp_path)
    threads = torch.get_num_threads()
    yield lambda name: importlib.reload(importlib.import_module(name))
    torch.set_num_threads(threads)
    sys.modules.pop("machine")


def broken(function):
    """The kernel with one wrong number in a thousand."""

    def wrong(*arguments, **named):
        found = function(*arguments, **named)
        out = (found[0] if isinstance(found, tuple) else found).clone()
        out.view(-1)[::1000] += 0.1
        return (out, *found[1:]) if isinstance(found, tuple) else out

    return wrong


@pytest.mark.parametrize(
    ("kernel", "more"),
    [("streaming_attention", ["--lengths"]), ("gated_bias_attention", ["--lengths", "60", "--streams"])],
)
def test_attention(load, monkeypatch, capsys, tmp_path, kernel, more):
    benchmark = load("attention")
    monkeypatch.setattr(benchmark, "roofs", lambda *_: {"bytes_s": 1e9, "flop_s": 1e9})
    arguments = [*SMALL, "--left", "32", *more]
    benchmark.main(arguments)
    assert "'ms'" in capsys.readouterr().out
    (tmp_path / "attention_cpu.json").unlink()
    monkeypatch.setattr(benchmark, kernel, broken(getattr(benchmark, kernel)))
    with pytest.raises(SystemExit, match="no speed is reported"):
        benchmark.main(arguments)
    assert "'ms'" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_front_end(load, monkeypatch, capsys, tmp_path):
    benchmark = load("front_end")
    monkeypatch.setattr(benchmark, "roof", lambda *_: (1e9, 1e9))
    monkeypatch.setattr(benchmark, "strided_convolution", broken(benchmark.strided_convolution))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # a side that is not looked at here
    assert benchmark.main([*SMALL, "--dtypes", "float32"]) == 1
    told = capsys.readouterr()
    assert "WRONG" in told.err
    assert "no speed is given" in told.err
    assert told.out == ""
    assert not list(tmp_path.iterdir())
