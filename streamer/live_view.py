"""What the live region shows: the text that is being spoken, and a line of gauges or of progress below it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from .events import Event, Final, Partial, Speaker, SpeechStarted, SpeechStopped
from .hearing import Gauges
from .terminal import Terminal, escape

REFRESH_S = 0.08
"""Longest rest between two drawings while sound comes in; text is drawn at once."""
MOST_ROWS = 8
"""Rows of a partial; of a longer one the end is shown."""
QUIET_DB, LOUD_DB = -60.0, 0.0
"""Ends of the level meter."""
_METER_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class LiveView:
    """Draws partial text as it changes and a status line, on a terminal that can.

    Args:
        terminal: to draw on.
        gauges: of the hearing.
        status: what the line at the bottom shows: `gauges` for live sound, `progress` for files at full speed, or
            nothing.
        name: of the recording, for `progress`.
        duration_s: of the recording where it is known, for `progress`.
    """

    def __init__(
        self,
        terminal: Terminal,
        gauges: Gauges,
        status: str = "",
        *,
        name: str = "",
        duration_s: float | None = None,
    ) -> None:
        self._terminal, self._gauges, self._status = terminal, gauges, status
        self._name, self._duration_s = name, duration_s
        self._partial: Partial | None = None
        self._began_s = time.perf_counter()
        self._drawn_s = 0.0

    def take(self, events: Iterable[Event]) -> None:
        """Show what became known. Finals are written by others; here they end the partial."""
        if not self._terminal.live:
            return
        changed = False
        for event in events:
            if isinstance(event, Partial | Final):
                self._partial = event if isinstance(event, Partial) else None
                changed = True
            elif isinstance(event, SpeechStarted | SpeechStopped):
                self._gauges.speaking = isinstance(event, SpeechStarted)
                changed = True
            elif isinstance(event, Speaker):
                self._gauges.speaker = event.speaker
                changed = True
        now = time.perf_counter()
        if changed or now - self._drawn_s >= REFRESH_S:
            self._terminal.draw(self.lines())
            self._drawn_s = now

    def close(self) -> None:
        """Leave the screen to the results."""
        self._partial = None
        self._terminal.erase()

    def lines(self) -> list[Text]:
        """What `take` draws, top to bottom."""
        width = self._terminal.width - 1
        lines = []
        if self._partial is not None and self._status != "progress":
            rows = max(1, min(MOST_ROWS, self._terminal.height - 2))
            lines = partial_lines(self._partial, width, rows)
        if self._status == "gauges":
            lines.append(gauge_line(self._gauges, width, self._terminal.fancy))
        elif self._status == "progress":
            elapsed_s = time.perf_counter() - self._began_s
            lines.append(
                progress_line(
                    self._name, self._gauges.heard_s, self._duration_s, elapsed_s, width, self._terminal.fancy
                )
            )
        return lines


def partial_lines(partial: Partial, width: int, rows: int) -> list[Text]:
    """Stable text plain, unstable text dim, wrapped between words; the last `rows` lines of it."""
    text = Text(escape(partial.stable))
    if partial.stable and partial.unstable:
        text.append(" ")
    text.append(escape(partial.unstable), style="dim")
    wrapped = text.wrap(Console(width=max(1, width)), max(1, width))
    lines = list(wrapped)[-rows:]
    for line in lines:
        line.rstrip()
    return lines if text.plain else []


def gauge_line(gauges: Gauges, width: int, fancy: bool) -> Text:
    """Time, level, voice, latency, real-time factor and dropped blocks, in as many words as there is room for."""
    clock = clock_of(gauges.heard_s)
    latency = "-" if gauges.latency_s is None else f"{gauges.latency_s * 1000:.0f} ms"
    factor = "-" if gauges.realtime_factor is None else f"{gauges.realtime_factor:.2f}"
    dropped = gauges.dropped_blocks
    lost = Text(f"{dropped} dropped", style="bold red") if dropped else Text("0 dropped", style="dim")
    meter = level_meter(gauges.level_db, fancy)
    voice = voice_sign(gauges.speaking, fancy)
    who = [Text(escape(gauges.speaker))] if gauges.speaker else []
    long = [Text(clock), meter, voice, *who, Text(f"latency {latency}"), Text(f"real-time factor {factor}"), lost]
    medium = [
        Text(clock),
        meter,
        voice,
        *who,
        Text(f"latency {latency}"),
        Text(f"rtf {factor}"),
        *([lost] if dropped else []),
    ]
    short = [Text(clock), meter, voice[:1], Text(latency), Text(f"rtf {factor}"), *([lost] if dropped else [])]
    tiny = [Text(clock), lost if dropped else meter]
    return _first_that_fits([long, medium, short, tiny], width)


def voice_sign(speaking: bool | None, fancy: bool) -> Text:
    """Whether somebody speaks: a sign and a word of the same width for both, so that nothing behind it jumps."""
    if speaking:
        return Text("● speech " if fancy else "* speech ", style="bold green")
    return Text("○ silence" if fancy else "- silence", style="dim")


def level_meter(level_db: float, fancy: bool) -> Text:
    """A bar from -60 to 0 dB."""
    share = min(1.0, max(0.0, (level_db - QUIET_DB) / (LOUD_DB - QUIET_DB)))
    style = "red" if level_db > -3 else "green"
    if not fancy:
        full = round(share * _METER_CELLS)
        return Text.assemble("[", ("#" * full, style), " " * (_METER_CELLS - full), "]")
    eighths = round(share * _METER_CELLS * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text.assemble(("▕", "dim"), (bar.ljust(_METER_CELLS), style), ("▏", "dim"))


def progress_line(
    name: str, heard_s: float, duration_s: float | None, elapsed_s: float, width: int, fancy: bool
) -> Text:
    """Name, bar, times, speed in seconds of sound a second, and the time that is left."""
    speed = heard_s / elapsed_s if elapsed_s > 0 else 0.0
    name = escape(name.replace("\\", "/").rsplit("/", 1)[-1])
    pace = Text(f"{speed:.1f}x")
    if not duration_s:
        return _first_that_fits([[Text(name), Text(clock_of(heard_s)), pace], [Text(clock_of(heard_s)), pace]], width)
    share = min(1.0, heard_s / duration_s)
    left = Text(f"{clock_of(max(0.0, duration_s - heard_s) / speed)} left" if speed else "")
    times = Text(f"{clock_of(heard_s)}/{clock_of(duration_s)}")
    percent = Text(f"{share * 100:3.0f}%")

    def bar(cells: int) -> Text:
        full = round(share * cells)
        done, rest = ("━", "─") if fancy else ("#", "-")
        return Text.assemble((done * full, "green"), (rest * (cells - full), "dim"))

    forms = [
        [Text(name), bar(24), percent, times, pace, left],
        [Text(name), bar(12), percent, pace, left],
        [bar(12), percent, pace, left],
        [percent, pace, left],
        [percent],
    ]
    return _first_that_fits(forms, width)


def clock_of(seconds: float) -> str:
    """Seconds as 0:05, 12:34 or 1:02:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _first_that_fits(forms: list[list[Text]], width: int) -> Text:
    """The first form that has room, else the last one."""
    lines = [Text("  ").join(parts) for parts in forms]
    return next((line for line in lines if line.cell_len <= width), lines[-1])
