"""The processor against transformers' `Wav2Vec2FeatureExtractor`, its files, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from wavlm_live.model.errors import AudioError, CheckpointError, ConfigurationError, TextError
from wavlm_live.model.processor import WavLMProcessor
from wavlm_live.model.tokenizer import CTCTokenizer

VOCAB = {"<pad>": 0, "|": 1, "a": 2, "b": 3}


def recordings(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Noise with an offset and another level each."""
    draw = np.random.default_rng(seed)
    return [(draw.normal(0.1 * i, 0.03 + 0.1 * i, n)).astype(np.float32) for i, n in enumerate(lengths)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    normalize=st.booleans(),
    value=st.sampled_from([0.0, -1.5]),
    padding=st.sampled_from([True, "longest", "max_length"]),
    max_length=st.none() | st.integers(1, 400),
    truncation=st.booleans(),
    multiple=st.none() | st.integers(1, 64),
    seed=st.integers(0, 1000),
)
def test_batches_as_transformers(
    lengths: list[int],
    normalize: bool,
    value: float,
    padding: Any,
    max_length: int | None,
    truncation: bool,
    multiple: int | None,
    seed: int,
) -> None:
    truncation = truncation and max_length is not None
    if max_length is None and padding == "max_length":
        padding = True
    if padding == "max_length" and not truncation:  # rows that are longer stay as they are: no tensor over there
        lengths = [min(n, max_length or n) for n in lengths]
    audio = recordings(lengths, seed)
    options = {
        "padding": padding,
        "max_length": max_length,
        "truncation": truncation,
        "pad_to_multiple_of": multiple,
        "sampling_rate": 16000,
    }
    theirs = Wav2Vec2FeatureExtractor(do_normalize=normalize, padding_value=value, return_attention_mask=True)
    expected = theirs(audio, return_tensors="pt", **options)
    ours = WavLMProcessor(do_normalize=normalize, padding_value=value, return_attention_mask=True)
    found = ours(audio, **options)
    assert found.attention_mask.dtype == torch.int64
    assert found.input_values.dtype == torch.float32
    assert torch.equal(found.attention_mask, expected.attention_mask.long())
    torch.testing.assert_close(found.input_values, expected.input_values, rtol=1e-4, atol=2e-5)
    padded = found.input_values[found.attention_mask == 0]
    assert (padded == value).all()


def test_no_mask_by_default_and_a_row_does_not_depend_on_its_batch() -> None:
    audio = recordings([500, 320])
    ours = WavLMProcessor(do_normalize=True)
    batch = ours(audio, 16000)
    assert set(batch) == {"input_values"}
    alone = ours(audio[1], 16000)
    assert alone.input_values.shape == (1, 320)
    assert torch.equal(batch.input_values[1, :320], alone.input_values[0])
    assert "attention_mask" in ours(audio, 16000, return_attention_mask=True)
    assert "attention_mask" not in WavLMProcessor(return_attention_mask=True)(audio, 16000, return_attention_mask=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: list(a),
        lambda a: torch.from_numpy(a),
        lambda a: a.astype(np.float64),
        lambda a: a[None],
        lambda a: [a.tolist()],
        lambda a: a.tolist(),
        lambda a: torch.from_numpy(a).requires_grad_(),
    ],
    ids=["array", "list of numbers", "tensor", "float64", "batch", "batch of lists", "floats", "needs gradient"],
)
def test_kinds_of_audio(make: Any) -> None:
    audio = recordings([400])[0]
    expected = torch.from_numpy(audio)[None]
    assert torch.equal(WavLMProcessor(do_normalize=False)(make(audio), 16000).input_values, expected)


def test_silence_stays_silence() -> None:
    found = WavLMProcessor()(np.zeros(400, dtype=np.float32), 16000)
    assert torch.equal(found.input_values, torch.zeros(1, 400))


