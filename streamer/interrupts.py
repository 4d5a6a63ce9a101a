"""Ctrl+C in order: the first one ends the listening and lets the last words out, the second one quits at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Interrupted(BaseException):
    """Raised inside `Interruption.waiting` by the first signal.

    It is no error, and like KeyboardInterrupt it must not be caught by those who mend errors of a source.
    """


class Interruption:
    """Takes SIGINT and SIGTERM over while it is entered.

    The first signal is remembered in `signal`, and wakes up whoever waits inside `waiting`; computing goes on to
    a point where it can be left. The second one raises KeyboardInterrupt wherever the program is.

    Outside the main thread, where Python delivers no signals, it changes nothing and stays silent.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._waiting = False
        self._on_first: Callable[[], object] | None = None
        self._former: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal, as shells count: 130 after Ctrl+C, 143 after SIGTERM; 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # a signal that is ignored on purpose (nohup, a shell's background job) stays ignored
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def on_first(self, call: Callable[[], object]) -> None:
        """Have the first signal call this, at once if it came before; for what waits in another thread."""
        self._on_first = call
        if self.signal is not None:
            call()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A stretch that may be left at any point, such as a read that blocks.

        Raises:
            Interrupted: a signal came, now or before.
        """
        try:
            self._waiting = True
            # asked after the line above, so that a signal between the two is not missed
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._on_first is not None:
            self._on_first()
        if self._waiting:
            raise Interrupted
