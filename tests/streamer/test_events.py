"""Events: frozen, tagged, samples inside and exact seconds on the wire."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.streamer import events as ev

WORD = ev.Word("yes", 320, 6400, 0.912345)
EXAMPLES = [
    ev.Ready("english", "250,32,8", 12800),
    ev.SpeechStarted(320),
    ev.SpeechStopped(6400),
    ev.Partial("yes", "no", (WORD, ev.Word("no", 6720, 7040, 0.5))),
    ev.Final("yes", (WORD,), 320, 6400, "silence"),
    ev.Activity(640, 320, (0.25, 0.123456)),
    ev.Marker("turn 1", 6400),
    ev.Speaker("anna", 0, 16000, 0.75),
    ev.Acknowledged(4801),
    ev.Problem("bad_message", "a list came, expected an object", fatal=True),
]


def test_every_event_has_an_example_and_a_tag() -> None:
    assert {type(e) for e in EXAMPLES} == set(get_args(ev.Event))
    assert [ev.to_wire(e)["type"] for e in EXAMPLES] == [
        "ready", "speech_started", "speech_stopped", "partial", "final", "activity", "marker", "speaker",
        "acknowledged",
        "problem",
    ]  # fmt: skip


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: type(e).__name__)
def test_frozen_and_read_back_by_its_tag(event: ev.Event) -> None:
    field = event.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(event, field, None)
    assert msgspec.json.decode(msgspec.json.encode(event), type=ev.Event) == event


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: type(e).__name__)
def test_no_samples_on_the_wire(event: ev.Event) -> None:
    text = ev.to_wire_bytes(event)
    assert json.loads(text) == ev.to_wire(event)
    assert b"_samples" not in text
    assert b"\n" not in text


def test_final_on_the_wire() -> None:
    assert ev.to_wire(EXAMPLES[4]) == {
        "type": "final", "text": "yes", "start_s": 0.02, "end_s": 0.4, "reason": "silence",
        "words": [{"text": "yes", "start_s": 0.02, "end_s": 0.4, "confidence": 0.9123}],
    }  # fmt: skip
    assert ev.to_wire(EXAMPLES[5])["probabilities"] == [0.25, 0.1235]
    assert ev.to_wire(EXAMPLES[5])["hop_s"] == 0.02
    assert ev.to_wire(EXAMPLES[6]) == {"type": "marker", "id": "turn 1", "at_s": 0.4}
    assert ev.to_wire(EXAMPLES[8]) == {"type": "acknowledged", "samples": 4801}


@given(st.integers(0, 16_000 * 3600 * 24))
def test_seconds_give_the_samples_back(samples: int) -> None:
    wire = json.loads(ev.to_wire_bytes(ev.SpeechStarted(samples)))
    assert round(wire["at_s"] * 16_000) == samples


def test_text_of_a_partial() -> None:
    assert [ev.Partial(a, b).text for a, b in (("", ""), ("a", ""), ("", "b"), ("a", "b"))] == ["", "a", "b", "a b"]
