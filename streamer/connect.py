"""`wavlm-live connect`: a recording, stdin or the microphone, written down by a server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .addresses import stream_address
from .client import Client, Retry
from .events import SAMPLE_RATE, Acknowledged, Activity, Event, Final, Partial, Problem
from .formats import format_of, open_writer
from .hearing import Gauges
from .interrupts import Interruption
from .live_view import LiveView
from .options import UsageError, as_usage
from .sources import AudioSource, FileSource, MicrophoneSource, PcmSource, open_source
from .terminal import Terminal
from .transcribe import deliverer, open_output, watched


@dataclass(frozen=True)
class ConnectRequest:
    """What a user asked of `connect`."""

    url: str
    file: str | None
    microphone: bool
    input_device: str | None
    key: str | None
    settings: dict[str, Any]
    output: Path | None
    format: str | None
    channel: int | None
    realtime: bool
    partials: bool
    give_up_s: float
    model: str | None = None
    """Name of one that the server offers."""


def connect(request: ConnectRequest, terminal: Terminal, interruption: Interruption) -> int:
    """Send the sound, write the results; after a break, go on where it was.

    Raises:
        UsageError: an address that is none, or a source too many or too few.
        AudioError: the recording cannot be read.
        DeviceError: the microphone cannot be opened.
        ServerRefused, ConnectionFailed: the server will not have it, or is not there.
    """
    with as_usage():
        stream_address(request.url)
    if (request.file is None) == (not request.microphone and request.input_device is None):
        raise UsageError("give a FILE (- for stdin), or --microphone")
    with as_usage():
        kind = request.format or ("txt" if request.output is None else format_of(request.output))
    with ExitStack() as stack:
        with interruption.waiting():
            source = stack.enter_context(_source(request))
        interruption.on_first(source.stop)  # it may wait for sound, and what it has is still sent
        stream = stack.enter_context(open_output(request.output, terminal))
        live = request.realtime or request.file is None
        gauges = _Gauges(source)
        status = "gauges" if live else "progress"
        view = LiveView(terminal, gauges, status, name=source.name, duration_s=source.duration_s)
        stack.callback(view.close)
        settings = dict(request.settings)
        if terminal.live and live:
            settings.setdefault("activity", True)  # tells several times a second how far the server is
        writers = [open_writer(kind, stream, source=source.name, model=request.url)]
        if live and terminal.watched:
            writers = watched(writers, kind if request.output is None else None, terminal)
        deliver = deliverer(writers, view, partials=request.partials)
        retry = Retry(give_up_s=request.give_up_s)
        client = Client(request.url, settings, key=request.key, retry=retry, model=request.model)
        for event in client.transcribe(_blocks(source, request, gauges)):
            gauges.take(event, client.realtime_factor)
            if isinstance(event, Problem):
                terminal.warn(event.message)
            elif isinstance(event, Acknowledged | Activity):
                view.take([event])
            else:
                deliver([event])
        view.close()
        for writer in writers:
            writer.finish(gauges.heard_s)
    for problem in source.problems:
        terminal.warn(problem)
    if client.reconnections:
        terminal.note(f"The connection broke {client.reconnections} times; nothing was lost.")
    return interruption.exit_code


class _Gauges(Gauges):
    """What the status line shows of sound that a server hears: sent in one thread, answered in another."""

    def __init__(self, source: AudioSource) -> None:
        super().__init__()
        self._source = source
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=4096)  # samples sent, and when they were there
        self._judged = 0

    def sent(self, block: np.ndarray) -> None:
        """A block goes to the server."""
        self.count(block, 0.0)
        self._arrivals.append((self.heard_samples, time.monotonic()))
        if isinstance(self._source, MicrophoneSource):
            self.dropped_blocks = self._source.dropped_blocks

    def take(self, event: Event, factor: float | None) -> None:
        """The server answers: its text is as late as the newest sound that it has judged is old."""
        self.realtime_factor = factor
        if isinstance(event, Activity):
            self._judged = event.start_samples + event.hop_samples * len(event.probabilities)
        elif isinstance(event, Partial | Final):
            while self._arrivals and self._arrivals[0][0] < self._judged:
                self._arrivals.popleft()
            if self._judged and self._arrivals:
                self.latency_s = time.monotonic() - self._arrivals[0][1]


def _source(request: ConnectRequest) -> FileSource | MicrophoneSource | PcmSource:
    if request.file is None:
        return MicrophoneSource(request.input_device, channel=request.channel)
    return open_source(request.file, channel=request.channel)


def _blocks(source: AudioSource, request: ConnectRequest, gauges: _Gauges) -> Iterator[np.ndarray]:
    """The source's blocks, at the pace of speech if wanted."""
    began_s = time.monotonic()
    for block in source:
        if request.realtime:
            due_s = began_s + (gauges.heard_samples + len(block)) / SAMPLE_RATE
            time.sleep(max(0.0, due_s - time.monotonic()))
        gauges.sent(block)
        yield block
