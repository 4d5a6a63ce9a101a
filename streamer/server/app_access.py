"""Who may use an endpoint: the checks that all routes share."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from .keys import credential_of
from .service import Service


def address_of(connection: HTTPConnection) -> str:
    """Where a client is."""
    return connection.client.host if connection.client else ""


def origin_allowed(service: Service, connection: HTTPConnection) -> bool:
    """Whether a page's scripts may connect: programs send no origin, pages always do."""
    origin = connection.headers.get("origin")
    if origin is None or origin in service.settings.allowed_origins:
        return True
    try:
        return urlsplit(origin).netloc != "" and urlsplit(origin).netloc == connection.headers.get("host")
    except ValueError:
        return False


def unauthorized(service: Service, request: Request) -> Response | None:
    """The refusal of a request without a good key; None: it has one, whose name is in `request.state.key`."""
    if not origin_allowed(service, request):
        return JSONResponse({"error": {"code": "origin", "message": "this web page may not use the server"}}, 403)
    credential = credential_of(request.headers.items(), dict(request.query_params))
    name = service.admit(credential, address_of(request))
    if name is None:
        service.metrics.refused.labels("unauthorized").inc()
        error = {"code": "unauthorized", "message": "this server needs an API key in the Authorization header"}
        return JSONResponse({"error": error}, 401, {"www-authenticate": "Bearer"})
    request.state.key = name
    return None
