"""What a client may say about how it is listened to: JSON in, `SessionSettings` out.

Nothing in it reaches the file system: language models are the server's to choose, and contexts are names or numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import msgspec

from ...model.context import StreamingContext
from ...model.errors import ConfigurationError
from ..session_settings import SessionSettings

Contexts = Callable[[str], StreamingContext]
"""Turns a name, or "left,chunk,right", into a context; raises ConfigurationError."""

SERVERS_OWN = ("lm_path", "known_path", "frame_ms")
"""Fields that a client may not name: files of the server, and what the model fixes."""
WIDEST_BEAM = 64
MOST_HOTWORDS = 200
LARGEST_CONTEXT_FRAMES = 1000
SMALLEST_CHUNK_FRAMES = 4
SMALLEST_HOP_MS = 50


def client_settings(wanted: Mapping[str, Any], base: SessionSettings, contexts: Contexts) -> SessionSettings:
    """The settings with what a client named changed.

    Args:
        wanted: any fields of `SessionSettings`, nested as there; `hotwords` as [phrase, boost] or phrases.
        base: what holds where the client says nothing.
        contexts: of the model.

    Raises:
        ConfigurationError: an unknown field, a value that cannot be, or one that a client may not choose.
    """
    wanted = dict(wanted)
    context = wanted.pop("context", None)
    changed = _changed(base, wanted, "")
    if context is not None:
        if not isinstance(context, str) or len(context) > 100:
            raise ConfigurationError('settings.context must be text: a name, or frames as "left,chunk,right"')
        changed = replace(changed, context=contexts(context))
    _check_cost(changed)
    return changed


def _changed(value: Any, wanted: Mapping[str, Any], path: str) -> Any:
    known = {f.name for f in fields(value)}
    kinds = get_type_hints(type(value))
    changes: dict[str, Any] = {}
    for name, new in wanted.items():
        where = f"{path}{name}"
        if name not in known or name in SERVERS_OWN:
            allowed = ", ".join(sorted(known - set(SERVERS_OWN)))
            raise ConfigurationError(f"settings.{where:.80} is not for clients to set; there are {allowed}")
        old = getattr(value, name)
        if is_dataclass(old):
            if not isinstance(new, Mapping):
                raise ConfigurationError(f"settings.{where} is {new!r:.60}, expected an object")
            changes[name] = _changed(old, new, f"{where}.")
        elif name == "hotwords":
            changes[name] = hotwords_of(new)
        else:
            changes[name] = _plain(kinds[name], new, where)
    if changes.get("hotwords") and "method" in known and "method" not in changes:
        changes["method"] = "beam"
    try:
        return replace(value, **changes)
    except (TypeError, OverflowError) as error:
        raise ConfigurationError(f"settings.{path.rstrip('.')}: {error}") from error


def _plain(kind: Any, new: Any, where: str) -> Any:
    try:
        return msgspec.convert(new, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"settings.{where} is {new!r:.60}: {error}") from error


def hotwords_of(wanted: Any, boost: float = 1.5) -> tuple[tuple[str, float], ...]:
    """Phrases to expect, from a list of phrases or of [phrase, boost].

    Raises:
        ConfigurationError: something else, or too many.
    """
    if not isinstance(wanted, list | tuple) or len(wanted) > MOST_HOTWORDS:
        raise ConfigurationError(f"hotwords must be a list of at most {MOST_HOTWORDS} phrases or [phrase, boost]")
    found = []
    for item in wanted:
        pair = [item, boost] if isinstance(item, str) else item
        try:
            text, weight = msgspec.convert(pair, tuple[str, float])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"the hotword {item!r:.60} is no phrase and no [phrase, boost]") from error
        if len(text) > 100:
            raise ConfigurationError("a hotword has more than 100 characters")
        found.append((text, weight))
    return tuple(found)


def _check_cost(settings: SessionSettings) -> None:
    """Refuse what would let one client take the machine from the others."""
    context = settings.context
    if context is not None:
        if context.chunk_frames < SMALLEST_CHUNK_FRAMES:
            raise ConfigurationError(f"a chunk must have at least {SMALLEST_CHUNK_FRAMES} frames of 20 ms")
        if max(context.left_frames, context.step_frames) > LARGEST_CONTEXT_FRAMES:
            raise ConfigurationError(f"a context may have at most {LARGEST_CONTEXT_FRAMES} frames of 20 ms")
    if settings.decoding.beam_width > WIDEST_BEAM:
        raise ConfigurationError(f"settings.decoding.beam_width may be at most {WIDEST_BEAM}")
    if 0 < settings.partial_hop_ms < SMALLEST_HOP_MS:
        raise ConfigurationError(f"settings.partial_hop_ms must be 0 or at least {SMALLEST_HOP_MS}")
