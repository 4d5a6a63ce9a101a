"""The native protocol of `/v1/stream`, the server's side: every event of a stream, numbered, and resuming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...model.errors import ConfigurationError
from ..events import Partial, Problem, Ready, to_wire
from ..session_settings import SessionSettings
from ..speaker_memory import SpeakerMemory
from ..voice_memory import VoiceMemory
from .audio import AudioFormat
from .commands import Audio, Change, Close, Command, Finish, Flush, Mark, Numbered, Open, Resume, Send
from .native_messages import (
    ClientMessage,
    End,
    EndedMessage,
    FlushMessage,
    KeepAlive,
    MarkerMessage,
    ResumeRequest,
    SettingsMessage,
    Start,
)
from .settings_of_clients import Contexts, client_settings

BAD_MESSAGE, UNSUPPORTED, POLICY = 1007, 1003, 1008
"""Close codes (RFC 6455, section 7.4.1)."""

OfferedModels = Callable[[str], tuple[Contexts, SessionSettings]]
"""Contexts of the model of a name, and how its streams listen where their client says nothing."""

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)


class NativeProtocol:
    """One connection.

    Args:
        contexts: turns the name or numbers of a streaming context into one, as `Recogniser.context`.
        settings: what a client changes.
        models: the same two of an offered model, by its name; raises ConfigurationError, which lists the names.
    """

    name = "native"

    def __init__(
        self, contexts: Contexts, settings: SessionSettings | None = None, models: OfferedModels | None = None
    ) -> None:
        self._contexts = contexts
        self._settings = settings or SessionSettings()
        self._models = models or _no_choice
        self._started = False
        self._ended = False
        self._last_seq = 0

    def connected(self) -> list[Command]:
        return []

    def received(self, message: str | bytes) -> list[Command]:
        if isinstance(message, bytes):
            if not self._started:
                return self._refuse("not_started", "sound came before the message `start`; send that first")
            if self._ended:
                return self._refuse("ended", "sound came after the message `end`")
            return [Audio(message)] if message else []
        try:
            return self._take(_decoder.decode(message))
        except msgspec.ValidationError as error:
            return self._refuse("bad_message", f"a message does not follow the protocol: {error}")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return self._refuse("bad_message", f"a text message is not JSON: {error}")
        except ConfigurationError as error:
            return self._refuse("bad_settings", str(error))

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        return [self._send(numbered) for numbered in events]

    def settled(self) -> list[Command]:
        return []

    def finished(self) -> list[Command]:
        return [Send(msgspec.json.encode(EndedMessage(self._last_seq)).decode()), Close(1000, "all results were given")]

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        extra: dict[str, object] = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
        problem = self._send(Numbered(self._last_seq, Problem(code, message, fatal=True), extra=extra))
        reason = code if retry_after_s is None else f"{code}, retry after {retry_after_s:g} s"
        return [problem, Close(close, reason)]

    def _take(self, message: ClientMessage) -> list[Command]:
        match message:
            case Start():
                return self._start(message)
            case KeepAlive():
                return []
            case _ if not self._started:
                return self._refuse("not_started", "the first message must be `start`")
            case _ if self._ended:
                return self._refuse("ended", "a message came after `end`")
            case FlushMessage():
                return [Flush()]
            case MarkerMessage(id):
                return [Mark(id)]
            case SettingsMessage(settings):
                return self._change(settings)
            case End():
                self._ended = True
                return [Finish()]

    def goes_on(self, settings: SessionSettings, model: str = "") -> None:
        """The stream listens so, with this model, whatever this connection's `start` said; changes begin there."""
        self._settings = settings
        if model:
            self._contexts, _ = self._models(model)

    def _change(self, wanted: dict[str, Any]) -> list[Command]:
        """Other settings; those that cannot be are told and change nothing, and the stream goes on."""
        try:
            self._settings = client_settings(wanted, self._settings, self._contexts)
        except ConfigurationError as error:
            return [Change(self._settings, str(error))]
        return [Change(self._settings)]

    def _start(self, message: Start) -> list[Command]:
        if self._started:
            return self._refuse("started", "a second `start` came; one connection carries one stream")
        if message.model is not None:
            try:
                self._contexts, self._settings = self._models(message.model)
            except ConfigurationError as error:
                return self._refuse("unknown_model", str(error))
        self._settings = client_settings(message.settings, self._settings, self._contexts)
        sound = message.audio
        audio = AudioFormat(sound.encoding, sound.rate, sound.channels)
        self._started = True
        if message.resume is not None:
            self._last_seq = message.resume.last_seq
        return [Open(self._settings, audio, _resume(message.resume), message.key, message.model or "")]

    def _refuse(self, code: str, message: str) -> list[Command]:
        return self.failed(code, message, UNSUPPORTED if code == "not_started" else BAD_MESSAGE)

    def _send(self, numbered: Numbered) -> Send:
        event = numbered.event
        if not isinstance(event, Ready):
            self._last_seq = max(self._last_seq, numbered.seq)
        wire: dict[str, Any] = {**to_wire(event), "seq": numbered.seq, **numbered.extra}
        if numbered.index is not None:
            wire["index"] = numbered.index
        return Send(msgspec.json.encode(wire).decode(), important=not isinstance(event, Partial))


def _no_choice(name: str) -> tuple[Contexts, SessionSettings]:
    raise ConfigurationError(f"there is no choice of models here, and {name!r:.80} was asked for; leave `model` out")


def _resume(request: ResumeRequest | None) -> Resume | None:
    if request is None:
        return None
    point = request.point
    if point.segment_samples < point.origin_samples or request.finals < point.finals:
        raise ConfigurationError(
            "resume.point contradicts itself; send the point of the last `acknowledged` as it came"
        )
    return Resume(
        request.session,
        request.last_seq,
        request.finals,
        point.origin_samples,
        point.segment_samples,
        point.finals,
        point.messages,
        VoiceMemory.from_bytes(point.voice),
        SpeakerMemory.from_bytes(point.speakers),
    )
