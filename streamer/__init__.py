"""From sound to live text: sources, sessions, events and the faces of `wavlm-live`.

    from wavlm_live.streamer import Recogniser
    session = Recogniser.load().open()
    for block in source:
        for event in session.feed(block): ...
    session.finish()

Names are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoding import DecodingSettings
    from .endpointing import EndpointRules
    from .events import (
        Acknowledged,
        Activity,
        Event,
        Final,
        Marker,
        Partial,
        Problem,
        Ready,
        Speaker,
        SpeechStarted,
        SpeechStopped,
        Word,
        to_wire,
    )
    from .recogniser import Recogniser
    from .session import Session
    from .session_settings import SessionSettings
    from .voice_activity import SpeechRules

_HOME = {
    "DecodingSettings": "decoding",
    "EndpointRules": "endpointing",
    "SpeechRules": "voice_activity",
    "Recogniser": "recogniser",
    "Session": "session",
    "SessionSettings": "session_settings",
    **dict.fromkeys(
        (
            "Acknowledged", "Activity", "Event", "Final", "Marker", "Partial", "Problem", "Ready", "Speaker",
            "SpeechStarted", "SpeechStopped", "Word", "to_wire",
        ),
        "events",
    ),
}  # fmt: skip

__all__ = [
    "Acknowledged",
    "Activity",
    "DecodingSettings",
    "EndpointRules",
    "Event",
    "Final",
    "Marker",
    "Partial",
    "Problem",
    "Ready",
    "Recogniser",
    "Session",
    "SessionSettings",
    "Speaker",
    "SpeechRules",
    "SpeechStarted",
    "SpeechStopped",
    "Word",
    "to_wire",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
