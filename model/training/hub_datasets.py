"""Speech datasets of the Hugging Face hub as manifests: parquet files with a column of encoded sound and one of text.

The hub keeps every public dataset as parquet too, on the branch `refs/convert/parquet`, one folder a configuration and
split. A row's sound is a struct of `bytes` and `path`, as the library `datasets` writes it, so folders that
`Dataset.to_parquet` made are read as well.
"""

from __future__ import annotations

import io
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import AudioError, CheckpointError, ConfigurationError

log = logging.getLogger(__name__)

PREFIX = "hf:"
BRANCH = "refs/convert/parquet"
SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
"""Splits of the dataset and what they are called here; others keep their names."""
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker_id", "client_id", "speaker")
COLUMNS = ("file", "corpus", "split", "speaker", "duration_s", "text")


def find_parquet(name: str, config: str = "") -> list[tuple[str, Path]]:
    """Files of a dataset with the split of each: a local folder or file, or a dataset of the hub (downloaded).

    A local file's split is the first known word in its name or its folder's, else "train".

    Raises:
        CheckpointError: no such dataset, no network, or no parquet file in it.
        ConfigurationError: a name that is none of the hub's.
    """
    local = Path(name).expanduser()
    if local.exists():
        paths = [local] if local.is_file() else sorted(local.rglob("*.parquet"))
        found = [(_split_of(path, local), path) for path in paths if not config or config in path.parts]
    else:
        found = _from_hub(name, config)
    if not found:
        raise CheckpointError(f"{name} holds no parquet file{f' of the configuration {config!r}' if config else ''}")
    return found


def _split_of(path: Path, root: Path) -> str:
    inner = path.relative_to(root).parts if root.is_dir() else (path.name,)
    words = [word for part in reversed(inner) for word in re.split(r"[^a-z]+", part.lower())]
    return next((word for word in words if word in SPLITS), "train")


def _from_hub(name: str, config: str) -> list[tuple[str, Path]]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        files = HfApi().list_repo_files(name, repo_type="dataset", revision=BRANCH)
        wanted = []
        for file in files:
            parts = file.split("/")
            if file.endswith(".parquet") and len(parts) == 3 and (not config or parts[0] == config):
                wanted.append((parts[0], parts[1].removeprefix("partial-"), file))
        configs = sorted({c for c, _, _ in wanted})
        if len(configs) > 1:
            raise ConfigurationError(
                f"the dataset {name} has the configurations {', '.join(configs)}; choose one: {PREFIX}{name}:CONFIG"
            )
        return [
            (split, Path(hf_hub_download(name, file, repo_type="dataset", revision=BRANCH)))
            for _, split, file in wanted
        ]
    except HFValidationError as e:
        raise ConfigurationError(f"{name!r} is neither a folder nor the name of a dataset: {e}") from e
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as e:
        raise CheckpointError(f"the dataset {name} cannot be had from the hub: {str(e).splitlines()[0]}") from e


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        audio = next((n for n in names if n == "audio" or pa.types.is_struct(file.schema_arrow.field(n).type)), None)
        text = next((n for n in TEXT_COLUMNS if n in names), None)
        if audio is None or text is None:
            raise ConfigurationError(
                f"{path} has the columns {', '.join(names)}; expected one of sound ('audio', with bytes) and one of "
                f"text, named {' or '.join(TEXT_COLUMNS)}"
            )
        speaker = next((n for n in SPEAKER_COLUMNS if n in names), None)
        columns = [audio, text, *([speaker] if speaker else [])]
        for batch in file.iter_batches(batch_size=64, columns=columns):
            for row in batch.to_pylist():
                yield {"audio": row[audio], "text": row[text], "speaker": row.get(speaker, "") if speaker else ""}
    except (OSError, pa.ArrowException) as e:
        raise AudioError(f"{path} cannot be read as parquet: {e}") from e


def import_dataset(source: str, folder: str | Path) -> Path:
    """Write a dataset as a manifest with a tar of its sound beside it, unless that has been done before.

    Args:
        source: "NAME" or "NAME:CONFIG", NAME being a local folder of parquet files or a dataset of the hub.
        folder: made if missing.

    Returns:
        The manifest. Rows without sound or text are counted in the log and left out.

    Raises:
        CheckpointError, ConfigurationError, AudioError: the dataset cannot be had, understood, or written.
    """
    import soundfile

    name, _, config = source.removeprefix(PREFIX).partition(":")
    folder = Path(folder)
    manifest = folder / "utterances.tsv"
    if manifest.exists():
        return manifest
    files = find_parquet(name, config)
    corpus = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).name if Path(name).exists() else name).strip("_")
    lines, refused, counts = ["\t".join(COLUMNS)], Counter[str](), Counter[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{corpus}.tar.part"
        with tarfile.open(part, "w") as tar:
            for split, path in files:
                here = SPLITS.get(split, split)
                for row in _rows(path):
                    sound = (row["audio"] or {}).get("bytes") if isinstance(row["audio"], Mapping) else None
                    text = " ".join(str(row["text"] or "").split())
                    if not sound or not text:
                        refused["no sound" if not sound else "no text"] += 1
                        continue
                    try:
                        info = soundfile.info(io.BytesIO(sound))
                    except RuntimeError:
                        refused["sound that cannot be decoded"] += 1
                        continue
                    counts[here] += 1
                    member = tarfile.TarInfo(f"{corpus}/{here}-{counts[here]:07d}")
                    member.size = len(sound)
                    tar.addfile(member, io.BytesIO(sound))
                    values = (member.name, corpus, here, row["speaker"] or "", f"{info.duration:.3f}", text)
                    lines.append("\t".join(str(v).replace("\t", " ") for v in values))
        part.replace(folder / f"{corpus}.tar")
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as e:
        raise AudioError(f"cannot write the dataset to {folder}: {e}; free some space") from e
    log.info("%s: %s; left out: %s", source, dict(counts), dict(refused) or "nothing")
    return manifest
