"""Every field of a session's settings: on the command line, in the native protocol, refused by its name.

The fields are read from the dataclasses, so one that is added and forgotten on a side fails here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from wavlm_live.model import StreamingContext
from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer import cli
from wavlm_live.streamer.decoding_options import Decoding
from wavlm_live.streamer.protocols.settings_of_clients import SERVERS_OWN, client_settings
from wavlm_live.streamer.session_settings import SessionSettings
from wavlm_live.streamer.speaker_options import Speakers
from wavlm_live.streamer.voice_options import Detector, Pauses

OTHER: dict[str, Any] = {
    "context": StreamingContext(100, 20, 4),
    "partial_hop_ms": 80,
    "activity": True,
    "sleep_after_s": 7.0,
    "speakers.enabled": True,
    "speakers.most": 5,
    "speakers.new_below": 0.3,
    "speakers.known_above": 0.7,
    "speakers.known_path": "known.json",
    "endpoint.silence_ms": 500,
    "endpoint.by_voice": False,
    "endpoint.blank_ms": 900,
    "endpoint.max_segment_s": 9.0,
    "endpoint.min_segment_s": 1.0,
    "endpoint.no_speech_ms": 700,
    "endpoint.frame_ms": 10,
    "speech.detector": "both",
    "speech.start_probability": 0.7,
    "speech.stay_probability": 0.1,
    "speech.min_speech_ms": 5,
    "speech.min_silence_ms": 70,
    "speech.padding_ms": 10,
    "speech.words_need_voice": True,
    "speech.word_padding_ms": 3,
    "decoding.method": "beam",
    "decoding.beam_width": 7,
    "decoding.token_cutoff": 5.0,
    "decoding.beam_cutoff": 9.0,
    "decoding.blank_skip": 0.9,
    "decoding.lm_path": "words.arpa",
    "decoding.lm_weight": 0.3,
    "decoding.word_score": 0.7,
    "decoding.unknown_penalty": 2.0,
    "decoding.prior_weight": 0.2,
    "decoding.carry_context": True,
    "decoding.hotwords": (("new york", 2.0),),
    "decoding.stability": 0.9,
    "decoding.looks": 1,
    "decoding.details": True,
    "decoding.confidence_temperature": 1.5,
    "decoding.confidence_scale": 0.8,
    "decoding.confidence_shift": -0.2,
    "decoding.confidence_letters": 0.4,
}
"""A value for each field that is not its default."""
OPTIONS = {
    "context": ("--context", "100,20,4"),
    "speakers.enabled": ("--speakers",),
    "speakers.most": ("--most-speakers", "5"),
    "speakers.new_below": ("--new-speaker-below", "0.3"),
    "speakers.known_path": ("--known-speakers", "known.json"),
    "endpoint.by_voice": ("--pause-by-text",),
    "speech.detector": ("--voice-detector", "both"),
    "speech.start_probability": ("--voice-start", "0.7"),
    "speech.stay_probability": ("--voice-stay", "0.1"),
    "speech.padding_ms": ("--voice-pad-ms", "10"),
    "speech.words_need_voice": ("--words-by-voice",),
    "speech.word_padding_ms": ("--word-pad-ms", "3"),
    "decoding.method": ("--beam", "16"),
    "decoding.beam_width": ("--beam", "7"),
    "decoding.lm_path": ("--lm", "words.arpa"),
    "decoding.hotwords": ("--hotword", "new york:2"),
}
"""Those that are spelled otherwise than `--name-of-the-field VALUE`."""
NEEDS_BEAM = ("decoding.beam_width", "decoding.lm_path", "decoding.hotwords")
BRINGS = dict.fromkeys(NEEDS_BEAM, "decoding.method") | {"speakers.known_path": "speakers.enabled"}
"""What else an option changes."""
MODELS_OWN = ("endpoint.frame_ms",)
"""A property of the model, not a choice."""


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The names of all fields, with those of the dataclasses within."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, StreamingContext):
            yield from leaves(inner, f"{path}{field.name}.")
        else:
            yield path + field.name


FIELDS = list(leaves(SessionSettings()))
CHOICES = [name for name in FIELDS if name not in MODELS_OWN]


def get(settings: SessionSettings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def wire_of(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def test_each_field_has_a_value_here() -> None:
    assert set(FIELDS) == set(OTHER)
    assert all(get(SessionSettings(), name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", CHOICES)
def test_it_is_on_the_command_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option is given, and the settings that the command makes of it have the value."""
    seen: list[Any] = []
    monkeypatch.setattr("wavlm_live.streamer.listen.listen", lambda request, load, terminal, i: seen.append(load) or 0)
    monkeypatch.setattr(cli.options.Listening, "loader", lambda listening, terminal, i: listening)
    value = OTHER[name]
    plain = f"--{name.rpartition('.')[2].replace('_', '-')}"
    given = OPTIONS.get(name, (plain,) if value is True else (plain, str(value)))
    assert cli.main(["listen", *given]) == 0
    (listening,) = seen
    settings = SessionSettings(
        partial_hop_ms=listening.partial_hop_ms,
        endpoint=listening.pauses.endpoint(),
        speech=listening.pauses.speech(),
        activity=listening.pauses.activity,
        decoding=listening.decoding.settings(),
        sleep_after_s=listening.pauses.sleep_after_s,
        speakers=listening.speakers.rules(),
    )
    if name == "context":
        assert listening.context == "100,20,4"
        return
    assert get(settings, name) == value
    others = {other for other in CHOICES if other not in (name, "context")}
    changed = {other for other in others if get(settings, other) != get(SessionSettings(), other)}
    assert changed <= {BRINGS.get(name)}


@pytest.mark.parametrize("command", [cli.transcribe, cli.listen])
def test_both_commands_have_all_options_with_the_defaults_of_the_settings(command: Any) -> None:
    parameters = inspect.signature(command).parameters
    for options in (Pauses(), Decoding(), Speakers()):
        for field in fields(options):
            assert parameters[field.name].default == getattr(options, field.name)
    assert Pauses().endpoint() == SessionSettings().endpoint
    assert Pauses().speech() == SessionSettings().speech
    assert Decoding().settings() == SessionSettings().decoding
    assert Speakers().rules() == SessionSettings().speakers
    assert parameters["voice_detector"].default is Detector.silero
    assert parameters["partial_hop_ms"].default == SessionSettings().partial_hop_ms


@pytest.mark.parametrize("name", FIELDS)
def test_it_is_on_the_wire_or_refused_by_its_name(name: str) -> None:
    value = OTHER[name]
    base = SessionSettings()
    if name in NEEDS_BEAM:
        base = replace(base, decoding=replace(base.decoding, method="beam"))
    wire = wire_of(name, str(value) if name == "context" else value)
    if name.rpartition(".")[2] in SERVERS_OWN:
        with pytest.raises(ConfigurationError, match=rf"settings\.{name} is not for clients to set"):
            client_settings(wire, base, StreamingContext.parse)
        return
    assert get(client_settings(wire, base, StreamingContext.parse), name) == value
    for bad in (object(), [[]], float("nan"), "\x00"):
        with pytest.raises(ConfigurationError, match=name.rpartition(".")[2].rstrip("s")):
            client_settings(wire_of(name, bad), base, StreamingContext.parse)
