"""Sliding windows through sequence classifiers: transformers' results on the same samples, whatever the blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavlm_live.model import AudioError, CheckpointError, ConfigurationError, StreamError
from wavlm_live.streamer.classifier import Classifier, ClassifierSettings
from wavlm_live.streamer.cli import main
from wavlm_live.streamer.events import Classification

LABELS = {0: "yes", 1: "no", 2: "silence", 3: "other"}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "normalised"])
def checkpoint(request, tmp_path_factory) -> Path:
    """Random weights, written by transformers, with and without the normalisation of the waveform."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    config = transformers.WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, classifier_proj_size=12, id2label=LABELS,
        use_weighted_layer_sum=True, feat_extract_norm="layer" if request.param else "group",
    )  # fmt: skip
    model = transformers.WavLMForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("classes")
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=request.param, return_attention_mask=False).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    rng = np.random.default_rng(8)
    parts = [rng.normal(0.02, level, 4000) for level in (0.01, 0.2, 0.05, 0.3, 0.0, 0.1)]
    return np.concatenate(parts).astype(np.float32)[:22_345]


def windows_of(classifier: Classifier, sound: np.ndarray, block: int, **changes: object) -> list[Classification]:
    stream = classifier.open(ClassifierSettings(**{"window_ms": 500, "hop_ms": 200, "top": 4, **changes}))  # type: ignore[arg-type]
    events = []
    for start in range(0, len(sound), block):
        events += stream.feed(sound[start : start + block])
    return events + stream.finish()


def test_each_window_is_what_transformers_says_of_its_samples(checkpoint: Path, sound: np.ndarray):
    import transformers

    theirs = transformers.WavLMForSequenceClassification.from_pretrained(checkpoint).eval()
    extract = transformers.AutoFeatureExtractor.from_pretrained(checkpoint)
    events = windows_of(Classifier.load(checkpoint, "cpu"), sound, 1600)
    starts = [e.start_samples for e in events]
    assert starts == [n * 3200 for n in range(6)]
    assert [e.end_samples for e in events] == [min(s + 8000, len(sound)) for s in starts]
    assert len({e.label for e in events}) >= 1
    for event in events:
        part = sound[event.start_samples : event.end_samples]
        inputs = extract(part, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            wanted = theirs(inputs).logits.softmax(-1)[0]
        shares = {event.label: event.score} | {other.label: other.score for other in event.others}
        assert [shares[LABELS[n]] for n in range(4)] == pytest.approx(wanted.tolist(), abs=1e-5)
        assert event.label == LABELS[int(wanted.argmax())]


@given(block=st.integers(1, 9000))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_do_not_matter(checkpoint: Path, sound: np.ndarray, block: int):
    classifier = Classifier.load(checkpoint, "cpu")
    got, expected = windows_of(classifier, sound, max(40, block)), windows_of(classifier, sound, len(sound))
    assert [(e.label, e.start_samples, e.end_samples) for e in got] == [
        (e.label, e.start_samples, e.end_samples) for e in expected
    ]
    assert [e.score for e in got] == pytest.approx([e.score for e in expected], abs=1e-5)


def test_ends_and_short_sound(checkpoint: Path, sound: np.ndarray):
    classifier = Classifier.load(checkpoint, "cpu")
    assert [(e.start_samples, e.end_samples) for e in windows_of(classifier, sound[:8000], 999)] == [(0, 8000)]
    assert [(e.start_samples, e.end_samples) for e in windows_of(classifier, sound[:5000], 999)] == [(0, 5000)]
    assert windows_of(classifier, sound[:399], 999) == []
    assert windows_of(classifier, sound, 999, least_score=1.0) == []
    assert all(not e.others for e in windows_of(classifier, sound, 5000, top=1))
    stream = classifier.open()
    with pytest.raises(AudioError, match="float32"):
        stream.feed(np.zeros(5))
    assert stream.finish() == stream.finish() == []
    with pytest.raises(StreamError, match="finished"):
        stream.feed(sound)


def test_hours_take_no_more_memory(checkpoint: Path, sound: np.ndarray):
    stream = Classifier.load(checkpoint, "cpu").open(ClassifierSettings(window_ms=500, hop_ms=500))
    for _ in range(20):
        stream.feed(sound)
        assert len(stream._sound) < 8000
    assert stream.samples_taken == 20 * len(sound)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"window_ms": 10}, "window_ms is 10"),
        ({"window_ms": 500, "hop_ms": 600}, r"hop_ms is 600, expected at most window_ms \(500\)"),
        ({"least_score": 2}, "least_score is 2"),
        ({"top": 0}, "top is 0"),
    ],
)
def test_settings_that_cannot_be(values, words):
    with pytest.raises(ConfigurationError, match=words):
        ClassifierSettings(**values)


def test_the_command(checkpoint: Path, sound: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recording = tmp_path / "sound.wav"
    soundfile.write(recording, sound, 16_000, subtype="FLOAT")
    arguments = ["classify", str(recording), "-m", str(checkpoint), "--window-ms", "500", "--hop-ms", "200"]
    assert main([*arguments, "--jsonl", "--top", "2"]) == 0
    ready, *events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ready["type"] == "ready"
    expected = windows_of(Classifier.load(checkpoint, "cpu"), sound, 5000)
    assert [(e["type"], e["label"], e["start_s"]) for e in events] == [
        ("classification", e.label, e.start_samples / 16_000) for e in expected
    ]
    assert all(len(e["others"]) == 1 for e in events)
    assert main([*arguments, "--realtime"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [(f"{e.start_samples / 16_000:.2f}", e.label) for e in expected]
    for wrong, code, words in (
        (["classify", str(recording)], 2, "no --model"),
        (["classify", "-m", str(checkpoint)], 2, "give recordings, or --microphone"),
        ([*arguments, "--microphone"], 2, "not both"),
        ([*arguments[:4], "--window-ms", "100", "--hop-ms", "200"], 2, "hop_ms is 200"),
        (["classify", str(tmp_path / "none.wav"), "-m", str(checkpoint)], 1, "none.wav"),
        (["classify", str(recording), "-m", str(tmp_path)], 1, "config.json"),
    ):
        assert main(wrong) == code, wrong
        assert words in capsys.readouterr().err


def test_another_kind_of_model_is_refused(checkpoint: Path, tmp_path: Path):
    config = json.loads((checkpoint / "config.json").read_text()) | {"architectures": ["WavLMForCTC"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="holds a WavLMForCTC, expected a WavLMForSequenceClassification"):
        Classifier.load(tmp_path, "cpu")
