"""`POST /v1/audio/transcriptions`: a whole recording, as OpenAI's clients send it.

The upload goes to a temporary file with a name of the server's own; what the client calls it is not looked at. Only
bytes that begin like a known container reach FFmpeg, so no playlist can make it open something else.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Message

from ...model.errors import AudioError, WavLMLiveError
from ..admission import Overloaded
from ..events import Final, to_seconds
from ..formats import write_transcript
from .app_access import address_of, unauthorized
from .limits import LimitReached, RecordingSound
from .recording_job import RecordingJob, Refused, stated_s
from .service import Service
from .settings import Limits

FORMATS = ("json", "verbose_json", "text", "srt", "vtt")
FORM_BYTES = 64 << 10
"""What a form may have besides the file."""


@dataclass(frozen=True)
class Transcription:
    """A recording and what is wanted of it."""

    path: Path
    format: str
    stream: bool
    words: bool
    model: str = ""
    """As the client calls it; the default's where there is none of this name."""


def transcriptions(service: Service) -> Callable:
    """The endpoint."""

    async def endpoint(request: Request) -> Response:
        if refusal := unauthorized(service, request):
            return refusal
        key, address = request.state.key, address_of(request)
        budgets = service.doorkeeper.budgets(key, address)
        try:
            if service.draining:
                raise Refused(503, "restart", "the server is restarting; try again")
            if service.uploads.locked():
                raise Refused(503, "busy", "too many recordings are being transcribed; try again in a few seconds")
            RecordingSound(budgets, 0.0)  # whoever has used up his share need not send it
            service.doorkeeper.enter(key, address)
        except (Refused, LimitReached) as error:
            return _refusal(service, error)
        files = tempfile.TemporaryDirectory(prefix="wavlm-live-")
        sounds: list[RecordingSound] = []

        def leave_now() -> None:
            for sound in sounds:
                sound.close()
            service.doorkeeper.leave(key, address)
            service.uploads.release()
            files.cleanup()

        leave = _once(leave_now)
        await service.uploads.acquire()
        try:
            wanted = await _received(request, Path(files.name), service.settings.limits)
            batcher, session = service.models.batcher(wanted.model), service.models.session(wanted.model)
            sounds.append(RecordingSound(budgets, await asyncio.to_thread(stated_s, wanted.path)))
            job = RecordingJob(batcher, wanted.path, replace(session, partial_hop_ms=0), service, sounds[0])
            if wanted.stream:
                return StreamingResponse(_event_stream(job, leave), media_type="text/event-stream")
            finals = [event async for event in job.run() if isinstance(event, Final)]
        except (WavLMLiveError, ClientDisconnect) as error:
            leave()
            return _refusal(service, error)
        except BaseException:
            leave()
            raise
        leave()
        return _answer(wanted, finals, job.duration_s, batcher.recogniser.name)

    return endpoint


