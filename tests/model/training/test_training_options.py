"""Options of training: freezing, rates by part, schedules, distillation, weights to start from, the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.training.batches import BatchPlan
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.ctc import CTCTrainer
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.objective import ctc_loss, divergence, rate_factor
from wavlm_live.model.training.progress_bar import ProgressBar
from wavlm_live.model.training.run_folder import LAST, RunFolder, load_checkpoint
from wavlm_live.model.training.settings import TrainSettings

Data = tuple[list[Utterance], list[Utterance], SoundCache]


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


def test_frozen_parts_stay_and_thaw(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    recipe["freeze"] = {"wavlm.feature_extractor": None, "wavlm.encoder": 5}
    run = trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data)
    first = {n: p.detach().clone() for n, p in run.model.named_parameters()}

    def moved() -> set[str]:
        return {n for n, p in run.model.named_parameters() if not torch.equal(p, first[n])}

    run.run(most_steps=5)
    assert {n.split(".")[0] for n in moved()} == {"wavlm", "lm_head"}
    assert not any(n.startswith(("wavlm.feature_extractor", "wavlm.encoder")) for n in moved())
    again = trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data)
    again.run(resume=True)
    run = again
    assert any(n.startswith("wavlm.encoder.layers.1") for n in moved())
    assert not any(n.startswith("wavlm.feature_extractor") for n in moved())


def test_rates_by_part_and_layer(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    recipe |= {"learning_rates": {"lm_head": 10.0, "wavlm.encoder.layers": 2.0}, "layer_decay": 0.5}
    run = trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data)
    batch = BatchPlan(data[0], data[2], run.settings.stages[0], seed=1).batch(0)
    assert batch is not None
    run.step(batch)
    names = {id(p): n for n, p in run.model.named_parameters()}
    rates = {names[id(p)]: g["lr"] / run.settings.peak_lr for g in run.optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(names)
    base = rates["wavlm.encoder.layer_norm.weight"]
    assert rates["lm_head.weight"] == pytest.approx(10 * base)
    assert rates["wavlm.encoder.layers.1.final_layer_norm.bias"] == pytest.approx(2 * base)
    assert rates["wavlm.encoder.layers.0.final_layer_norm.bias"] == pytest.approx(base)
    assert rates["wavlm.feature_extractor.conv_layers.0.conv.weight"] == pytest.approx(0.25 * base)


def test_three_stages_of_the_rate() -> None:
    """Fine-tuning of wav2vec 2.0 (Baevski et al. 2020, section 4.2): a tenth up, four tenths level, then down."""
    rates = [rate_factor("tristage", 0, 200, done) for done in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[10:50] == [1.0] * 40
    assert rates[100] == pytest.approx(0.05)
    np.testing.assert_allclose(np.diff(np.log(rates[51:])), np.log(0.05) / 50, rtol=1e-6)


def test_divergence_is_that_of_torch_over_valid_frames(seed: int) -> None:
    student, teacher, lengths = torch.randn(3, 9, 5), torch.randn(3, 9, 5), torch.tensor([9, 4, 1])
    expected = sum(
        F.kl_div((student[i, :n] / 2).log_softmax(-1), (teacher[i, :n] / 2).softmax(-1), reduction="sum") * 4
        for i, n in enumerate(lengths)
    )
    torch.testing.assert_close(divergence(student, teacher, lengths, 2.0), expected)
    teacher[1, 4:] = float("inf")
    assert torch.isfinite(divergence(student, teacher, lengths))


def test_distillation_from_the_full_context_pass(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    """Alone with the divergence, the stream comes closer to its teacher; full-context steps have the CTC loss alone."""
    recipe["model"] |= {"apply_spec_augment": False, "layerdrop": 0.0}
    plain = trainer(TrainSettings.from_dict(recipe), tmp_path / "plain", data)
    torch.manual_seed(5)
    teacher = WavLMForCTC(plain.model.config)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(30.0)
    recipe |= {"distill": {"weight": 1.0, "teacher": "given"}, "contexts": {"20,4,0": 1.0}, "peak_lr": 1e-2}
    settings = TrainSettings.from_dict(recipe)
    run = CTCTrainer(settings, RunFolder(tmp_path / "run"), data[0], data[2], teacher=teacher)
    batch = BatchPlan(data[0], data[2], settings.stages[0], seed=1).batch(0)
    assert batch is not None
    losses = [run.step(batch)[0] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        student = run.wrapped(batch.input_values, batch.attention_mask, context=run.contexts[0]).logits
        taught = teacher(batch.input_values, batch.attention_mask).logits
    frames = teacher.feature_lengths(batch.sample_lengths)
    expected = divergence(student, taught, frames) / batch.characters
    run.model.eval()
    run.wrapped.train = run.model.eval  # no dropout, so that both compute the same
    assert run.loss(batch, 0).item() == pytest.approx(expected.item(), rel=0.3)
    run.contexts = [None]
    run._context_weights = np.ones(1)
    output = run.model(batch.input_values, batch.attention_mask).logits
    alone = ctc_loss(output, batch.labels, frames, batch.label_lengths, batch.characters)
    assert run.loss(batch, 0).item() == pytest.approx(alone.item(), rel=1e-5)
    small = WavLMForCTC(plain.model.config.replace(vocab_size=7))
    with pytest.raises(ConfigurationError, match="7 tokens"):
        CTCTrainer(settings, RunFolder(tmp_path / "x"), data[0], data[2], teacher=small)


def test_a_run_starts_from_weights_and_ends_with_a_card(corpus: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe |= {"distill": {"weight": 0.3}, "licence": "cc-by-4.0"}
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    common = ["--manifest", str(corpus), "--cache", str(tmp_path / "cache")]
    assert main(["ctc", *common, "--recipe", str(tmp_path / "r.json"), "--out", str(tmp_path / "one")]) == 0
    card = (tmp_path / "one" / "README.md").read_text()
    for part in ("license: cc-by-4.0", "8 steps", "| a |", "wer_b", "20,4,4", '"mask_time_length": 2', "The run ended"):
        assert part in card
    # a recipe without a model takes the checkpoint's
    (tmp_path / "r2.json").write_text(json.dumps(recipe | {"model": {}, "peak_lr": 0.0}))
    start = ["--start", str(tmp_path / "one" / LAST), "--steps", "1"]
    assert main(["ctc", *common, "--recipe", str(tmp_path / "r2.json"), "--out", str(tmp_path / "two"), *start]) == 0
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    assert same(one["average"], two["average"])
    assert "was stopped before its end" in (tmp_path / "two" / "README.md").read_text()
    # another shape is refused, by name; as an encoder for a new head it need not have the same tokens
    wider = {**recipe, "model": recipe["model"] | {"intermediate_size": 32}}
    (tmp_path / "r3.json").write_text(json.dumps(wider))
    assert main(["ctc", *common, "--recipe", str(tmp_path / "r3.json"), "--out", str(tmp_path / "x"), *start]) == 1
    run = CTCTrainer(TrainSettings.from_dict(recipe), RunFolder(tmp_path / "y"), [], None)  # type: ignore[arg-type]
    weights = dict(one["model"]) | {"lm_head.weight": torch.zeros(5, 16), "lm_head.bias": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"lm_head.weight \(5, 16\), expected \(29, 16\)"):
        run.start_from(weights)
    run.start_from(weights, new_head=True)
    assert torch.equal(run.model.wavlm.encoder.layer_norm.weight, one["model"]["wavlm.encoder.layer_norm.weight"])


def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    trainer(TrainSettings.from_dict(recipe), tmp_path / "run", data).run(most_steps=1)
    other = {**recipe, "model": recipe["model"] | {"intermediate_size": 32}}
    with pytest.raises(CheckpointError, match="another model"):
        trainer(TrainSettings.from_dict(other), tmp_path / "run", data).run(resume=True)


def test_the_progress_bar_shows_where_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(shown=True) as bar:
        bar.update(0.5, step=12, loss=1.25)
    with ProgressBar(shown=None) as silent:  # captured output is no terminal
        silent.update(0.5)
    written = capsys.readouterr()
    assert "loss 1.25" in written.err
    assert not written.out
