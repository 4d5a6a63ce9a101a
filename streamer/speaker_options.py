"""Options about who speaks, that `transcribe`, `listen`, `serve` and `enroll` share, and the command `enroll`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .interrupts import Interruption
from .options import _option
from .terminal import Terminal

if TYPE_CHECKING:
    from .speakers import SpeakerRules

_SPEAKERS = "Speakers"
_SUITS = "Default: what suits the model."

Label = Annotated[bool, _option("--speakers", panel=_SPEAKERS, help="Say who speaks: speaker 1, speaker 2, ...")]
KnownSpeakers = Annotated[
    Path | None,
    _option(
        "--known-speakers",
        panel=_SPEAKERS,
        metavar="FILE",
        show_default=False,
        help="Call speakers enrolled in this file by their names (see `enroll`); includes --speakers.",
    ),
]
MostSpeakers = Annotated[
    int,
    _option("--most-speakers", panel=_SPEAKERS, min=1, max=64, metavar="N", help="Voices remembered at once."),
]
NewSpeakerBelow = Annotated[
    float | None,
    _option(
        "--new-speaker-below",
        panel=_SPEAKERS,
        min=-1,
        max=1,
        metavar="-1..1",
        show_default=False,
        help=f"A voice less similar than this to all others is a new speaker. {_SUITS}",
    ),
]
KnownAbove = Annotated[
    float | None,
    _option(
        "--known-above",
        panel=_SPEAKERS,
        min=-1,
        max=1,
        metavar="-1..1",
        show_default=False,
        help=f"An enrolled speaker is recognised from this similarity on. {_SUITS}",
    ),
]


@dataclass(frozen=True)
class Speakers:
    """How speakers are told apart, as the command line gave it: fields are named like parameters."""

    speakers: bool = False
    known_speakers: Path | None = None
    most_speakers: int = 8
    new_speaker_below: float | None = None
    known_above: float | None = None

    @classmethod
    def among(cls, parameters: Mapping[str, Any]) -> Speakers:
        """Those of a command's parameters, `locals()` at its start, that are fields here."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def rules(self) -> SpeakerRules:
        """The same for a session.

        Raises:
            ConfigurationError: a value that cannot work.
        """
        from .speakers import SpeakerRules

        return SpeakerRules(
            enabled=self.speakers or self.known_speakers is not None,
            most=self.most_speakers,
            new_below=self.new_speaker_below,
            known_above=self.known_above,
            known_path=None if self.known_speakers is None else str(self.known_speakers),
        )


def register(
    app: typer.Typer,
    make_terminal: Callable[[bool, bool, bool], Terminal],
    with_signals: Callable[[Callable[[Interruption], int]], int],
) -> None:
    """Add the command `enroll`; arguments as `network_commands.register`."""

    @app.command()
    def enroll(
        name: Annotated[str, typer.Argument(metavar="NAME", help="What the speaker is called from now on.")],
        files: Annotated[
            list[str] | None,
            typer.Argument(metavar="FILE", help="Recordings of him alone, 20 s of speech or more.", show_default=False),
        ] = None,
        known_speakers: KnownSpeakers = Path("speakers.json"),
        remove: Annotated[bool, typer.Option("--remove", help="Take the speaker out of the file.")] = False,
        model: options.Model = None,
        device: options.Device = "auto",
        channel: options.Channel = None,
        threads: options.Threads = None,
        quiet: options.Quiet = False,
        verbose: options.Verbose = False,
    ) -> int:
        """Have a speaker known by name: his voice as a vector in a local file (speakers.json), no sound."""
        from .enroll import EnrolRequest
        from .enroll import enroll as run

        terminal = make_terminal(False, quiet, verbose)
        path = known_speakers or Path("speakers.json")
        request = EnrolRequest(name, tuple(files or ()), path, remove, model, device, channel, threads)
        return with_signals(lambda interruption: run(request, terminal, interruption))
