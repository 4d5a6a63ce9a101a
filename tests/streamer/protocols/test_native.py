"""The native protocol without a socket: its types, its schema, and both sides talking to each other."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model import StreamingContext
from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.events import (
    Acknowledged,
    Activity,
    Candidate,
    Choice,
    Final,
    Letter,
    Marker,
    Partial,
    Problem,
    Ready,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    Word,
)
from wavlm_live.streamer.protocols.audio import AudioFormat
from wavlm_live.streamer.protocols.commands import Audio, Change, Close, Finish, Flush, Mark, Numbered, Open, Send
from wavlm_live.streamer.protocols.native import NativeProtocol
from wavlm_live.streamer.protocols.native_client import ClientStream, ServerRefused, event_of
from wavlm_live.streamer.protocols.native_messages import Point, ServerMessage, schema
from wavlm_live.streamer.protocols.settings_of_clients import client_settings
from wavlm_live.streamer.session_settings import SessionSettings

ROOT = Path(__file__).resolve().parents[3]
WORD = Word("yes", 1600, 3200, 0.5, (Letter("y", 1600, 1920),), (Choice("yet", 0.25),))
EVENTS = [
    SpeechStarted(1600),
    SpeechStopped(3200),
    Partial("yes", "no", (WORD,)),
    Final("yes", (WORD,), 1600, 3200, "silence", (Candidate("yes", -1.5, -2.5),)),
    Activity(320, 320, (0.25, 0.75)),
    Marker("here", 4800),
    Speaker("anna", 0, 16000, 0.5),
    Problem("slow_reader", "too slow"),
]


def protocol() -> NativeProtocol:
    return NativeProtocol(StreamingContext.parse)


def started(**more) -> NativeProtocol:
    found = protocol()
    assert isinstance(found.received(json.dumps({"type": "start", **more}))[0], Open)
    return found


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_every_event_is_on_the_wire_what_the_types_say(event):
    index = 3 if isinstance(event, Final) else None
    sent = protocol().happened([Numbered(7, event, index)])[0]
    message = msgspec.json.decode(sent.data, type=ServerMessage)
    assert message.seq == 7
    assert event_of(message) == event


def test_the_schema_in_the_documentation_is_generated():
    assert json.loads((ROOT / "docs" / "protocol.schema.json").read_text()) == json.loads(json.dumps(schema()))


def test_messages_become_commands():
    p = protocol()
    (opened,) = p.received(
        '{"type":"start","audio":{"encoding":"mulaw","rate":8000},"settings":{"context":"50,8,2","activity":true,'
        '"endpoint":{"silence_ms":300},"decoding":{"hotwords":["yes",["no",2]]}}}'
    )
    assert opened.audio == AudioFormat("mulaw", 8000)
    assert opened.settings.context == StreamingContext(50, 8, 2)
    assert opened.settings.decoding.hotwords == (("yes", 1.5), ("no", 2.0))
    assert opened.settings.endpoint.silence_ms == 300
    assert p.received(b"abc") == [Audio(b"abc")]
    assert p.received('{"type":"flush"}') == [Flush()]
    assert p.received('{"type":"marker","id":"a"}') == [Mark("a")]
    assert p.received('{"type":"keep_alive"}') == []
    (changed,) = p.received('{"type":"settings","settings":{"activity":false}}')
    assert changed.settings == msgspec_replace(opened.settings, activity=False)
    assert p.received('{"type":"end"}') == [Finish()]


def msgspec_replace(value, **changes):
    from dataclasses import replace

    return replace(value, **changes)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("[", "bad_message"),
        ("[]", "bad_message"),
        ('{"type":"strat"}', "bad_message"),
        ('{"type":"start","version":2}', "bad_message"),
        ('{"type":"start","color":"red"}', "bad_message"),
        ('{"type":"start","audio":{"encoding":"mp3"}}', "bad_message"),
        ('{"type":"start","audio":{"rate":"16000"}}', "bad_message"),
        ('{"type":"flush"}', "not_started"),
        (b"abc", "not_started"),
        ('{"type":"start","settings":{"model":"/etc/passwd"}}', "bad_settings"),
        ('{"type":"start","settings":{"decoding":{"lm_path":"/etc/passwd"}}}', "bad_settings"),
        ('{"type":"start","settings":{"context":"9999,1,1"}}', "bad_settings"),
        ('{"type":"start","settings":{"context":[1]}}', "bad_settings"),
        ('{"type":"start","settings":{"endpoint":{"silence_ms":"1"}}}', "bad_settings"),
        ('{"type":"start","settings":{"endpoint":3}}', "bad_settings"),
        ('{"type":"start","settings":{"decoding":{"hotwords":[["a"]]}}}', "bad_settings"),
        ('{"type":"start","settings":{"decoding":{"method":"beam","beam_width":1000}}}', "bad_settings"),
    ],
)
def test_what_is_wrong_is_said_and_ends_the_connection(message, code):
    problem, close = protocol().received(message)
    told = json.loads(problem.data)
    assert (told["type"], told["code"], told["fatal"]) == ("problem", code, True)
    assert len(told["message"]) > 20
    assert isinstance(close, Close)
    assert close.code in (1003, 1007)


def test_settings_that_cannot_be_change_nothing_in_a_running_stream():
    p = started()
    (change,) = p.received('{"type":"settings","settings":{"endpoint":{"silence_ms":-1}}}')
    assert change.settings == SessionSettings()
    assert "silence_ms" in change.refused
    assert p.received(b"ab") == [Audio(b"ab")]


def test_settings_do_not_leak_from_one_client_to_another():
    base = SessionSettings()
    first = client_settings({"endpoint": {"silence_ms": 200}}, base, StreamingContext.parse)
    assert first.endpoint.silence_ms == 200
    assert base.endpoint.silence_ms == client_settings({}, base, StreamingContext.parse).endpoint.silence_ms == 800
    with pytest.raises(ConfigurationError, match="not for clients"):
        client_settings({"decoding": {"lm_path": None}}, base, StreamingContext.parse)


ready = '{{"type":"ready","seq":{seq},"model":"m","context":"1,1,1","latency_s":0.5,"sample_rate":16000,\
"session":"abc","resumed":"{how}","bytes":{bytes},"messages":{messages},"window_s":{window}}}'


def begin(client: ClientStream, how="new", bytes=0, messages=0, window=1000.0):
    return client.received(ready.format(seq=0, how=how, bytes=bytes, messages=messages, window=window))


def acknowledged(seq: int, heard: int, **point) -> str:
    point = msgspec.to_builtins(Point(**point))
    return json.dumps({"type": "acknowledged", "seq": seq, "samples": 0, "heard_bytes": heard, "point": point})


def test_a_client_sends_nothing_before_the_server_is_ready_and_no_more_than_its_window():
    client = ClientStream()
    client.feed(bytes(100_000))
    assert client.outgoing() == []
    assert isinstance(begin(client, window=1.0)[0], Ready)
    assert sum(map(len, client.outgoing())) == 64_000  # the first piece fills it
    client.received(acknowledged(1, 64_000))
    assert sum(map(len, client.outgoing())) == 36_000
    client.finish()
    assert client.outgoing() == ['{"type":"end"}']
    client.received('{"type":"ended","seq":1}')
    assert client.ended


def test_a_client_keeps_what_the_server_may_need_again_and_no_more():
    client = ClientStream()
    begin(client)
    for i in range(5):
        client.feed(bytes([i]) * 1000)
        client.flush()
    client.outgoing()
    client.received(acknowledged(1, 5000, bytes=2500, messages=2))
    assert client.kept_bytes == 3000
    client.broke()
    start = json.loads(client.opening())
    assert start["resume"]["session"] == "abc"
    assert start["resume"]["point"]["bytes"] == 2500
    begin(client, "replay", bytes=2500, messages=2)
    sent = client.outgoing()
    assert b"".join(m for m in sent if isinstance(m, bytes)) == bytes([2]) * 500 + bytes([3]) * 1000 + bytes([4]) * 1000
    assert sum(isinstance(m, str) for m in sent) == 3
    client.broke()
    begin(client, "held", bytes=4200, messages=4)
    sent = client.outgoing()
    assert b"".join(m for m in sent if isinstance(m, bytes)) == bytes([4]) * 800
    assert sum(isinstance(m, str) for m in sent) == 1


def test_a_client_gives_each_event_once():
    client = ClientStream()
    begin(client)
    final = protocol().happened([Numbered(5, Final("a", (), 0, 10, "end"), 0)])[0].data
    assert client.received(final) == [Final("a", (), 0, 10, "end")]
    assert client.received(final) == []
    again = protocol().happened([Numbered(9, Final("a", (), 0, 10, "end"), 0)])[0].data
    assert client.received(again) == []


def test_a_replay_that_breaks_too_answers_no_marker_twice():
    """The server that was asked again is held in its turn: its answers still begin with those that came before."""
    client = ClientStream()
    begin(client)
    for id in "abc":
        client.feed(bytes(1000))
        client.mark(id)
    client.outgoing()

    def answered(seq: int, id: str) -> list:
        return [e.id for e in client.received(json.dumps({"type": "marker", "seq": seq, "id": id, "at_s": 1.0}))]

    assert answered(1, "a") == ["a"]
    client.broke()
    begin(client, "replay")
    client.outgoing()
    client.broke()
    begin(client, "held", bytes=2500, messages=2)
    client.outgoing()
    assert [answered(n, id) for n, id in enumerate("abc", start=2)] == [[], ["b"], ["c"]]


def test_a_client_whose_sound_is_gone_says_so():
    client = ClientStream()
    begin(client)
    client.feed(bytes(1000))
    client.outgoing()
    client.received(acknowledged(1, 1000, bytes=1000))
    client.broke()
    with pytest.raises(ServerRefused, match="asks for sound from byte 0"):
        begin(client, "replay", bytes=0)


message = st.one_of(
    st.binary(max_size=50),
    st.text(max_size=80),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ).map(lambda v: json.dumps(v)),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["start", "flush", "marker", "settings", "keep_alive", "end", "ready"])},
        optional={
            "id": st.text(max_size=5) | st.integers(),
            "settings": st.dictionaries(
                st.sampled_from(["context", "endpoint", "decoding", "activity", "speech", "partial_hop_ms", "x"]),
                st.integers() | st.text(max_size=5) | st.dictionaries(
                    st.sampled_from(["silence_ms", "hotwords", "method", "beam_width", "lm_path", "stability"]),
                    st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
                    max_size=3,
                ),
                max_size=3,
            ),
            "audio": st.dictionaries(
                st.sampled_from(["rate", "encoding", "channels"]), st.integers() | st.text(max_size=9)
            ),
            "resume": st.none() | st.fixed_dictionaries(
                {"session": st.text(max_size=4), "last_seq": st.integers(), "finals": st.integers()},
                optional={
                    "point": st.dictionaries(st.sampled_from(["bytes", "finals", "segment_samples"]), st.integers())
                },
            ),
        },
    ).map(json.dumps),
)  # fmt: skip


@settings(max_examples=300)
@given(messages=st.lists(message, max_size=6), begin_first=st.booleans())
def test_no_message_makes_the_server_raise(messages, begin_first):
    p = started() if begin_first else protocol()
    for each in messages:
        for command in p.received(each):
            if isinstance(command, Send):
                msgspec.json.decode(command.data, type=ServerMessage)
            if isinstance(command, Close):
                return


def test_acknowledged_carries_where_to_resume():
    extra = {"heard_bytes": 4, "point": msgspec.structs.asdict(Point(1, 2, 3, 4, 5))}
    sent = protocol().happened([Numbered(1, Acknowledged(320), extra=extra)])[0]
    message = msgspec.json.decode(sent.data, type=ServerMessage)
    assert (message.samples, message.heard_bytes, message.point) == (320, 4, Point(1, 2, 3, 4, 5))


def test_samples_become_bytes():
    from wavlm_live.model.errors import AudioError
    from wavlm_live.streamer.protocols.audio import encoded

    samples = np.array([0, 0.5, -1, 1], np.float32)
    assert np.frombuffer(encoded(samples, AudioFormat()), "<i2").tolist() == [0, 16384, -32768, 32767]
    assert encoded(samples, AudioFormat("pcm_f32le")) == samples.tobytes()
    for wrong, format in ((samples.astype(np.float64), AudioFormat()), (samples, AudioFormat("mulaw"))):
        with pytest.raises(AudioError):
            encoded(wrong, format)


def test_a_replay_is_sent_the_settings_of_its_place_and_no_message_that_lies_before_it():
    """The sound that is context only holds control messages that were obeyed already."""
    client = ClientStream(settings={"endpoint": {"silence_ms": 500}, "activity": True})
    begin(client)
    client.feed(bytes(1000))
    client.change({"endpoint": {"max_segment_s": 9}})
    client.feed(bytes(1000))
    client.change({"context": "none such"})
    client.mark("a")
    client.feed(bytes(1000))
    client.change({"activity": False})
    client.outgoing()
    refused = '{"type":"problem","seq":1,"code":"bad_settings","message":"no","fatal":false,"number":1}'
    assert client.received(refused)[0].code == "bad_settings"
    client.received(acknowledged(2, 3000, bytes=0, messages=3, origin_samples=0, segment_samples=1500))
    client.broke()
    start = json.loads(client.opening())
    assert start["settings"] == {"endpoint": {"silence_ms": 500, "max_segment_s": 9}, "activity": True}
    begin(client, "replay", bytes=0, messages=3)
    sent = client.outgoing()
    assert b"".join(m for m in sent if isinstance(m, bytes)) == bytes(3000)
    assert [json.loads(m)["settings"] for m in sent if isinstance(m, str)] == [{"activity": False}]


def test_a_stream_that_goes_on_changes_its_settings_from_where_they_were():
    p = started()
    p.goes_on(SessionSettings(activity=True, partial_hop_ms=300))
    assert p.received('{"type":"settings","settings":{"partial_hop_ms":500}}') == [
        Change(SessionSettings(activity=True, partial_hop_ms=500))
    ]


def test_a_full_server_is_waited_for_once():
    client = ClientStream()
    full = {"type": "problem", "seq": 0, "code": "overloaded", "message": "full", "fatal": True, "retry_after_s": 5.0}
    assert client.received(json.dumps(full)) == []
    assert client.retry_after_s == 5.0
    begin(client)
    assert client.retry_after_s is None
