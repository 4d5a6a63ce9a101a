"""A plain TCP connection in the shape of a WebSocket, so that `Connection` serves Wyoming too."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocketState

from ..protocols.wyoming import WyomingProtocol
from .connection import Connection
from .service import Service

PIECE = 1 << 16


class TcpSocket:
    """Bytes in, bytes out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.application_state = WebSocketState.CONNECTED

    async def receive(self) -> dict[str, Any]:
        """What came, as an ASGI message."""
        try:
            data = await self._reader.read(PIECE)
        except OSError:
            data = b""
        return {"type": "websocket.receive", "bytes": data} if data else {"type": "websocket.disconnect"}

    async def send_bytes(self, data: bytes) -> None:
        """Send; waits for a slow reader."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise RuntimeError("the client is gone") from error

    async def send_text(self, data: str) -> None:
        """Send text as UTF-8."""
        await self.send_bytes(data.encode())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; TCP has no codes."""
        self.application_state = WebSocketState.DISCONNECTED
        self._writer.close()


async def serve_wyoming(service: Service, host: str, port: int) -> asyncio.Server:
    """Listen for Wyoming's clients."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        protocol = WyomingProtocol(service.settings.session, service.models.default.recogniser.name)
        gauge = service.metrics.connections.labels(protocol.name)
        gauge.inc()
        socket: Any = TcpSocket(reader, writer)
        try:
            await Connection(service, socket, protocol, "", peer[0] if peer else "").run()
        finally:
            gauge.dec()
            writer.close()

    return await asyncio.start_server(serve, host, port, limit=PIECE)
