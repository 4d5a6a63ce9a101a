"""A progress bar on stderr, where that is a terminal, below the lines of the log."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any


class LiveHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at the moment, so that a progress bar can put log lines above itself."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class ProgressBar:
    """Share of the run that is done, with a few figures; silent unless `shown`.

    Args:
        shown: None asks whether stderr is a terminal.
    """

    def __init__(self, shown: bool | None = None) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True, force_terminal=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def update(self, done: float, **figures: float) -> None:
        """Show a share from 0 to 1 and some figures by name."""
        if self._bar is not None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self._bar.update(self._task, completed=min(done, 1.0), description=text)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
