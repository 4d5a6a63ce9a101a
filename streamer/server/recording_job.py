"""`RecordingJob`: a recording on its way through the batcher; a thread reads it, its events come to the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from ...model.errors import StreamError, WavLMLiveError
from ..batched_stream import BatchedStream
from ..batcher import Batcher
from ..events import SAMPLE_RATE, Event
from ..session_settings import SessionSettings
from ..sources import FileSource
from .limits import RecordingSound
from .service import Service

AHEAD_SAMPLES = 10 * SAMPLE_RATE
"""Sound of one recording that waits for the model."""


class Refused(WavLMLiveError):
    """A request that cannot be served."""

    def __init__(self, status: int, code: str, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.parameter = status, code, parameter


def stated_s(path: Path) -> float:
    """Seconds that a recording says it lasts, or that FFmpeg guesses; 0 where neither knows.

    Raises:
        AudioError: the file is no sound.
    """
    with FileSource(path) as source:
        return source.duration_s or 0.0


class RecordingJob:
    """One recording.

    Args:
        batcher: that computes it.
        path: of the file.
        settings: how to listen.
        service: whose limits hold.
        sound: what it may take of the client's sound.
    """

    def __init__(
        self, batcher: Batcher, path: Path, settings: SessionSettings, service: Service, sound: RecordingSound
    ) -> None:
        self._batcher, self._path, self._settings, self._sound = batcher, path, settings, sound
        self._limits, self._metrics = service.settings.limits, service.metrics
        self.duration_s = 0.0
        """What was read, at the end."""

    async def run(self) -> AsyncIterator[Event]:
        """The events, to the end.

        Raises:
            AudioError: the file is no sound.
            Refused: it lasts too long.
            Overloaded: there is no room.
            StreamError: the stream was ended.
        """
        loop, queue, stopped = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

        def put(event: Event | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        def put_all(events: list[Event]) -> None:
            for event in events:
                put(event)

        self._metrics.streams.labels("rest").inc()
        stream = self._batcher.open(self._settings, put_all, on_end=lambda stream: put(None))
        reading = asyncio.create_task(asyncio.to_thread(self._read, stream, stopped))
        try:
            while (event := await queue.get()) is not None:
                self._metrics.events([event])
                yield event
            await reading
            if stream.problem is not None:
                raise StreamError(stream.problem.message)
        finally:
            stopped.set()
            stream.abort()
            await asyncio.gather(reading, return_exceptions=True)

    def _read(self, stream: BatchedStream, stopped: threading.Event) -> None:
        try:
            with FileSource(self._path, block_samples=SAMPLE_RATE) as source:
                samples = 0
                for block in source:
                    while stream.queued_samples > AHEAD_SAMPLES and not stopped.is_set():
                        time.sleep(0.01)
                    self._pause(self._sound.take(len(block) / SAMPLE_RATE), stopped)
                    samples += len(block)
                    if stopped.is_set() or samples > self._limits.upload_s * SAMPLE_RATE:
                        break
                    stream.feed(block)
                self.duration_s = samples / SAMPLE_RATE
            if samples > self._limits.upload_s * SAMPLE_RATE:
                raise Refused(413, "too_long", f"a recording may last {self._limits.upload_s:g} s", "file")
            stream.finish()
        except BaseException:
            stream.abort()
            raise

    def _pause(self, seconds: float, stopped: threading.Event) -> None:
        if seconds > 0:
            self._metrics.throttled.inc()
            stopped.wait(seconds)
