"""`wavlm-live transcribe`: recordings to text, as fast as the machine goes or at the pace of speech."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..model.errors import AudioError, OutputError
from .events import Activity, Event, Partial
from .formats import TranscriptWriter, format_of, open_writer
from .hearing import Hearing
from .interrupts import Interruption
from .live_view import LiveView, clock_of
from .options import Loader, UsageError, as_usage
from .output_file import write_atomically
from .plotting import Plot, check_plot
from .screen_writer import ScreenWriter
from .sources import AudioSource, open_source
from .terminal import Terminal

if TYPE_CHECKING:
    from .together import ReadAhead

FULL_SPEED_BLOCK_SAMPLES = 16_000
PACED_BLOCK_SAMPLES = 320


@dataclass(frozen=True)
class Request:
    """What a user asked of `transcribe`, apart from the model."""

    recordings: Sequence[str]
    """Names of files; `-` is raw sound on stdin."""
    output: Path | None = None
    """A file, or a folder for one file a recording; None is stdout."""
    format: str | None = None
    """Name of the format; None takes the output's suffix, else txt."""
    channel: int | None = None
    """Channel to keep, from 0; None takes the mean."""
    realtime: bool = False
    """Hear the recordings at the pace of speech, with partial text on a terminal."""
    partials: bool = False
    """Write partial results too, where the format has them (jsonl)."""
    progress: bool = True
    """Show the progress, or the gauges in real time."""
    plot: Path | None = None
    """A picture of one recording: waveform, probability of speech, words."""

    def is_whole(self, recording: str) -> bool:
        """Whether a recording is all there and nobody wants to see words come."""
        return recording != "-" and not self.realtime and not self.partials


def transcribe(request: Request, load: Loader, terminal: Terminal, interruption: Interruption) -> int:
    """Write the text of every recording.

    A recording that fails is reported and the next one is taken.

    Returns:
        The exit code: 0, 1 if any recording failed, or 128 and the number of the signal that ended it.

    Raises:
        UsageError: outputs that cannot be told apart, or an unknown format; nothing was done.
        CheckpointError, DeviceError: the model cannot be used.
        OutputError: stdout takes no more.
    """
    places = plan_outputs(request)
    several = len(request.recordings) > 1
    if request.plot is not None:
        if several:
            raise UsageError("--plot draws one recording; give one")
        with as_usage():
            check_plot(request.plot)
    failed = False
    ahead = None
    if several and request.is_whole("") and request.plot is None:
        from .together import ReadAhead

        ahead = ReadAhead(request.recordings, request.channel, FULL_SPEED_BLOCK_SAMPLES)
    with ExitStack() as stack:
        if ahead is not None:
            stack.callback(ahead.close)
        for number, (recording, (place, kind)) in enumerate(zip(request.recordings, places, strict=True)):
            if interruption.signal is not None:
                break
            try:
                if several and place is None:
                    terminal.note(f"{recording}:")
                _transcribe_one(request, number, place, kind, load, terminal, interruption, ahead)
            except (AudioError, OutputError) as error:
                if place is None and isinstance(error, OutputError):
                    raise
                terminal.error(str(error))
                failed = True
    return interruption.exit_code or int(failed)


def _transcribe_one(
    request: Request,
    number: int,
    place: Path | None,
    kind: str,
    load: Loader,
    terminal: Terminal,
    interruption: Interruption,
    ahead: ReadAhead | None,
) -> None:
    recording = request.recordings[number]
    block = PACED_BLOCK_SAMPLES if request.realtime else FULL_SPEED_BLOCK_SAMPLES
    # Opened before the model is loaded: a wrong name should be told at once.
    with ExitStack() as stack:
        with interruption.waiting():  # for what comes through a pipe
            source = stack.enter_context(open_source(recording, channel=request.channel, block_samples=block))
        recogniser, settings = load()
        plot = None if request.plot is None else Plot(source.name, settings.speech.start_probability)
        wanted = settings.activity
        if plot is not None:
            settings = replace(settings, activity=True)
        # What is all there is computed in long stretches, but for a pipe, whoever wants to see words come, and who
        # wants what a stream that sleeps in silence makes of it.
        whole = request.is_whole(recording) and not settings.sleep_after_s
        read = ahead.take(number, recogniser, settings) if ahead is not None and whole else None
        if read is not None:
            source, session = stack.enter_context(read.source), read.session
        else:
            session = recogniser.offline(settings) if whole else recogniser.alone(settings)
        hearing = Hearing(source, session, interruption, paced=request.realtime)
        if plot is not None:
            hearing.on_block = plot.hear
        status = "" if not request.progress else "gauges" if request.realtime else "progress"
        view = LiveView(terminal, hearing.gauges, status, name=source.name, duration_s=source.duration_s)
        stack.callback(view.close)
        stream = stack.enter_context(open_output(place, terminal))
        writers = [open_writer(kind, stream, source=source.name, model=recogniser.name)]
        if request.realtime and terminal.watched:
            writers = watched(writers, kind if place is None else None, terminal)
        deliver = deliverer(writers, view, partials=request.partials)
        deliver([session.ready])

        def take(events: list[Event]) -> None:
            if plot is not None:
                plot.take(events)
            deliver([event for event in events if wanted or not isinstance(event, Activity)])

        hearing.run(take)
        view.close()
        if plot is not None and request.plot is not None:
            plot.save(request.plot)
            terminal.note(f"{source.name}: drawn to {request.plot}")
        for writer in writers:
            writer.finish(hearing.gauges.heard_s)
    _report(source, place, hearing, terminal, interruption)


