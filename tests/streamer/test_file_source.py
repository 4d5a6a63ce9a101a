"""`FileSource` apart from formats: names, permissions, one pass, closing, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from wavlm_live.model.errors import AudioError, ConfigurationError, StreamError
from wavlm_live.streamer.sources import AudioSource, FileSource

RECORDING = Path(__file__).parent.parent / "audio" / "sentence_tureen.opus"


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom no permission stops.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match="no permission"):
        FileSource(RECORDING)


def test_names_that_look_like_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("talk:1.wav", "-x.wav", "äöü %d #?.wav"):
        soundfile.write(tmp_path / name, np.full(1_600, 0.1, np.float32), 16_000)
        assert sum(map(len, FileSource(name))) == 1_600
    with pytest.raises(AudioError, match="does not exist"):
        FileSource("http://localhost:1/a.wav")


def test_one_hour_does_not_grow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    minute = (rng.standard_normal(60 * 16_000) * 100).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 16_000, 1) as file:
        for _ in range(60):
            file.write(minute)
    process = psutil.Process()
    most = start = 0
    samples = 0
    with FileSource(tmp_path / "hour.flac", block_samples=16_000) as source:
        assert source.duration_s == 3_600
        for number, block in enumerate(source):
            samples += len(block)
            if number == 60:
                start = process.memory_info().rss
            most = max(most, process.memory_info().rss if number % 60 == 0 else 0)
    assert samples == 3_600 * 16_000
    assert most - start < 20 * 2**20  # the hour is 220 MiB as float32


def test_one_pass_and_closing() -> None:
    source = FileSource(RECORDING)
    assert isinstance(source, AudioSource)
    assert len(list(source)) > 1
    with pytest.raises(StreamError, match="read already"):
        iter(source)
    source.close()
    source.close()
    closed = FileSource(RECORDING)
    closed.close()
    with pytest.raises(StreamError, match="closed"):
        list(closed)
    half = FileSource(RECORDING)
    blocks = iter(half)
    next(blocks)
    half.close()
    list(blocks)
    stopped = FileSource(RECORDING)  # a signal may come before the first block is asked for
    stopped.stop()
    assert list(stopped) == []
    assert stopped.problems == ()
    with pytest.raises(ConfigurationError, match="block_samples"):
        FileSource(RECORDING, block_samples=0)


CLOSED_WHILE_READ = """
import sys, threading, time
from wavlm_live.streamer.sources import FileSource

for trial in range(200):
    source = FileSource(sys.argv[1], block_samples=400)
    began = threading.Event()
    ended = []

    def read():
        for _ in source:
            began.set()
        ended.append(source.problems)

    reader = threading.Thread(target=read)
    reader.start()
    began.wait(10)
    time.sleep(trial * 2e-5)
    source.close()
    reader.join(10)
    assert ended == [()], f"trial {trial}: {ended}"
"""


@pytest.mark.parametrize("kind", ["flac", "wav", "opus"])
def test_closed_while_another_thread_reads(kind: str, tmp_path: Path) -> None:
    """A client's thread may wait for the next block when the server refuses and the recording is closed. In a process
    of its own: what FFmpeg reads from memory it has freed ends the process.
    """
    recording = RECORDING
    if kind != "opus":
        recording = tmp_path / f"noise.{kind}"
        noise = np.random.default_rng(0).standard_normal(120 * 16_000).astype(np.float32) * 0.1
        soundfile.write(recording, noise, 16_000)
    ran = subprocess.run([sys.executable, "-c", CLOSED_WHILE_READ, recording], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
