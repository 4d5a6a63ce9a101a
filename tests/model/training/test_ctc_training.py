"""The trainer: it learns, resumes exactly, survives what is not finite, and never leaves half a checkpoint."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wavlm_live.model.errors import CheckpointError, ConfigurationError, DeviceError, WavLMLiveError
from wavlm_live.model.training import trainer as loop
from wavlm_live.model.training.batches import Batch, BatchPlan
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.ctc import CTCTrainer
from wavlm_live.model.training.engine import Engine
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.model_card import card_text
from wavlm_live.model.training.objective import ctc_loss
from wavlm_live.model.training.parallel import run_together
from wavlm_live.model.training.run_folder import BEST, LAST, RunFolder, load_checkpoint
from wavlm_live.model.training.settings import RECIPES, TrainSettings, parse_context
from wavlm_live.model.training.tasks import settings_kind

Data = tuple[list[Utterance], list[Utterance], SoundCache]
STAGE: dict[str, Any] = {"name": "x", "steps": 1, "pools": [{"name": "p", "corpora": {"a": 1}}]}


def trainer(settings: TrainSettings, folder: Path, data: Data, **options: Any) -> CTCTrainer:
    return CTCTrainer(settings, RunFolder(folder), data[0], data[2], dev=data[1], **options)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, data: Data, settings: TrainSettings) -> None:
    whole = trainer(settings, tmp_path / "whole", data)
    assert whole.run().step == 8
    for steps in (3, 3, None):  # stops within the first stage, within the second, at the end
        part = trainer(settings, tmp_path / "parts", data)
        part.run(resume=True, most_steps=steps)
    one, other = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert same(one["model"], other["model"])
    assert same(one["average"], other["average"])
    assert same(one["optimizer"]["state"], other["optimizer"]["state"])
    assert other["progress"]["stage"] == 2
    assert not same(one["model"], one["average"])


def test_it_learns(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    """On two words, a model of a few thousand weights gets far below the loss of guessing letters."""
    stage = recipe["stages"][0] | {"steps": 60, "augment": {}, "batch_s": 8.0}
    recipe |= {"stages": [stage], "peak_lr": 1e-2, "contexts": {"20,8,4": 1}}
    recipe["model"] |= {"apply_spec_augment": False, "layerdrop": 0.0}
    run = trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data)
    losses: list[float] = []
    step = run.step

    def recorded(batch: Batch) -> tuple[float, float, float]:
        result = step(batch)
        losses.append(result[0])
        return result

    run.step = recorded  # type: ignore[method-assign]
    run.run()
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:2])
    assert run.progress.best_score < 2.0
    assert (tmp_path / "run" / BEST).exists()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert '"kind": "train"' in log
    assert "wer_all" in log


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_two_processes_give_the_losses_of_one(corpus: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Without dropout, rows shared out over processes give the same sums up to rounding; so do weights in shards."""
    recipe["model"] |= {"apply_spec_augment": False, "layerdrop": 0.0} | {
        f"{name}_dropout": 0.0 for name in ("hidden", "activation", "attention", "feat_proj", "final")
    }
    stage = recipe["stages"][0] | {"most_clips": 3}
    # without clipping: Adam and a clipped norm would hide gradients that are a constant too large
    recipe |= {"log_steps": 1, "clip_norm": 1e9, "freeze": {"wavlm.feature_extractor": 3}}
    recipe["stages"] = [stage, stage | {"name": "two"}]
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    states, losses = [], []
    common = ["--manifest", str(corpus), "--cache", str(tmp_path / "cache"), "--recipe", str(tmp_path / "r.json")]
    for kind, options in {"one": [], "two": ["--processes", "2"], "shards": ["--processes", "2", "--shard"]}.items():
        run = str(tmp_path / kind)
        assert main(["ctc", *common, "--out", run, *options]) == 0
        states.append(load_checkpoint(Path(run) / LAST))
        losses.append(losses_of(Path(run)))
    assert "RANK" not in os.environ
    one = states[0]
    assert len(losses[0]) == one["progress"]["step"] == 8
    for state, loss in zip(states[1:], losses[1:], strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-4)
        assert state["progress"]["heard_s"] == pytest.approx(one["progress"]["heard_s"])
        for key, moments in one["optimizer"]["state"].items():
            torch.testing.assert_close(
                moments["exp_avg"], state["optimizer"]["state"][key]["exp_avg"], rtol=1e-3, atol=1e-5
            )
        for name, weight in one["average"].items():
            torch.testing.assert_close(weight, state["average"][name], rtol=1e-3, atol=1e-4)
    # a run in shards goes on in one process: checkpoints hold whole tensors
    again = ["--out", str(tmp_path / "shards"), "--resume"]
    assert main(["ctc", *common, *again]) == 0
    with pytest.raises(ConfigurationError, match="0 processes"):
        run_together(print, None, 0)


