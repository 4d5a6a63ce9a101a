"""Finals on the screen of somebody who looks on: with the time at which they were said."""

from __future__ import annotations

from typing import cast

from rich.text import Text

from .events import Final, to_seconds
from .formats import TranscriptWriter, spoken_lines
from .live_view import clock_of
from .terminal import ResultStream, Terminal, escape


class ScreenWriter(TranscriptWriter):
    """A line a segment, or a line for each turn of a speaker: when the segment began, dim, and the text.

    Args:
        terminal: to write on.
    """

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal.results())

    def _write_final(self, final: Final) -> None:
        start = final.words[0].start_samples if final.words else final.start_samples
        for text in spoken_lines(final):
            line = Text.assemble((f"{clock_of(to_seconds(start)):>5}  ", "dim"), escape(text))
            cast(ResultStream, self.stream).show(line)
