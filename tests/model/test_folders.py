"""Where checkpoints come from and go to: writing all or nothing, the cache and the answers of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError
from wavlm_live.model.folders import staged
from wavlm_live.model.processor import WavLMProcessor
from wavlm_live.model.wavlm import WavLMModel


def ours() -> WavLMForCTC:
    """A small model of about 120 kB."""
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=12,
    )
    return WavLMForCTC(config)


def assert_same_tensors(a: nn.Module, b: nn.Module) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys()
    for k in x:
        assert torch.equal(x[k], y[k]), k


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    ours().save_pretrained(tmp_path / "ctc")
    return tmp_path / "ctc"


# Writing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Any:
    """Files end after 50 kB, as on a disk that runs full."""
    resource = pytest.importorskip("resource")  # not on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, checkpoint: Path, small_files: Any) -> None:
    model = ours()
    before = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    small_files()
    for folder in (tmp_path / "new" / "deep", checkpoint):
        with pytest.raises(CheckpointError, match=r"cannot write to .*File too large.*nothing was changed there"):
            model.save_pretrained(folder)
    assert not (tmp_path / "new").exists()
    assert {p.name: p.read_bytes() for p in checkpoint.iterdir()} == before


def test_no_space_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; nothing was changed there; free some space"):
        WavLMProcessor().save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours().save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_saving_over_the_folder_it_was_read_from(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("mine")
    model = WavLMForCTC.from_pretrained(checkpoint)
    model.lm_head.weight.data.add_(1.0)
    model.save_pretrained(checkpoint)
    assert_same_tensors(WavLMForCTC.from_pretrained(checkpoint), model)
    assert (checkpoint / "README.md").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(CheckpointError, match=r"cannot write to .*taken"):
        ours().save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


# The hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache: Path, name: str, source: Path) -> None:
    """A folder's files into the cache, as a download leaves them."""
    commit = "0" * 40
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    (repository / "snapshots").mkdir()
    source.rename(repository / "snapshots" / commit)


def test_a_downloaded_checkpoint_is_read_without_network(cache: Path, checkpoint: Path) -> None:
    WavLMProcessor(do_normalize=False).save_pretrained(checkpoint)
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    expected = WavLMForCTC.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()  # the pickle is found behind the files that are not cached
    put(cache, "someone/some-wavlm", checkpoint)
    model = WavLMForCTC.from_pretrained("someone/some-wavlm")
    assert_same_tensors(model, expected)
    assert WavLMProcessor.from_pretrained("someone/some-wavlm").do_normalize is False


def test_a_checkpoint_that_is_not_there(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not in the local cache, and HF_HUB_OFFLINE is set; download it once"):
        WavLMForCTC.from_pretrained("someone/absent")
    for name in ("nonsense", "./nowhere", "/nowhere/at/all", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere|there is no folder 'nonsense'"):
            WavLMForCTC.from_pretrained(name)
    with pytest.raises(CheckpointError, match=r"there is no file 'lost\.pt'"):
        WavLMModel.from_pretrained("lost.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json; it is empty"):
        WavLMModel.from_pretrained(tmp_path / "empty")
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        WavLMModel.from_pretrained(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "accepted its terms"),
        ("RepositoryNotFoundError", "no folder 'a/b', and the hub has no such repository"),
        ("RevisionNotFoundError", "a/b has no revision 'r'"),
        ("RemoteEntryNotFoundError", r"a/b \(revision r\) has no config.json on the hub"),
        ("HfHubHTTPError", "cannot download config.json of a/b: HfHubHTTPError: why"),
        ("LocalEntryNotFoundError", "not in the local cache"),
    ],
)
def test_answers_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    error = getattr(huggingface_hub.errors, kind, huggingface_hub.errors.EntryNotFoundError)  # named so from 1.0
    problem = error("why") if kind.startswith("Local") else error("why", response=Mock())

    def answers(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answers)
    with pytest.raises(CheckpointError, match=message):
        WavLMForCTC.from_pretrained("a/b", revision="r")


def test_saved_files_have_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with staged(tmp_path) as stage:
            save_file({"x": torch.zeros(1)}, str(stage / "model.safetensors"))
    finally:
        os.umask(mask)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
