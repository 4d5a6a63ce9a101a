"""The protocol of vosk-server: sound in, one JSON reply for each message, and the last result after `eof`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...model.errors import ConfigurationError
from ..events import Final, Partial, Word, to_seconds
from ..session_settings import SessionSettings
from .audio import AudioFormat
from .commands import Audio, Close, Command, Finish, Numbered, Open, Send, Settle
from .settings_of_clients import hotwords_of


class VoskProtocol:
    """One connection.

    Each message of sound is answered by the end of a segment, if one came (`result`, `text`), else by what the segment
    says so far (`partial`). `{"eof": 1}` and `{"reset": 1}` are answered by all that was not said yet.

    Args:
        settings: where the client says nothing.
        rate: of the sound, in Hz, where the client says nothing.
    """

    name = "vosk"

    def __init__(self, settings: SessionSettings | None = None, rate: int = 8000) -> None:
        self._settings = settings or SessionSettings()
        self._audio = AudioFormat("pcm_s16le", rate)
        self._words = True
        self._open = False
        self._ending = False
        self._partial = ""
        self._finals: list[Final] = []

    def connected(self) -> list[Command]:
        return []

    def received(self, message: str | bytes) -> list[Command]:
        if self._ending:
            return []
        if isinstance(message, bytes):
            begin: list[Command] = [] if self._open else [self._begin()]
            return [*begin, Audio(message), Settle()]
        try:
            wanted = json.loads(message)
            if not isinstance(wanted, dict):
                raise ValueError("expected an object")
            if "config" in wanted:
                return self._configure(wanted["config"])
        except (ValueError, RecursionError, ConfigurationError) as error:
            return self.failed("bad_message", str(error), 1007)
        if "eof" in wanted or "reset" in wanted:
            self._ending = "eof" in wanted
            return [Finish()] if self._open else self.finished()
        return []

    def happened(self, events: Sequence[Numbered]) -> list[Command]:
        for numbered in events:
            event = numbered.event
            if isinstance(event, Final):
                self._finals.append(event)
                self._partial = ""
            elif isinstance(event, Partial):
                self._partial = event.text
        return []

    def settled(self) -> list[Command]:
        if self._finals:
            finals, self._finals = self._finals, []
            return [self._result(finals)]
        return [_message({"partial": self._partial})]

    def finished(self) -> list[Command]:
        finals, self._finals, self._partial, self._open = self._finals, [], "", False
        result = self._result(finals)
        if self._ending:
            return [result, Close(1000)]
        self._open = True
        return [result, self._begin()]

    def failed(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> list[Command]:
        return [_message({"error": message, "code": code}), Close(close, code)]

    def _configure(self, config: Any) -> list[Command]:
        if not isinstance(config, dict):
            raise ConfigurationError("config must be an object")
        if self._open:
            raise ConfigurationError("the configuration must come before the sound")
        rate = config.get("sample_rate", self._audio.rate)
        if isinstance(rate, float) and rate.is_integer():
            rate = int(rate)
        if not isinstance(rate, int):
            raise ConfigurationError(f"sample_rate is {rate!r:.40}, expected whole Hz")
        self._audio = AudioFormat("pcm_s16le", rate)
        self._words = bool(config.get("words", self._words))
        phrases = config.get("phrase_list")
        if phrases:
            hotwords = hotwords_of([p for p in phrases if p != "[unk]"] if isinstance(phrases, list) else phrases)
            self._settings = replace(
                self._settings, decoding=replace(self._settings.decoding, method="beam", hotwords=hotwords)
            )
        return []

    def _begin(self) -> Open:
        self._open = True
        return Open(self._settings, self._audio)

    def _result(self, finals: list[Final]) -> Send:
        text = " ".join(final.text for final in finals)
        words = [word for final in finals for word in final.words]
        if self._words and words:
            return _message({"result": [_word(word) for word in words], "text": text})
        return _message({"text": text})


def _word(word: Word) -> dict[str, Any]:
    return {
        "conf": round(word.confidence, 6),
        "end": to_seconds(word.end_samples),
        "start": to_seconds(word.start_samples),
        "word": word.text,
    }


def _message(value: dict[str, Any]) -> Send:
    return Send(json.dumps(value))
