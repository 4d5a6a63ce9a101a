"""Running the server: sockets, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn

from ...model.errors import ConfigurationError, OutputError
from ..batcher import Batcher
from .app import create_app
from .service import Service
from .settings import ServerSettings
from .tcp import serve_wyoming

logger = logging.getLogger(__name__)

PING_S, PONG_S = 20.0, 60.0
"""A ping so often; a client that answers none for so long is gone. Generous: a busy network is no reason to cut."""


@dataclass(frozen=True)
class Addresses:
    """Where a running server can be reached."""

    host: str
    port: int
    wyoming_port: int | None
    tls: bool

    @property
    def url(self) -> str:
        """Of the native protocol."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}/v1/stream"


class _Server(uvicorn.Server):
    """uvicorn, which lets streams get their last results before it closes their connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but an orderly end stays one: the signal is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._service.drain()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        OutputError: the address is taken or not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(found[0], found[1])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # what waits in the kernel stands in front of the next ping
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        listener.bind(found[4])
    except OSError as error:
        raise OutputError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return listener


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """uvicorn takes every WebSocket that is denied with an answer for an application that broke off."""
    return "without completing handshake" not in record.getMessage()


async def serve(
    batchers: Batcher | Sequence[Batcher],
    settings: ServerSettings,
    started: Callable[[Addresses, Callable[[], None]], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until told to stop.

    Args:
        batchers: started; several of one device, the default model's first, or one.
        settings: of the server.
        started: is called when clients can connect, with the addresses and a function that stops the server.

    Raises:
        OutputError: an address is taken.
        ConfigurationError: the TLS files cannot be used, or the batchers not together.
    """
    service = Service(batchers, settings)
    logging.getLogger("uvicorn.error").addFilter(_no_false_alarm)
    config = uvicorn.Config(
        create_app(service),
        ws="websockets-sansio",
        http="h11",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=settings.limits.message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PONG_S,
        ws_per_message_deflate=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=16 << 10,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:
        raise ConfigurationError(f"the TLS files cannot be used: {error}") from error
    listener = listen(settings.host, settings.port)
    server = _Server(config, service)

    def stop() -> None:
        server.should_exit = True

    wyoming = None
    if settings.wyoming_port is not None:
        try:
            wyoming = await serve_wyoming(service, settings.host, settings.wyoming_port)
        except OSError as error:
            listener.close()
            raise OutputError(
                f"cannot listen on {settings.host}, port {settings.wyoming_port}: {error.strerror or error}"
            ) from error

    async def tell() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        if started is not None:
            port = listener.getsockname()[1]
            other = wyoming.sockets[0].getsockname()[1] if wyoming else None
            started(Addresses(settings.host, port, other, settings.tls_certificate is not None), stop)

    telling = asyncio.create_task(tell())
    try:
        await server.serve([listener])
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        if wyoming is not None:
            wyoming.close()
        listener.close()
