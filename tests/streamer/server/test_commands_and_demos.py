"""`serve`, `connect`, `key` and the scripts in demos/, as people start them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def wav(recording, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "short.wav"
    soundfile.write(path, recording[: 16_000 * 6], 16_000)
    return path


@pytest.fixture(scope="module")
def process(start_process):
    with start_process() as server:
        yield server
        assert server.terminate() == 0


@pytest.mark.parametrize("name", ["websocket_client.py", "websocket_client_sync.py", "websocket_raw.py"])
def test_demos(process, wav, name):
    done = subprocess.run(
        [sys.executable, ROOT / "demos" / name, process.url, wav], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "three" in done.stdout
    assert "left" in done.stdout


def test_connect_and_its_errors(process, wav, command):
    answer = command("connect", process.url, wav, "--format", "srt", model=False)
    assert answer.code == 0, answer.err
    assert "three" in answer.out
    assert "-->" in answer.out
    assert command("connect", "http://x", wav, model=False).code == 2
    assert command("connect", process.url, model=False).code == 2
    gone = command("connect", "ws://127.0.0.1:9/v1/stream", wav, "--give-up-s", "0", model=False)
    assert gone.code == 1
    assert "no connection" in gone.err


def test_connect_on_a_screen(process, wav, command, screen, monkeypatch):
    """Level, voice, latency and real-time factor of a stream on the server; finals with their times stay."""
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(sys, "stderr", screen.stream)
    assert command("connect", process.url, wav, "--realtime", model=False).code == 0
    rows = screen.lines()
    assert re.match(r" 0:00  .*three", rows[0]), rows
    assert re.search(r"latency \d+ ms", screen.raw)
    assert re.search(r"real-time factor \d\.\d\d", screen.raw)
    assert "speech" in screen.raw
    assert "silence" in screen.raw


def test_serve_refuses_to_be_open_by_accident(command):
    answer = command("serve", "--host", "0.0.0.0", model=False)
    assert answer.code == 2
    assert "everybody" in answer.err


def test_key(command):
    answer = command("key", "anna", model=False)
    assert answer.code == 0
    assert answer.out.startswith("wl-")
    assert "anna sha256:" in answer.err
