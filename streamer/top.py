"""`wavlm-live top URL`: a server's load, delays and sessions, live, from its /metrics and /v1/sessions."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.text import Text

from ..model.errors import StreamError
from .addresses import STREAM_PATH, address_parts
from .interrupts import Interruption
from .live_view import clock_of
from .options import as_usage
from .terminal import Terminal
from .top_sessions import Sessions, ask_sessions, plain_sessions, session_lines

TIMEOUT_S = 5.0
LARGEST_BYTES = 4 << 20
_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
TWO_COLUMNS = 100
"""Cells from which on figures stand in two columns if the sessions need the room."""
FEWEST_ROWS = 4
"""Lines of sessions that are shown on a low screen, at the cost of the last figures."""
_SPARKS = "▁▂▃▄▅▆▇█"
_PREFIX = "wavlm_live_"


class ServerSilent(StreamError):
    """A server that gives no figures."""


@dataclass(frozen=True)
class TopRequest:
    """What a user asked of `top`."""

    url: str
    key: str | None = None
    every_s: float = 1.0
    rounds: int | None = None
    """So many looks; None: until Ctrl+C."""


@dataclass(frozen=True)
class Figures:
    """What a server told at one moment: values by name and labels, without the prefix `wavlm_live_`."""

    at_s: float
    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    def get(self, name: str) -> float:
        """The sum over all labels; 0 where there is none."""
        return sum(value for (found, _), value in self.values.items() if found == name)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values above 0 by a label's value."""
        found: dict[str, float] = {}
        for (metric, labels), value in self.values.items():
            if metric == name and value:
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0.0) + value
        return found


def parse_figures(text: str, at_s: float) -> Figures:
    """Read Prometheus' text format.

    Args:
        text: of /metrics.
        at_s: when it came.
    """
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.match(line)
        if match is None or not match[1].startswith(_PREFIX):
            continue
        labels = tuple(sorted(_LABEL.findall(match[2] or "")))
        values[match[1].removeprefix(_PREFIX), labels] = float(match[3])
    return Figures(at_s, values)


def metrics_url(url: str) -> str:
    """Where the figures of a server are, from any address of it.

    Raises:
        UsageError: no address of a server.
    """
    expected = f"http://HOST:PORT, or ws://HOST:PORT{STREAM_PATH}"
    with as_usage():
        parts = address_parts(url if "//" in url else f"http://{url}", ("ws", "wss", "http", "https"), expected)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}/metrics"


def ask(url: str, key: str | None = None) -> Figures:
    """A server's figures.

    Args:
        url: of its /metrics.
        key: API key.

    Raises:
        ServerSilent: nobody answers, or not with figures.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            text = answer.read(LARGEST_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        needs = "; give its API key: --key, or WAVLM_LIVE_API_KEY" if error.code in (401, 403) else ""
        raise ServerSilent(f"{url} answers {error.code} {error.reason}{needs}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ServerSilent(f"{url} cannot be asked: {reason}; is `wavlm-live serve` running there?") from error
    figures = parse_figures(text, time.monotonic())
    if not figures.values:
        raise ServerSilent(f"{url} answers, but with no figures of wavlm-live; is it another program's address?")
    return figures


def top(request: TopRequest, terminal: Terminal, interruption: Interruption) -> int:
    """Show the figures again and again; on no screen, or with --plain, a line for each look.

    Raises:
        UsageError: no address of a server.
        ServerSilent: the first look failed; later ones are shown and tried again.
    """
    url = metrics_url(request.url)
    sessions_url = f"{url.removesuffix('/metrics')}/v1/sessions"
    history: deque[Figures] = deque([ask(url, request.key)], maxlen=60)
    sessions = ask_sessions(sessions_url, request.key)
    silent = ""
    with terminal.whole_screen():
        rounds, size = 0, (terminal.width, terminal.height)
        while interruption.signal is None:
            if terminal.live:
                if size != (terminal.width, terminal.height):
                    terminal.clear()
                    size = terminal.width, terminal.height
                # what is higher than the screen cannot be redrawn
                terminal.draw(_picture(history, sessions, silent, url, terminal, terminal.height - 1))
            else:
                for line in [silent] if silent else [plain_line(history), *plain_sessions(sessions)]:
                    terminal.results().write(line + "\n")
            rounds += 1
            if request.rounds is not None and rounds >= request.rounds:
                break
            if _rest(request.every_s, interruption):
                break
            try:
                history.append(ask(url, request.key))
                sessions = ask_sessions(sessions_url, request.key)
                silent = ""
            except ServerSilent as error:
                silent = str(error)
    if terminal.live:
        for line in _picture(history, sessions, silent, url, terminal, 1000):
            terminal.results().write(line.plain.rstrip() + "\n")
    return 0


def _picture(
    history: deque[Figures], sessions: Sessions, silent: str, url: str, terminal: Terminal, height: int
) -> list[Text]:
    """Figures, and the sessions below them: some of each where the screen is low."""
    width = terminal.width - 1
    figures = screen(history, silent, url, width, terminal.fancy)
    wanted = 1 + len(sessions.rows) if sessions.rows else bool(sessions.unseen)
    room = max(1, height - (len(figures) + 1 if wanted else 0))
    if wanted and width >= TWO_COLUMNS and room < wanted:
        figures = _side_by_side(figures, width)
        room = max(1, height - len(figures) - 1)
    if wanted and room < min(wanted, FEWEST_ROWS):
        room = min(wanted, FEWEST_ROWS, max(1, height - 3))
        figures = figures[: max(1, height - room - 1)]
    below = session_lines(sessions, width, room, terminal.fancy) if wanted else []
    return [*figures, *([Text("")] if below else []), *below][: max(1, height)]


def _side_by_side(lines: list[Text], width: int) -> list[Text]:
    """The heading, then the other lines in two columns."""
    head, rest = lines[0], [line for line in lines[1:] if line.plain.strip()]
    half = -(-len(rest) // 2)
    left_width = width // 2
    joined = [head]
    for n in range(half):
        left = rest[n].copy()
        left.truncate(left_width - 1, overflow="crop", pad=True)
        right = rest[n + half].copy() if n + half < len(rest) else Text("")
        right.truncate(width - left_width, overflow="crop")
        joined.append(Text.assemble(left, " ", right))
    return joined


def _rest(seconds: float, interruption: Interruption, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait; True: a signal came meanwhile."""
    end = time.monotonic() + seconds
    while interruption.signal is None and (left := end - time.monotonic()) > 0:
        sleep(min(left, 0.1))
    return interruption.signal is not None


