"""Labels of frames: followed through augmentation, learned beside the letters, never exported, found by an aligner."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.training.alignments import PHONES, Aligner, align_all, labels_of
from wavlm_live.model.training.augment import RATE, Augmentation, augment
from wavlm_live.model.training.batches import BatchPlan
from wavlm_live.model.training.cache import SoundCache, build_cache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.ctc import CTCTrainer
from wavlm_live.model.training.export import load_model, read_model
from wavlm_live.model.training.frame_labels import NO_LABEL, FrameLabels, follow
from wavlm_live.model.training.manifest import Utterance, frames_of, read_manifest
from wavlm_live.model.training.run_folder import LAST, RunFolder, load_checkpoint
from wavlm_live.model.training.settings import TrainSettings

Data = tuple[list[Utterance], list[Utterance], SoundCache]
AUDIO = Path(__file__).parents[2] / "audio"


def labels_by_word(utterances: Sequence[Utterance], cache: SoundCache) -> FrameLabels:
    """The tone of each recording of the tests' corpus, in all its frames."""
    words = sorted({u.text for u in utterances})
    labels = {u.file: np.full(frames_of(cache.samples(u.file)), words.index(u.text), np.uint16) for u in utterances}
    return FrameLabels(len(words), labels)


def test_labels_follow_speed_and_edges(seed: int) -> None:
    """A recording whose samples count up tells of every frame which moment its middle shows."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        samples = int(rng.integers(2_000, 40_000))
        ramp = (np.arange(samples) / 80_000 + 0.1).astype(np.float32)
        placed: list[tuple[int, float]] = []
        settings = Augmentation(gain_db=(0.0, 0.0), speed=0.2, edge_s=(0.0, 0.3))
        wave = augment([ramp], settings, rng, most_samples_faster=2.0, placed=placed)
        ids = np.arange(frames_of(samples))
        found = follow([ids], placed, [samples], len(wave))
        assert len(found) == frames_of(len(wave))
        (start, speed), middles = placed[0], np.arange(len(found)) * 320 + 200
        sounding = (middles >= start + 40) & (middles < start + samples / speed - 40)
        moments = (wave[middles[sounding]] - 0.1) * 80_000
        expected = np.rint((moments - 200) / 320).clip(0, len(ids) - 1)
        assert np.abs(found[sounding] - expected).max() <= 1  # beside the middle between two frames either is right
        assert (found[sounding] == expected).mean() > 0.9
        outside = (middles < start) | (middles >= start + samples / speed + 1)
        assert (found[outside] == NO_LABEL).all()


def test_labels_follow_joined_recordings(seed: int) -> None:
    """Of joined tones every frame's loudest frequency tells which one sounds; between them there is no label."""
    rng = np.random.default_rng(seed)
    tones = [np.sin(2 * np.pi * 500 * (i + 1) * np.arange(8000 + 900 * i) / RATE).astype(np.float32) for i in range(3)]
    known = [np.full(frames_of(len(t)), i) for i, t in enumerate(tones)]
    placed: list[tuple[int, float]] = []
    wave = augment(tones, Augmentation(gain_db=(0.0, 0.0), speed=0.1), rng, gap_s=(0.1, 0.4), placed=placed)
    found = follow(known, placed, [len(t) for t in tones], len(wave))
    checked = 0
    for label, start in zip(found, np.arange(len(found)) * 320, strict=True):
        parts = np.sqrt(np.mean(wave[start : start + 400].reshape(5, 80) ** 2, axis=1))
        if (parts < 0.01).all():
            assert label == NO_LABEL
        elif (parts > 0.1).all():  # a tone sounds from the frame's first sample to its last
            spectrum = np.abs(np.fft.rfft(wave[start : start + 400], 1600))
            assert label == round(spectrum.argmax() * 10 / 500) - 1
            checked += 1
    assert checked > 0.5 * len(found)
    assert {int(x) for x in found} == {NO_LABEL, 0, 1, 2}
    unknown = follow([known[0], None, known[2]], placed, [len(t) for t in tones], len(wave))
    assert {int(x) for x in unknown} == {NO_LABEL, 0, 2}


def test_batches_carry_labels_and_count_them_for_all_processes(data: Data, settings: TrainSettings) -> None:
    train, _, cache = data
    labels = labels_by_word(train[1:], cache)  # of one recording nothing is known
    plan = BatchPlan(train, cache, settings.stages[1], seed=1, frame_labels=labels)
    unlabelled = BatchPlan(train, cache, settings.stages[1], seed=1)
    for step in range(8):
        batch, plain = plan.batch(step), unlabelled.batch(step)
        assert batch is not None
        assert plain is not None
        assert plain.frame_labels is None
        assert torch.equal(batch.input_values, plain.input_values)  # labels change no sound
        assert batch.frame_labels is not None
        assert batch.frame_labels.shape == (len(batch.keys), frames_of(batch.input_values.shape[1]))
        files = [f for row in batch.keys for f in row if f in labels]
        assert batch.labelled_frames == sum(len(labels[f]) for f in files)
        for row, keys in zip(batch.frame_labels, batch.keys, strict=True):
            assert {int(x) for x in row} - {NO_LABEL} == {int(labels[k][0]) for k in keys if k in labels}
        parts = [p for p in (plan.batch(step, part, 2) for part in range(2)) if p is not None]
        assert {p.labelled_frames for p in parts} == {batch.labelled_frames}


