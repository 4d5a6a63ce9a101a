"""One server, two models: each stream is its own model's, clients choose by name alone, and the device is shared."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.streamer import Recogniser, SessionSettings
from wavlm_live.streamer.admission import BatcherRules, Overloaded
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.client import Client, Retry
from wavlm_live.streamer.events import Final, Ready
from wavlm_live.streamer.model_names import ServedModel
from wavlm_live.streamer.protocols.native_client import ServerRefused
from wavlm_live.streamer.serve import session_of
from wavlm_live.streamer.server.offered_models import OfferedModels
from wavlm_live.streamer.server.settings import ServerSettings
from wavlm_live.streamer.shared_device import SharedDevice
from wavlm_live.streamer.speakers import SpeakerRules
from wavlm_live.streamer.top import parse_figures

QUICK = Retry(first_s=0.01, longest_s=0.05, give_up_s=60)
HOP = {"partial_hop_ms": 0}


@pytest.fixture(scope="module")
def both(bundled, tiny, start_server):
    with start_server(bundled, also=[tiny]) as server:
        yield server


@pytest.fixture(scope="module")
def sound(recording) -> np.ndarray:
    return (recording[: 16_000 * 6] * 32768).astype("<i2")


def finals(events) -> list:
    return [(e.text, e.start_samples, e.end_samples, e.reason) for e in events if isinstance(e, Final)]


def alone(recogniser: Recogniser, sound: np.ndarray) -> list:
    session = recogniser.open(SessionSettings(partial_hop_ms=0))
    return finals([*session.feed(sound.astype(np.float32) / 32768), *session.finish()])


def said(url: str, sound: np.ndarray, model: str | None) -> tuple[str, list]:
    data = sound.tobytes()
    events = list(
        Client(url, HOP, retry=QUICK, model=model).transcribe(data[i : i + 5000] for i in range(0, len(data), 5000))
    )
    return next(e.model for e in events if isinstance(e, Ready)), finals(events)


def test_each_stream_is_its_own_models(both, bundled, tiny, sound):
    """Streams of both at once, of different sound: what the recogniser of each says alone."""
    wanted = [(None, bundled), (bundled.name, bundled), (tiny.name, tiny), (tiny.name, tiny)]
    cuts = [sound[n * 3200 :] for n in range(len(wanted))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: said(both.url, pair[1], pair[0][0]), zip(wanted, cuts, strict=True)))
    for (_, recogniser), cut, (model, texts) in zip(wanted, cuts, found, strict=True):
        assert model == recogniser.name
        assert texts == alone(recogniser, cut)
    assert found[0][1] != alone(tiny, cuts[0])
    with httpx.Client(base_url=both.http) as client:
        figures = parse_figures(client.get("/metrics").text, 0.0)
    by_model = figures.by("model_audio_s_total", "model")
    assert set(by_model) == {bundled.name, tiny.name}
    assert all(seconds >= 10 for seconds in by_model.values())
    assert figures.get("batcher_audio_s_total") == pytest.approx(sum(by_model.values()))
    assert figures.get("batcher_steps_total") == sum(figures.by("model_steps_total", "model").values())
    assert figures.get("batcher_step_p99_ms") >= figures.get("batcher_step_p50_ms") > 0


@pytest.mark.parametrize("name", ["another", "/etc/passwd", "../tiny"])
def test_a_model_that_is_not_offered_is_refused(both, bundled, tiny, name):
    with connect(both.url) as client:
        client.send(json.dumps({"type": "start", "model": name}))
        problem = json.loads(client.recv(30))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(30)
    assert (problem["code"], closed.value.rcvd.code) == ("unknown_model", 1007)
    assert name in problem["message"]
    assert f"{bundled.name}, {tiny.name}" in problem["message"]
    with pytest.raises(ServerRefused, match="does not offer"):
        list(Client(both.url, retry=QUICK, model=name).transcribe([bytes(3200)]))


def test_contexts_are_the_chosen_models(both, tiny):
    for model, context, ready in (
        (tiny.name, "low", "100,4,0"),
        (None, "low", "250,8,8"),
        (tiny.name, None, "100,16,4"),
    ):
        start = {"type": "start", "settings": {} if context is None else {"context": context}}
        with connect(both.url) as client:
            client.send(json.dumps(start if model is None else start | {"model": model}))
            assert json.loads(client.recv(30))["context"] == ready


def test_a_broken_stream_keeps_its_model(both, tiny, sound, break_line):
    """Held by the server, and after the server let go of it: it goes on with the model it began with."""
    with break_line([both.url], [60_000, 90_000]) as proxy:
        model, texts = said(proxy.url, sound, tiny.name)
        assert proxy.connections == 3
    assert (model, texts) == (tiny.name, alone(tiny, sound))
    with connect(both.url) as first:
        first.send(json.dumps({"type": "start", "model": tiny.name}))
        ready = json.loads(first.recv(30))
    resume = {"session": ready["session"], "last_seq": ready["seq"], "finals": 0}
    with connect(both.url) as again:  # whose `start` names none
        again.send(json.dumps({"type": "start", "resume": resume}))
        back = json.loads(again.recv(30))
        assert (back["resumed"], back["model"], back["context"]) == ("held", tiny.name, "100,16,4")
        again.send(json.dumps({"type": "settings", "settings": {"context": "default"}}))  # of its own model: the same
        again.send(json.dumps({"type": "marker", "id": "here"}))
        kinds = []
        while not kinds or kinds[-1] != "marker":
            kinds.append((message := json.loads(again.recv(30)))["type"])
            assert message["type"] != "problem", message


def test_what_the_server_tells(both, bundled, tiny):
    with httpx.Client(base_url=both.http) as client, connect(both.url) as stream:
        stream.send(json.dumps({"type": "start", "model": tiny.name}))
        stream.recv(30)
        offer = client.get("/v1/dashboard").json()
        rows = client.get("/v1/sessions").json()["sessions"]
        ready = client.get("/readyz").json()
        figures = parse_figures(client.get("/metrics").text, 0.0)
    assert offer["model"] == bundled.name
    assert offer["contexts"] == {name: str(context) for name, context in bundled.contexts.items()}
    assert [(m["model"], m["speakers"]) for m in offer["models"]] == [(bundled.name, True), (tiny.name, False)]
    assert offer["models"][1]["contexts"] == {"default": "100,16,4", "low": "100,4,0"}
    assert tiny.name in [row["model"] for row in rows if row["connected"]]
    assert ready["sessions"] == figures.get("batcher_sessions") >= 1
    assert figures.by("model_sessions", "model")[tiny.name] >= 1


def test_compatible_protocols_take_any_name_and_know_the_offered_ones(both, tiny, bundled, sound, tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound, 16_000, subtype="PCM_16")
    texts = {r.name: " ".join(text for text, *_ in alone(r, sound)) for r in (bundled, tiny)}
    for asked, given in ((tiny.name, tiny.name), ("whisper-1", bundled.name)):
        answer = httpx.post(
            f"{both.http}/v1/audio/transcriptions",
            files={"file": path.read_bytes()},
            data={"model": asked},
            timeout=120,
        )
        assert answer.json()["text"] == texts[given], asked
        base = both.url.replace("/v1/stream", "/v1/listen")
        heard = []
        with connect(
            str(httpx.URL(base, params={"encoding": "linear16", "sample_rate": "16000", "model": asked}))
        ) as dg:
            dg.send(sound.tobytes())
            dg.send('{"type": "CloseStream"}')
            for message in dg:
                result = json.loads(message)
                if result["type"] == "Results":
                    assert result["metadata"]["model_info"]["name"] == given
                    heard.append(result["channel"]["alternatives"][0]["transcript"])
        assert " ".join(filter(None, heard)) == texts[given], asked


def test_the_server_is_full_for_both(bundled, tiny, start_server):
    rules = BatcherRules(most_sessions=2, most_load=10.0, late_s=3600.0, calibrate=False)
    with (
        start_server(bundled, rules=rules, also=[tiny]) as server,
        connect(server.url) as one,
        connect(server.url) as two,
        connect(server.url) as three,
    ):
        answers = []
        for client, model in ((one, bundled.name), (two, tiny.name), (three, tiny.name)):
            client.send(json.dumps({"type": "start", "model": model}))
            answers.append(json.loads(client.recv(30)))
        assert [answer["type"] for answer in answers] == ["ready", "ready", "problem"]
        assert answers[2]["code"] == "overloaded"
        assert "takes 2" in answers[2]["message"]
        assert httpx.get(f"{server.http}/readyz").status_code == 503


def test_loads_are_summed(tiny):
    """What streams of one model take, another model's streams cannot have."""
    rules = BatcherRules(most_load=0.5, calibrate=False)
    device = SharedDevice()
    first, second = (Batcher(tiny, rules, device=device) for _ in range(2))
    apart = Batcher(tiny, rules)
    for batcher in (first, second, apart):
        group = next(iter(batcher.groups.values()))
        group.cost.learn(1, 0.4 * group.chunk_s)
    first.open()
    with pytest.raises(Overloaded, match="80%"):
        second.open()
    apart.open()
    assert second.statistics().load_expected == 0
    assert Batcher.statistics_of([first, second]).refused == 1


