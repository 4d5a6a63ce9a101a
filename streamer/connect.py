"""`wavlm-live connect`: a recording, stdin or the microphone, written down by a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .client import Client, Retry
from .events import SAMPLE_RATE, Acknowledged, Problem
from .formats import format_of, open_writer
from .hearing import Gauges
from .interrupts import Interruption
from .live_view import LiveView
from .options import UsageError, as_usage
from .sources import AudioSource, MicrophoneSource, open_source
from .terminal import Terminal
from .transcribe import deliverer, open_output


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


def connect(request: ConnectRequest, terminal: Terminal, interruption: Interruption) -> int:
    """Send the sound, write the results; after a break, go on where it was.

    Raises:
        UsageError: an address that is none, or a source too many or too few.
        AudioError: the recording cannot be read.
        DeviceError: the microphone cannot be opened.
        ServerRefused, ConnectionFailed: the server will not have it, or is not there.
    """
    if not request.url.startswith(("ws://", "wss://")):
        raise UsageError(f"{request.url} is no address of a server; expected ws://HOST:PORT/v1/stream or wss://...")
    if (request.file is None) == (not request.microphone and request.input_device is None):
        raise UsageError("give a FILE (- for stdin), or --microphone")
    with as_usage():
        kind = request.format or ("txt" if request.output is None else format_of(request.output))
    with ExitStack() as stack:
        source = stack.enter_context(_source(request))
        stream = stack.enter_context(open_output(request.output, terminal))
        view = LiveView(terminal, Gauges(), "")
        stack.callback(view.close)
        writer = open_writer(kind, stream, source=source.name, model=request.url)
        deliver = deliverer([writer], view, partials=request.partials)
        client = Client(request.url, request.settings, key=request.key, retry=Retry(give_up_s=request.give_up_s))
        sent = _Sent()
        for event in client.transcribe(_blocks(source, request, interruption, sent)):
            if isinstance(event, Problem):
                terminal.warn(event.message)
            elif not isinstance(event, Acknowledged):
                deliver([event])
        view.close()
        writer.finish(sent.samples / SAMPLE_RATE)
    for problem in source.problems:
        terminal.warn(problem)
    if client.reconnections:
        terminal.note(f"The connection broke {client.reconnections} times; nothing was lost.")
    return interruption.exit_code


@dataclass
class _Sent:
    samples: int = 0


def _source(request: ConnectRequest) -> AudioSource:
    if request.file is None:
        return MicrophoneSource(request.input_device, channel=request.channel)
    return open_source(request.file, channel=request.channel)


def _blocks(
    source: AudioSource, request: ConnectRequest, interruption: Interruption, sent: _Sent
) -> Iterator[np.ndarray]:
    """The source's blocks until its end or the first signal, at the pace of speech if wanted."""
    began_s = time.monotonic()
    for block in source:
        if interruption.signal is not None:
            break
        sent.samples += len(block)
        if request.realtime:
            time.sleep(max(0.0, began_s + sent.samples / SAMPLE_RATE - time.monotonic()))
        yield block
