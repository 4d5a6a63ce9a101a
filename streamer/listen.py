"""`wavlm-live listen`: the microphone, live, until Ctrl+C."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import DeviceError
from .formats import format_of, open_writer
from .hearing import Hearing
from .interrupts import Interruption
from .live_view import LiveView, clock_of
from .options import Loader, as_usage
from .sources import MicrophoneSource, list_input_devices
from .sources.devices import choose_device
from .terminal import Terminal
from .transcribe import deliverer, open_output, watched


@dataclass(frozen=True)
class Request:
    """What a user asked of `listen`, apart from the model."""

    device: str | int | None = None
    """Index or part of the name of the microphone; None is the system's default."""
    output: Path | None = None
    """A file; None is stdout."""
    format: str | None = None
    """Name of the format; None takes the output's suffix, else txt."""
    channel: int | None = None
    """Channel to keep, from 0; None takes the mean."""
    partials: bool = False
    """Write partial results too, where the format has them (jsonl)."""
    status: bool = True
    """Show the gauges."""


def listen(request: Request, load: Loader, terminal: Terminal, interruption: Interruption) -> int:
    """Write what is said into the microphone, until a signal comes or the microphone goes.

    With an output file, a terminal shows the results as well. The file appears at the end.

    Returns:
        128 and the number of the signal that ended it; 0 if it ended without one.

    Raises:
        UsageError: the output's suffix names no format.
        CheckpointError: the model cannot be used.
        DeviceError: no such microphone, or it went away; what it gave before was written.
        OutputError: the file cannot be written, or stdout takes no more.
    """
    with as_usage():
        kind = request.format or ("txt" if request.output is None else format_of(request.output))
    choose_device(request.device, list_input_devices())  # a wrong name should be told before the model is loaded
    with ExitStack() as stack:
        stream = stack.enter_context(open_output(request.output, terminal))
        recogniser, settings = load()
        session = recogniser.alone(settings)
        microphone = stack.enter_context(MicrophoneSource(request.device, channel=request.channel))
        terminal.note(f"Listening to {microphone.name}. Ctrl+C ends.")
        hearing = Hearing(microphone, session, interruption)
        view = LiveView(terminal, hearing.gauges, "gauges" if request.status else "")
        stack.callback(view.close)
        writers = [open_writer(kind, stream, source=microphone.name, model=recogniser.name)]
        if terminal.watched:
            writers = watched(writers, kind if request.output is None else None, terminal)
        deliver = deliverer(writers, view, partials=request.partials)
        deliver([session.ready])
        gone: DeviceError | None = None
        try:
            hearing.run(deliver)
        except DeviceError as error:
            gone = error
        view.close()
        for writer in writers:
            writer.finish(hearing.gauges.heard_s)
    for problem in microphone.problems:
        terminal.warn(problem)
    heard = clock_of(hearing.gauges.heard_s)
    if request.output is not None:
        terminal.note(f"{microphone.name}: {heard} written to {request.output}")
    if gone is not None:
        raise gone
    return interruption.exit_code
