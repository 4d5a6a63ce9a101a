"""The operator's view: outlines and events of every session, for those with an operator's key alone."""

from __future__ import annotations

import base64
import json

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wavlm_live.streamer.events import SpeechStarted
from wavlm_live.streamer.server.keys import make_key
from wavlm_live.streamer.server.sound_pictures import BANDS, bands_of, peaks_of
from wavlm_live.streamer.server.watching import MOST_WAITING, Watchers, may_watch

USER, USER_LINE = make_key("someone")
OPERATOR, OPERATOR_LINE = make_key("operator-night")


@pytest.fixture
def guarded(start_server):
    return start_server(keys=(USER_LINE, OPERATOR_LINE))


def test_peaks(seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, 1600).astype(np.float32)
    peaks = np.array(peaks_of(samples)).reshape(-1, 2)
    assert np.abs(peaks[:, 0] - samples.reshape(-1, 160).min(1)).max() < 0.001
    assert np.abs(peaks[:, 1] - samples.reshape(-1, 160).max(1)).max() < 0.001


def test_sound_in_any_blocks_gives_the_same_peaks(seed):
    rng = np.random.default_rng(seed)
    samples = rng.uniform(-1, 1, 20_000).astype(np.float32)
    watchers = Watchers()
    watcher = watchers.enter(lambda: None)
    watchers.began("token", "native", 0.5)
    at = 0
    for cut in [*np.sort(rng.integers(0, 20_000, 50)), 20_000]:
        watchers.sound("token", at, samples[at:cut])
        at = int(cut)
    messages = [json.loads(text) for text in watcher.take()]
    assert messages[0]["type"] == "session"
    sounds = [m for m in messages if m["type"] == "sound"]
    place = 0
    for message in sounds:
        assert message["start_samples"] == place
        place += len(message["peaks"]) // 2 * 160
    assert place > 18_000
    assert [peak for m in sounds for peak in m["peaks"]] == peaks_of(samples[:place])
    bands = b"".join(base64.b64decode(m["bands"]) for m in sounds)
    assert bands == bands_of(np.concatenate([np.zeros(352, np.float32), samples[:place]])).tobytes()
    assert "token" not in json.dumps(messages), "the token would let others take the stream over"


def test_nobody_looks_on_nothing_is_kept():
    watchers = Watchers()
    watchers.began("token", "native", 0.5)
    for n in range(100):
        watchers.sound("token", n * 800, np.zeros(800, np.float32))
        watchers.event("token", SpeechStarted(0))
    watcher = watchers.enter(lambda: None)
    assert [json.loads(m)["type"] for m in watcher.take()] == ["session"]
    for _ in range(MOST_WAITING + 100):
        watchers.event("token", SpeechStarted(0))
    assert len(watcher.take()) == MOST_WAITING
    watchers.leave(watcher)
    watchers.event("token", SpeechStarted(0))
    assert watcher.take() == []


@pytest.mark.parametrize(
    ("name", "allowed"), [("operator", True), ("operator-2", True), ("operators", False), ("", False), (None, False)]
)
def test_who_may_look_on(name, allowed):
    assert may_watch(name) is allowed


@pytest.mark.parametrize(
    "first", [{"type": "watch", "key": USER}, {"type": "watch", "key": "wrong"}, {"type": "watch"}, {"type": "x"}, []]
)
def test_others_are_refused(guarded, first):
    with connect(f"ws://127.0.0.1:{guarded.port}/v1/watch") as socket:
        socket.send(json.dumps(first))
        problem = json.loads(socket.recv(20))
        assert problem["type"] == "problem"
        with pytest.raises(ConnectionClosed):
            socket.recv(20)
        assert socket.close_code == 1008


def test_without_keys_nobody_looks_on(server):
    with connect(f"ws://127.0.0.1:{server.port}/v1/watch") as socket:
        socket.send(json.dumps({"type": "watch", "key": ""}))
        assert "wavlm-live key operator" in json.loads(socket.recv(20))["message"]


