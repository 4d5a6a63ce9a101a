"""The command `classify`; `register` adds it to the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from . import options
from .interrupts import Interruption
from .options import UsageError
from .terminal import Terminal


def register(
    app: typer.Typer,
    make_terminal: Callable[[bool, bool, bool], Terminal],
    with_signals: Callable[[Callable[[Interruption], int]], int],
) -> None:
    """Add the command `classify`; arguments as `network_commands.register`."""

    @app.command("classify")
    def command(
        files: Annotated[
            list[str] | None,
            typer.Argument(metavar="FILE", help="Recordings; - is raw s16le 16 kHz mono on stdin.", show_default=False),
        ] = None,
        model: Annotated[
            str, typer.Option("--model", "-m", metavar="NAME", help="Folder or hub id of a sequence classifier.")
        ] = "",
        microphone: Annotated[bool, typer.Option("--microphone", help="Classify what the microphone hears.")] = False,
        input_device: options.InputDevice = None,
        window_ms: Annotated[
            int, typer.Option("--window-ms", min=25, max=60_000, metavar="MS", help="Sound classified at once.")
        ] = 1000,
        hop_ms: Annotated[
            int, typer.Option("--hop-ms", min=10, max=60_000, metavar="MS", help="From one window to the next.")
        ] = 500,
        least_score: Annotated[
            float, typer.Option("--least-score", min=0, max=1, help="Pass over windows that are less sure.")
        ] = 0.0,
        top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Classes of each window.")] = 1,
        jsonl: Annotated[bool, typer.Option("--jsonl", help="Events as lines of JSON.")] = False,
        realtime: options.Realtime = False,
        output: options.Output = None,
        channel: options.Channel = None,
        device: options.Device = "auto",
        threads: options.Threads = None,
        quiet: options.Quiet = False,
        verbose: options.Verbose = False,
    ) -> int:
        """Say what is heard in a sliding window: keywords, emotions, languages, by a fine-tuned WavLM."""
        if not model:
            raise UsageError("no --model was given; classify needs a WavLM with a head for classes of recordings")
        if bool(files) == microphone:
            raise UsageError("give recordings, or --microphone" + (", not both" if files else ""))
        from .classify import ClassifyRequest, classify

        request = ClassifyRequest(
            tuple(files or ()), input_device, model, device, window_ms, hop_ms, least_score, top, jsonl, realtime,
            output, channel, threads,
        )  # fmt: skip
        terminal = make_terminal(False, quiet, verbose)
        return with_signals(lambda interruption: classify(request, terminal, interruption))
