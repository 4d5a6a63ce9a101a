"""`top` shows what the server tells: checked against a real server's figures."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import pytest

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher, BatcherRules
from wavlm_live.streamer.interrupts import Interruption
from wavlm_live.streamer.options import UsageError
from wavlm_live.streamer.server.run import serve
from wavlm_live.streamer.server.settings import ServerSettings
from wavlm_live.streamer.terminal import Terminal
from wavlm_live.streamer.top import ServerSilent, TopRequest, ask, metrics_url, parse_figures, plain_line, screen, top

TEXT = """# HELP wavlm_live_batcher_sessions Streams.
# TYPE wavlm_live_batcher_sessions gauge
wavlm_live_batcher_sessions 3.0
wavlm_live_batcher_load 0.25
wavlm_live_batcher_audio_s_total {audio}
wavlm_live_connections{{protocol="native"}} 2.0
wavlm_live_connections{{protocol="vosk"}} 1.0
wavlm_live_refused_total{{code="unauthorized"}} 7.0
python_info{{version="3"}} 1.0
"""


def test_figures_are_read():
    figures = parse_figures(TEXT.format(audio=120), 0.0)
    assert figures.get("connections") == 3
    assert figures.by("connections", "protocol") == {"native": 2, "vosk": 1}
    assert figures.by("refused_total", "code") == {"unauthorized": 7}
    assert figures.get("python_info") == figures.get("none") == 0


@pytest.mark.parametrize("width", [100, 50, 12])
def test_the_screen_fits(width):
    history = deque(parse_figures(TEXT.format(audio=100 + 6 * n), 2.0 * n) for n in range(4))
    lines = screen(history, "", "http://host:1/metrics", width, True)
    assert all(line.cell_len <= width or line is lines[0] for line in lines)
    if width == 100:
        text = "\n".join(line.plain for line in lines)
        for shown in ("3 open", "25%", "3.0 s a second", "native 2, vosk 1", "unauthorized 7", "http://host:1"):
            assert shown in text, shown
        assert "sound 3.0 s/s" in plain_line(history)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ws://a:8765/v1/stream", "http://a:8765/metrics"),
        ("wss://a.example/v1/stream", "https://a.example/metrics"),
        ("localhost:8765", "http://localhost:8765/metrics"),
        ("http://[::1]:80/", "http://[::1]:80/metrics"),
    ],
)
def test_any_address_of_the_server_will_do(url, found):
    assert metrics_url(url) == found


def test_other_addresses_are_refused():
    for url in ("ftp://a/b", "http://", "file:///etc/passwd"):
        with pytest.raises(UsageError, match="no address"):
            metrics_url(url)


def test_a_server_that_is_not_there():
    with pytest.raises(ServerSilent, match="wavlm-live serve"):
        ask("http://127.0.0.1:9/metrics")


@pytest.fixture(scope="module")
def address(tiny_model):
    started, stops = threading.Event(), []

    def run():
        with Batcher(Recogniser.load(tiny_model, "cpu"), BatcherRules(calibrate=False)) as batcher:
            asyncio.run(serve(batcher, ServerSettings(port=0), lambda a, s: (stops.append((a, s)), started.set())))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    yield stops[0][0].url
    stops[0][1]()
    thread.join(60)


def test_on_a_screen_it_is_drawn_and_stays_at_the_end(address, screen):
    with Interruption() as interruption:
        terminal = Terminal(out=screen.stream, err=screen.stream)
        assert top(TopRequest(address, every_s=0.05, rounds=3), terminal, interruption) == 0
    rows = screen.lines()
    assert rows[-1].strip().startswith("heard so far")
    assert sum("real-time factor" in row for row in rows) == 1
    assert "sessions  0 open" in screen.raw
    assert sum(row.strip().startswith("late ") for row in rows) == 1


def test_plain_it_is_a_line_a_look(address, capsys):
    with Interruption() as interruption:
        assert top(TopRequest(address, every_s=0.01, rounds=3), Terminal(plain=True), interruption) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("sessions 0, load ") for line in lines)
