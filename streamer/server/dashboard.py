"""The dashboard's routes: its files, what it may choose from, and the operator's view of all sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..events import to_seconds
from ..web import Pages
from .app_access import address_of
from .keys import credential_of
from .live_stream import LiveStream
from .service import Service
from .watching import OPERATOR, WatchRequest, may_watch

POLICY, LATER = 1008, 1013
NOT_OPERATOR = f"looking on needs the key of an operator; the server's owner makes one with `wavlm-live key {OPERATOR}`"


OriginRule = Callable[[Service, HTTPConnection], bool]


def dashboard(service: Service, origin_allowed: OriginRule) -> list[BaseRoute]:
    """All routes of the dashboard.

    Args:
        service: of the server.
        origin_allowed: whether the scripts of the page that asks may connect.
    """
    pages = Pages()

    async def page(request: Request) -> Response:
        found = pages.find(request.url.path)
        if found is None:
            return JSONResponse({"error": {"code": "not_found", "message": "no such page"}}, 404)
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers={"etag": found.tag, "cache-control": "no-cache"})
        return Response(found.body, headers=found.headers)

    async def offer(request: Request) -> Response:
        models = service.models.descriptions()
        return JSONResponse({**models[0], "models": models})

    async def sessions(request: Request) -> Response:
        if not origin_allowed(service, request):
            return JSONResponse({"error": {"code": "origin", "message": "this web page may not use the server"}}, 403)
        credential = credential_of(request.headers.items(), dict(request.query_params))
        operator = may_watch(service.admit(credential, address_of(request)))
        if not operator and not service.settings.is_loopback:
            service.metrics.refused.labels("unauthorized").inc()
            return JSONResponse({"error": {"code": "unauthorized", "message": NOT_OPERATOR}}, 401)
        with_text = operator or service.settings.log_text
        rows = [_row(service, live, connected, with_text) for live, connected in service.all_streams()]
        return JSONResponse({"text": with_text, "sessions": rows})

    return [
        Route("/", page, methods=["GET"]),
        Route("/web/{name}", page, methods=["GET"]),
        Route("/v1/dashboard", offer, methods=["GET"]),
        Route("/v1/sessions", sessions, methods=["GET"]),
        WebSocketRoute("/v1/watch", _watch(service, origin_allowed)),
    ]


def _row(service: Service, live: LiveStream, connected: bool, with_text: bool) -> dict[str, object]:
    """A session as operators see it: nothing by which its stream could be taken over."""
    sight = service.watchers.sight(live.token)
    latency_s, factor = live.figures
    row: dict[str, object] = {
        "id": sight.id if sight else "",
        "protocol": sight.protocol if sight else "",
        "age_s": round(sight.age_s, 1) if sight else 0.0,
        "connected": connected,
        "model": live.model,
        "context": live.ready.context,
        "heard_s": round(to_seconds(live.samples_fed - live.queued_samples), 2),
        "waiting_s": round(to_seconds(live.queued_samples), 2),
        "latency_ms": round(1000 * latency_s),
        "realtime_factor": round(factor, 4),
        "speaking": bool(sight and sight.speaking),
    }
    return row | {"text": sight.text} if with_text and sight else row


def _watch(service: Service, origin_allowed: OriginRule) -> Callable:
    async def watch(socket: WebSocket) -> None:
        if not origin_allowed(service, socket):
            await socket.send_denial_response(JSONResponse({"code": "origin"}, 403))
            return
        await socket.accept()
        try:
            request = await _request(service, socket)
            if request is not None:
                await _look_on(service, socket)
        except WebSocketDisconnect:
            pass

    return watch


async def _request(service: Service, socket: WebSocket) -> WatchRequest | None:
    """The operator's first message; None: refused, and told why."""
    try:
        text = await asyncio.wait_for(socket.receive_text(), service.settings.limits.start_s)
        request = msgspec.json.decode(text[:2000], type=WatchRequest)
    except (TimeoutError, KeyError, msgspec.DecodeError):
        await _refuse(socket, "bad_message", 'the first message must be {"type": "watch", "key": KEY}')
        return None
    address = socket.client.host if socket.client else ""
    if may_watch(service.admit(request.key, address)):
        return request
    service.metrics.refused.labels("unauthorized").inc()
    await _refuse(socket, "unauthorized", NOT_OPERATOR)
    return None


async def _refuse(socket: WebSocket, code: str, message: str, close: int = POLICY) -> None:
    await socket.send_json({"type": "problem", "code": code, "message": message})
    await socket.close(close, code)


async def _look_on(service: Service, socket: WebSocket) -> None:
    news = asyncio.Event()
    watcher = service.watchers.enter(news.set)
    if watcher is None:
        await _refuse(socket, "full", "enough operators look on already; come back later", LATER)
        return
    leaving = asyncio.create_task(_until_gone(socket))
    try:
        await socket.send_json({"type": "watching"})
        while not leaving.done():
            news.clear()
            for message in watcher.take():
                await asyncio.wait_for(socket.send_text(message), service.settings.limits.write_s)
            waiting = asyncio.create_task(news.wait())
            await asyncio.wait({leaving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    except (TimeoutError, RuntimeError):
        pass  # the operator went away, or reads too slowly
    finally:
        service.watchers.leave(watcher)
        leaving.cancel()


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # an operator has nothing to say