def _report(
    source: AudioSource, place: Path | None, hearing: Hearing, terminal: Terminal, interruption: Interruption
) -> None:
    for problem in source.problems:
        terminal.warn(problem)
    heard = clock_of(hearing.gauges.heard_s)
    if interruption.signal is not None:
        whole = "" if source.duration_s is None else f" of {clock_of(source.duration_s)}"
        terminal.note(f"{source.name}: stopped after {heard}{whole}")
    if place is not None:
        terminal.note(f"{source.name}: {heard} written to {place}")


def watched(writers: list[TranscriptWriter], kind: str | None, terminal: Terminal) -> list[TranscriptWriter]:
    """The same for somebody who looks at the screen: there, plain text is shown with times.

    Args:
        writers: those that were asked for.
        kind: of what is written on the screen; None: it goes into a file, and the screen is shown the text besides.
        terminal: of the screen.
    """
    if kind == "txt":
        return [ScreenWriter(terminal)]
    return writers if kind is not None else [*writers, ScreenWriter(terminal)]


def deliverer(writers: Sequence[TranscriptWriter], view: LiveView, *, partials: bool) -> Callable[[list[Event]], None]:
    """Hands events to the writers, then to the screen, so that the partial stands below the newest final."""

    def deliver(events: list[Event]) -> None:
        for event in events:
            if partials or not isinstance(event, Partial):
                for writer in writers:
                    writer.write(event)
        view.take(events)

    return deliver


@contextmanager
def open_output(place: Path | None, terminal: Terminal) -> Iterator[TextIO]:
    """The stream for results: stdout, or a file that is whole or not there."""
    if place is None:
        yield terminal.results()
        return
    with write_atomically(place) as stream:
        yield stream


def plan_outputs(request: Request) -> list[tuple[Path | None, str]]:
    """Where each recording's text goes, and in which format.

    Raises:
        UsageError: several recordings for one file, a recording in the place of an output, or a suffix
            that names no format.
    """
    output, recordings = request.output, list(request.recordings)
    several = len(recordings) > 1
    if recordings.count("-") > 1:
        raise UsageError("stdin (-) was given twice; it can be heard once")
    if output is None:
        kind = request.format or "txt"
        if several and kind not in ("txt", "json"):
            raise UsageError(
                f"{len(recordings)} recordings as {kind} on stdout could not be told apart; give a folder, "
                "--output FOLDER"
            )
        return [(None, kind)] * len(recordings)
    folder = output.is_dir() or str(output).endswith(("/", os.sep))
    if several and not folder:
        raise UsageError(
            f"{len(recordings)} recordings cannot go into the one file {output}; give a folder that exists, or "
            f"end its name with {os.sep}"
        )
    if not folder:
        with as_usage():
            kind = request.format or format_of(output)
        return [(_unless_recording(output, recordings), kind)]
    kind = request.format or "txt"
    taken: set[str] = set()
    places: list[tuple[Path | None, str]] = []
    for recording in recordings:
        name = _free_name(recording, kind, taken)
        places.append((_unless_recording(output / name, recordings), kind))
    return places


def _free_name(recording: str, kind: str, taken: set[str]) -> str:
    """call.wav becomes call.txt; where that is taken already by call.mp3, call.wav.txt, then call.wav-2.txt."""
    path = Path("stdin" if recording == "-" else recording)
    names = [path.stem, path.name, *(f"{path.name}-{n}" for n in range(2, len(taken) + 3))]
    name = next(n for n in names if n.lower() not in taken)
    taken.add(name.lower())
    return f"{name}.{kind}"


def _unless_recording(place: Path, recordings: Sequence[str]) -> Path:
    """The place, unless a recording is there that would be lost."""
    if any(recording != "-" and _same_file(place, recording) for recording in recordings):
        raise UsageError(f"the output {place} is one of the recordings; choose another name or format")
    return place


def _same_file(place: Path, recording: str) -> bool:
    try:
        return place.is_file() and place.samefile(recording)
    except (OSError, ValueError):
        return False
