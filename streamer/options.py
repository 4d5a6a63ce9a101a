"""Options that `transcribe` and `listen` share: how they are spelled, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..model.errors import ConfigurationError

if TYPE_CHECKING:
    from ..model.context import StreamingContext
    from .decoding_options import Decoding
    from .interrupts import Interruption
    from .recogniser import Recogniser
    from .session_settings import SessionSettings
    from .speaker_options import Speakers
    from .terminal import Terminal
    from .voice_options import Pauses

Loader = Callable[[], "tuple[Recogniser, SessionSettings]"]
"""Gives the model and how to listen, loaded when first called: contexts may be named by the model alone."""


class UsageError(ConfigurationError):
    """An option or argument that cannot be used as it was given; the command line ends with 2."""


@contextmanager
def as_usage() -> Iterator[None]:
    """A block in which a value that cannot work came from the command line."""
    try:
        yield
    except UsageError:
        raise
    except ConfigurationError as error:
        raise UsageError(str(error)) from error


class Format(StrEnum):
    """Formats of a transcript."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    json = "json"
    jsonl = "jsonl"


def _compute_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is no compute device; expected auto, cpu, cuda or cuda:N")
    return value


def _option(*names: str, panel: str, **rest: Any) -> Any:
    """An option that the environment sets too: `--silence-ms` is WAVLM_LIVE_SILENCE_MS."""
    variable = names[0].split("/")[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=f"{PREFIX}{variable}", show_envvar=False, rich_help_panel=panel, **rest)


PREFIX = "WAVLM_LIVE_"
_MODEL, _TEXT, _SHOWN = "Model and latency", "Text", "What is shown"

Model = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        panel=_MODEL,
        show_default=False,
        metavar="NAME",
        help="Bundled name, folder or hub id of a WavLM with a CTC head. Default: the bundled model.",
    ),
]
ServedModel = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        panel=_MODEL,
        show_default=False,
        metavar="[NAME=]MODEL",
        help="Bundled name, folder or hub id of a WavLM with a CTC head. Default: the bundled model. Clients call a "
        "folder by its last part, or by NAME.",
    ),
]
Device = Annotated[
    str,
    _option(
        "--device",
        panel=_MODEL,
        callback=_compute_device,
        metavar="auto|cpu|cuda",
        help="Where to compute; cuda:N for one of several.",
    ),
]
Threads = Annotated[
    int | None,
    _option(
        "--threads",
        panel=_MODEL,
        min=1,
        metavar="N",
        show_default=False,
        help="CPU threads. Default: for streams what is fastest, else torch's choice.",
    ),
]
Context = Annotated[
    str | None,
    _option(
        "--context",
        panel=_MODEL,
        show_default=False,
        metavar="NAME|L,C,R",
        help="What a step sees: left, chunk and right in frames of 20 ms, or a name from `models info`. "
        "Default: the model's own.",
    ),
]
LeftMs = Annotated[
    int | None,
    _option("--left-ms", panel=_MODEL, min=0, metavar="MS", show_default=False, help="Sound kept behind a chunk."),
]
ChunkMs = Annotated[
    int | None,
    _option(
        "--chunk-ms", panel=_MODEL, min=20, metavar="MS", show_default=False, help="Sound that becomes certain at once."
    ),
]
RightMs = Annotated[
    int | None,
    _option("--right-ms", panel=_MODEL, min=0, metavar="MS", show_default=False, help="Sound awaited behind a chunk."),
]
PartialHopMs = Annotated[
    int,
    _option(
        "--partial-hop-ms",
        panel=_MODEL,
        min=0,
        metavar="MS",
        help="New sound between two looks at an unfinished chunk; 0 for none.",
    ),
]
SilenceMs = Annotated[
    int, _option("--silence-ms", panel=_TEXT, min=20, metavar="MS", help="Silence that ends a segment.")
]
MaxSegmentS = Annotated[
    float, _option("--max-segment-s", panel=_TEXT, min=1, metavar="S", help="Longest segment, in seconds.")
]
Output = Annotated[
    Path | None,
    _option(
        "--output",
        "-o",
        panel=_TEXT,
        metavar="PATH",
        show_default=False,
        help="Write to this file, or into this folder, instead of stdout.",
    ),
]
FormatOption = Annotated[
    Format | None,
    _option("--format", "-f", panel=_TEXT, show_default=False, help="Default: the output's suffix, else txt."),
]
Partials = Annotated[bool, _option("--partials", panel=_TEXT, help="Write partial results too (jsonl).")]
Channel = Annotated[
    int | None,
    _option(
        "--channel",
        min=0,
        panel="Sound",
        metavar="N",
        show_default=False,
        help="Channel to keep, from 0. Default: the mean of all.",
    ),
]
Plot = Annotated[
    Path | None,
    _option(
        "--plot",
        panel=_SHOWN,
        metavar="OUT.png",
        show_default=False,
        help="Draw waveform, probability of speech and words of one recording (png, svg, pdf); needs matplotlib.",
    ),
]
Realtime = Annotated[bool, _option("--realtime", panel="Sound", help="At the pace of speech, with live partial text.")]
InputDevice = Annotated[
    str | None,
    _option(
        "--input-device",
        panel="Sound",
        show_default=False,
        metavar="ID|NAME",
        help="Microphone: its number or part of its name (see `devices`). Default: the system's.",
    ),
]
Plain = Annotated[
    bool, _option("--plain", panel=_SHOWN, help="No colours, nothing rewritten: for logs and screen readers.")
]
NoProgress = Annotated[bool, _option("--no-progress", panel=_SHOWN, help="No progress bar, no status line.")]
Quiet = Annotated[bool, _option("--quiet", "-q", panel=_SHOWN, help="Only results and errors.")]
Verbose = Annotated[bool, _option("--verbose", "-v", panel=_SHOWN, help="More notes, and tracebacks of errors.")]


