"""`transcribe` on what is no recording: one sentence that names the file, and exit code 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text_file(path: Path) -> None:
    path.write_text("this is a letter, not a recording\n" * 100)


def _header_alone(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), 16_000)


def _all_nan(path: Path) -> None:
    soundfile.write(path, np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")


def _header_cut(path: Path) -> None:
    soundfile.write(path, np.full(16_000, 0.1, np.float32), 16_000)
    path.write_bytes(path.read_bytes()[:20])


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (_empty, "is empty: 0 bytes"),
        (_text_file, "cannot be read as sound"),
        (_header_alone, "holds no sound: its length is 0 samples"),
        (_all_nan, "NaN"),
        (_header_cut, "cannot be read as sound"),
        (_folder, "is a folder, expected a recording"),
        (lambda path: None, "does not exist"),
    ],
)
def test_what_is_no_recording_fails(command, tmp_path, make: Callable[[Path], None], part):
    path = tmp_path / "recording.wav"
    make(path)
    answer = command("transcribe", path)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(f"wavlm-live: error: {path} ")
    assert part in answer.err