def rate(history: deque[Figures], name: str) -> float:
    """Growth of a counter a second, over the last looks."""
    first, last = history[max(0, len(history) - 6)], history[-1]
    passed_s = last.at_s - first.at_s
    return max(0.0, last.get(name) - first.get(name)) / passed_s if passed_s > 0 else 0.0


def plain_line(history: deque[Figures]) -> str:
    """The most important figures in a line, for logs and screen readers."""
    now = history[-1]
    get = now.get
    return (
        f"sessions {get('batcher_sessions'):.0f}, load {get('batcher_load') * 100:.0f}%, "
        f"real-time factor {get('batcher_realtime_factor'):.3f}, batch {get('batcher_batch_mean'):.1f}, "
        f"latency {get('batcher_latency_p50_ms'):.0f} ms (99%: {get('batcher_latency_p99_ms'):.0f} ms), "
        f"sound {rate(history, 'batcher_audio_s_total'):.1f} s/s, refused {get('batcher_refused_total'):.0f}"
    )


def screen(history: deque[Figures], silent: str, url: str, width: int, fancy: bool) -> list[Text]:
    """The lines of the picture, top to bottom.

    Args:
        history: figures, the newest last.
        silent: why the last look failed; empty where it did not.
        url: that is asked.
        width: cells of a line.
        fancy: whether block characters can be shown.
    """
    now = history[-1]
    get = now.get
    head = Text.assemble((url.removesuffix("/metrics"), "bold"), "  ", (silent, "bold red") if silent else "")
    load = get("batcher_load")
    late_s = get("batcher_late_s")
    lines = [
        head,
        _row(
            "sessions", f"{get('batcher_sessions'):.0f} open, {get('held_streams'):.0f} held for their clients", width
        ),
        _row("load", f"{load * 100:3.0f}%  ", width, _bar(load, fancy)),
        _row("real-time factor", f"{get('batcher_realtime_factor'):.3f}", width),
        _row("sound", f"{rate(history, 'batcher_audio_s_total'):.1f} s a second", width),
        _row(
            "steps",
            f"{rate(history, 'batcher_steps_total'):.1f} a second, {get('batcher_batch_mean'):.1f} streams in each "
            f"(most {get('batcher_batch_largest'):.0f})",
            width,
        ),
        _row("step", _halves(get("batcher_step_p50_ms"), get("batcher_step_p99_ms")), width),
        _row("latency", _halves(get("batcher_latency_p50_ms"), get("batcher_latency_p99_ms")), width),
        _row("late", f"{late_s:.1f} s", width, style="bold red" if late_s > 1 else ""),
        _row("waiting", f"{get('batcher_queued_s'):.1f} s of sound", width),
        _row("connections", _counts(now.by("connections", "protocol")), width),
        _row("refused", _counts(now.by("refused_total", "code")), width),
        _row("errors", _counts(now.by("errors_total", "code")), width),
        _row(
            "heard so far",
            f"{clock_of(get('batcher_audio_s_total'))} in {get('batcher_opened_total'):.0f} streams",
            width,
        ),
    ]
    if fancy and len(history) > 1:
        lines.insert(2, _row("", "", width, Text(_sparks([f.get("batcher_sessions") for f in history]), style="cyan")))
    return lines


def _row(name: str, value: str, width: int, more: Text | None = None, style: str = "") -> Text:
    text = Text.assemble((f"{name:>16}  ", "dim"), (value, style), more or "")
    text.truncate(max(1, width), overflow="crop")
    return text


def _halves(p50_ms: float, p99_ms: float) -> str:
    return f"{p50_ms:.0f} ms, 99%: {p99_ms:.0f} ms"


def _counts(found: dict[str, float]) -> str:
    return ", ".join(f"{name or 'all'} {count:.0f}" for name, count in sorted(found.items())) or "none"


def _bar(share: float, fancy: bool) -> Text:
    cells = round(min(1.0, max(0.0, share)) * 20)
    done, rest = ("━", "─") if fancy else ("#", "-")
    style = "red" if share > 0.8 else "green"
    return Text.assemble((done * cells, style), (rest * (20 - cells), "dim"))


def _sparks(values: list[float]) -> str:
    most = max(values) or 1.0
    return "".join(_SPARKS[min(7, int(value / most * 7.999))] for value in values)
