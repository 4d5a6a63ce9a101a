"""`wavlm-live serve`: the server on the command line."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..model.errors import CheckpointError, ConfigurationError
from .options import as_usage
from .terminal import Terminal

if TYPE_CHECKING:
    from .recogniser import Recogniser
    from .session_settings import SessionSettings

KEYS_VARIABLE = "WAVLM_LIVE_API_KEYS"
"""API keys that the server lets in, parted by commas."""


@dataclass(frozen=True)
class ServeRequest:
    """What a user asked of `serve`."""

    host: str
    port: int
    wyoming_port: int | None
    api_keys: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    allow_origin: tuple[str, ...]
    open_to_all: bool
    most_sessions: int
    log_text: bool
    json_logs: bool
    model: str | None = None
    """As `NAME=WHERE` where clients are to call it otherwise than by its own name."""
    device: str = "auto"
    threads: int | None = None
    context: str | None = None
    silence_ms: int = 800
    max_segment_s: float = 20.0
    partial_hop_ms: int = 100
    sleep_after_s: float = 0.0
    speakers: bool = False
    """Tell speakers apart where the client does not say."""
    known_speakers: Path | None = None
    """Whose names clients may be told."""
    also: tuple[str, ...] = ()
    """Further models that clients may choose, named likewise."""


def dashboard_url(stream_url: str) -> str:
    """Where the dashboard is, from the address of the native protocol."""
    parts = urlsplit(stream_url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}/"


def run_server(request: ServeRequest, terminal: Terminal) -> int:
    """Serve until SIGTERM or Ctrl+C; the address is the one line on stdout, once clients can connect.

    Raises:
        UsageError: settings that would leave the server open, or cannot work.
        CheckpointError: the model cannot be used.
        OutputError: the address is taken.
    """
    import torch

    from .admission import BatcherRules
    from .batcher import Batcher
    from .endpointing import EndpointRules
    from .model_names import ServedModel, all_different
    from .recogniser import Recogniser
    from .server.keys import read_keys
    from .server.logs import JsonLines
    from .server.run import Addresses, serve
    from .server.settings import ServerSettings
    from .session_settings import SessionSettings
    from .shared_device import SharedDevice
    from .speakers import SpeakerRules

    with as_usage():
        settings = ServerSettings(
            host=request.host,
            port=request.port,
            wyoming_port=request.wyoming_port,
            tls_certificate=request.tls_certificate,
            tls_key=request.tls_key,
            allowed_origins=request.allow_origin,
            keys=read_keys(request.api_keys, os.environ.get(KEYS_VARIABLE, "")),
            open_to_all=request.open_to_all,
            log_text=request.log_text,
        )
        rules = BatcherRules(most_sessions=request.most_sessions)
    if request.open_to_all and not settings.is_loopback and not settings.keys:
        terminal.warn(f"listening on {request.host} without API keys: everybody who can reach it may use it")
    log = logging.getLogger("wavlm_live")
    if request.json_logs:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
        log.handlers = [handler]
        log.setLevel(logging.INFO)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    terminal.wait("Loading the model ...")
    with as_usage():
        models = [ServedModel.parse(text) for text in (request.model, *request.also)]
        all_different(models)
    threads = "auto" if request.threads is None else None
    recogniser, *further = [
        Recogniser.load(model.where, request.device, "auto", name=model.name, threads=threads) for model in models
    ]
    with as_usage():
        session = SessionSettings(
            context=recogniser.context(request.context or "default"),
            partial_hop_ms=request.partial_hop_ms,
            endpoint=EndpointRules(silence_ms=request.silence_ms, max_segment_s=request.max_segment_s),
            sleep_after_s=request.sleep_after_s,
            speakers=SpeakerRules(
                enabled=request.speakers,
                known_path=None if request.known_speakers is None else str(request.known_speakers),
            ),
        )
        if request.speakers or request.known_speakers is not None:  # told now, not when the first client comes
            recogniser.known_speakers(replace(session.speakers, enabled=True))
    sessions = {other.name: session_of(other, session, request, terminal) for other in further}
    terminal.erase()

    def started(addresses: Addresses, stop: Callable[[], None]) -> None:
        out = terminal.results()
        out.write(f"{addresses.url}\n")
        out.flush()
        terminal.note(f"In a browser: {dashboard_url(addresses.url)}")
        if addresses.wyoming_port is not None:
            terminal.note(f"Wyoming on tcp://{addresses.host}:{addresses.wyoming_port}")
        terminal.note("Ctrl+C ends.")

    device = SharedDevice()
    with ExitStack() as stack:
        batchers = [stack.enter_context(Batcher(each, rules, device=device)) for each in (recogniser, *further)]
        # What is there now stays. Looked through again and again for garbage, it would hold up all streams each time.
        gc.collect()
        gc.freeze()
        asyncio.run(serve(batchers, replace(settings, session=session, sessions=sessions), started))
    return 0


def session_of(
    recogniser: Recogniser, session: SessionSettings, request: ServeRequest, terminal: Terminal
) -> SessionSettings:
    """How streams of a further model listen: as the default's, in what this model can; what it cannot is told."""
    try:
        context = recogniser.context(request.context or "default")
    except ConfigurationError:
        context = recogniser.context()
        terminal.warn(f"{recogniser.name} has no context {request.context!r}, so its streams begin with {context}")
    speakers = session.speakers
    if request.speakers or request.known_speakers is not None:
        try:
            recogniser.known_speakers(replace(speakers, enabled=True))
        except (ConfigurationError, CheckpointError) as error:
            terminal.warn(f"no speakers with {recogniser.name}: {error}")
            speakers = replace(speakers, enabled=False, known_path=None)
    return replace(session, context=context, speakers=speakers)
