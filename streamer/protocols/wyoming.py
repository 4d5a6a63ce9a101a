"""Wyoming, the protocol of Home Assistant's voice services, over TCP: a line of JSON, then data, then payload."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...model.errors import ConfigurationError
from ..events import Final
from ..session_settings import SessionSettings
from .audio import AudioFormat
from .commands import Audio, Close, Command, Finish, Numbered, Open, ProtocolError, Send

VERSION = "1.5.0"
LONGEST_LINE = 64 << 10
MOST_DATA = 1 << 20
"""Bytes of data or payload of one event."""


class EventReader:
    """Cuts bytes into Wyoming's events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._looked = 0

    def feed(self, data: bytes) -> list[tuple[str, dict[str, Any], bytes]]:
        """Type, data and payload of the events that bytes complete.

        Raises:
            ProtocolError: no such event, or one that is too large.
        """
        self._buffer += data
        events = []
        while (event := self._next()) is not None:
            events.append(event)
        return events

    def _next(self) -> tuple[str, dict[str, Any], bytes] | None:
        end = self._buffer.find(b"\n", self._looked)
        if end < 0:
            self._looked = len(self._buffer)
            if self._looked > LONGEST_LINE:
                raise ProtocolError("bad_message", f"a header is longer than {LONGEST_LINE} bytes")
            return None
        self._looked = end
        header = _object(self._buffer[:end])
        kind, inline = header.get("type"), header.get("data", {})
        lengths = [header.get("data_length") or 0, header.get("payload_length") or 0]
        if not isinstance(kind, str) or not isinstance(inline, dict):
            raise ProtocolError("bad_message", "a header needs a type, and data that is an object")
        if not all(type(n) is int and 0 <= n <= MOST_DATA for n in lengths):
            raise ProtocolError("bad_message", f"data and payload may have at most {MOST_DATA} bytes")
        at = end + 1
        if len(self._buffer) < at + sum(lengths):
            return None
        data, payload = self._buffer[at : at + lengths[0]], self._buffer[at + lengths[0] : at + sum(lengths)]
        self._buffer, self._looked = self._buffer[at + sum(lengths) :], 0
        return kind, inline | (_object(data) if data else {}), payload


class WyomingProtocol:
    """One connection: any number of transcriptions, one after the other.

    Args:
        settings: how to listen.
        model: name to tell.
    """

    name = "wyoming"

    def __init__(self, settings: SessionSettings | None = None, model: str = "") -> None:
        self._settings = settings or SessionSettings()
        self._model = model
        self._reader = EventReader()
        self._audio: AudioFormat | None = None
        self._texts: list[str] = []

    def connected(self) -> list[Command]:
        return []

    def received(self, message: str | bytes) -> list[Command]:
        data = message.encode() if isinstance(message, str) else message
        try:
            return [c for kind, fields, payload in self._reader.feed(data) for c in self._take(kind, fields, payload)]
        except (ProtocolError, ConfigurationError) as error:
            return self.failed("bad_message", str(error), 1007)

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        out: list[Command] = []
        for numbered in events:
            if isinstance(numbered.event, Final):
                text = (" " if self._texts else "") + numbered.event.text
                self._texts.append(numbered.event.text)
                out.append(event_bytes("transcript-chunk", {"text": text}))
        return out

    def settled(self) -> list[Command]:
        return []

    def finished(self) -> list[Command]:
        text, self._texts, self._audio = " ".join(self._texts), [], None
        return [event_bytes("transcript", {"text": text}), event_bytes("transcript-stop")]

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        return [event_bytes("error", {"text": message, "code": code}), Close(close, code)]

    def _take(self, kind: str, fields: dict[str, Any], payload: bytes) -> list[Command]:
        match kind:
            case "describe":
                return [event_bytes("info", self._info())]
            case "ping":
                return [event_bytes("pong", {"text": fields.get("text")})]
            case "audio-start":
                self._audio, self._texts = self._format(fields), []
                return [Open(self._settings, self._audio), event_bytes("transcript-start", {})]
            case "audio-chunk":
                if self._audio is None:  # some clients leave audio-start out: each chunk says its format
                    self._audio = self._format(fields)
                    return [Open(self._settings, self._audio), Audio(payload)]
                return [Audio(payload)] if payload else []
            case "audio-stop":
                return [Finish()] if self._audio is not None else self.finished()
        return []  # `transcribe` names a model and a language, of which there is one; others are not for us

    def _format(self, fields: dict[str, Any]) -> AudioFormat:
        if fields.get("width", 2) != 2:
            raise ProtocolError("bad_audio", f"samples of {fields['width']!r:.20} bytes came, expected 2")
        return AudioFormat("pcm_s16le", fields.get("rate", 16_000), fields.get("channels", 1))

    def _info(self) -> dict[str, Any]:
        attribution = {"name": "wavlm-live", "url": ""}
        common = {"attribution": attribution, "installed": True, "description": "", "version": "1"}
        model = {"name": self._model, "languages": ["en"], **common}
        program = {"name": "wavlm-live", "models": [model], "supports_transcript_streaming": True, **common}
        return {"asr": [program], "tts": [], "handle": [], "intent": [], "wake": [], "mic": [], "snd": []}


def event_bytes(kind: str, data: dict[str, Any] | None = None) -> Send:
    """An event as it goes over the wire."""
    body = json.dumps(data).encode() if data else b""
    header: dict[str, Any] = {"type": kind, "version": VERSION}
    if body:
        header["data_length"] = len(body)
    return Send(json.dumps(header).encode() + b"\n" + body)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("bad_message", "a header or data is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("bad_message", "a header or data is no object")
    return value