def test_steps_that_are_not_finite_are_left_out(tmp_path: Path, data: Data, settings: TrainSettings) -> None:
    run = trainer(settings, tmp_path / "run", data)
    good = BatchPlan(data[0], data[2], settings.stages[0], seed=1).batch(0)
    assert good is not None
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    bad = good.to(torch.device("cpu"))
    bad.input_values = good.input_values.clone()
    bad.input_values[0, 100] = float("nan")
    loss, _, _ = run.step(bad)
    assert not np.isfinite(loss)
    assert run.progress.skipped == 1
    assert same(before, run.model.state_dict())
    loss, norm, seconds = run.step(good)
    assert seconds == pytest.approx(good.seconds)
    assert np.isfinite([loss, norm]).all()
    assert not same(before, run.model.state_dict())
    assert all(torch.isfinite(p).all() for p in run.average)


def test_a_loss_that_stays_not_finite_ends_the_run(
    tmp_path: Path, data: Data, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_SKIPPED_IN_A_ROW", 3)
    run = trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data)
    with torch.no_grad():
        run.model.lm_head.bias.fill_(float("inf"))
    with pytest.raises(WavLMLiveError, match="3 times in a row"):
        run.run()


def test_sigterm_leaves_a_checkpoint(tmp_path: Path, data: Data, settings: TrainSettings) -> None:
    run = trainer(settings, tmp_path / "run", data)
    step = run.step

    def interrupted(batch: Batch) -> tuple[float, float, float]:
        if run.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    run.step = interrupted  # type: ignore[method-assign]
    former = signal.getsignal(signal.SIGTERM)
    assert run.run().step == 3
    assert signal.getsignal(signal.SIGTERM) is former
    assert load_checkpoint(tmp_path / "run" / LAST)["progress"]["step"] == 3
    with pytest.raises(CheckpointError, match="holds a run already"):
        trainer(settings, tmp_path / "run", data).run()


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.save(LAST, {"value": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="free some space"):
        folder.save(LAST, {"value": 2})
    monkeypatch.undo()
    assert folder.load(LAST)["value"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [LAST]


def test_damaged_checkpoints_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / LAST)
    (tmp_path / LAST).write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / LAST)
    torch.save({"weights": torch.zeros(1)}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="no checkpoint of this trainer"):
        load_checkpoint(tmp_path / LAST)