def test_turns_come_in_their_order_and_never_two_at_once():
    """Whoever has had a turn and wants another comes after all that wait."""
    device, seen, inside = SharedDevice(), [], []

    def work(name: int) -> None:
        for _ in range(2):
            with device.turn():
                inside.append(name)
                time.sleep(0.002)
                assert inside == [name]
                seen.append(inside.pop())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    with device.turn():
        for number, thread in enumerate(threads):
            thread.start()
            while len(device._waiting) <= number:
                time.sleep(0.001)
    with device.turn():
        assert seen[:3] == [0, 1, 2]
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_models_that_cannot_be_offered_together(tiny):
    other, device = Recogniser(tiny.model, tiny.tokenizer, "other", tiny.contexts), SharedDevice()
    apart = [Batcher(tiny), Batcher(other)]
    with pytest.raises(ConfigurationError, match="share their device"):
        OfferedModels(apart, ServerSettings())
    twice = [Batcher(tiny, device=device) for _ in range(2)]
    with pytest.raises(ConfigurationError, match="different names"):
        OfferedModels(twice, ServerSettings())


def test_serve_with_also(start_process, tiny_model, sound, bundled, tmp_path):
    """A folder by its last part, and the same by a name of the operator's; its path goes to nobody."""
    where = tmp_path / "secret" / "mine"
    shutil.copytree(tiny_model, where)
    with start_process("--also", str(where), "--also", f"clear.2={where}", "--context", "low") as server:
        for model, name in (
            (None, bundled.name),
            ("mine", "mine"),
            ("clear.2", "clear.2"),
        ):
            found, texts = said(server.url, sound, model)
            assert found == name
            assert texts
        told = []
        for asked in (str(where), f"clear.2={where}"):
            with connect(server.url) as client:
                client.send(json.dumps({"type": "start", "model": asked}))
                problem = json.loads(client.recv(30))
                assert problem["code"] == "unknown_model"
                assert problem["message"].endswith(f"it has {bundled.name}, mine, clear.2")
        with connect(server.url) as client:
            client.send(json.dumps({"type": "start", "model": "mine", "settings": {"speakers": {"enabled": True}}}))
            told.append(client.recv(30))
            assert "mine has no voice heads" in told[0]
        base = server.url.replace("ws", "http", 1).removesuffix("/v1/stream")
        out = io.BytesIO()
        soundfile.write(out, sound[:16_000], 16_000, format="WAV", subtype="PCM_16")
        with connect(server.url) as client, httpx.Client(base_url=base, timeout=60) as http:
            client.send(json.dumps({"type": "start", "model": "mine"}))
            told.append(client.recv(30))
            told += [http.get(path).text for path in ("/v1/dashboard", "/v1/sessions", "/metrics", "/readyz")]
            for format in ("verbose_json", "vtt", "srt"):
                form = {"model": "mine", "response_format": format}
                told.append(http.post("/v1/audio/transcriptions", files={"file": out.getvalue()}, data=form).text)
        assert any('"mine"' in text for text in told)
        assert not any("secret" in text or str(tmp_path) in text for text in told)
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("given", "name", "where"),
    [
        (None, "english", None),
        ("english", "english", "english"),
        ("en=english", "en", "english"),
        ("microsoft/wavlm-base-plus", "microsoft/wavlm-base-plus", "microsoft/wavlm-base-plus"),
        ("base=microsoft/wavlm-base-plus", "base", "microsoft/wavlm-base-plus"),
        ("runs/mine", "mine", "runs/mine"),
        ("runs/mine/", "mine", "runs/mine/"),
        ("./runs/../runs/mine/.", "mine", "./runs/../runs/mine/."),
        ("lr=3", "lr=3", "lr=3"),
        ("a=lr=3", "a", "lr=3"),
        (".", "here", "."),
    ],
)
def test_what_a_model_is_called(given, name, where, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "lr=3").mkdir()
    monkeypatch.chdir(here)
    assert ServedModel.parse(given) == ServedModel(name, where)


