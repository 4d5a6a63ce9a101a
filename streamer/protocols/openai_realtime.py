"""OpenAI's realtime transcription (`/v1/realtime`), and vLLM's dialect of it.

Deltas append and are never taken back, so only stable text is sent as a delta. With turn detection the server's own
endpoints end an item; without, `input_audio_buffer.commit` does. A client that sends `session.update` with a `model` at
the top, as vLLM's do, is spoken to in its dialect: 16 kHz, `transcription.delta` and `transcription.done`.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...model.errors import ConfigurationError
from ..events import SAMPLE_RATE, Event, Final, Partial, SpeechStarted, SpeechStopped
from ..session_settings import SessionSettings
from .audio import AudioFormat
from .commands import Audio, Close, Command, Finish, Numbered, Open, ProtocolError, Send

FORMATS = {"audio/pcm": ("pcm_s16le", 24_000), "audio/pcmu": ("mulaw", 8000), "audio/pcma": ("alaw", 8000)}
_ITEM = "conversation.item.input_audio_transcription"
_TURNS = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}


class OpenAIRealtimeProtocol:
    """One connection.

    Args:
        settings: where the client says nothing.
        model: name to tell.
    """

    name = "openai"

    def __init__(self, settings: SessionSettings | None = None, model: str = "") -> None:
        self._base = settings or SessionSettings()
        self._model = model
        self._vllm = False
        self._final_commit = False
        self._session_id = _id("sess")
        self._format: dict[str, Any] = {"type": "audio/pcm", "rate": 24_000}
        self._transcription: dict[str, Any] = {"model": model}
        self._turns: dict[str, Any] | None = dict(_TURNS)
        self._include: list[str] = []
        self._open = False
        self._discarding = False
        self._item: str | None = None
        self._previous: str | None = None
        self._said = ""  # of the item, sent as deltas
        self._text: list[str] = []  # finals of the item, where there is no turn detection
        self._appended = 0  # bytes since the last commit
        self._committed: str | None = None

    def connected(self) -> list[Command]:
        return [self._send("session.created", session=self._session())]

    def received(self, message: str | bytes) -> list[Command]:
        event_id: Any = None
        try:
            if isinstance(message, bytes):
                raise ProtocolError("invalid_event", "binary messages are not part of this protocol")
            try:
                event = json.loads(message)
            except (ValueError, RecursionError) as error:
                raise ProtocolError("invalid_json", "the message is not JSON") from error
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise ProtocolError("invalid_event", "the message has no type")
            event_id = event.get("event_id")
            return self._take(event["type"], event)
        except (ProtocolError, ConfigurationError) as error:
            code = error.code if isinstance(error, ProtocolError) else "invalid_value"
            return [self._error(code, str(error), event_id)]

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        return [] if self._discarding else [m for numbered in events for m in self._event(numbered.event)]

    def settled(self) -> list[Command]:
        return []

    def finished(self) -> list[Command]:
        out: list[Command] = []
        if self._discarding:
            self._discarding = False
        elif self._turns is None or self._vllm:
            out = self._complete(" ".join(self._text))
        elif self._item is not None and self._committed == self._item:
            out = self._complete("")
        self._text = []
        return [*out, Close(1000)] if self._final_commit else out

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        return [self._error(code, message, None), Close(close, code)]

    # From the client -------------------------------------------------------------------------------------

    def _take(self, kind: str, event: dict[str, Any]) -> list[Command]:
        match kind:
            case "session.update":
                return self._update(event)
            case "input_audio_buffer.append":
                return self._append(event)
            case "input_audio_buffer.commit":
                return self._commit(event)
            case "input_audio_buffer.clear":
                return self._clear()
        raise ProtocolError("unknown_event", f"the event {kind!r:.80} is not known here; this server only transcribes")

    def _update(self, event: dict[str, Any]) -> list[Command]:
        if isinstance(event.get("model"), str):
            self._vllm, self._turns = True, None
            self._transcription["model"] = event["model"]
            self._format = {"type": "audio/pcm", "rate": SAMPLE_RATE}
            return []
        session = event.get("session")
        if not isinstance(session, dict):
            raise ProtocolError("missing_parameter", "session.update needs an object `session`")
        if session.get("type", "transcription") != "transcription":
            raise ProtocolError("invalid_value", "session.type must be transcription: this server answers nothing")
        sound = session.get("audio", {})
        input = sound.get("input", {}) if isinstance(sound, dict) else None
        if not isinstance(input, dict):
            raise ProtocolError("invalid_value", "session.audio.input must be an object")
        if self._open and "format" in input and input["format"] != self._format:
            raise ProtocolError(
                "invalid_value", "the format cannot change while sound is being transcribed; commit first"
            )
        if input.get("format") is not None:
            self._format = self._checked_format(input["format"])
        if isinstance(input.get("transcription"), dict):
            known = ("model", "language", "prompt")
            self._transcription |= {
                k: v for k, v in input["transcription"].items() if k in known and isinstance(v, str)
            }
        if "turn_detection" in input:
            self._turns = self._checked_turns(input["turn_detection"])
        include = session.get("include")
        if isinstance(include, list):
            self._include = [i for i in include if i == "item.input_audio_transcription.logprobs"]
        return [self._send("session.updated", session=self._session())]

    def _checked_format(self, wanted: Any) -> dict[str, Any]:
        if not isinstance(wanted, dict) or wanted.get("type") not in FORMATS:
            raise ProtocolError("invalid_value", f"the format must have one of the types {', '.join(FORMATS)}")
        rate = wanted.get("rate", FORMATS[wanted["type"]][1])
        AudioFormat("pcm_s16le", rate)  # refuses a rate that cannot be
        return {"type": wanted["type"], "rate": rate} if wanted["type"] == "audio/pcm" else {"type": wanted["type"]}

    def _checked_turns(self, wanted: Any) -> dict[str, Any] | None:
        if wanted is None:
            return None
        if not isinstance(wanted, dict) or wanted.get("type") not in ("server_vad", "semantic_vad"):
            raise ProtocolError("invalid_value", "turn_detection must be null or have the type server_vad")
        turns = {**_TURNS, **{k: v for k, v in wanted.items() if k in _TURNS and k != "type"}}
        self._settings(turns)  # refuses a duration that cannot be
        return turns

    def _append(self, event: dict[str, Any]) -> list[Command]:
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise ProtocolError("missing_parameter", "input_audio_buffer.append needs `audio`, base64")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError("invalid_value", "audio is not base64") from error
        self._appended += len(data)
        begin: list[Command] = []
        if not self._open:
            self._open = True
            encoding, rate = FORMATS[self._format["type"]]
            audio = AudioFormat(encoding, self._format.get("rate", rate))  # type: ignore[arg-type]
            begin = [Open(self._settings(self._turns), audio, model=self._transcription["model"])]
        return [*begin, Audio(data)] if data else begin

    def _commit(self, event: dict[str, Any]) -> list[Command]:
        self._final_commit = self._vllm and event.get("final") is True
        if self._vllm and not self._open:
            # vLLM's clients commit once before any sound: it means "begin"
            return [Close(1000)] if self._final_commit else []
        if not self._appended:
            raise ProtocolError("input_audio_buffer_commit_empty", "no sound came since the last commit")
        self._appended = 0
        committed = [] if self._vllm else self._commit_item()
        self._open = False
        return [*committed, Finish()]

    def _clear(self) -> list[Command]:
        self._appended, self._text, self._item, self._said = 0, [], None, ""
        cleared = self._send("input_audio_buffer.cleared")
        if not self._open:
            return [cleared]
        self._discarding, self._open = True, False
        return [Finish(), cleared]

    def _settings(self, turns: dict[str, Any] | None) -> SessionSettings:
        silence = 800 if turns is None else turns["silence_duration_ms"]
        endpoint = replace(self._base.endpoint, silence_ms=silence)
        return replace(self._base, endpoint=endpoint)

    # To the client ---------------------------------------------------------------------------------------

    def _event(self, event: Event) -> list[Command]:
        if isinstance(event, Partial):
            return self._delta(event.stable)
        if isinstance(event, Final):
            return self._final(event)
        if self._vllm or self._turns is None:
            return []
        if isinstance(event, SpeechStarted):
            at_ms = event.at_samples * 1000 // SAMPLE_RATE
            return [self._send("input_audio_buffer.speech_started", audio_start_ms=at_ms, item_id=self._current())]
        if isinstance(event, SpeechStopped):
            at_ms = event.at_samples * 1000 // SAMPLE_RATE
            item = self._item or self._previous or self._current()
            return [self._send("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=item)]
        return []

    def _final(self, final: Final) -> list[Command]:
        if self._vllm or self._turns is None:
            text = " ".join([*self._text, final.text])
            self._text.append(final.text)
            return self._delta_to(text)
        out = self._delta(final.text)
        if self._committed != self._current():
            out = [*self._commit_item(), *out]
        return [*out, *self._complete(final.text, (final.end_samples - final.start_samples) / SAMPLE_RATE)]

    def _delta(self, stable: str) -> list[Command]:
        """Text of the segment that no longer changes."""
        return self._delta_to(" ".join([*self._text, stable]) if stable else "")

    def _delta_to(self, text: str) -> list[Command]:
        if not text.startswith(self._said) or len(text) <= len(self._said):
            return []
        delta, self._said = text[len(self._said) :], text
        if self._vllm:
            return [Send(json.dumps({"type": "transcription.delta", "delta": delta}))]
        return [self._send(f"{_ITEM}.delta", item_id=self._current(), content_index=0, delta=delta)]

    def _complete(self, text: str, seconds: float = 0.0) -> list[Command]:
        item, self._item, self._said = self._current(), None, ""
        if self._vllm:
            usage = {"prompt_tokens": 0, "completion_tokens": len(text.split()), "total_tokens": len(text.split())}
            return [Send(json.dumps({"type": "transcription.done", "text": text, "usage": usage}))]
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        self._previous = item
        return [self._send(f"{_ITEM}.completed", item_id=item, content_index=0, transcript=text, usage=usage)]

    def _commit_item(self) -> list[Command]:
        self._committed = item = self._current()
        return [self._send("input_audio_buffer.committed", item_id=item, previous_item_id=self._previous)]

    def _current(self) -> str:
        if self._item is None:
            self._item = _id("item")
        return self._item

    def _session(self) -> dict[str, Any]:
        audio = {"format": self._format, "transcription": self._transcription, "turn_detection": self._turns}
        return {
            "type": "transcription",
            "id": self._session_id,
            "object": "realtime.transcription_session",
            "audio": {"input": audio},
            "include": self._include,
        }

    def _error(self, code: str, message: str, event_id: Any) -> Send:
        if self._vllm:
            return Send(json.dumps({"type": "error", "error": message, "code": code}))
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        return self._send("error", error=error | {"event_id": event_id if isinstance(event_id, str) else None})

    def _send(self, kind: str, **fields: Any) -> Send:
        return Send(json.dumps({"type": kind, "event_id": _id("event"), **fields}))


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"