def test_the_mean_of_a_long_recording_does_not_drift() -> None:
    """Three minutes: sums in float32 would lose digits that the statistics need."""
    audio = np.full(2_880_000, 0.7, dtype=np.float32)
    audio[::2] = 0.1
    found = WavLMProcessor()(audio, 16000).input_values
    assert abs(float(found.double().mean())) < 1e-6
    assert abs(float(found.double().square().mean()) - 1) < 1e-5


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([], "no recordings"),
        ([np.zeros(0, np.float32)], "recording 0 has no samples"),
        (np.zeros((400, 2), np.float32), r"shape \[400, 2\].*mono"),
        (np.zeros((2, 2, 400), np.float32), r"shape \[2, 2, 400\]"),
        ([np.zeros((400, 2), np.float32)], "recording 0 has the shape .*mono"),
        (np.zeros(400, np.int16), "int16 values.*divide 16-bit samples by 32768"),
        ([np.zeros(400), np.array([0.1, np.nan, np.inf])], "recording 1 has 2 samples that are not finite"),
        ([[0.1, [0.2]]], "recording 0 is no list of samples"),
        ("speech.wav", "audio is a str"),
        (None, "audio is a NoneType"),
        ([np.array([0.1, 1e300])], "1 samples that are not finite"),
    ],
)
def test_audio_that_cannot_be_used(audio: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        WavLMProcessor()(audio, 16000)


def test_sampling_rate(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AudioError, match=r"44100 samples a second.*16000.*resample"):
        WavLMProcessor()(np.zeros(400, np.float32), 44100)
    with caplog.at_level(logging.WARNING):
        WavLMProcessor()(np.zeros(400, np.float32))
    assert "no sampling_rate given" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding": False}, AudioError, "400 to 500 samples need padding=True"),
        ({"padding": "always"}, ConfigurationError, "'always'"),
        ({"padding": "max_length"}, ConfigurationError, "need max_length"),
        ({"truncation": True}, ConfigurationError, "need max_length"),
        ({"max_length": 0, "truncation": True}, ConfigurationError, "max_length is 0"),
        ({"return_tensors": "np"}, ConfigurationError, "'np'"),
        ({"text": ["a", "b"]}, ConfigurationError, "no tokenizer"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WavLMProcessor()(recordings([400, 500]), 16000, **options)


def test_labels() -> None:
    processor = WavLMProcessor(CTCTokenizer(VOCAB))
    found = processor(recordings([400, 500]), 16000, text=["ab a", "b"])
    assert found.labels.tolist() == [[2, 3, 1, 2], [3, -100, -100, -100]]
    assert processor(recordings([400]), 16000, text="b").labels.tolist() == [[3]]
    assert processor.decode([2, 0, 2, 3]) == "aab"
    assert processor.batch_decode([[2, 2], [3, 1]]) == ["a", "b"]
    assert processor.decode_with_offsets([0, 2]).words == [("a", 1, 2)]
    with pytest.raises(TextError, match="'z'"):
        processor(recordings([400]), 16000, text="z")
    with pytest.raises(ConfigurationError, match="2 recordings, but 1 transcripts"):
        processor(recordings([400, 500]), 16000, text="a")


def test_features_are_attributes_too() -> None:
    found = WavLMProcessor()(recordings([400]), 16000)
    assert found.input_values is found["input_values"]
    assert found.to("cpu").input_values.device.type == "cpu"
    with pytest.raises(AttributeError, match="attention_mask"):
        _ = found.attention_mask


# Files ----------------------------------------------------------------------------------------------------

SETTINGS = [
    {"do_normalize": False, "return_attention_mask": True, "sampling_rate": 16000, "padding_value": 0.0},
    {"do_normalize": True, "return_attention_mask": False, "sampling_rate": 8000, "padding_value": -1.0},
]


def settings_of(extractor: Any) -> dict[str, Any]:
    return {k: getattr(extractor, k) for k in SETTINGS[0]}


@pytest.mark.parametrize("values", SETTINGS)
def test_feature_files_are_read_by_both_sides(tmp_path: Path, values: dict[str, Any]) -> None:
    WavLMProcessor(**values).save_pretrained(tmp_path / "ours")
    assert settings_of(Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "ours")) == values
    assert settings_of(AutoFeatureExtractor.from_pretrained(tmp_path / "ours")) == values
    Wav2Vec2FeatureExtractor(**values).save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        processor = WavLMProcessor.from_pretrained(tmp_path / folder)
        assert settings_of(processor) == values
        assert processor.tokenizer is None


@pytest.mark.parametrize("values", SETTINGS)
def test_processor_files_are_read_by_both_sides(tmp_path: Path, values: dict[str, Any]) -> None:
    WavLMProcessor(CTCTokenizer(VOCAB), **values).save_pretrained(tmp_path / "ours")
    theirs = Wav2Vec2Processor.from_pretrained(tmp_path / "ours")
    assert settings_of(theirs.feature_extractor) == values
    assert theirs.tokenizer.get_vocab() == VOCAB
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps(VOCAB))
    joint = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(**values), Wav2Vec2CTCTokenizer(str(vocab)))
    joint.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        processor = WavLMProcessor.from_pretrained(tmp_path / folder)
        assert settings_of(processor) == values
        assert processor.tokenizer is not None
        assert processor.decode([2, 3]) == "ab"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no preprocessor_config.json"),
        ("{", "not valid JSON"),
        ('{"feature_extractor_type": "WhisperFeatureExtractor"}', "'WhisperFeatureExtractor'"),
        ('{"padding_side": "left"}', "padding_side is 'left'"),
        ('{"feature_size": 80}', "feature_size is 80"),
        ('{"sampling_rate": "fast"}', "sampling_rate is 'fast'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        WavLMProcessor.from_pretrained(tmp_path)