@pytest.mark.parametrize("given", ["=english", "a b=english", "../x=english", "x=", f"{'n' * 81}=english", "/=english"])
def test_names_that_cannot_be(given):
    with pytest.raises(ConfigurationError, match="expected NAME=WHERE"):
        ServedModel.parse(given)


def test_a_folder_without_a_name_and_none_at_all(tmp_path):
    with pytest.raises(ConfigurationError, match="NAME=/"):
        ServedModel.parse("/")
    for missing in (f"{tmp_path}/none", f"a={tmp_path}/none"):
        with pytest.raises(CheckpointError, match="there is no folder"):
            ServedModel.parse(missing)
    assert Recogniser.load(None, "cpu", name="mine").name == "mine"


def test_what_a_further_model_cannot_is_left_out_and_told(tiny, bundled):
    plain = Recogniser(tiny.model, tiny.tokenizer, "plain")
    told = []
    request = SimpleNamespace(context="low", speakers=True, known_speakers=None)
    base = SessionSettings(context=bundled.context("low"), speakers=SpeakerRules(enabled=True))
    own = session_of(plain, base, request, SimpleNamespace(warn=told.append))
    assert (str(own.context), own.speakers.enabled) == ("250,32,8", False)
    assert [("low" in text, "voice heads" in text) for text in told] == [(True, False), (False, True)]
    told.clear()
    same = session_of(bundled, base, request, SimpleNamespace(warn=told.append))
    assert (same, told) == (base, [])


def test_serve_refuses_a_model_named_twice(command, tiny_model, tmp_path):
    (tmp_path / tiny_model.name).mkdir()
    for also in (tiny_model, tmp_path / tiny_model.name, f"{tiny_model.name}=english"):
        answer = command("serve", "--port", "0", "--model", tiny_model, "--also", also)
        assert answer.code == 2
        assert "twice" in answer.err
        assert "NAME=FOLDER" in answer.err
    missing = command("serve", "--port", "0", "--also", Path("/nonexistent"))
    assert missing.code != 0
    assert "/nonexistent" in missing.err
