"""The commands `serve`, `connect` and `key`; `register` adds them to the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from . import decoding_options, options, speaker_options, voice_options
from .interrupts import Interruption
from .terminal import Terminal

KEY_VARIABLE = "WAVLM_LIVE_API_KEY"
_NETWORK, _DOOR = "Network", "Who may come in"
MakeTerminal = Callable[[bool, bool, bool], Terminal]
WithSignals = Callable[[Callable[[Interruption], int]], int]


def register(app: typer.Typer, make_terminal: MakeTerminal, with_signals: WithSignals) -> None:
    """Add the commands.

    Args:
        app: the command line.
        make_terminal: from plain, quiet, verbose.
        with_signals: runs a command under which Ctrl+C is taken in order.
    """

    @app.command()
    def serve(
        host: Annotated[
            str, typer.Option("--host", rich_help_panel=_NETWORK, help="Address to listen on.")
        ] = "127.0.0.1",
        port: Annotated[
            int, typer.Option("--port", min=0, max=65535, rich_help_panel=_NETWORK, help="Port; 0 for any free one.")
        ] = 8765,
        wyoming_port: Annotated[
            int | None,
            typer.Option(
                "--wyoming-port",
                min=0,
                max=65535,
                rich_help_panel=_NETWORK,
                show_default=False,
                help="Also speak Wyoming (Home Assistant) over TCP on this port.",
            ),
        ] = None,
        tls_certificate: Annotated[
            Path | None,
            typer.Option("--tls-certificate", rich_help_panel=_NETWORK, show_default=False, help="PEM file."),
        ] = None,
        tls_key: Annotated[
            Path | None, typer.Option("--tls-key", rich_help_panel=_NETWORK, show_default=False, help="PEM file.")
        ] = None,
        api_keys: Annotated[
            Path | None,
            typer.Option(
                "--api-keys",
                rich_help_panel=_DOOR,
                show_default=False,
                help="File with a line for each API key, as `wavlm-live key` makes it. Also WAVLM_LIVE_API_KEYS.",
            ),
        ] = None,
        allow_origin: Annotated[
            list[str] | None,
            typer.Option(
                "--allow-origin",
                rich_help_panel=_DOOR,
                show_default=False,
                help="Web pages whose scripts may connect, as https://HOST; again for more.",
            ),
        ] = None,
        open_to_all: Annotated[
            bool, typer.Option("--open-to-all", rich_help_panel=_DOOR, help="Listen beyond this machine without keys.")
        ] = False,
        most_sessions: Annotated[
            int, typer.Option("--most-sessions", min=1, rich_help_panel=_DOOR, help="Streams at once.")
        ] = 1024,
        log_text: Annotated[bool, typer.Option("--log-text", help="Write what was said into the log.")] = False,
        json_logs: Annotated[
            bool, typer.Option("--json-logs", help="A line of JSON on stderr for each event.")
        ] = False,
        model: options.ServedModel = None,
        also: Annotated[
            list[str] | None,
            typer.Option(
                "--also",
                metavar="[NAME=]MODEL",
                show_default=False,
                help="A further model that clients may choose by name; again for more. `--model` stays the default.",
            ),
        ] = None,
        device: options.Device = "auto",
        context: options.Context = None,
        silence_ms: options.SilenceMs = 800,
        max_segment_s: options.MaxSegmentS = 20.0,
        partial_hop_ms: options.PartialHopMs = 100,
        sleep_after_s: voice_options.SleepAfterS = 0.0,
        speakers: speaker_options.Label = False,
        known_speakers: speaker_options.KnownSpeakers = None,
        threads: options.Threads = None,
        plain: options.Plain = False,
        quiet: options.Quiet = False,
        verbose: options.Verbose = False,
    ) -> int:
        """Serve live speech to text over WebSocket, REST and Wyoming, until Ctrl+C or SIGTERM.

        Prints the address of the native protocol once clients can connect.
        """
        from .serve import ServeRequest, run_server

        terminal = make_terminal(plain, quiet, verbose)
        request = ServeRequest(
            host, port, wyoming_port, api_keys, tls_certificate, tls_key, tuple(allow_origin or ()), open_to_all,
            most_sessions, log_text, json_logs, model, device, threads, context, silence_ms, max_segment_s,
            partial_hop_ms, sleep_after_s, speakers, known_speakers, tuple(also or ()),
        )  # fmt: skip
        return run_server(request, terminal)

    @app.command()
    def connect(
        url: Annotated[str, typer.Argument(metavar="URL", help="Of a server: ws://HOST:PORT/v1/stream.")],
        file: Annotated[
            str | None,
            typer.Argument(metavar="FILE", help="Recording; - is raw s16le 16 kHz mono on stdin.", show_default=False),
        ] = None,
        microphone: Annotated[bool, typer.Option("--microphone", help="Send what the microphone hears.")] = False,
        input_device: options.InputDevice = None,
        key: Annotated[
            str | None,
            typer.Option(
                "--key", show_default=False, help=f"API key. Better: {KEY_VARIABLE}, which no list of processes shows."
            ),
        ] = None,
        model: Annotated[
            str | None,
            typer.Option("--model", metavar="NAME", show_default=False, help="One of those that the server offers."),
        ] = None,
        format: options.FormatOption = None,
        output: options.Output = None,
        realtime: options.Realtime = False,
        channel: options.Channel = None,
        context: options.Context = None,
        silence_ms: Annotated[
            int | None,
            typer.Option("--silence-ms", min=20, metavar="MS", show_default=False, help="Silence that ends a segment."),
        ] = None,
        hotword: decoding_options.Hotword = None,
        speakers: speaker_options.Label = False,
        partials: options.Partials = False,
        give_up_s: Annotated[
            float,
            typer.Option("--give-up-s", min=0, metavar="S", help="So long without a connection, and it gives up."),
        ] = 60.0,
        plain: options.Plain = False,
        quiet: options.Quiet = False,
        verbose: options.Verbose = False,
    ) -> int:
        """Have a server write down a recording or the microphone; a broken connection loses nothing."""
        from .connect import ConnectRequest
        from .connect import connect as run
        from .hotwords import parse_hotword

        terminal = make_terminal(plain, quiet, verbose)
        settings: dict[str, object] = {}
        if context is not None:
            settings["context"] = context
        if silence_ms is not None:
            settings["endpoint"] = {"silence_ms": silence_ms}
        if hotword:
            settings["decoding"] = {"hotwords": [list(parse_hotword(text)) for text in hotword]}
        if speakers:
            settings["speakers"] = {"enabled": True}
        if file is not None and not realtime:
            settings["partial_hop_ms"] = 0
        request = ConnectRequest(
            url, file, microphone, input_device, key or os.environ.get(KEY_VARIABLE), settings, output,
            None if format is None else format.value, channel, realtime, partials, give_up_s, model,
        )  # fmt: skip
        return with_signals(lambda interruption: run(request, terminal, interruption))

    @app.command()
    def key(
        name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; stands in the server's logs.")],
    ) -> int:
        """Make an API key: the key on stdout, once, and on stderr the line for the server's key file."""
        from .options import as_usage
        from .server.keys import make_key

        terminal = make_terminal(False, False, False)
        with as_usage():
            made, line = make_key(name)
        terminal.results().write(made + "\n")
        terminal.note("# A line for --api-keys FILE:")
        terminal.note(line)
        return 0
