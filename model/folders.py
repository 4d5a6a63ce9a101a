"""Where the files of a checkpoint are: found in a folder or on the hub, read as JSON, written all or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .errors import CheckpointError

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Source:
    """A local folder, or a repository of the Hugging Face hub, whose files are asked for by name.

    `huggingface_hub` does the downloading and caching, so `HF_HOME`, `HF_HUB_OFFLINE` and a stored login count.

    Args:
        name_or_path: a folder, or a hub name like `microsoft/wavlm-base-plus`.
        revision: branch, tag or commit on the hub; None means its main branch.

    Raises:
        CheckpointError: neither a folder nor the shape of a hub name.
    """

    def __init__(self, name_or_path: str | os.PathLike[str], revision: str | None = None):
        self.name = os.fspath(name_or_path)
        self.revision = revision
        path = Path(self.name).expanduser()
        self.folder: Path | None = path if path.is_dir() else None
        self._unreached: Exception | None = None
        self._offline = False
        if self.folder is not None:
            return
        if path.exists():
            raise CheckpointError(f"{path} is a file; give the folder that holds it, with its config.json")
        if not isinstance(name_or_path, str) or not HUB_NAME.fullmatch(self.name):
            raise CheckpointError(
                f"there is no folder {self.name!r}; give a folder with a checkpoint, or the name of one on the "
                "Hugging Face hub, such as 'microsoft/wavlm-base-plus'"
            )

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} (revision {self.revision})"

    def find(self, filename: str) -> Path | None:
        """The local path of a file, downloaded if need be; None where the checkpoint has no such file.

        Raises:
            CheckpointError: the repository or revision does not exist, is closed to us, or the download failed.
        """
        if self.folder is not None:
            path = self.folder / filename
            return path if path.is_file() else None
        try:
            from huggingface_hub import constants, errors, hf_hub_download
        except ImportError as e:
            raise CheckpointError(
                f"there is no folder {self.name!r}, and the hub needs the package huggingface_hub (pip install it)"
            ) from e
        try:
            return Path(hf_hub_download(self.name, filename, revision=self.revision))
        except errors.LocalEntryNotFoundError as e:
            # offline: this one file may be missing, so the caller goes on to its next candidate
            self._unreached, self._offline = e, bool(constants.HF_HUB_OFFLINE)
            return None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as e:
            raise CheckpointError(
                f"{self.name} is open only to those who accepted its terms; accept them on its page, then log in "
                "with `hf auth login`"
            ) from e
        except errors.RepositoryNotFoundError as e:
            raise CheckpointError(
                f"there is no folder {self.name!r}, and the hub has no such repository (or it is private: log in "
                "with `hf auth login`)"
            ) from e
        except errors.RevisionNotFoundError as e:
            raise CheckpointError(f"{self.name} has no revision {self.revision!r}") from e
        except Exception as e:  # any of the HTTP client's or the file system's errors, whichever client is installed
            raise CheckpointError(f"cannot download {filename} of {self.name}: {type(e).__name__}: {e}") from e

    def need(self, filename: str) -> Path:
        """As `find`, but a missing file is an error.

        Raises:
            CheckpointError: no such file, or the hub cannot be reached and the file is not in the cache.
        """
        return self.find(filename) or self.fail(filename)

    def fail(self, wanted: str) -> NoReturn:
        """Raise the `CheckpointError` that says why `wanted` is not there and what to do."""
        if self.folder is not None:
            there = sorted(p.name for p in self.folder.iterdir())
            raise CheckpointError(
                f"{self.folder} has no {wanted}; "
                + (f"it holds {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}" if there else "it is empty")
            )
        if self._unreached is not None:
            why = "HF_HUB_OFFLINE is set" if self._offline else "the hub cannot be reached"
            raise CheckpointError(
                f"there is no folder {self.name!r}, {wanted} of that hub name is not in the local cache, and {why}; "
                "download it once with a network, or give a folder"
            ) from self._unreached
        raise CheckpointError(f"{self} has no {wanted} on the hub")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: unreadable, not JSON, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}") from e
    except ValueError as e:
        raise CheckpointError(f"{path} is not valid JSON ({e}); it may be cut off: fetch it again") from e
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as indented UTF-8 JSON with a newline at the end."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder inside `folder` to write into; at the end its files move to `folder`, over old ones.

    A failure before that (a full disk, Ctrl+C) removes the hidden folder, and `folder` too if it was made here,
    so that nothing half-written stays and older files keep their content.

    Raises:
        CheckpointError: the files could not be written; the message says why.
    """
    target = Path(folder).expanduser()
    missing = [p for p in (target, *target.parents) if not p.exists()]
    stage: Path | None = None
    done = False
    try:
        target.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".saving-", dir=target))
        yield stage
        for path in sorted(stage.iterdir()):
            path.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
            path.replace(target / path.name)
        done = True
    except OSError as e:
        raise CheckpointError(_unwritten(target, e.strerror or str(e))) from e
    except Exception as e:
        if type(e).__name__ != "SafetensorError":  # its writer reports a full disk in a class of its own
            raise
        raise CheckpointError(_unwritten(target, str(e))) from e
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if not done:
            for path in missing:  # innermost first
                try:
                    path.rmdir()
                except OSError:
                    break


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritten(target: Path, reason: str) -> str:
    hint = "; free some space and try again" if "space" in reason.lower() else ""
    return f"cannot write to {target}: {reason}; nothing was changed there{hint}"