def test_learning_rate_warms_up_and_falls_to_nothing(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    for schedule in ("linear", "cosine"):
        run = trainer(TrainSettings.from_dict(recipe | {"schedule": schedule}), tmp_path / schedule, data)
        rates = []
        for run.progress.step in range(9):
            rates.append(run.learning_rate())
        assert rates[0] < rates[1] > rates[2]
        assert rates[1:] == sorted(rates[1:], reverse=True)
        assert rates[8] == pytest.approx(0.0, abs=1e-12)


def test_loss_is_per_character(seed: int) -> None:
    logits = torch.randn(2, 20, 29)
    labels = torch.tensor([[3, 4, 5, 5], [6, 7, -100, -100]])
    frames, lengths = torch.tensor([20, 12]), torch.tensor([4, 2])
    each = [
        F.ctc_loss(
            logits[i : i + 1, : frames[i]].log_softmax(-1).transpose(0, 1),
            labels[i : i + 1, : lengths[i]],
            frames[i : i + 1],
            lengths[i : i + 1],
            reduction="sum",
        )
        for i in range(2)
    ]
    torch.testing.assert_close(ctc_loss(logits, labels, frames, lengths), sum(each) / 6)


def test_contexts_are_drawn_with_their_weights(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    settings = TrainSettings.from_dict(recipe | {"contexts": {"full": 1.0, "20,4,4": 3.0}})
    run = trainer(settings, tmp_path / "run", data)
    drawn = [run.context(step) for step in range(400)]
    assert drawn[:20] == [run.context(step) for step in range(20)]
    assert sum(c is None for c in drawn) / 400 == pytest.approx(0.25, abs=0.08)


def test_a_stage_may_name_its_own_contexts(
    tmp_path: Path, data: Data, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["stages"][1]["contexts"] = {"20,2,0": 1.0}
    seen: list[tuple[int, Any]] = []
    loss = CTCTrainer.loss

    def watched(run: CTCTrainer, batch: Any, step: int) -> torch.Tensor:
        seen.append((run.progress.stage, run.context(step)))
        return loss(run, batch, step)

    monkeypatch.setattr(CTCTrainer, "loss", watched)
    settings = TrainSettings.from_dict(recipe)
    trainer(settings, tmp_path / "run", data).run(most_steps=6)
    ended = trainer(settings, tmp_path / "run", data)
    ended.run(resume=True)  # within the second stage
    assert "In the stage 'two': `20,2,0` 1." in card_text(ended, data[0])
    usual = [parse_context(name) for name in settings.contexts]
    assert [stage for stage, _ in seen] == [0] * 4 + [1] * 4
    assert all(context in usual for stage, context in seen if stage == 0)
    assert all(context == parse_context("20,2,0") for stage, context in seen if stage == 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "step"}, "schedule"),
        ({"stages": []}, "no stage"),
        ({"contexts": {"wide": 1}}, "wide"),
        ({"contexts": {}}, "contexts"),
        ({"stages": [{**STAGE, "contexts": {"full": 0}}]}, "weight above 0"),
        ({"stages": [{**STAGE, "contexts": {"far": 1}}]}, "far"),
        ({"learning": 1}, "unknown key 'learning'"),
        ({"stages": [{"name": "x", "pools": [{"name": "p", "corpora": {"a": 1}}]}]}, "minutes or in steps"),
        ({"stages": [{"name": "x", "steps": 1, "pools": []}]}, "no pool"),
        ({"stages": [{"name": "x", "steps": 1, "pools": [{"name": "p", "corpora": {}}]}]}, "shares"),
        ({"model": {"hidden_size": 15}}, "hidden_size"),
        ({"distill": {"weight": 2.0}}, "distillation"),
        ({"freeze": {"wavlm": 0}}, "freeze"),
        ({"layer_decay": 1.5}, "layer_decay"),
    ],
)
def test_recipes_that_cannot_work_are_refused(recipe: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TrainSettings.from_dict(recipe | changes)


def test_shipped_recipes_are_valid(tmp_path: Path) -> None:
    names = [path.stem for path in RECIPES.glob("*.json")]
    assert "bundled_first_edition" in names
    for name in names:
        kind = settings_kind({"head": "heads", "pretrain": "pretrain"}.get(name.split("_")[0], "ctc"))
        settings = kind.from_file(name)
        assert kind.from_dict(settings.to_dict()) == settings
        if settings.by_clock:
            assert sum(s.minutes or 0 for s in settings.scaled(50).stages) == pytest.approx(50)
    with pytest.raises(ConfigurationError, match="bundled_first_edition"):
        TrainSettings.from_file("unheard_of")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        TrainSettings.from_file(tmp_path / "r.json")


def test_unknown_device() -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        Engine("cuda:99")
    with pytest.raises(ConfigurationError, match="several processes"):
        Engine("cpu", shard=True)


def test_tensorboard_reads_the_log(tmp_path: Path, data: Data, settings: TrainSettings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(settings, tmp_path / "run", data).run()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for kind, name in (("train", "loss"), ("train", "lr"), ("dev", "wer_all")):
        expected = [(line["step"], line[name]) for line in lines if line["kind"] == kind]
        found = [(e.step, e.value) for e in events.Scalars(f"{kind}/{name}")]
        assert found == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]
        assert found


@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    killed_at: int, tmp_path: Path, data: Data, recipe: dict[str, Any]
) -> None:
    """Killed without warning: the step under way is lost, the checkpoint of a step before it is gone on from."""
    settings = TrainSettings.from_dict(recipe | {"log_steps": 1, "checkpoint_minutes": 0})
    trainer(settings, tmp_path / "whole", data).run()
    run = trainer(settings, tmp_path / "killed", data)
    step = run.step

    def killed(batch: Batch) -> tuple[float, float, float]:
        if run.progress.step == killed_at:
            raise KeyboardInterrupt
        return step(batch)

    run.step = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    trainer(settings, tmp_path / "killed", data).run(resume=True)
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    one, other = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "killed"))
    assert same(one["average"], other["average"])
