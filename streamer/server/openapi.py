"""`/openapi.json`: what the REST part takes and gives."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "code"],
            "properties": {"message": {"type": "string"}, "code": {"type": "string"}},
        }
    },
}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string", "maxLength": 200},
        "language": {"type": "string", "maxLength": 20},
        "prompt": {"type": "string", "maxLength": 1000},
        "response_format": {"type": "string", "enum": ["json", "verbose_json", "text", "srt", "vtt"]},
        "temperature": {"type": "number"},
        "stream": {"type": "boolean"},
        "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
    },
}


def _answer(text: str, schema: dict[str, Any] | None = None, kind: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": schema or {}}}}


def _plain(text: str) -> dict[str, Any]:
    return _answer(text, {"type": "string"}, "text/plain")


_REFUSALS = {code: _answer(text, _ERROR) for code, text in {
    "400": "no recording, or a wrong field", "401": "no key", "403": "a foreign web page", "413": "too big or too long",
    "429": "too many streams or too much sound: see Retry-After", "503": "full: see Retry-After",
}.items()}  # fmt: skip

_TRANSCRIPT: dict[str, Any] = {
    "description": "the text",
    "content": {
        "application/json": {"schema": {"type": "object", "required": ["text"]}},
        "text/plain": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}
_NUMBERS = ("age_s", "heard_s", "waiting_s", "latency_ms", "realtime_factor")
_SESSION = {
    "type": "object",
    "required": ["id", "protocol", "connected", "context", "speaking", *_NUMBERS],
    "properties": {
        **{name: {"type": "string"} for name in ("id", "protocol", "context", "text")},
        **{name: {"type": "number"} for name in _NUMBERS},
        **{name: {"type": "boolean"} for name in ("connected", "speaking")},
    },
}
_SESSIONS = {
    "type": "object",
    "required": ["text", "sessions"],
    "properties": {"text": {"type": "boolean"}, "sessions": {"type": "array", "items": _SESSION}},
}
DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "wavlm-live", "version": "1"},
    "paths": {
        "/v1/audio/transcriptions": {
            "post": {
                "summary": "Transcribe a recording",
                "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
                "responses": {"200": _TRANSCRIPT, **_REFUSALS},
            }
        },
        "/v1/tickets": {
            "post": {
                "summary": "A ticket for one connection",
                "responses": {
                    "200": _answer("a ticket", {"type": "object", "required": ["ticket", "expires_s"]}),
                    "401": _REFUSALS["401"],
                    "403": _REFUSALS["403"],
                },
            }
        },
        "/healthz": {"get": {"responses": {"200": _plain("the process lives")}}},
        "/readyz": {
            "get": {
                "responses": {
                    "200": _answer("ready", {"type": "object", "required": ["state"]}),
                    "503": _answer("full or stopping", {"type": "object", "required": ["state"]}),
                }
            }
        },
        "/v1/sessions": {
            "get": {
                "summary": "The open sessions, for operators",
                "responses": {"200": _answer("sessions", _SESSIONS), "401": _REFUSALS["401"], "403": _REFUSALS["403"]},
            }
        },
        "/metrics": {"get": {"responses": {"200": _plain("figures"), "401": _REFUSALS["401"]}}},
    },
}


async def description(request: Request) -> Response:
    """The endpoint."""
    return JSONResponse(DESCRIPTION)
