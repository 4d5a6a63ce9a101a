"""Settings as JSON: every field of every group can be said, and what cannot be is refused by its name."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model import ConfigurationError, StreamingContext
from wavlm_live.streamer import SessionSettings
from wavlm_live.streamer.protocols.settings_of_clients import SERVERS_OWN, client_settings

BASE = SessionSettings()
OTHERS: dict[str, dict[str, Any]] = {
    "endpoint": {
        "silence_ms": 500, "by_voice": False, "blank_ms": 900, "max_segment_s": 9.5, "min_segment_s": 1.5,
        "no_speech_ms": 900,
    },
    "speech": {
        "detector": "both", "start_probability": 0.7, "stay_probability": 0.1, "min_speech_ms": 5,
        "min_silence_ms": 70, "padding_ms": 10, "words_need_voice": True, "word_padding_ms": 3,
    },
}  # fmt: skip
WRONG = {
    int: ["5", 1.5, True, None, [], 10**400],
    float: ["0.5", True, {}, None],
    bool: [0, "yes", None],
    str: [5, "x"],
}


def read(wanted: dict[str, Any], base: SessionSettings = BASE) -> SessionSettings:
    """As a server reads them: through JSON."""
    return client_settings(json.loads(json.dumps(wanted)), base, StreamingContext.parse)


def test_every_rule_of_pauses_and_voice_has_a_name_on_the_wire() -> None:
    for group, values in OTHERS.items():
        assert set(values) == {f.name for f in fields(getattr(BASE, group))} - set(SERVERS_OWN)
        for name, value in values.items():
            changed = read({group: {name: value}})
            assert getattr(getattr(changed, group), name) == value
            assert replace(changed, **{group: getattr(BASE, group)}) == BASE  # and nothing else
    changed = read({"activity": True, "partial_hop_ms": 200, "context": "100,16,4"})
    assert (changed.activity, changed.partial_hop_ms, str(changed.context)) == (True, 200, "100,16,4")


@given(st.fixed_dictionaries({}, optional={g: st.sets(st.sampled_from(sorted(v))) for g, v in OTHERS.items()}))
def test_updates_in_parts_add_up(chosen: dict[str, set[str]]) -> None:
    whole = {group: {name: OTHERS[group][name] for name in names} for group, names in chosen.items()}
    step = BASE
    for group, values in whole.items():
        for name, value in values.items():
            step = read({group: {name: value}}, step)
    assert step == read(whole)


def names_and_kinds() -> list[tuple[str, str, type]]:
    found = []
    for group in ("endpoint", "speech", "decoding"):
        rules = getattr(BASE, group)
        assert is_dataclass(rules)
        for field in fields(rules):
            value = getattr(rules, field.name)
            if type(value) in WRONG and field.name not in SERVERS_OWN:
                found.append((group, field.name, type(value)))
    return found


@pytest.mark.parametrize(("group", "name", "kind"), names_and_kinds(), ids=lambda value: str(value))
def test_ill_typed_values_are_refused_by_name(group: str, name: str, kind: type) -> None:
    for wrong in WRONG[kind]:
        with pytest.raises(ConfigurationError, match=rf"{name}\b"):
            read({group: {name: wrong}})


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"speach": {}}, r"settings\.speach.*activity.*speech"),
        ({"speech": {"loudness": 1}}, r"settings\.speech\.loudness.*start_probability"),
        ({"speech": 5}, r"settings\.speech is 5, expected an object"),
        ({"endpoint": {"silence_ms": 5}}, r"EndpointRules\.silence_ms is 5"),
        ({"speech": {"start_probability": 1.5}}, r"SpeechRules\.start_probability is 1\.5"),
        ({"speech": {"padding_ms": 900}}, r"SpeechRules\.padding_ms is 900, expected at most min_silence_ms"),
        ({"decoding": {"lm_path": "/etc/passwd"}}, r"settings\.decoding\.lm_path is not for clients"),
    ],
)
def test_unknown_and_impossible_values_are_refused_by_name(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(wanted)
