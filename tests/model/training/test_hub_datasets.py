"""Datasets in parquet, as the hub keeps them, become manifests; what is missing or broken is counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from wavlm_live.model.errors import AudioError, CheckpointError, ConfigurationError
from wavlm_live.model.training.commands import load_data
from wavlm_live.model.training.hub_datasets import BRANCH, find_parquet, import_dataset
from wavlm_live.model.training.manifest import read_manifest


def flac(seconds: float, seed: int = 0) -> bytes:
    sound = io.BytesIO()
    wave = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))
    soundfile.write(sound, wave, 16000, format="FLAC")
    return sound.getvalue()


def parquet(path: Path, rows: list[tuple[Any, Any, Any]], text: str = "sentence") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"audio": [{"bytes": r[0], "path": "x"} for r in rows], text: [r[1] for r in rows]}
    pq.write_table(pa.table(columns | {"client_id": [r[2] for r in rows]}), path)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dogs and cats"
    rows = [(flac(0.5 + 0.1 * i, i), f"Word number {'abc'[i]}", f"s{i}") for i in range(3)]
    parquet(folder / "data" / "train-00000-of-00001.parquet", [*rows, (None, "silent", ""), (flac(0.5), "", "")])
    parquet(folder / "data" / "validation-00000-of-00001.parquet", [(flac(0.7, 9), "yes", 7), (b"junk", "no", 8)])
    return folder


def test_a_folder_of_parquet_is_read(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        manifest = import_dataset(f"hf:{dataset}", tmp_path / "out")
    assert "'no sound': 1" in caplog.text
    assert "'no text': 1" in caplog.text
    assert "cannot be decoded': 1" in caplog.text
    utterances, report = read_manifest(manifest)
    assert report.kept == report.rows == 4
    assert [(u.split, u.text, u.speaker) for u in utterances][::3] == [
        ("train", "word number a", "s0"), ("dev", "yes", "7")
    ]  # fmt: skip
    assert utterances[1].location.read() == flac(0.6, 1)
    assert utterances[1].duration_s == pytest.approx(0.6)
    stamp = manifest.stat().st_mtime_ns
    assert import_dataset(f"hf:{dataset}", tmp_path / "out").stat().st_mtime_ns == stamp
    data, cache, _ = load_data(f"hf:{dataset}", tmp_path / "cache", splits=("train", "dev"), workers=0)
    assert (len(data["train"]), len(data["dev"]), len(cache)) == (3, 1, 4)


def test_the_hub_is_asked_for_its_parquet_branch(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["clean/train/0000.parquet", "clean/validation/0000.parquet", "README.md"]

    def listed(self: object, name: str, *, repo_type: str, revision: str) -> list[str]:
        assert (name, repo_type, revision) == ("them/speech", "dataset", BRANCH)
        return files

    def fetched(name: str, file: str, *, repo_type: str, revision: str) -> str:
        return str(dataset / "data" / f"{file.split('/')[1]}-00000-of-00001.parquet")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    assert [split for split, _ in find_parquet("them/speech")] == ["train", "validation"]
    utterances, _ = read_manifest(import_dataset("hf:them/speech:clean", tmp_path / "out"))
    assert {u.corpus for u in utterances} == {"them_speech"}
    files.append("other/train/0000.parquet")
    with pytest.raises(ConfigurationError, match="clean, other"):
        find_parquet("them/speech")


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no parquet"):
        find_parquet(str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be had"):
        find_parquet("nobody/nothing")  # the tests run offline
    with pytest.raises(ConfigurationError, match="neither"):
        find_parquet("no/such/name/at/all")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(AudioError, match="as parquet"):
        import_dataset(f"hf:{tmp_path}", tmp_path / "out")
    parquet(tmp_path / "train.parquet", [(flac(0.5), "yes", "")], text="words")
    with pytest.raises(ConfigurationError, match="sentence"):
        import_dataset(f"hf:{tmp_path}", tmp_path / "out")
