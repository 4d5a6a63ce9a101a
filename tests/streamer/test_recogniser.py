"""Recognisers: a folder in, sessions out; everything that cannot work is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from wavlm_live.model import (
    CheckpointError,
    ConfigurationError,
    CTCTokenizer,
    DeviceError,
    StreamingContext,
    WavLMConfig,
    WavLMForCTC,
)
from wavlm_live.streamer import EndpointRules, Final, Recogniser, SessionSettings
from wavlm_live.streamer.recogniser import alphabet_of, compute_device

VOCAB = {"<pad>": 0, "|": 1, "'": 2, **{c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz", start=3)}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights in transformers' format."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("small")
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=1, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(VOCAB),
    )  # fmt: skip
    model = WavLMForCTC(config)
    torch.nn.init.normal_(model.lm_head.weight, std=3.0)
    model.save_pretrained(folder)
    CTCTokenizer(VOCAB).save_pretrained(folder)
    (folder / "streaming.json").write_text(json.dumps({"contexts": {"default": "20,10,2", "low": "20,5"}}))
    return folder


def copied(checkpoint: Path, target: Path) -> Path:
    return Path(shutil.copytree(checkpoint, target / "model"))


def test_loaded_once_and_opened_many_times(checkpoint: Path) -> None:
    recogniser = Recogniser.load(checkpoint, device="cpu")
    assert recogniser.device == torch.device("cpu")
    assert recogniser.dtype == torch.float32
    assert not recogniser.model.training
    assert recogniser.context() == StreamingContext(20, 10, 2)
    sound = np.random.default_rng(0).normal(scale=0.1, size=32_000).astype(np.float32)
    settings = SessionSettings(endpoint=EndpointRules(max_segment_s=2))
    alone = recogniser.open(settings)
    expected = alone.feed(sound) + alone.finish()
    assert any(isinstance(e, Final) for e in expected)
    # two sessions side by side, fed in turns, know nothing of each other
    first, second = recogniser.open(settings), recogniser.open(settings)
    events = []
    for start in range(0, len(sound), 4000):
        events += first.feed(sound[start : start + 4000])
        second.feed(-sound[start : start + 4000])
    events += first.finish()
    assert [e for e in events if isinstance(e, Final)] == [e for e in expected if isinstance(e, Final)]


def test_contexts_by_name_and_by_frames(checkpoint: Path) -> None:
    recogniser = Recogniser.load(str(checkpoint))
    low = recogniser.context("low")
    assert low == StreamingContext(20, 5, 0)
    session = recogniser.open(SessionSettings(context=low))
    assert (session.ready.context, session.ready.latency_samples) == ("20,5,0", 1600)
    assert session.ready.model == checkpoint.name  # never the path
    assert recogniser.context("30,4,1") == StreamingContext(30, 4, 1)
    with pytest.raises(ConfigurationError, match=r"'fast' not understood.*default, low"):
        recogniser.context("fast")


def test_a_checkpoint_without_contexts_gets_the_general_one(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    (folder / "streaming.json").unlink()
    assert Recogniser.load(folder, device="cpu").context() == StreamingContext(250, 32, 8)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_bfloat16_listens_too(checkpoint: Path, dtype: str | torch.dtype) -> None:
    recogniser = Recogniser.load(checkpoint, device="cpu", dtype=dtype)
    assert recogniser.dtype == torch.bfloat16
    session = recogniser.open()
    sound = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    assert any(isinstance(e, Final) for e in session.feed(sound) + session.finish())


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"contexts": {"low": "1,2"}}', '{"contexts": {"default": "1"}}', '{"contexts"']
)
def test_bad_contexts_are_refused(checkpoint: Path, tmp_path: Path, content: str) -> None:
    folder = copied(checkpoint, tmp_path)
    (folder / "streaming.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"streaming\.json"):
        Recogniser.load(folder, device="cpu")


def test_tokenizer_and_head_must_fit(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    CTCTokenizer({**VOCAB, "ä": 29}).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="30 tokens, but the CTC head has 29 outputs"):
        Recogniser.load(folder, device="cpu")
    (folder / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        Recogniser.load(folder, device="cpu")


def test_no_such_model_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match="no folder 'nothing-here'"):
        Recogniser.load("nothing-here", device="cpu")


@pytest.mark.parametrize("name", ["gpu", "tpu", "cuda:x", "cuda:", "cpu:3", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        compute_device(name)


def test_devices_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device("auto") == compute_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(DeviceError, match="no CUDA device"):
        compute_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert compute_device("auto") == compute_device("cuda") == torch.device("cuda")
    assert compute_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        compute_device("cuda:2")


def test_an_unknown_dtype_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigurationError, match="int8"):
        Recogniser.load(checkpoint, device="cpu", dtype="int8")


def test_labels_of_a_tokenizer() -> None:
    tokenizer = CTCTokenizer({"<pad>": 0, "<s>": 1, "<unk>": 2, "|": 4, "A": 5, "TH": 6}, do_lower_case=True)
    alphabet = alphabet_of(tokenizer, 8)
    assert alphabet.labels == ("", "", "", "", "", "a", "th", "")
    assert (alphabet.blank_id, alphabet.delimiter_id) == (0, 4)