def test_an_operator_sees_a_session(visit, guarded, speech, eventually, recogniser):
    """Another client speaks; the operator's page shows its words below its waveform, and that it has gone."""
    page = visit(guarded.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill(OPERATOR)
    page.get_by_role("button", name="Watch all sessions").click()
    eventually(page, "document.querySelector('#note').textContent.startsWith('Watching')")
    with connect(f"ws://127.0.0.1:{guarded.port}/v1/stream") as socket:
        socket.send(json.dumps({"type": "start", "key": USER, "settings": {"activity": True}}))
        for start in range(0, len(speech), 3200):
            socket.send(speech[start : start + 3200].tobytes())
        socket.send(json.dumps({"type": "end"}))
        finals = []
        for message in socket:
            event = json.loads(message)
            if event["type"] == "final":
                finals.append(event)
                if len(finals) == 1:
                    eventually(page, "wavlmLive.panels.size === 1")
        eventually(page, f"[...wavlmLive.panels][0].lane.timeline.finals.length === {len(finals)}")
        session = page.evaluate(
            """() => {
              const { name, spectrum, timeline } = [...wavlmLive.panels][0].lane;
              return { name, speech: timeline.speech, finals: timeline.finals.map((final) => final.text),
                       peaks: Array.from(spectrum.peaks.values.slice(0, 2 * 800)),
                       columns: Array.from(spectrum.columns.values.slice(0, 56 * 800)) };
            }"""
        )
        own = page.evaluate(
            """async (sound) => {
              const { Spectrum } = await import('/web/spectrum.js');
              const spectrum = new Spectrum(60);
              spectrum.push(Int16Array.from(sound));
              return Array.from(spectrum.columns.values.slice(0, 56 * 800));
            }""",
            speech[: 800 * 160].tolist(),
        )
    eventually(page, "[...wavlmLive.panels].length === 0 || [...wavlmLive.panels][0].lane.stateName === 'ended'")
    assert session["name"].startswith("Session ")
    assert session["finals"] == [f["text"] for f in finals]
    assert len(finals) >= 2
    outline = np.array(session["peaks"]).reshape(-1, 2)
    wanted = speech[: 800 * 160].reshape(-1, 160)
    assert np.abs(outline[:, 1] - wanted.max(1)).max() <= 40  # three decimals of full scale
    assert session["speech"]
    # the spectrogram is the one that the page makes of its own sound
    columns, wanted = (np.array(c).reshape(-1, BANDS) for c in (session["columns"], own))
    assert wanted.max() > 200
    assert np.abs(columns - wanted).max() <= 1


def test_sessions_are_listed_for_operators(start_server, speech):
    """Beyond loopback, and without an operator's key, nobody sees sessions; the text is for operators alone."""
    guarded = start_server(keys=(USER_LINE, OPERATOR_LINE))
    url = f"{guarded.url}v1/sessions"
    with connect(f"ws://127.0.0.1:{guarded.port}/v1/stream") as socket:
        socket.send(json.dumps({"type": "start", "key": USER, "settings": {"context": "low"}}))
        socket.send(speech[: 4 * 16_000].tobytes())
        socket.send(json.dumps({"type": "flush"}))
        token = None
        for message in socket:
            event = json.loads(message)
            token = token or event.get("session")
            if event["type"] == "final":
                break
        found = httpx.get(url, headers={"Authorization": f"Bearer {OPERATOR}"}).json()
        assert found["text"]
        [row] = found["sessions"]
        assert row["text"].split()[: len(event["text"].split())] == event["text"].split()
        assert (row["protocol"], row["context"], row["connected"]) == ("native", "250,8,8", True)
        assert 2 < row["heard_s"] + row["waiting_s"] <= 4
        assert row["latency_ms"] >= 0  # sent at once, it is ahead of the pace of speech
        assert 0 < row["realtime_factor"] < 20
        local = httpx.get(url).json()
        assert [{name: r[name] for name in ("id", "protocol")} for r in local["sessions"]] == [
            {"id": row["id"], "protocol": "native"}
        ]
        assert "text" not in local["sessions"][0]
        assert token not in json.dumps(found), "the token would let others take the stream over"
    foreign = httpx.get(url, headers={"Origin": "https://elsewhere.example"})
    assert foreign.status_code == 403
    guarded.stop()
    beyond = start_server(keys=(USER_LINE, OPERATOR_LINE), host="0.0.0.0")
    url = f"http://127.0.0.1:{beyond.port}/v1/sessions"
    for key, status in ((None, 401), (USER, 401), (OPERATOR, 200)):
        answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"} if key else {})
        assert answer.status_code == status
    assert "wavlm-live key operator" in httpx.get(url).json()["error"]["message"]