def test_frames_are_learned_beside_letters_and_left_out_of_what_is_exported(
    corpus: Path, tmp_path: Path, data: Data, recipe: dict[str, Any]
) -> None:
    train, dev, cache = data
    labels = labels_by_word([*train, *dev], cache)
    stage = {"name": "long", "steps": 60, "batch_s": 8.0, "pools": recipe["stages"][0]["pools"]}
    recipe |= {"frames": {"layer": 1, "weight": 1.0}, "stages": [stage], "peak_lr": 1e-2, "ema_decay": 0.9}
    recipe["model"] |= {"apply_spec_augment": False}
    labels.save(tmp_path / "labels.npz")
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    out, file = tmp_path / "run", str(tmp_path / "labels.npz")
    common = ["ctc", "--manifest", str(corpus), "--cache", str(tmp_path / "cache"), "--out", str(out)]
    assert main([*common, "--recipe", str(tmp_path / "r.json"), "--frame-labels", file]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert next(line["frames_right"] for line in reversed(lines) if line["kind"] == "dev") > 0.8  # a quarter by chance
    # the loss is the letters' and the frames', each as torch computes it
    run = CTCTrainer(TrainSettings.from_dict(recipe), RunFolder(out), train, cache, dev=dev, frame_labels=labels)
    run.load_state(load_checkpoint(out / LAST))
    batch = BatchPlan(train, cache, run.settings.stages[0], seed=1, frame_labels=labels).batch(0)
    assert batch is not None
    assert batch.frame_labels is not None
    run.model.eval()
    output = run.model(batch.input_values, batch.attention_mask, context=run.context(0))
    named = F.cross_entropy(output.frame_logits.transpose(1, 2), batch.frame_labels, reduction="sum")
    letters = run.model(batch.input_values, batch.attention_mask, context=run.context(0)).logits
    frames = run.model.feature_lengths(batch.sample_lengths)
    targets = torch.where(batch.labels > 0, batch.labels, 0)
    ctc = F.ctc_loss(letters.log_softmax(-1).transpose(0, 1), targets, frames, batch.label_lengths, reduction="sum")
    expected = ctc / batch.characters + named / batch.labelled_frames
    assert run.loss(batch, 0).item() == pytest.approx(expected.item(), rel=1e-4)
    # what is exported, and what others start from, is the plain model
    model = load_model(out / LAST)
    assert type(model) is WavLMForCTC
    with run.averaged() as averaged, torch.no_grad():
        torch.testing.assert_close(model(batch.input_values).logits, averaged(batch.input_values).logits)
    assert main(["export", str(out / LAST), "--out", str(tmp_path / "english")]) == 0
    assert not any("frame_head" in name for name in read_model(tmp_path / "english").state_dict())
    again = ["--frame-labels", file, "--start", str(tmp_path / "english"), "--steps", "1"]
    assert main([*common[:-1], str(tmp_path / "two"), "--recipe", str(tmp_path / "r.json"), *again]) == 0


def test_parts_of_two_processes_add_up_to_the_loss(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    train, _, cache = data
    labels = labels_by_word(train, cache)
    run = CTCTrainer(
        TrainSettings.from_dict(recipe | {"frames": {"layer": 2}}),
        RunFolder(tmp_path / "run"),
        train,
        cache,
        frame_labels=labels,
    )
    run.model.eval()
    plan = BatchPlan(train, cache, run.settings.stages[0], seed=1, frame_labels=labels)
    step = next(step for step in range(50) if len(plan.items(step)[1]) > 2)
    losses = []
    for parts in (1, 2):
        rows = [plan.batch(step, part, parts) for part in range(parts)]
        losses.append(sum(run.loss(b, 0).item() for b in rows if b is not None))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_labels_and_recipe_belong_together(tmp_path: Path, data: Data, recipe: dict[str, Any]) -> None:
    train, _, cache = data
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="train align"):
        CTCTrainer(TrainSettings.from_dict(recipe | {"frames": {"layer": 1}}), folder, train, cache)
    with pytest.raises(ConfigurationError, match="no `frames`"):
        CTCTrainer(TrainSettings.from_dict(recipe), folder, train, cache, frame_labels=labels_by_word(train, cache))
    for frames, message in (
        ({"layer": 3}, "layer 3, the model has 2"),
        ({"layer": 0}, "layer from 1 on"),
        ({"layer": 1, "weight": 0}, "weight above 0"),
        ({"layer": 1, "wieght": 1}, "wieght"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            TrainSettings.from_dict(recipe | {"frames": frames})


def test_phones_of_a_frame_are_those_at_its_middle() -> None:
    pieces = [("SIL", 0, 10), ("HH", 10, 3), ("+NOISE+", 13, 7), ("AY", 20, 20), ("SIL", 40, 5)]
    labels = labels_of(pieces, 30)
    at = [PHONES[i] for i in labels]
    # frame t has its middle at (320 t + 200) samples, the aligner's frame n at (160 n + 205)
    assert at[:5] == ["SIL"] * 5
    assert at[5:7] == ["HH", "HH"]
    assert at[7:10] == ["SIL"] * 3
    assert at[10:20] == ["AY"] * 10
    assert at[20:] == ["SIL"] * 10
    assert [PHONES[i] for i in labels_of(pieces, 30, ahead_samples=3200)][:10] == ["AY"] * 10
    assert labels_of([], 3).tolist() == [0, 0, 0]


@pytest.fixture
def spoken() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """ "left", "four", "stop" with half a second of near-silence around each, int16, and where each lies."""
    rng = np.random.default_rng(0)
    pieces: list[np.ndarray] = [rng.normal(0, 3, 8000)]
    places = []
    for name in ("command_left", "digit_four", "command_stop"):
        sound, rate = soundfile.read(AUDIO / f"{name}.opus", dtype="int16")
        assert rate == RATE
        start = sum(map(len, pieces))
        places.append((start, start + len(sound)))
        pieces += [sound, rng.normal(0, 3, 8000)]
    return np.concatenate(pieces).astype(np.int16), places


def test_the_aligner_finds_words_where_they_are(spoken: tuple[np.ndarray, list[tuple[int, int]]]) -> None:
    sound, places = spoken
    labels = Aligner().align(sound, "left four stop")
    assert labels is not None
    assert len(labels) == frames_of(len(sound))
    said = [(PHONES[label], i) for i, label in enumerate(labels) if label]
    assert [p for p, _ in itertools.groupby(said, key=lambda s: s[0])] == "L EH F T F AO R S T AA P".split()  # noqa: SIM905
    for phone, frame in said:
        middle = frame * 320 + 200
        assert any(a - 1600 <= middle < b + 1600 for a, b in places), (phone, middle)
    for (a, b), phone in zip(places, ("EH", "AO", "AA"), strict=True):  # the vowel of each word lies within it
        assert any(p == phone and a <= frame * 320 + 200 < b for p, frame in said)


def test_an_alignment_does_not_depend_on_what_was_aligned_before() -> None:
    texts = json.loads((AUDIO / "transcripts.json").read_text())
    names = [name for name in texts if name.startswith("sentence_")]
    sounds = {name: soundfile.read(AUDIO / name, dtype="int16")[0] for name in names}

    def labels(order: list[str]) -> dict[str, list[int] | None]:
        aligner = Aligner()
        found = {name: aligner.align(sounds[name], texts[name]) for name in order}
        return {name: None if row is None else row.tolist() for name, row in found.items()}

    there = labels(names)
    assert sum(row is not None for row in there.values()) > 1
    assert labels(names[::-1]) == there


def test_what_cannot_be_aligned_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["file\ttext"]
    for name, text in (("command_left", "left"), ("digit_four", "xyzzyq"), ("command_stop", "stop")):
        sound, rate = soundfile.read(AUDIO / f"{name}.opus")
        soundfile.write(tmp_path / f"{name}.flac", sound, rate)
        rows.append(f"{name}.flac\t{text}")
    manifest = tmp_path / "m.tsv"
    manifest.write_text("\n".join(rows) + "\n")
    utterances, _ = read_manifest(manifest)
    cache = build_cache({u.file: u.location for u in utterances}, tmp_path / "cache", workers=0)
    with caplog.at_level("INFO"):
        labels = align_all(utterances, cache, workers=1)
    assert "command_left.flac" in labels
    assert "digit_four.flac" not in labels
    assert "1 recordings have no alignment: a word is not in the dictionary" in caplog.text
    assert labels.classes == len(PHONES) == 40
    out = tmp_path / "new folder" / "phones.npz"
    assert main(["align", "--manifest", str(manifest), "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 0
    in_a_file = ["--out", str(manifest / "phones.npz")]
    assert main(["align", "--manifest", str(manifest), "--cache", str(tmp_path / "cache"), *in_a_file]) == 1
    assert "cannot make the folder" in caplog.text
    assert np.array_equal(FrameLabels.load(out)["command_left.flac"], labels["command_left.flac"])
    with pytest.raises(ConfigurationError, match="no recording could be aligned"):
        align_all([u for u in utterances if u.text == "xyzzyq"], cache, workers=1)
