"""`top` shows what the server tells: checked against a real server's figures."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import deque

import pytest
from websockets.sync.client import connect

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher, BatcherRules
from wavlm_live.streamer.interrupts import Interruption
from wavlm_live.streamer.options import UsageError
from wavlm_live.streamer.server.run import serve
from wavlm_live.streamer.server.settings import ServerSettings
from wavlm_live.streamer.terminal import Terminal
from wavlm_live.streamer.top import ServerSilent, TopRequest, ask, metrics_url, parse_figures, plain_line, screen, top
from wavlm_live.streamer.top_sessions import SessionRow, Sessions, ask_sessions, plain_sessions, session_lines

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
    for url in ("ftp://a/b", "http://", "file:///etc/passwd", "http://[::1/", "localhost:99999", "http://a:b"):
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
    assert rows[-1].strip().startswith("heard so far")  # nobody is there: no rows of sessions
    assert sum("real-time factor" in row for row in rows) == 1
    assert "sessions  0 open" in screen.raw
    assert sum(row.strip().startswith("late ") for row in rows) == 1


def test_plain_it_is_a_line_a_look(address, capsys):
    with Interruption() as interruption:
        assert top(TopRequest(address, every_s=0.01, rounds=3), Terminal(plain=True), interruption) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("sessions 0, load ") for line in lines)


def row(n: int, **more) -> SessionRow:
    values = {"id": f"{n:06x}", "protocol": "native", "age_s": 65.0 + n, "connected": True, "context": "250,32,8"}
    values |= {"heard_s": 60.0, "waiting_s": 0.1, "latency_ms": 100.0 + n, "realtime_factor": 0.02}
    return SessionRow(**values | {"speaking": n % 2 == 0} | more)


@pytest.mark.parametrize("fancy", [True, False])
@pytest.mark.parametrize("width", [140, 79, 40, 12])
def test_sessions_have_a_row_each(width, fancy):
    found = Sessions((row(0, text="one two \x1b[2J three four five six seven"), row(1), row(2, connected=False)))
    lines = session_lines(found, width, 10, fancy)
    assert len(lines) == 4
    assert all(line.cell_len <= width for line in lines)
    text = "\n".join(line.plain for line in lines)
    assert "\x1b" not in text, "what people say cannot steer the terminal"
    if width >= 40:
        assert "000001" in text
    if width >= 79:
        assert "640+160" in text
        assert "100 ms" in text
        assert ("●" in text) is fancy
    if width == 140:
        assert lines[1].plain.endswith("seven")
        assert "native held" in text


def test_of_too_many_sessions_the_latest_results_are_shown():
    found = Sessions(tuple(row(n) for n in range(30)))
    lines = [line.plain for line in session_lines(found, 100, 6, True)]
    assert len(lines) == 6
    assert all(f"{100 + n} ms" in lines[1 + i] for i, n in enumerate((29, 28, 27, 26)))
    assert "26 more" in lines[5]
    assert len(plain_sessions(found)) == 21


def test_who_may_not_see_them_is_told_why():
    [line] = session_lines(Sessions(unseen="needs the key of an operator"), 100, 5, True)
    assert line.plain == "no sessions to see: needs the key of an operator"
    assert ask_sessions("http://127.0.0.1:9/v1/sessions").unseen


@pytest.mark.parametrize(("columns", "rows"), [(120, 24), (79, 24), (78, 10), (40, 12)])
def test_sessions_of_a_server_are_drawn(address, screen, columns, rows):
    screen.resize(columns, rows)
    with connect(f"{address}", max_size=None) as socket, Interruption() as interruption:
        socket.send(json.dumps({"type": "start"}))
        assert json.loads(socket.recv(20))["type"] == "ready"
        terminal = Terminal(out=screen.stream, err=screen.stream)
        assert top(TopRequest(address, every_s=0.05, rounds=2), terminal, interruption) == 0
    shown = screen.lines()
    assert len(shown) <= rows
    assert re.fullmatch(r"  [0-9a-f]{6} .*\bms\b.*", shown[-1]), shown
    assert "native" in shown[-1] or columns == 40
    assert any(line.startswith("  session") for line in shown)
    assert any(line.lstrip().startswith("load") for line in shown) or rows < 20
