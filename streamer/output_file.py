"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..model.errors import OutputError

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text stream whose text is in the file at `path` when, and only when, the block ends without error.

    The text goes to a hidden file in the same folder, which takes the place of the old file at the end; whatever
    ends the block early (an exception, Ctrl+C) removes it and leaves the old file as it was. Devices and named
    pipes (`/dev/stdout`) are written to directly. Links are followed.

    Raises:
        OutputError: the folder does not exist, no permission, no space left on the disk.
    """
    shown = str(path)
    target = _checked_target(path)
    direct = target.exists() and not target.is_file()
    temporary = target if direct else target.with_name(f".{secrets.token_hex(6)}.part")
    with _as_output_error(shown):
        raw = _ReportingFile(temporary, "wb" if direct else "xb", shown)
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", newline="\n")
    try:
        yield stream
        stream.flush()
        if not direct:
            with _as_output_error(shown):
                # Some file systems report a full disk only here.
                os.fsync(raw.fileno())
                if target.exists():
                    shutil.copymode(target, temporary)
        stream.close()
        if not direct:
            with _as_output_error(shown):
                os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError, ValueError, OutputError):
            stream.close()
        if not direct:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def _checked_target(path: str | Path) -> Path:
    with _as_output_error(str(path)):
        target = Path(path).resolve()
        if target.is_dir():
            raise OutputError(f"{path} cannot be written: it is a folder; give the name of a file")
        if not target.parent.is_dir():
            raise OutputError(f"{path} cannot be written: the folder {target.parent} does not exist; create it first")
    return target


@contextlib.contextmanager
def _as_output_error(shown: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "free some space" if getattr(error, "errno", None) in _FULL else "choose another place"
        raise OutputError(f"{shown} cannot be written: {reason}; {hint}") from error


class _ReportingFile(io.FileIO):
    """A file whose failing writes name it, so that errors of other files in the same block keep their own kind."""

    def __init__(self, path: Path, mode: str, shown: str) -> None:
        super().__init__(path, mode)
        self._shown = shown

    def write(self, data) -> int:
        with _as_output_error(self._shown):
            return super().write(data)
