"""`evaluate`: contexts and their latency, what a step costs, tables, JSON and plots, for text and for heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavlm_live.model.context import StreamingContext
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.ctc import CTCTrainer
from wavlm_live.model.training.evaluate import contexts_of, step_times
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.plots import plot_curves, plot_error_rates
from wavlm_live.model.training.run_folder import LAST, RunFolder
from wavlm_live.model.training.settings import TrainSettings

Data = tuple[list[Utterance], list[Utterance], SoundCache]


@pytest.fixture
def checkpoint(tmp_path: Path, data: Data, settings: TrainSettings) -> Path:
    CTCTrainer(settings, RunFolder(tmp_path / "run"), data[0], data[2]).run(most_steps=1)
    return tmp_path / "run" / LAST


def test_contexts_are_every_combination() -> None:
    found = contexts_of([8, 16], [100, 250], [0, 4])
    assert len(found) == 8
    assert found["100,16,4"] == StreamingContext(100, 16, 4)


def test_steps_are_timed_one_by_one(checkpoint: Path, data: Data) -> None:
    from wavlm_live.model.training.export import load_model

    wave = np.concatenate([data[2].wave(u.file) for u in data[0]])[:48000]
    times = step_times(load_model(checkpoint), wave, StreamingContext(20, 8, 4))
    frames = (48000 - 400) // 320 + 1
    assert times["steps"] == (frames - 4) // 8 - 1  # the first one warms up
    assert 0 < times["median"] <= times["p95"] < 5000


def test_text_against_contexts_with_latency(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, plot = tmp_path / "f.json", tmp_path / "p.svg"
    common = [str(checkpoint), "--manifest", str(corpus), "--cache", str(tmp_path / "cache"), "--json", str(figures)]
    grid = ["--chunks", "4", "8", "--left", "20", "--right", "0", "4", "--context", "full", "--latency"]
    assert main(["evaluate", *common, *grid, "--plot", str(plot)]) == 0
    result = json.loads(figures.read_text())
    assert {n: c.get("latency_ms") for n, c in result["contexts"].items()} == {
        "full": None, "20,4,0": 80, "20,4,4": 160, "20,8,0": 160, "20,8,4": 240
    }  # fmt: skip
    assert all(("step_ms" in c) == (n != "full") for n, c in result["contexts"].items())
    shown = capsys.readouterr().out
    for text in ("20,8,4", "latency, ms", "240", "step p50 / p95, ms"):
        assert text in shown
    drawing = plot.read_text()
    assert drawing.startswith("<?xml")
    assert "word error rate" in drawing or drawing.count("<path") > 10
    stream = ["--context", "20,8,0", "--through", "stream"]
    assert main(["evaluate", *common, *stream]) == 0
    streamed = json.loads(figures.read_text())["contexts"]["20,8,0"]["rates"]
    assert streamed == result["contexts"]["20,8,0"]["rates"]


@pytest.mark.parametrize("head", ["activity", "speaker", "diarization"])
def test_heads_against_contexts(
    head: str, corpus: Path, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    stage = recipe["stages"][0] | {"steps": 1, "batch_s": 2.0, "augment": {}}
    recipe |= {"head": head, "stages": [stage], "crop_s": 1.0}
    recipe["model"] |= {"tdnn_dim": [8, 8, 8, 8, 12], "xvector_output_dim": 8}
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    common = ["--manifest", str(corpus), "--cache", str(tmp_path / "cache")]
    assert main(["heads", *common, "--recipe", str(tmp_path / "r.json"), "--out", str(tmp_path / "run")]) == 0
    model, figures = str(tmp_path / "run" / LAST), tmp_path / "f.json"
    contexts = ["--context", "20,8,0", "full", "--json", str(figures)]
    assert main(["evaluate", model, *common, *contexts]) == 0
    result = json.loads(figures.read_text())
    assert result["task"] == head
    name = {"activity": "auc", "speaker": "eer", "diarization": "der"}[head]
    assert all(0 <= c[name] < 3 for c in result["contexts"].values())
    assert f"{result['contexts']['full'][name]:.4f}" in capsys.readouterr().out
    assert main(["export", model, "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert main(["evaluate", str(tmp_path / "out"), *common, *contexts]) == 0
    assert json.loads(figures.read_text())["contexts"] == result["contexts"]
    plot = ["--plot", str(tmp_path / "roc.png")]
    assert main(["evaluate", model, *common, *contexts, *plot]) == int(head == "diarization")
    assert (tmp_path / "roc.png").exists() == (head != "diarization")


def test_plots_that_cannot_be_are_refused(tmp_path: Path) -> None:
    rates = {"all": {"wer": 0.5}}
    result = {"contexts": {"20,8,0": {"rates": rates, "latency_ms": 160}, "full": {"rates": rates}}}
    with pytest.raises(ConfigurationError, match=r"\.png"):
        plot_error_rates(result, tmp_path / "p.gif")
    with pytest.raises(CheckpointError, match="no folder"):
        plot_error_rates(result, tmp_path / "none" / "p.png")
    with pytest.raises(ConfigurationError, match="no curve"):
        plot_curves({"contexts": {"full": {}}}, tmp_path / "p.png")
