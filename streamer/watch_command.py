"""The command `top`; `register` adds it to the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from . import options
from .interrupts import Interruption
from .network_commands import KEY_VARIABLE
from .terminal import Terminal


def register(
    app: typer.Typer,
    make_terminal: Callable[[bool, bool, bool], Terminal],
    with_signals: Callable[[Callable[[Interruption], int]], int],
) -> None:
    """Add the command; the arguments are those of `network_commands.register`."""

    @app.command()
    def top(
        url: Annotated[
            str, typer.Argument(metavar="URL", help="Of a server: http://HOST:PORT, or ws://HOST:PORT/v1/stream.")
        ] = "http://127.0.0.1:8765",
        key: Annotated[
            str | None,
            typer.Option("--key", envvar=KEY_VARIABLE, show_envvar=False, show_default=False, help="API key."),
        ] = None,
        every_s: Annotated[
            float, typer.Option("--every-s", min=0.1, metavar="S", help="Seconds from one look to the next.")
        ] = 1.0,
        count: Annotated[
            int | None, typer.Option("--count", min=1, metavar="N", show_default=False, help="End after N looks.")
        ] = None,
        plain: options.Plain = False,
        verbose: options.Verbose = False,
    ) -> int:
        """Show a server's load and delays, and a row for each session, live, until Ctrl+C."""
        from .top import TopRequest
        from .top import top as run

        terminal = make_terminal(plain, False, verbose)
        return with_signals(lambda i: run(TopRequest(url, key, every_s, count), terminal, i))
