"""The commands `models`, `train` and `evaluate`; `register` adds them to the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from . import options
from .terminal import Terminal

_OWN_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def register(app: typer.Typer, make_terminal: Callable[[bool, bool, bool], Terminal]) -> None:
    """Add the commands.

    Args:
        app: the command line.
        make_terminal: from plain, quiet, verbose.
    """
    models_app = typer.Typer(
        help="Models on this machine: bundled with the package, or in the hub's cache.", invoke_without_command=True
    )
    app.add_typer(models_app, name="models")

    @models_app.callback()
    def models(context: typer.Context) -> int:
        """List the models on this machine."""
        if context.invoked_subcommand is not None:
            return 0
        from .reports import show_models

        return show_models(make_terminal(False, False, False))

    @models_app.command("pull")
    def models_pull(
        name: Annotated[
            str, typer.Argument(metavar="ID", help="Hub id, such as patrickvonplaten/wavlm-libri-clean-100h-base-plus.")
        ],
        revision: Annotated[
            str | None, typer.Option("--revision", help="Branch, tag or commit.", show_default=False)
        ] = None,
        verbose: options.Verbose = False,
    ) -> int:
        """Download a model from the Hugging Face hub into its cache."""
        from .reports import show_pull

        return show_pull(make_terminal(False, False, verbose), name, revision)

    @models_app.command("info")
    def models_info(
        name: Annotated[
            str | None,
            typer.Argument(metavar="NAME", help="As for --model. Default: the bundled model.", show_default=False),
        ] = None,
    ) -> int:
        """Say what a model is: size, vocabulary, streaming contexts, licence."""
        from .reports import show_model

        return show_model(make_terminal(False, False, False), name)

    @app.command(context_settings=_OWN_OPTIONS, add_help_option=False)
    def train(context: typer.Context) -> int:
        """Train, evaluate or export a model; `wavlm-live train --help` shows how."""
        from ..model.training.commands import main as run

        return run(context.args or ["--help"], "wavlm-live train")

    @app.command(context_settings=_OWN_OPTIONS, add_help_option=False)
    def evaluate(context: typer.Context) -> int:
        """Measure error rates of a model; the same as `wavlm-live train evaluate`."""
        from ..model.training.commands import main as run

        return run(["evaluate", *context.args], "wavlm-live train")
