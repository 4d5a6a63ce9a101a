"""Deepgram's live protocol (`/v1/listen`): settings in the query, sound in binary messages, `Results` out."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ...model.errors import ConfigurationError
from ..events import Final, Marker, Partial, SpeechStarted, SpeechStopped, Word, to_seconds
from ..session_settings import SessionSettings
from .audio import AudioFormat
from .commands import Audio, Change, Close, Command, Finish, Flush, Mark, Numbered, Open, Send
from .settings_of_clients import hotwords_of

ENCODINGS = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
    "flac": "flac",
    "ogg-opus": "ogg_opus",
    "opus": "ogg_opus",
}
SIGNATURES = {b"OggS": "ogg_opus", b"\x1aE\xdf\xa3": "webm_opus", b"RIFF": "wav", b"fLaC": "flac"}
"""Containers that are told by their first bytes where the client names no encoding."""


class DeepgramProtocol:
    """One connection.

    Args:
        query: of the address, several values of a name as a list.
        settings: where the client says nothing.
        model: name to tell.
    """

    name = "deepgram"

    def __init__(self, query: Mapping[str, list[str]], settings: SessionSettings, model: str = "") -> None:
        """Raises ValueError: a query that cannot be followed."""
        self._query = query
        self.request_id = str(uuid.uuid4())
        self._model = model
        self._interim = self._flag("interim_results")
        self._voice = self._flag("vad_events")
        self._utterance_end = bool(self._value("utterance_end_ms", ""))
        self._created = datetime.now(UTC).isoformat()
        self._hash = hashlib.sha256()
        self._audio = self._audio_format()
        self._settings = self._listening(settings)
        self._opened = False
        self._finishing = False
        self._finalizing = 0
        self._end_samples = 0  # of the last final
        self._duration_samples = 0

    def connected(self) -> list[Command]:
        if self._audio is None:
            return []
        self._opened = True
        return [Open(self._settings, self._audio, model=self._model)]

    def received(self, message: str | bytes) -> list[Command]:
        if self._finishing:
            return []
        if isinstance(message, bytes):
            if not message:  # an older way to say CloseStream
                return self._close()
            self._hash.update(message)
            return [*self._begin(message), Audio(message)]
        try:
            wanted = json.loads(message)
            kind = wanted["type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return [_error("SchemaError", "a text message must be JSON with a type", message[:200])]
        match kind:
            case "KeepAlive":
                return []
            case "Finalize":
                self._finalizing += 1
                if not self._opened:
                    return [self._results("", (), 0, 0, final=True, from_finalize=True)]
                return [Flush(), Mark(f"finalize-{self._finalizing}")]
            case "CloseStream":
                return self._close()
            case "Configure":
                return self._configure(wanted)
        return [_error("SchemaError", f"unknown type {kind!r:.60}", message[:200])]

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        out: list[Command] = []
        for numbered in events:
            event = numbered.event
            if isinstance(event, Partial) and self._interim and event.text:
                start = min(self._end_samples, event.words[0].start_samples) if event.words else self._end_samples
                end = event.words[-1].end_samples if event.words else start
                out.append(self._results(event.text, event.words, start, end, final=False))
            elif isinstance(event, Final):
                start, self._end_samples = self._end_samples, event.end_samples
                pause = event.reason in ("silence", "end")
                flushed = event.reason == "flush"
                out.append(
                    self._results(
                        event.text, event.words, start, event.end_samples,
                        final=True, speech_final=pause, from_finalize=flushed,
                    )
                )  # fmt: skip
                if pause and self._utterance_end:
                    out.append(
                        _message(
                            {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": to_seconds(event.end_samples)}
                        )
                    )
                if flushed:
                    self._finalizing = 0
            elif isinstance(event, Marker) and event.id.startswith("finalize-"):
                if self._finalizing:  # nothing was left to say: Finalize is answered all the same
                    self._finalizing = 0
                    out.append(
                        self._results("", (), self._end_samples, event.at_samples, final=True, from_finalize=True)
                    )
            elif isinstance(event, SpeechStarted) and self._voice:
                out.append(
                    _message({"type": "SpeechStarted", "channel": [0, 1], "timestamp": to_seconds(event.at_samples)})
                )
            if isinstance(event, Final | SpeechStopped | Marker):
                self._duration_samples = max(
                    self._duration_samples, getattr(event, "end_samples", getattr(event, "at_samples", 0))
                )
        return out

    def settled(self) -> list[Command]:
        return []

    def finished(self) -> list[Command]:
        metadata = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": self._hash.hexdigest(),
            "created": self._created,
            "duration": to_seconds(self._duration_samples),
            "channels": 1,
        }
        return [_message(metadata), Close(1000)]

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        return [_error(code, message, ""), Close(close, code)]

    # Settings --------------------------------------------------------------------------------------------

    def _value(self, name: str, default: str) -> str:
        return self._query.get(name, [default])[-1]

    def _flag(self, name: str) -> bool:
        return self._value(name, "false").lower() == "true"

    def _audio_format(self) -> AudioFormat | None:
        encoding = self._value("encoding", "")
        if not encoding:
            return None
        if encoding not in ENCODINGS:
            raise ConfigurationError(f"encoding is {encoding!r:.60}, expected one of {', '.join(ENCODINGS)}")
        rate, channels = self._value("sample_rate", "16000"), self._value("channels", "1")
        if not (rate.isdecimal() and channels.isdecimal()) or len(rate + channels) > 9:
            raise ConfigurationError("sample_rate and channels must be whole numbers")
        return AudioFormat(ENCODINGS[encoding], int(rate), int(channels))  # type: ignore[arg-type]

    def _listening(self, settings: SessionSettings) -> SessionSettings:
        endpointing = self._value("endpointing", "")
        if endpointing.isdecimal() and len(endpointing) < 6:
            silence_ms = max(20, int(endpointing))
            endpoint = replace(settings.endpoint, silence_ms=silence_ms)
            settings = replace(settings, endpoint=endpoint)
        keywords = self._query.get("keyterm", []) + [k.split(":")[0] for k in self._query.get("keywords", [])]
        if keywords:
            settings = self._expecting(settings, keywords)
        return replace(settings, partial_hop_ms=settings.partial_hop_ms if self._interim else 0)

    def _expecting(self, settings: SessionSettings, keywords: list[str]) -> SessionSettings:
        hotwords = hotwords_of([k.lower() for k in keywords])
        return replace(settings, decoding=replace(settings.decoding, method="beam", hotwords=hotwords))

    def _begin(self, message: bytes) -> list[Command]:
        if self._opened:
            return []
        encoding = next((e for mark, e in SIGNATURES.items() if message.startswith(mark)), None)
        if encoding is None:
            return self.failed("bad_audio", "name the encoding and sample_rate in the query, or send a container", 1008)
        self._opened = True
        return [Open(self._settings, AudioFormat(encoding), model=self._model)]  # type: ignore[arg-type]

    def _configure(self, wanted: dict[str, Any]) -> list[Command]:
        keywords = wanted.get("keyterms")
        try:
            if keywords is not None and not (isinstance(keywords, list) and all(isinstance(k, str) for k in keywords)):
                raise ConfigurationError("keyterms must be a list of text")
            if keywords is not None:
                self._settings = self._expecting(self._settings, keywords)
        except ConfigurationError as error:
            failure = {"type": "ConfigureFailure", "request_id": self.request_id, "code": "CONFIGURE_REJECTED"}
            return [_message(failure | {"message": str(error)})]
        success = {"type": "ConfigureSuccess", "request_id": self.request_id, "keyterms": keywords or []}
        return [Change(self._settings), _message(success)] if self._opened else [_message(success)]

    def _close(self) -> list[Command]:
        self._finishing = True
        return [Finish()] if self._opened else self.finished()

    def _results(
        self,
        text: str,
        words: Sequence[Word],
        start: int,
        end: int,
        *,
        final: bool,
        speech_final: bool = False,
        from_finalize: bool = False,
    ) -> Send:
        confidence = sum(w.confidence for w in words) / len(words) if words else 0.0
        alternative = {"transcript": text, "confidence": round(confidence, 4), "words": [_word(w) for w in words]}
        info = {"name": self._model, "version": "1", "arch": "wavlm"}
        message = {
            "type": "Results",
            "channel_index": [0, 1],
            "start": to_seconds(start),
            "duration": to_seconds(max(0, end - start)),
            "is_final": final,
            "speech_final": speech_final,
            "from_finalize": from_finalize,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self.request_id, "model_info": info, "model_uuid": self.request_id},
        }
        return Send(json.dumps(message), important=final)


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "start": to_seconds(word.start_samples),
        "end": to_seconds(word.end_samples),
        "confidence": round(word.confidence, 4),
        "punctuated_word": word.text,
    }


def _error(variant: str, description: str, message: str) -> Send:
    return _message({"type": "Error", "variant": variant, "description": description, "message": message})


def _message(value: dict[str, Any]) -> Send:
    return Send(json.dumps(value))
