"""Pre-training: mixing against its definition, MFCC against transformers and scipy, labels, masks, the loss, a run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank, spectrogram

from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.cluster_labels import layer_features, make_labels, mfcc_features
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.export import load_trained
from wavlm_live.model.training.frame_labels import FrameLabels
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.masked_prediction import WavLMForMaskedPrediction
from wavlm_live.model.training.mfcc import differences, mel_filters, mfcc
from wavlm_live.model.training.mixing import Mixing, mix_at, mix_one
from wavlm_live.model.training.pretrain import (
    MaskedBatch,
    PretrainPlan,
    PretrainSettings,
    PretrainTrainer,
    mask_spans,
    prediction_loss,
)
from wavlm_live.model.training.run_folder import LAST, RunFolder, load_checkpoint

Data = tuple[list[Utterance], list[Utterance], SoundCache]


def noise(samples: int, seed: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


# Mixing --------------------------------------------------------------------------------------------------------


def test_mixing_has_the_ratio_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        primary, secondary = noise(8000, int(rng.integers(1 << 30)), 0.3), noise(5000, int(rng.integers(1 << 30)), 0.01)
        snr_db = float(rng.uniform(-5, 5))
        mixed = mix_at(primary, secondary, snr_db, 1000, 700, 3000)
        added = (mixed - primary)[1000:4000].astype(np.float64)
        np.testing.assert_array_equal(mixed[:1000], primary[:1000])
        np.testing.assert_array_equal(mixed[4000:], primary[4000:])
        scale = np.dot(added, secondary[700:3700]) / np.dot(secondary[700:3700], secondary[700:3700].astype(np.float64))
        got = 10 * np.log10(np.mean(primary.astype(float) ** 2) / np.mean((scale * secondary.astype(float)) ** 2))
        assert got == pytest.approx(snr_db, abs=1e-3)
        np.testing.assert_allclose(added, scale * secondary[700:3700], atol=1e-5)
    primary = noise(8000, 1)
    assert mix_at(primary, np.zeros(100, np.float32), 0.0, 0, 0, 100) is primary


def test_how_often_what_and_how_much_is_mixed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    waves = [noise(n, n) for n in (6000, 9000, 4000, 12000)]
    outcomes, changed = [], 0
    for i in range(4000):
        row = i % 4
        mixed, what = mix_one(row, waves[row], 4, waves.__getitem__, [noise(20000, 9)], Mixing(), rng)
        assert len(mixed) == len(waves[row])
        if what is None:
            assert mixed is waves[row]
            continue
        outcomes.append((row, what))
        touched = np.flatnonzero(mixed != waves[row])
        assert what.start <= touched[0]
        assert touched[-1] < what.start + what.length
        changed += 1
    assert changed / 4000 == pytest.approx(0.2, abs=0.03)
    speech = [(row, w) for row, w in outcomes if w.secondary >= 0]
    assert 1 - len(speech) / changed == pytest.approx(0.1, abs=0.05)
    assert all(row != w.secondary for row, w in speech)
    assert {w.secondary for _, w in speech} == {0, 1, 2, 3}
    assert all(-5 <= w.snr_db <= 5 for _, w in speech)
    assert all(-5 <= w.snr_db <= 20 for _, w in outcomes)
    assert max(w.snr_db for _, w in outcomes) > 5
    shares = [w.length / len(waves[row]) for row, w in outcomes]
    assert max(shares) <= 0.5
    assert np.mean([s for (row, w), s in zip(outcomes, shares, strict=True) if w.secondary < 0 or row == 2]) == (
        pytest.approx(0.25, abs=0.04)
    )
    assert mix_one(0, waves[0], 1, waves.__getitem__, [], Mixing(probability=1.0), rng)[1] is None


def test_mixing_that_cannot_be_is_refused() -> None:
    for values in ({"probability": 1.5}, {"speech_snr_db": (5.0, -5.0)}):
        with pytest.raises(ConfigurationError, match="Mixing"):
            Mixing(**values)


# Labels --------------------------------------------------------------------------------------------------------


def test_mfcc_are_those_of_other_libraries(seed: int) -> None:
    wave = noise(16000, seed)
    filters = mel_filter_bank(257, 40, 20.0, 7600.0, 16000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(mel_filters(), filters, atol=1e-6)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mel = spectrogram(
        wave, window, frame_length=400, hop_length=320, fft_length=512, power=2.0, center=False, mel_filters=filters
    )
    expected = scipy.fft.dct(np.log(np.maximum(mel.T, 1e-10)), norm="ortho", axis=1)[:, :13]
    got = mfcc(wave)
    assert got.shape == (49, 39)
    np.testing.assert_allclose(got[:, :13], expected, rtol=1e-3, atol=1e-3)
    line = np.outer(np.arange(20.0), [1.0, -2.0])
    np.testing.assert_allclose(differences(line)[2:-2], np.tile([1.0, -2.0], (16, 1)))
    assert mfcc(wave[:399]).shape == (0, 39)
    assert len(mfcc(wave[:400])) == 1


def test_clusters_tell_sounds_apart_and_survive_a_file(data: Data, tmp_path: Path) -> None:
    keys = [u.file for u in data[0]]
    labels = make_labels(keys, mfcc_features(data[2]), 4, seed=1)
    for u in data[0]:
        assert len(labels[u.file]) == (data[2].samples(u.file) - 400) // 320 + 1
    names = {u.text: set() for u in data[0]}
    for u in data[0]:
        values, counts = np.unique(labels[u.file], return_counts=True)
        names[u.text].add(int(values[counts.argmax()]))
    assert all(len(found) == 1 for found in names.values())  # each tone is one cluster
    assert len(set.union(*names.values())) == 4
    labels.save(tmp_path / "labels.npz")
    again = FrameLabels.load(tmp_path / "labels.npz")
    assert again.classes == 4
    assert all(np.array_equal(again[key], labels[key]) for key in keys)
    with pytest.raises(ConfigurationError, match="frames were found"):
        make_labels(keys[:1], mfcc_features(data[2]), 100)
    (tmp_path / "labels.npz").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no labels"):
        FrameLabels.load(tmp_path / "labels.npz")


def test_features_of_a_layer_are_those_of_each_recording_alone(data: Data, recipe: dict[str, Any]) -> None:
    settings = PretrainSettings.from_dict(recipe | {"stages": recipe["stages"][:1]})
    model = WavLMForMaskedPrediction(settings.config(settings.stages[0]), 4).wavlm.eval()
    keys = [u.file for u in data[0]][:5]
    for key, rows in layer_features(data[2], model, 1)(keys):
        with torch.inference_mode():
            hidden = model(torch.from_numpy(data[2].wave(key))[None], output_hidden_states=True).hidden_states[1][0]
        np.testing.assert_allclose(rows, hidden.numpy(), atol=1e-4)
    with pytest.raises(ConfigurationError, match="layer 3"):
        layer_features(data[2], model, 3)


# Batches and loss ----------------------------------------------------------------------------------------------


@pytest.fixture
def pretraining(recipe: dict[str, Any]) -> PretrainSettings:
    stage = recipe["stages"][0] | {"steps": 5, "batch_s": 3.0}
    return PretrainSettings.from_dict(recipe | {"stages": [stage], "clusters": 4, "crop_s": 0.6, "mask_length": 4})


def test_masks_cover_what_they_should(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [mask_spans(200, 0.8, 10, rng) for _ in range(200)]
    # 16 starts of 191 without replacement: a frame stays free where none of the starts that reach it is drawn
    reaching = [min(frame, 190) - max(0, frame - 9) + 1 for frame in range(200)]
    covered = np.mean([1 - math.comb(191 - n, 16) / math.comb(191, 16) for n in reaching])
    assert np.mean(masks) == pytest.approx(covered, abs=0.02)
    for mask in masks:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
        assert min(edges[1::2] - edges[::2]) >= 10
    assert mask_spans(3, 0.8, 10, rng).all()
    assert not len(mask_spans(0, 0.8, 10, rng))


def test_labels_stay_those_of_the_primary_speaker(data: Data, pretraining: PretrainSettings) -> None:
    labels = make_labels([u.file for u in data[0]], mfcc_features(data[2]), 4, seed=1)
    often = dataclasses.replace(pretraining, mixing=Mixing(probability=1.0, noise_probability=0.0))
    never = dataclasses.replace(pretraining, mixing=Mixing(probability=0.0))

    def plan(settings: PretrainSettings) -> PretrainPlan:
        return PretrainPlan(settings, labels, data[0], data[2], settings.stages[0], seed=2)

    cropped = 0
    for step in range(4):
        mixed, plain = plan(often).batch(step), plan(never).batch(step)
        assert not torch.equal(mixed.input_values, plain.input_values)
        assert torch.equal(mixed.targets, plain.targets)
        assert torch.equal(mixed.masked, plain.masked)
        for row, key in enumerate(plain.keys):
            count = int((plain.targets[row] >= 0).sum())
            assert count == (int(plain.sample_lengths[row]) - 400) // 320 + 1
            own = labels[key]
            windows = [own[i : i + count] for i in range(len(own) - count + 1)]
            assert any(np.array_equal(plain.targets[row, :count].numpy(), w) for w in windows)
            cropped += count < len(own)
            assert not plain.masked[row, count:].any()
        parts = [plan(often).batch(step, i, 2) for i in range(2)]
        assert parts[0].counts == mixed.counts == parts[1].counts
        assert sum(int(p.masked.sum()) for p in parts) == mixed.counts[0]
        torch.testing.assert_close(
            parts[1].input_values[0, : parts[1].sample_lengths[0]], mixed.input_values[1, : mixed.sample_lengths[1]]
        )
    assert cropped


def test_crops_keep_sound_and_labels_together(data: Data, pretraining: PretrainSettings) -> None:
    """With the number of the frame as its label, the first label says where the sound must have been cut."""
    keys = [u.file for u in data[0]]
    frames = {key: (data[2].samples(key) - 400) // 320 + 1 for key in keys}
    labels = FrameLabels(4, {key: np.arange(count).astype(np.uint16) for key, count in frames.items()})
    settings = dataclasses.replace(pretraining, mixing=Mixing(probability=0.0), crop_s=0.3)
    plan = PretrainPlan(settings, labels, data[0], data[2], settings.stages[0], seed=4)
    starts = set()
    for step in range(4):
        batch = plan.batch(step)
        for row, key in enumerate(batch.keys):
            first, length = int(batch.targets[row, 0]), int(batch.sample_lengths[row])
            sound, whole = batch.input_values[row, :length].numpy(), data[2].wave(key)
            expected = whole[first * 320 : first * 320 + length]
            gain = np.dot(sound, expected) / np.dot(expected, expected)
            np.testing.assert_allclose(sound, gain * expected, atol=1e-4)
            starts.add(first)
    assert len(starts) > 3


def test_loss_is_that_of_cosines_on_masked_frames(seed: int, pretraining: PretrainSettings) -> None:
    model = WavLMForMaskedPrediction(pretraining.config(pretraining.stages[0]), 4, 8, 0.1).eval()
    wave = torch.randn(2, 8000)
    masked = torch.zeros(2, 24, dtype=torch.bool)
    masked[0, 3:9] = masked[1, 10:12] = True
    targets = torch.randint(0, 4, (2, 24))
    targets[1, 20:] = -100
    counts = (16, 72)  # of the whole batch, of which these rows are one process's half
    batch = MaskedBatch(wave, torch.ones(2, 8000), targets, masked, torch.tensor([8000, 8000]), counts, ["a", "b"])
    with torch.no_grad():
        logits = model(wave, mask_time_indices=masked).logits
        hidden = model.final_proj(model.wavlm(wave, mask_time_indices=masked).last_hidden_state)
    expected = total = rest = 0.0
    for row in range(2):
        for t in range(24):
            cosines = torch.stack([F.cosine_similarity(hidden[row, t], e, dim=0) for e in model.label_embeddings])
            torch.testing.assert_close(logits[row, t], cosines / 0.1, rtol=1e-4, atol=1e-4)
            if targets[row, t] >= 0:
                nll = float(-(cosines / 0.1).log_softmax(0)[targets[row, t]])
                expected += nll if masked[row, t] else 0.0
                rest += 0.0 if masked[row, t] else nll
    total = expected / 16 + 0.5 * rest / 72
    assert float(prediction_loss(logits, batch)) == pytest.approx(expected / 16, rel=1e-4)
    assert float(prediction_loss(logits, batch, 0.5)) == pytest.approx(total, rel=1e-4)


def test_a_run_learns_resumes_and_starts_ctc(corpus: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    stage = recipe["stages"][0] | {"steps": 30, "batch_s": 4.0, "augment": {}}
    recipe |= {"stages": [stage], "clusters": 4, "peak_lr": 1e-2, "log_steps": 1, "mask_length": 4}
    recipe["model"] = recipe["model"] | {"layerdrop": 0.0}
    (tmp_path / "p.json").write_text(json.dumps(recipe))
    common = ["--manifest", str(corpus), "--cache", str(tmp_path / "cache")]
    pretrain = ["pretrain", *common, "--recipe", str(tmp_path / "p.json")]
    assert main([*pretrain, "--out", str(tmp_path / "one")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert lines[-1]["accuracy_masked"] > 0.4  # four clusters: chance is a quarter
    for steps in (["--steps", "7"], []):
        assert main([*pretrain, "--out", str(tmp_path / "two"), "--resume", *steps]) == 0
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    assert all(torch.equal(one["model"][k], two["model"][k]) for k in one["model"])
    model, settings, task = load_trained(tmp_path / "one" / LAST)
    assert (task, settings.clusters, type(model).__name__) == ("pretrain", 4, "WavLMForMaskedPrediction")  # type: ignore[attr-defined]
    # the next round's labels come from a layer; fine-tuning starts from the encoder
    layer = ["--labels", f"{tmp_path / 'one' / LAST}:1", "--steps", "1", "--start", str(tmp_path / "one" / LAST)]
    assert main([*pretrain, "--out", str(tmp_path / "three"), *layer]) == 0
    del recipe["clusters"], recipe["mask_length"]
    (tmp_path / "c.json").write_text(json.dumps(recipe | {"model": {}}))
    ctc = ["ctc", *common, "--recipe", str(tmp_path / "c.json"), "--out", str(tmp_path / "ctc"), "--steps", "1"]
    assert main([*ctc, "--start", str(tmp_path / "one" / LAST)]) == 1
    assert main([*ctc, "--start", str(tmp_path / "one" / LAST), "--new-head"]) == 0
    assert main(["export", str(tmp_path / "one" / LAST), "--out", str(tmp_path / "encoder")]) == 0
    assert (tmp_path / "encoder" / "config.json").exists()
    assert main([*pretrain, "--out", str(tmp_path / "x"), "--labels", "spectra"]) == 1


def test_labels_of_other_data_are_refused(data: Data, tmp_path: Path, pretraining: PretrainSettings) -> None:
    labels = make_labels([u.file for u in data[0]][:-1], mfcc_features(data[2]), 4)
    with pytest.raises(ConfigurationError, match="lack 1 recordings"):
        PretrainTrainer(pretraining, RunFolder(tmp_path), data[0], data[2], labels)
    joined = dataclasses.asdict(pretraining)
    joined["stages"][0]["pools"][0]["join"] = (1, 2)
    with pytest.raises(ConfigurationError, match="one by one"):
        PretrainSettings.from_dict(joined)
