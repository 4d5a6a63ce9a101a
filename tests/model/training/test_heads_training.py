"""Heads: scores against other definitions, mixtures and their labels, the permutation-free loss, runs of each task."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import det_curve, roc_auc_score
from torch.nn import functional as F

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.training import scores as s
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.export import load_trained
from wavlm_live.model.training.heads import (
    HEADS,
    HeadPlan,
    HeadSettings,
    HeadTrainer,
    frame_labels,
    permutation_free_loss,
)
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.mixtures import Mixer, activity_of
from wavlm_live.model.training.run_folder import LAST, RunFolder, load_checkpoint

Data = tuple[list[Utterance], list[Utterance], SoundCache]


# Scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_detection_scores_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(400) < 0.3
    scores = rng.standard_normal(400) + 1.2 * positive
    scores = np.round(scores, 1) if ties else scores
    assert s.area(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    alarms, misses, _ = det_curve(positive, scores)
    got = s.operating_points(scores, positive)
    pairs = set(zip(np.round(got[0], 9), np.round(got[1], 9), strict=True))
    assert set(zip(np.round(alarms, 9), np.round(misses, 9), strict=True)) <= pairs
    eer = s.equal_error_rate(scores, positive)
    near = np.abs(alarms - misses).argmin()
    assert abs(eer - (alarms[near] + misses[near]) / 2) < 0.03
    costs = [
        (0.05 * np.mean(scores[positive] < t) + 0.95 * np.mean(scores[~positive] >= t)) / 0.05
        for t in [*scores, np.inf]
    ]
    assert s.minimum_cost(scores, positive, 0.05) == pytest.approx(min(costs))


def test_detection_scores_at_the_ends() -> None:
    truth = np.array([True, True, False, False])
    assert s.equal_error_rate(np.array([4.0, 3.0, 2.0, 1.0]), truth) == 0.0
    assert s.equal_error_rate(np.array([1.0, 2.0, 3.0, 4.0]), truth) == 1.0
    assert s.equal_error_rate(np.ones(4), truth) == 0.5
    assert s.minimum_cost(np.ones(4), truth) == 1.0
    for scores, positive in ((np.ones(2), [True, True]), (np.array([np.nan, 1.0]), [True, False])):
        with pytest.raises(ConfigurationError, match="both kinds"):
            s.operating_points(scores, np.array(positive))


def test_diarization_error_is_the_best_over_all_namings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        reference, guess = rng.random((3, 50)) < 0.4, rng.random((int(rng.integers(1, 5)), 50)) < 0.4
        parts = s.diarization_error(reference, guess)
        wide = np.zeros((max(4, len(guess)), 50), bool)
        wide[: len(guess)] = guess
        there = reference.sum(0)
        best = min(
            sum(
                max(there[t], wide[:, t].sum()) - sum(reference[r, t] & wide[c, t] for r, c in enumerate(order))
                for t in range(50)
            )
            for order in itertools.permutations(range(len(wide)), 3)
        )
        assert parts["missed"] + parts["false_alarm"] + parts["confusion"] == best
        assert parts["speech"] == reference.sum()
    reference = rng.random((3, 50)) < 0.4
    exact = s.diarization_error(reference, reference[::-1])
    assert exact["missed"] == exact["false_alarm"] == exact["confusion"] == 0
    late = np.array([[False] * 10 + [True] * 30]), np.array([[False] * 12 + [True] * 28])
    assert s.diarization_error(*late)["missed"] == 2
    assert s.diarization_error(*late, collar_frames=3)["missed"] == 0


def test_trials_are_all_pairs(seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((5, 3))
    names = ["a", "b", "a", "c", "b"]
    scores, same = s.verification_trials(names, vectors)
    for (i, j), score, alike in zip(itertools.combinations(range(5), 2), scores, same, strict=True):
        expected = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        assert score == pytest.approx(expected)
        assert alike == (names[i] == names[j])


# Mixtures ------------------------------------------------------------------------------------------------------


def test_activity_follows_the_sound() -> None:
    rng = np.random.default_rng(0)
    wave = (0.0005 * rng.standard_normal(48000)).astype(np.float32)
    wave[8000:16000] += 0.2 * rng.standard_normal(8000).astype(np.float32)
    wave[17600:24000] += 0.2 * rng.standard_normal(6400).astype(np.float32)  # after a pause of 0.1 s
    wave[40000:44000] += 0.2 * rng.standard_normal(4000).astype(np.float32)
    active = activity_of(wave)
    assert len(active) == (48000 - 400) // 320 + 1
    expected = np.zeros(len(active), bool)
    expected[24:75] = expected[124:138] = True
    assert (active != expected).sum() <= 4
    assert not activity_of(np.zeros(16000, np.float32)).any()
    assert not len(activity_of(wave[:100]))


def test_mixtures_hold_what_their_labels_say(data: Data, seed: int) -> None:
    """The recordings of a speaker are tones of 300 to 1,200 Hz: where a label says speech, the tones are."""
    mixer = Mixer(data[0], data[2], seconds=3.0, speakers=(1, 2))
    assert set(mixer.voices) == {f"{c}/s{i}" for c in "ab" for i in range(3)}
    seen = set()
    for i in range(20):
        mixture = mixer.draw(np.random.default_rng([seed, i]))
        assert mixture.activity.shape == (2, 149)
        assert np.abs(mixture.wave).max() <= 1.0
        seen.add(len(mixture.names))
        at = np.arange(149)[:, None] * 320 + np.arange(400)[None]
        level = 10 * np.log10(np.mean(mixture.wave[at] ** 2, axis=1) + 1e-12)
        heard = mixture.activity.any(axis=0)
        edge = np.convolve(np.diff(heard, prepend=heard[0]), np.ones(5), "same") > 0
        assert (level[heard & ~edge] > -45).mean() > 0.95
        assert (level[~heard & ~edge] < -35).all()
        again = mixer.draw(np.random.default_rng([seed, i]))
        np.testing.assert_array_equal(again.wave, mixture.wave)
    assert seen == {1, 2}
    activity = np.array([[True, True, False, False], [True, False, True, False]])
    assert frame_labels(activity, "activity").tolist() == [1, 1, 1, 0]
    assert frame_labels(activity, "overlap").tolist() == [2, 1, 1, 0]
    with pytest.raises(ConfigurationError, match="the recordings have 6"):
        Mixer(data[0], data[2], seconds=3.0, speakers=(2, 9))


def test_permutation_free_loss_is_the_least_over_orders(seed: int) -> None:
    logits, activity = torch.randn(5, 20, 3), (torch.rand(5, 3, 20) < 0.4).float()
    losses, orders = permutation_free_loss(logits, activity)
    for row in range(5):
        each = {
            order: float(F.binary_cross_entropy_with_logits(logits[row].T, activity[row, list(order)]))
            for order in itertools.permutations(range(3))
        }
        assert float(losses[row]) == pytest.approx(min(each.values()), rel=1e-5)
        assert orders[row] == min(each, key=lambda order: each[order])
    swapped, _ = permutation_free_loss(logits, activity[:, [2, 0, 1]])
    torch.testing.assert_close(swapped, losses)


# Runs ----------------------------------------------------------------------------------------------------------


def head_recipe(recipe: dict[str, Any], head: str, **changes: Any) -> dict[str, Any]:
    small = {"tdnn_dim": [8, 8, 8, 8, 12], "xvector_output_dim": 8, "classifier_proj_size": 8, "layerdrop": 0.0}
    stage = recipe["stages"][0] | {"steps": 4, "batch_s": 3.0, "most_clips": 6, "augment": {"noise": 0.5}}
    model = recipe["model"] | small | {"use_weighted_layer_sum": True}
    values = {"head": head, "crop_s": 1.0, "column": "text", "log_steps": 1, "peak_lr": 1e-2}
    return recipe | values | {"stages": [stage], "model": model} | changes


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_measures_and_is_exported(
    head: str, corpus: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(head_recipe(recipe, head, freeze={"wavlm": None})))
    run = ["heads", "--manifest", str(corpus), "--cache", str(tmp_path / "cache"), "--recipe", str(tmp_path / "r.json")]
    assert main([*run, "--out", str(tmp_path / "one")]) == 0
    assert main([*run, "--out", str(tmp_path / "two"), "--steps", "2"]) == 0
    assert main([*run, "--out", str(tmp_path / "two"), "--resume"]) == 0
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    assert all(torch.equal(one["model"][k], two["model"][k]) for k in one["model"])
    last = json.loads((tmp_path / "one" / "log.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "dev"
    figure = {"sequence": "accuracy", "speaker": "min_dcf_0.01", "activity": "auc", "overlap": "eer_several"}
    assert figure.get(head, "der") in last
    model, settings, task = load_trained(tmp_path / "one" / LAST)
    assert task == head
    torch.manual_seed(settings.seed)
    fresh = HEADS[head](settings.config(settings.stages[0]))
    for name, weight in fresh.state_dict().items():  # the encoder stayed, the head and the weights of layers moved
        moved = not torch.equal(weight, model.state_dict()[name])
        assert moved == (not name.startswith("wavlm.")) or "tdnn" in name, name
    assert main(["export", str(tmp_path / "one" / LAST), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    loaded = HEADS[head].from_pretrained(tmp_path / "out")
    assert all(torch.equal(w, model.state_dict()[n]) for n, w in loaded.state_dict().items())
    if head == "sequence":
        assert list(loaded.config.id2label.values()) == ["down", "no", "up", "yes"]


def test_a_head_learns_words(data: Data, tmp_path: Path, recipe: dict[str, Any]) -> None:
    stage = recipe["stages"][0] | {"steps": 60, "batch_s": 10.0, "augment": {}}
    values = head_recipe(recipe, "sequence", stages=[stage], contexts={"20,8,4": 1.0}, ema_decay=0.9)
    values["model"] |= {"apply_spec_augment": False, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    settings = HeadSettings.from_dict(values).for_data(data[0])
    run = HeadTrainer(settings, RunFolder(tmp_path), data[0], data[2], dev=data[1])
    run.run()
    assert run.measured["accuracy"] >= 0.75  # four words: chance is a quarter


def test_rows_shared_out_make_up_the_batch(data: Data, recipe: dict[str, Any]) -> None:
    settings = HeadSettings.from_dict(head_recipe(recipe, "diarization"))
    plan = HeadPlan(settings, data[0], data[2], settings.stages[0], seed=1)
    step = next(step for step in range(20) if len(plan.items(step)[1]) > 2)
    batch = plan.batch(step)
    parts = [plan.batch(step, i, 2) for i in range(2)]
    assert batch.labels.shape[1:] == (2, 49)
    assert parts[0].rows == parts[1].rows == batch.rows == len(batch.keys)
    assert torch.equal(parts[1].labels, batch.labels[1::2])
    assert torch.equal(parts[1].input_values, batch.input_values[1::2])
    assert plan.batch(step, 100, 200) is None


def test_classes_that_are_not_there_are_refused(data: Data, tmp_path: Path, recipe: dict[str, Any]) -> None:
    settings = HeadSettings.from_dict(head_recipe(recipe, "sequence", column="label"))
    with pytest.raises(ConfigurationError, match="0 classes"):
        settings.for_data(data[0])
    named = dataclasses.replace(settings, column="text", labels=("yes", "no"))
    with pytest.raises(ConfigurationError, match="such as 'down'"):
        HeadTrainer(named, RunFolder(tmp_path), data[0], data[2])
    for wrong in ({"head": "mood"}, {"column": "file"}, {"crop_s": 0.1}):
        with pytest.raises(ConfigurationError, match="heads are"):
            HeadSettings.from_dict(head_recipe(recipe, "sequence") | wrong)
