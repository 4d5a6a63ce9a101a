"""`serve`, `connect`, `key` and the scripts in demos/, as people start them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.addresses import stream_address
from wavlm_live.streamer.client import Client

ROOT = Path(__file__).resolve().parents[3]
CONNECT = [sys.executable, "-m", "wavlm_live.streamer.cli", "connect"]


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


@pytest.mark.parametrize(
    "url", ["http://x", "ws://", "ws:///x", "ws://[::1/", "ws://a:99999", "ws://a:b/v1/stream", "x"]
)
def test_no_address(command, wav, url):
    answer = command("connect", url, wav, model=False)
    assert answer.code == 2
    assert f"{url} is no address of a server" in answer.err
    assert "expected ws://HOST:PORT/v1/stream" in answer.err
    before = threading.active_count()
    with pytest.raises(ConfigurationError, match="no address"), Client(url):
        pass
    assert threading.active_count() == before


def test_an_address_needs_no_path():
    assert stream_address("ws://a:1") == stream_address("ws://a:1/") == "ws://a:1/v1/stream"
    for whole in ("wss://[::1]:8/v1/stream", "ws://a/x?y=1", "ws://a?model=b"):
        assert stream_address(whole) == whole


def started_connect(*arguments: str) -> subprocess.Popen[bytes]:
    """`connect -` with a pipe that stays open; killed after a minute and a half, which is no way to end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = subprocess.Popen([*CONNECT, *arguments], bufsize=0, **pipes)
    watchdog = threading.Timer(90, running.kill)
    watchdog.daemon = True
    watchdog.start()
    return running


def test_a_pipe_without_sound_does_not_keep_connect_from_failing():
    with started_connect("ws://127.0.0.1:9/v1/stream", "-", "--give-up-s", "0") as running:
        assert running.stderr is not None
        assert b"no connection" in running.stderr.read()
        assert running.wait() == 1


def test_ctrl_c_while_connect_waits_for_sound(process, recording):
    """What was said before is heard to its last word."""
    with started_connect(process.url, "-", "--partials", "--format", "jsonl") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write((recording[: 16_000 * 6] * 32767).astype("<i2").tobytes())
        line = b" "
        while line and b"three" not in line:
            line = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait() == 130
    finals = [line for line in rest.splitlines() if b'"final"' in line]
    assert b"left" in finals[-1]


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
