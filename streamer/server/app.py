"""The ASGI application: routes, who is let in through them, and the headers of every answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ..protocols.commands import ServerProtocol
from ..protocols.deepgram import DeepgramProtocol
from ..protocols.native import NativeProtocol
from ..protocols.openai_realtime import OpenAIRealtimeProtocol
from ..protocols.vosk import VoskProtocol
from .app_access import address_of, origin_allowed, unauthorized
from .connection import Connection
from .dashboard import dashboard
from .keys import credential_of
from .openapi import description
from .rest import transcriptions
from .service import Service

logger = logging.getLogger(__name__)

MakeProtocol = Callable[[WebSocket], ServerProtocol]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "worker-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURE_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-store",
}


def create_app(service: Service) -> Starlette:
    """The application around a service."""
    routes: list[BaseRoute] = [
        WebSocketRoute("/v1/stream", _endpoint(service, _native(service), resumable=True, key_may_follow=True)),
        WebSocketRoute("/v1/realtime", _endpoint(service, _openai(service), subprotocols=("realtime",))),
        WebSocketRoute("/v1/listen", _endpoint(service, _deepgram(service), subprotocols=("token", "bearer"))),
        WebSocketRoute("/vosk", _endpoint(service, _vosk(service), queue_s=0.0)),
        Route("/v1/audio/transcriptions", transcriptions(service), methods=["POST"]),
        Route("/openapi.json", description, methods=["GET"]),
        Route("/healthz", _health, methods=["GET"]),
        Route("/readyz", _ready(service), methods=["GET"]),
        Route("/metrics", _metrics(service), methods=["GET"]),
        Route("/v1/tickets", _tickets(service), methods=["POST"]),
        *dashboard(service, origin_allowed),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(SecureHeaders, tls=service.settings.tls_certificate is not None)
    return app


class SecureHeaders:
    """Puts the headers on every answer over HTTP."""

    def __init__(self, app: ASGIApp, tls: bool = False) -> None:
        self._app = app
        self._headers = dict(SECURE_HEADERS)
        if tls:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


# WebSockets ----------------------------------------------------------------------------------------------


def _endpoint(
    service: Service,
    make: MakeProtocol,
    *,
    resumable: bool = False,
    key_may_follow: bool = False,
    queue_s: float | None = None,
    subprotocols: tuple[str, ...] = (),
) -> Callable:
    """A WebSocket route: origin, key and room are looked at before the connection is accepted."""

    async def endpoint(socket: WebSocket) -> None:
        address = address_of(socket)
        offered = socket.scope.get("subprotocols", [])
        if not origin_allowed(service, socket):
            await _deny(service, socket, 403, "origin", "this web page may not use the server; see --allow-origin")
            return
        credential = credential_of(socket.headers.items(), dict(socket.query_params), offered)
        key = service.admit(credential, address)
        if key is None and (credential or not key_may_follow):
            await _deny(
                service, socket, 401, "unauthorized", "this server needs an API key in the Authorization header"
            )
            return
        wait_s = service.full
        if wait_s is not None:
            await _deny(service, socket, 503, "full", f"the server is full; come back in {wait_s:g} s", wait_s)
            return
        try:
            protocol = make(socket)
        except ValueError as error:
            await _deny(service, socket, 400, "bad_request", str(error))
            return
        chosen = next((p for p in offered if p in subprotocols), None)
        await socket.accept(subprotocol=chosen)
        gauge = service.metrics.connections.labels(protocol.name)
        gauge.inc()
        try:
            await Connection(service, socket, protocol, key, address, resumable, queue_s).run()
        finally:
            gauge.dec()

    return endpoint


def _native(service: Service) -> MakeProtocol:
    models = service.models
    return lambda socket: NativeProtocol(models.default.recogniser.context, models.session(), models.choose)


def _openai(service: Service) -> MakeProtocol:
    return lambda socket: OpenAIRealtimeProtocol(
        service.settings.session, service.models.batcher(socket.query_params.get("model", "")).recogniser.name
    )


def _deepgram(service: Service) -> MakeProtocol:
    def make(socket: WebSocket) -> ServerProtocol:
        query = {name: socket.query_params.getlist(name) for name in socket.query_params}
        model = service.models.batcher(socket.query_params.get("model", "")).recogniser.name
        return DeepgramProtocol(query, service.settings.session, model)

    return make


def _vosk(service: Service) -> MakeProtocol:
    return lambda socket: VoskProtocol(service.settings.session)


async def _deny(
    service: Service, socket: WebSocket, status: int, code: str, message: str, retry_after_s: float | None = None
) -> None:
    service.metrics.refused.labels(code).inc()
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:.0f}"}
    await socket.send_denial_response(JSONResponse({"code": code, "message": message}, status, headers))


# HTTP ----------------------------------------------------------------------------------------------------


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _ready(service: Service) -> Callable:
    async def ready(request: Request) -> Response:
        figures = service.models.statistics()
        ok = not service.draining and service.full is None
        state = "ready" if ok else "draining" if service.draining else "full"
        headers = {} if ok else {"retry-after": "5"}
        return JSONResponse({"state": state, "sessions": figures.sessions}, 200 if ok else 503, headers)

    return ready


def _metrics(service: Service) -> Callable:
    async def metrics(request: Request) -> Response:
        if not service.settings.is_loopback and (refusal := unauthorized(service, request)):
            return refusal
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _tickets(service: Service) -> Callable:
    async def tickets(request: Request) -> Response:
        if refusal := unauthorized(service, request):
            return refusal
        if request.state.key == "" and not service.keys.open_to_all:
            return JSONResponse({"error": {"code": "unauthorized", "message": "a key is needed"}}, 401)
        return JSONResponse({"ticket": service.keys.make_ticket(request.state.key), "expires_s": 60})

    return tickets