@dataclass(frozen=True)
class Listening:
    """Which model listens, and how, as the command line gave it."""

    decoding: Decoding
    model: str | None
    device: str
    threads: int | None
    context: str | None
    left_ms: int | None
    chunk_ms: int | None
    right_ms: int | None
    pauses: Pauses
    partial_hop_ms: int
    speakers: Speakers | None = None

    def __post_init__(self) -> None:
        if self.context is not None and (self.left_ms, self.chunk_ms, self.right_ms) != (None, None, None):
            raise UsageError("--context and --left-ms, --chunk-ms or --right-ms say the same twice; give one of them")

    def loader(self, terminal: Terminal, interruption: Interruption) -> Loader:
        """A function that loads the model once; a signal meanwhile raises `Interrupted`."""
        loaded: list[tuple[Recogniser, SessionSettings]] = []

        def load() -> tuple[Recogniser, SessionSettings]:
            if not loaded:
                with interruption.waiting():
                    terminal.wait("Loading the model ...")
                    loaded.append(self._load())
                    terminal.erase()
            return loaded[0]

        return load

    def _load(self) -> tuple[Recogniser, SessionSettings]:
        import torch

        from .decoding import check_prior, hotwords_for
        from .language_model import load_language_model
        from .recogniser import Recogniser
        from .session_settings import SessionSettings
        from .speakers import SpeakerRules

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with as_usage():
            decoding = self.decoding.settings()
            settings = SessionSettings(
                partial_hop_ms=self.partial_hop_ms,
                endpoint=self.pauses.endpoint(),
                speech=self.pauses.speech(),
                activity=self.pauses.activity,
                decoding=decoding,
                sleep_after_s=self.pauses.sleep_after_s,
                speakers=self.speakers.rules() if self.speakers else SpeakerRules(),
            )
            if decoding.lm_path is not None:
                load_language_model(decoding.lm_path)
        threads = "auto" if self.threads is None else None
        recogniser = Recogniser.load(self.model, self.device, "auto", threads=threads)
        with as_usage():
            if decoding.prior_weight:
                check_prior(recogniser.alphabet, decoding)  # now, not when the sound has begun
            if decoding.hotwords:
                hotwords_for(recogniser.alphabet, decoding.hotwords)
            if settings.need_heads:
                recogniser.known_speakers(settings.speakers)
            return recogniser, replace(settings, context=self.chosen_context(recogniser))

    def chosen_context(self, recogniser: Recogniser) -> StreamingContext:
        """The model's context that was named, or its default with the durations that were given.

        Raises:
            ConfigurationError: no such name, or frames that cannot be.
        """
        context = recogniser.context(self.context or "default")

        def frames(ms: int | None, default: int) -> int:
            return default if ms is None else round(ms / 20)

        return replace(
            context,
            left_frames=frames(self.left_ms, context.left_frames),
            chunk_frames=frames(self.chunk_ms, context.chunk_frames),
            right_frames=frames(self.right_ms, context.right_frames),
        )
