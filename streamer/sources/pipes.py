"""Pipes: what comes through them is waited for, not read blindly, so that the waiting can be ended."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

_WAKE_MS = 100
"""So often one who waits for a pipe looks whether it was stopped meanwhile."""


def is_pipe(path: Path) -> bool:
    """Whether a name stands for a pipe or device, which is read once and has no length: `mkfifo`, `<(...)` in a shell.

    Raises:
        OSError: nothing is there.
    """
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class Arrivals:
    """Tells whether a descriptor has something to read, or has ended.

    Args:
        descriptor: of the operating system.
    """

    def __init__(self, descriptor: int) -> None:
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none, and its reads wait
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def waited(self) -> bool:
        """Wait a moment; whether a read returns at once now."""
        return self._poll is None or bool(self._poll.poll(_WAKE_MS))


class Pipe:
    """A pipe by its name, for FFmpeg to read: it has no `seek`. Its sound may come late, or its writer.

    Args:
        path: of the pipe.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        # without O_NONBLOCK opening would wait for a writer, and nothing could end that
        self._descriptor: int | None = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        self._arrivals = Arrivals(self._descriptor)
        self._stopped = False
        self.bytes = 0
        """Read so far."""
        self.raised: BaseException | None = None
        """What came instead of bytes, Ctrl+C for one: FFmpeg, which asked for them, would pass over it."""

    def read(self, size: int) -> bytes:
        """At most so many bytes; empty at the end, once it was stopped, and where something was `raised`."""
        try:
            data = self._waited(size)
        except BaseException as error:
            self._stopped, self.raised = True, error
            return b""
        self.bytes += len(data)
        return data

    def _waited(self, size: int) -> bytes:
        while not self._stopped and self._descriptor is not None:
            if not self._arrivals.waited():
                continue
            try:
                return os.read(self._descriptor, size)
            except BlockingIOError:
                time.sleep(0.01)  # somebody else read it
        return b""

    def check(self) -> None:
        """Raise what reading raised, once; for the one who had FFmpeg read."""
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised

    def stop(self) -> None:
        """End it for one who waits, in whatever thread."""
        self._stopped = True

    def close(self) -> None:
        """Give it back. May be called twice; nobody may be reading."""
        self._stopped = True
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
