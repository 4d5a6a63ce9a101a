"""The terminal: results on stdout, everything else on stderr, and a few lines at the bottom that are rewritten."""

from __future__ import annotations

import io
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from rich.console import Console
from rich.text import Text

from ..model.errors import OutputError

_DIRECTION_MARKS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Invisible characters that reorder the text around them."""

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories: control characters, lone surrogates, line and paragraph separators."""


def escape(text: str) -> str:
    """The text with everything that could steer a terminal or break a line written as `\\x1b`, `\\u202e`, ...

    Letters of all scripts, combining marks and emoji stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character not in _DIRECTION_MARKS and unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _size_of(console: Console) -> os.terminal_size:
    """Of the screen that the console writes to; rich would ask stdin first."""
    try:
        size = os.get_terminal_size(console.file.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or console.width, size.lines or console.height))


def columns_of(console: Console) -> int:
    """Columns of the screen, as they are now."""
    return _size_of(console).columns


class LiveRegion:
    """Some lines at the cursor that are drawn again and again in place.

    Each line is shorter than the screen is wide, so that it never wraps by itself. When the screen gets narrower,
    terminals wrap the lines that are there already; the rows that this takes are counted in, so that no remains
    are left behind.

    Args:
        console: of the terminal to draw on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[int] = []  # cells of each line on the screen

    def draw(self, lines: Sequence[Text]) -> None:
        """Replace what was drawn before; the cursor stays at the end of the last line."""
        columns = columns_of(self._console)
        fitted = []
        for line in lines:
            line = line.copy()
            line.truncate(max(1, columns - 1), overflow="crop")
            fitted.append(line)
        drawn = [self._rendered(line) for line in fitted]
        # \x1b[K clears the rest of a line, \x1b[J the rest of the screen
        body = "\r\n".join(f"{line}\x1b[K" for line in drawn)
        self._console.file.write(f"{self._to_start(columns)}{body}\x1b[J")
        self._console.file.flush()
        self._drawn = [line.cell_len for line in fitted]

    def erase(self) -> None:
        """Leave the screen as if nothing had been drawn."""
        if self._drawn:
            self._console.file.write(f"{self._to_start(columns_of(self._console))}\x1b[J")
            self._console.file.flush()
            self._drawn = []

    def _to_start(self, columns: int) -> str:
        """Move the cursor to the start of the first line."""
        rows = sum(max(1, -(-cells // columns)) for cells in self._drawn)
        return f"\r\x1b[{rows - 1}A" if rows > 1 else "\r"

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="crop", crop=False, soft_wrap=True)
        return capture.get()


class Terminal:
    """Where a command writes. The live region is drawn only on a real terminal and not in plain mode.

    Results and messages push the region down: it is erased, they are written, the next `draw` brings it back.

    Args:
        plain: no control sequences at all, as for a screen reader or a log.
        quiet: only results and errors; no notes, warnings or live region.
        out, err: streams for results and for the rest; None takes stdout and stderr.
    """

    def __init__(
        self,
        *,
        plain: bool = False,
        quiet: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.out: TextIO = out or sys.stdout or cast(TextIO, _Closed("standard output"))
        self.err: TextIO = err or sys.stderr or io.StringIO()
        self.plain, self.quiet = plain, quiet
        for stream in (self.out, self.err):
            # A terminal that cannot show a letter shows its code instead of ending the program.
            if isinstance(stream, io.TextIOWrapper):
                with suppress(OSError, ValueError):  # what waits there cannot be written; said when it matters
                    stream.reconfigure(errors="backslashreplace")
        # Partials and the status are no results, so they go to stderr if they can be seen there.
        screen = next((stream for stream in (self.err, self.out) if _is_screen(stream)), None)
        self.console = Console(file=screen or self.err, highlight=False, markup=False, emoji=False)
        drawable = not (plain or quiet or self.console.is_dumb_terminal or self.console.legacy_windows)
        self._region = LiveRegion(self.console) if screen is not None and drawable else None

    @property
    def live(self) -> bool:
        """Whether `draw` shows anything."""
        return self._region is not None

    @property
    def watched(self) -> bool:
        """Whether results come to a live screen, too: then somebody reads them as they come, and no program."""
        return self.live and _is_screen(self.out)

    @property
    def width(self) -> int:
        """Columns, as they are now."""
        return columns_of(self.console)

    @property
    def height(self) -> int:
        """Rows, as they are now."""
        return _size_of(self.console).lines

    @property
    def fancy(self) -> bool:
        """Whether the screen can show block characters."""
        return self.console.encoding.startswith("utf")

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines in the live region."""
        if self._region is not None:
            self._region.draw(lines)

    @contextmanager
    def whole_screen(self) -> Iterator[None]:
        """Draw on a screen of its own, which is gone at the end; what was on the screen before comes back."""
        if self._region is None:
            yield
            return
        write = self.console.file.write
        write("\x1b[?1049h\x1b[2J\x1b[H")
        try:
            yield
        finally:
            self.erase()
            write("\x1b[?1049l")
            self.console.file.flush()

    def clear(self) -> None:
        """Within `whole_screen`: forget what was drawn, as after a change of the screen's size."""
        if self._region is not None:
            self._region.erase()
            self.console.file.write("\x1b[2J\x1b[H")

    def results(self) -> TextIO:
        """Stdout as a stream for writers, see `ResultStream`."""
        return cast(TextIO, ResultStream(self))

    def wait(self, message: str) -> None:
        """Show for the moment what the program is busy with."""
        self.draw([Text(message, style="dim")])

    def erase(self) -> None:
        """Take the live region away, before anything else is written."""
        if self._region is not None:
            self._region.erase()

    def note(self, message: str) -> None:
        """A line for people on stderr, unless quiet."""
        if not self.quiet:
            self._say(escape(message))

    def warn(self, message: str) -> None:
        """A warning on stderr, unless quiet."""
        if not self.quiet:
            self._say(f"wavlm-live: warning: {escape(message)}")

    def error(self, message: str) -> None:
        """An error on stderr, always."""
        self._say(f"wavlm-live: error: {escape(message)}")

    def _say(self, line: str) -> None:
        with suppress(OSError, ValueError):  # who cannot be told cannot be told that either
            self.erase()
            self.err.write(line + "\n")
            self.err.flush()


class ResultStream(io.TextIOBase):
    """Standard output for writers of results: makes room above the live region, and flushes by line.

    On a screen control characters are escaped; in a pipe the text is left as the writer made it.

    Args:
        terminal: whose stdout it is.

    Raises:
        OutputError: while writing: stdout takes no more. A reader that went away stays a BrokenPipeError.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._on_screen = _is_screen(terminal.out)
        self._styled = self._on_screen and not terminal.plain

    def show(self, line: Text) -> None:
        """Write a line with its styles, where there are any to be seen."""
        if self._styled:
            console = Console(file=self._terminal.out, highlight=False)
            with console.capture() as capture:
                console.print(line, soft_wrap=True)
            self._put(capture.get())
        else:
            self.write(line.plain + "\n")

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if text:
            self._put("\n".join(map(escape, text.split("\n"))) if self._on_screen else text)
        return len(text)

    def _put(self, text: str) -> None:
        self._terminal.erase()
        with self._reported():
            self._terminal.out.write(text)
            if "\n" in text:
                self._terminal.out.flush()

    def flush(self) -> None:
        with self._reported():
            self._terminal.out.flush()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"standard output cannot be written: {reason}") from error


class TerminalLog(logging.Handler):
    """Log records of the packages as lines on stderr that do not tear the live region."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self._terminal.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._terminal.warn(record.getMessage())
        else:
            self._terminal.note(record.getMessage())


class _Closed(io.TextIOBase):
    """Stands for a stream that the program was started without (`>&-`)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str, /) -> int:
        raise ValueError(f"the program was started with {self._name} closed")


def _is_screen(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
