"""The sessions that `wavlm-live top` shows, a row each: asked from the server, and laid out for the screen."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from rich.text import Text

from .live_view import clock_of
from .terminal import escape

TIMEOUT_S = 5.0
LARGEST_BYTES = 16 << 20
FRAME_MS = 20
MOST_PLAIN = 20
"""Rows of a look in plain mode."""
LATE_MS = 1000
"""Latency beyond which a row is shown in red."""
_TEXT_CELLS = 12
"""Narrower than this, the column of texts is left out."""


class SessionRow(msgspec.Struct, frozen=True):
    """A session, as the server tells it."""

    id: str
    protocol: str
    age_s: float
    connected: bool
    context: str
    heard_s: float
    waiting_s: float
    latency_ms: float
    realtime_factor: float
    speaking: bool
    text: str = ""

    @property
    def chunk(self) -> str:
        """Milliseconds of a chunk, and of what it looks ahead."""
        _, chunk, right = (FRAME_MS * int(frames) for frames in self.context.split(","))
        return f"{chunk}+{right}" if right else f"{chunk}"


@dataclass(frozen=True)
class Sessions:
    """What one look found: rows, the oldest session first; or why there are none to be seen."""

    rows: tuple[SessionRow, ...] = ()
    unseen: str = ""


class _Answer(msgspec.Struct, frozen=True):
    sessions: tuple[SessionRow, ...]


class _Error(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error


def ask_sessions(url: str, key: str | None = None) -> Sessions:
    """The sessions of a server. Whoever may not see them is told why, which is no error.

    Args:
        url: of its /v1/sessions.
        key: API key.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return Sessions(msgspec.json.decode(answer.read(LARGEST_BYTES), type=_Answer).sessions)
    except urllib.error.HTTPError as error:
        try:
            said = msgspec.json.decode(error.read(LARGEST_BYTES), type=_Refusal).error.message
        except (msgspec.DecodeError, OSError):
            said = f"{error.code} {error.reason}"
        return Sessions(unseen=said)
    except (OSError, ValueError) as error:
        return Sessions(unseen=str(getattr(error, "reason", None) or error))


_NAMES = 2
_COLUMNS = ("session", "protocol", "age", "heard", "chunk", "latency", "rtf", "waits")
_NEEDED = (0, 2, 5, 6, 4, 3, 7, 1)
"""Columns by how much they are needed: the last ones are left out on narrow screens."""


def session_lines(sessions: Sessions, width: int, rows: int, fancy: bool) -> list[Text]:
    """A heading and the sessions. Where not all have room, those with the longest latency are shown.

    Args:
        sessions: of the last look.
        width: cells of a line.
        rows: lines that there are, at least 1.
        fancy: whether signs beyond ASCII can be shown.
    """
    if sessions.unseen:
        return [_cut(Text(f"no sessions to see: {escape(sessions.unseen)}", style="dim"), width)]
    if not sessions.rows:
        return []
    shown = sessions.rows
    left_out = ""
    if len(shown) > rows - 1:
        shown = tuple(sorted(shown, key=lambda row: -row.latency_ms)[: max(0, rows - 2)])
        left_out = f"{len(sessions.rows) - len(shown)} more, of lower latency"
    cells = [_cells(row) for row in shown]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *cells, strict=True)]
    kept = _that_fit(widths, width)
    rest = width - sum(widths[n] + 2 for n in kept) - 2
    texts = rest >= _TEXT_CELLS and any(row.text for row in shown)
    heading = _joined(_COLUMNS, widths, kept) + ("  text" if texts else "")
    lines = [_cut(Text("  " + heading, style="dim"), width)]
    for row, row_cells in zip(shown, cells, strict=True):
        sign = ("● " if row.speaking else "  ") if fancy else ("* " if row.speaking else "  ")
        line = Text.assemble((sign, "bold green"))
        line.append(_joined(row_cells, widths, kept), style=_style(row))
        if texts:
            line.append("  " + _tail(row.text, rest))
        lines.append(_cut(line, width))
    if left_out:
        lines.append(_cut(Text(f"  {left_out}", style="dim"), width))
    return lines


def plain_sessions(sessions: Sessions) -> list[str]:
    """A line for each session, for logs and screen readers."""
    lines = [
        f"  session {row.id} {row.protocol}, {clock_of(row.age_s)} old, heard {clock_of(row.heard_s)}, "
        f"chunk {row.chunk} ms, latency {row.latency_ms:.0f} ms, real-time factor {row.realtime_factor:.3f}, "
        f"{'connected' if row.connected else 'held'}, {'speech' if row.speaking else 'silence'}"
        + (f": {escape(row.text)}" if row.text else "")
        for row in sessions.rows[:MOST_PLAIN]
    ]
    if len(sessions.rows) > MOST_PLAIN:
        lines.append(f"  and {len(sessions.rows) - MOST_PLAIN} more")
    return lines


def _cells(row: SessionRow) -> tuple[str, ...]:
    return (
        row.id,
        row.protocol if row.connected else f"{row.protocol} held",
        clock_of(row.age_s),
        clock_of(row.heard_s),
        row.chunk,
        f"{row.latency_ms:.0f} ms",
        f"{row.realtime_factor:.3f}",
        f"{row.waiting_s:.1f} s",
    )


def _joined(cells: Sequence[str], widths: Sequence[int], kept: Sequence[int]) -> str:
    """Names to the left, figures to the right."""
    return "  ".join(cells[n].ljust(widths[n]) if n < _NAMES else cells[n].rjust(widths[n]) for n in kept)


def _that_fit(widths: Sequence[int], width: int) -> list[int]:
    kept: list[int] = []
    room = width - 2
    for column in _NEEDED:
        room -= widths[column] + 2
        if room < -2:
            break
        kept.append(column)
    return sorted(kept)


def _style(row: SessionRow) -> str:
    if not row.connected:
        return "dim"
    return "red" if row.latency_ms > LATE_MS else ""


def _tail(text: str, cells: int) -> str:
    """The end of a text, cut between words."""
    text = escape(text)
    if Text(text).cell_len <= cells:
        return text
    words: list[str] = []
    for word in reversed(text.split()):
        if Text(" ".join(["...", word, *words])).cell_len > cells:
            break
        words.insert(0, word)
    return " ".join(["...", *words])


def _cut(line: Text, width: int) -> Text:
    line.truncate(max(1, width), overflow="crop")
    return line
