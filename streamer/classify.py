"""`wavlm-live classify`: classes of what is heard, live, from recordings, a pipe or the microphone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from ..model.errors import AudioError, DeviceError, OutputError
from .events import SAMPLE_RATE, Classification, Event, to_wire_bytes
from .interrupts import Interruption
from .options import as_usage
from .terminal import Terminal

if TYPE_CHECKING:
    from .sources import AudioSource


@dataclass(frozen=True)
class ClassifyRequest:
    """What a user asked of `classify`."""

    recordings: Sequence[str]
    """Names of files; `-` is raw sound on stdin; none: the microphone."""
    microphone: str | None
    model: str
    device: str
    window_ms: int
    hop_ms: int
    least_score: float
    top: int
    lines: bool
    """Write events as lines of JSON, instead of a table with tabs."""
    realtime: bool
    output: Path | None
    channel: int | None
    threads: int | None


def classify(request: ClassifyRequest, terminal: Terminal, interruption: Interruption) -> int:
    """Write the class of every window.

    Returns:
        The exit code: 0, 1 if any recording failed, or 128 and the number of the signal that ended it.

    Raises:
        UsageError: settings that cannot work.
        CheckpointError, DeviceError: the model or the microphone cannot be used.
        OutputError: the output takes no more.
    """
    import torch

    from .classifier import Classifier, ClassifierSettings
    from .hearing import Hearing
    from .transcribe import open_output

    with as_usage():
        settings = ClassifierSettings(request.window_ms, request.hop_ms, request.least_score, request.top)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    failed = False
    with ExitStack() as stack:
        with interruption.waiting():
            terminal.wait("Loading the model ...")
            classifier = Classifier.load(request.model, request.device)
            terminal.erase()
        with as_usage():
            classifier.open(settings)
        out = stack.enter_context(open_output(request.output, terminal))
        for recording in request.recordings or [None]:
            if interruption.signal is not None:
                break
            try:
                with ExitStack() as opened:
                    with interruption.waiting():
                        source = opened.enter_context(_source(request, recording))
                    if recording is None:
                        terminal.note(f"Listening to {source.name}. Ctrl+C ends.")
                    elif len(request.recordings) > 1:
                        terminal.note(f"{recording}:")
                    stream = classifier.open(settings)
                    if request.lines:
                        out.write(to_wire_bytes(stream.ready).decode() + "\n")
                    hearing = Hearing(source, cast(Any, stream), interruption, paced=request.realtime)
                    hearing.run(_writer(out, request.lines))
                    for problem in source.problems:
                        terminal.warn(problem)
            except (AudioError, DeviceError) as error:
                if recording is None:
                    raise
                terminal.error(str(error))
                failed = True
    return interruption.exit_code or int(failed)


def _source(request: ClassifyRequest, recording: str | None) -> AudioSource:
    from .sources import MicrophoneSource, open_source
    from .transcribe import FULL_SPEED_BLOCK_SAMPLES, PACED_BLOCK_SAMPLES

    if recording is None:
        return MicrophoneSource(request.microphone, channel=request.channel)
    block = PACED_BLOCK_SAMPLES if request.realtime else FULL_SPEED_BLOCK_SAMPLES
    return open_source(recording, channel=request.channel, block_samples=block)


def _writer(out: TextIO, lines: bool) -> Callable[[list[Event]], None]:
    def write(events: Sequence[Event | Classification]) -> None:
        for event in events:
            if not isinstance(event, Classification):
                continue
            try:
                out.write((to_wire_bytes(event).decode() if lines else _row(event)) + "\n")
                out.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(f"writing failed: {error.strerror or error}") from error

    return write


def _row(event: Classification) -> str:
    classes = [(event.label, event.score), *((other.label, other.score) for other in event.others)]
    times = (f"{at / SAMPLE_RATE:.2f}" for at in (event.start_samples, event.end_samples))
    return "\t".join([*times, *(part for label, score in classes for part in (label, f"{score:.3f}"))])
