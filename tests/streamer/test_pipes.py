"""Recordings that come through a pipe: `mkfifo`, and `<(...)` in a shell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import AudioError
from wavlm_live.streamer.sources import FileSource

AUDIO = Path(__file__).parent.parent / "audio"
COMMAND = [sys.executable, "-m", "wavlm_live.streamer.cli", "transcribe"]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@contextmanager
def written(pipe: Path, data: bytes, *, goes_on: bool = False, after_s: float = 0.0) -> Iterator[None]:
    """Somebody writes this into the pipe, and leaves, or stays silent."""
    done = threading.Event()

    def write() -> None:
        done.wait(after_s)
        with pipe.open("wb", buffering=0) as file:
            try:
                file.write(data)
            except BrokenPipeError:
                return  # the reader has heard enough
            if goes_on:
                done.wait()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    yield
    done.set()
    writer.join(30)
    assert not writer.is_alive()


@pytest.mark.parametrize(
    "name", ["digits_and_commands.flac", "sentence_rope.opus", "noise.wav", "noise.aiff", "noise.mp3"]
)
@pytest.mark.parametrize("after_s", [0.0, 0.3])
def test_the_same_sound_as_from_the_file(name: str, after_s: float, pipe: Path, tmp_path: Path, seed: int) -> None:
    recording = AUDIO / name
    if "noise" in name:
        recording = tmp_path / name
        soundfile.write(recording, np.random.default_rng(seed).uniform(-0.5, 0.5, (50_000, 2)), 44_100)
    whole = FileSource(recording)
    expected = np.concatenate(list(whole))
    with written(pipe, recording.read_bytes(), after_s=after_s), FileSource(pipe) as source:
        found = np.concatenate(list(source))
        assert (source.rate, source.channels) == (whole.rate, whole.channels)
        assert source.problems == ()
    # without a length in advance FFmpeg cannot leave out what an MP3 encoder put in front and behind
    if name.endswith("mp3"):
        assert len(found) == pytest.approx(len(expected), abs=2_000)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty: 0 bytes came through the pipe"),
        (b"no sound " * 99, "cannot be read as sound.*cannot be read from a pipe"),
    ],
)
def test_no_recording(pipe: Path, data: bytes, said: str) -> None:
    with written(pipe, data), pytest.raises(AudioError, match=said):
        FileSource(pipe)


def test_closed_while_another_thread_waits(pipe: Path) -> None:
    recording = (AUDIO / "digits_and_commands.flac").read_bytes()
    with written(pipe, recording, goes_on=True):
        source = FileSource(pipe)
        samples: list[int] = []
        reader = threading.Thread(target=lambda: samples.extend(map(len, source)), daemon=True)
        reader.start()
        reader.join(2)
        assert reader.is_alive()  # it waits for more
        source.close()
        reader.join(30)
        assert not reader.is_alive()
        assert sum(samples) > 16_000
        assert source.problems == ()


def interrupted(ready: Callable[[subprocess.Popen[str]], object], pipe: Path, signals: int) -> tuple[int, str, str]:
    """Ctrl+C as often, when it is ready, in a process that reads the pipe."""
    arguments = ["--partials", "--format", "jsonl", str(pipe)]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        watchdog = threading.Timer(90, running.kill)
        watchdog.start()
        try:
            ready(running)
            for _ in range(signals):
                running.send_signal(signal.SIGINT)
            out, err = running.communicate()
        finally:
            watchdog.cancel()
    return running.returncode, out, err


def test_ctrl_c_while_it_waits_for_sound(pipe: Path) -> None:
    def heard(running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        while "three" not in running.stdout.readline():
            assert running.poll() is None

    recording = (AUDIO / "digits_and_commands.flac").read_bytes()
    with written(pipe, recording, goes_on=True):
        code, out, err = interrupted(heard, pipe, 1)
    assert code == 130, err
    assert '"final"' in out.splitlines()[-1]
    assert "Traceback" not in err


def test_ctrl_c_before_anything_came(pipe: Path) -> None:
    code, out, err = interrupted(lambda running: opened(running, pipe), pipe, 1)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def opened(running: subprocess.Popen[str], pipe: Path) -> None:
    """Wait until it has the pipe open, with which it has begun to wait for sound."""
    folder = Path(f"/proc/{running.pid}/fd")
    while not any(entry.resolve() == pipe for entry in folder.iterdir()):
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        with pytest.raises(AudioError, match="socket cannot be read: No such device"):
            FileSource(tmp_path / "socket")