async def _received(request: Request, folder: Path, limits: Limits) -> Transcription:
    """The form, its file in a folder of ours."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.upload_bytes + FORM_BYTES:
        raise Refused(413, "too_big", f"a file may have at most {limits.upload_bytes} bytes", "file")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(400, "bad_request", "expected multipart/form-data with a `file`")
    came = 0
    receive = request.receive

    async def counted() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > limits.upload_bytes + FORM_BYTES:
            raise Refused(413, "too_big", f"a file may have at most {limits.upload_bytes} bytes", "file")
        return message

    request._receive = counted
    try:
        form = await request.form(max_files=1, max_fields=30, max_part_size=FORM_BYTES)
    except Exception as error:
        if isinstance(error, Refused | ClientDisconnect):
            raise
        raise Refused(400, "bad_request", f"the form cannot be read: {getattr(error, 'detail', error)}") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refused(400, "missing_parameter", "the form needs a `file`", "file")
        format = form.get("response_format", "json")
        if format not in FORMATS:
            raise Refused(
                400, "invalid_value", f"response_format must be one of {', '.join(FORMATS)}", "response_format"
            )
        stream = str(form.get("stream", "false")).lower()
        if stream not in ("true", "false", "1", "0"):
            raise Refused(400, "invalid_value", "stream must be true or false", "stream")
        granularities = form.getlist("timestamp_granularities[]")
        path = folder / "upload"
        await asyncio.to_thread(_write, file, path)
        words, model = "word" in granularities, str(form.get("model", ""))
        return Transcription(path, str(format), stream in ("true", "1"), words, model)
    finally:
        await form.close()


def _write(file: UploadFile, path: Path) -> None:
    with path.open("wb") as out:
        start = file.file.read(16)
        if not is_sound(start):
            raise Refused(400, "invalid_file", "the file is none of WAV, FLAC, Ogg, MP3, M4A, WebM, AAC, AIFF", "file")
        out.write(start)
        while piece := file.file.read(1 << 16):
            out.write(piece)


def is_sound(start: bytes) -> bool:
    """Whether a file begins like sound in a container that stands for itself."""
    if start[:4] in (b"RIFF", b"RF64", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b".snd") or start[4:8] == b"ftyp":
        return True
    return start[:3] == b"ID3" or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0)


async def _event_stream(job: RecordingJob, leave: Callable[[], None]) -> AsyncIterator[bytes]:
    """Server-sent events: text as it becomes final."""
    texts: list[str] = []
    try:
        async for event in job.run():
            if isinstance(event, Final):
                delta = (" " if texts else "") + event.text
                texts.append(event.text)
                yield _sse({"type": "transcript.text.delta", "delta": delta})
        usage = {"type": "duration", "seconds": round(job.duration_s, 3)}
        yield _sse({"type": "transcript.text.done", "text": " ".join(texts), "usage": usage})
    except WavLMLiveError as error:
        yield _sse({"type": "error", "error": _error_body(error)})
    finally:
        leave()


def _sse(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _answer(wanted: Transcription, finals: list[Final], duration_s: float, model: str) -> Response:
    text = " ".join(final.text for final in finals)
    if wanted.format == "text":
        return PlainTextResponse(text + "\n")
    if wanted.format in ("srt", "vtt"):
        out = io.StringIO()
        write_transcript(wanted.format, finals, out, model=model, duration_s=duration_s)
        return PlainTextResponse(out.getvalue())
    usage = {"type": "duration", "seconds": round(duration_s, 3)}
    if wanted.format == "json":
        return JSONResponse({"text": text, "usage": usage})
    segments = [_segment(number, final) for number, final in enumerate(finals)]
    answer: dict[str, Any] = {
        "task": "transcribe", "language": "english", "duration": duration_s, "text": text, "segments": segments,
        "usage": usage,
    }  # fmt: skip
    if wanted.words:
        answer["words"] = [
            {"word": w.text, "start": to_seconds(w.start_samples), "end": to_seconds(w.end_samples)}
            for final in finals
            for w in final.words
        ]
    return JSONResponse(answer)


def _segment(number: int, final: Final) -> dict[str, Any]:
    logs = [math.log(max(w.confidence, 1e-6)) for w in final.words]
    return {
        "id": number,
        "seek": 0,
        "start": to_seconds(final.start_samples),
        "end": to_seconds(final.end_samples),
        "text": final.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": sum(logs) / len(logs) if logs else 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _refusal(service: Service, error: BaseException) -> Response:
    status, headers = 500, {}
    if isinstance(error, Refused):
        status = error.status
    elif isinstance(error, AudioError):
        status = 400
    elif isinstance(error, LimitReached):
        status = 429
    elif isinstance(error, Overloaded):
        status = 503
    elif isinstance(error, ClientDisconnect):
        status = 499
    if status in (429, 503):
        headers = {"retry-after": str(max(1, math.ceil(getattr(error, "retry_after_s", None) or 5)))}
    body = _error_body(error)
    if isinstance(error, LimitReached | Overloaded):
        service.metrics.refused.labels(str(body["code"])).inc()
    service.metrics.errors.labels(str(body["code"])).inc()
    return JSONResponse({"error": body}, status, headers)


def _error_body(error: BaseException) -> dict[str, Any]:
    code = getattr(error, "code", None)
    if code is None:
        code = {"AudioError": "invalid_file", "Overloaded": "overloaded"}.get(type(error).__name__, "failed")
    message = "the recording cannot be read as sound" if isinstance(error, AudioError) else str(error)
    kind = "server_error" if code in ("failed", "overloaded", "busy", "restart") else "invalid_request_error"
    return {"message": message, "type": kind, "param": getattr(error, "parameter", None), "code": code}


def _once(action: Callable[[], object]) -> Callable[[], None]:
    done: list[bool] = []

    def run() -> None:
        if not done:
            done.append(True)
            action()

    return run
