"""A stream that goes on at another server keeps its speakers and their numbers; what a client made up is refused."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from websockets.sync.client import connect

from wavlm_live.streamer import SessionSettings
from wavlm_live.streamer.client import Client, Retry
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Final, Speaker
from wavlm_live.streamer.sources import FileSource
from wavlm_live.streamer.speaker_memory import SpeakerMemory, VoiceVector
from wavlm_live.streamer.speakers import STRETCH_FRAMES, SpeakerRules

QUICK = Retry(first_s=0.01, longest_s=0.05, give_up_s=60)
WANTED = {
    "context": "20,16,4",
    "partial_hop_ms": 0,
    "endpoint": {"silence_ms": 500},
    "speakers": {"enabled": True, "new_below": 0.7},
}
ORDER = ("bluegrass", "rope", "tureen", "waited", "rope", "bluegrass", "waited", "rope")


@pytest.fixture(scope="module")
def sound(audio_folder) -> np.ndarray:
    """Sentences with a second between them; those of the second half were heard before."""
    read = {name: np.concatenate(list(FileSource(audio_folder / f"sentence_{name}.opus"))) for name in set(ORDER)}
    silence = np.zeros(16_000, np.float32)
    return np.concatenate([part for name in ORDER for part in (read[name], silence)])


def who(events) -> tuple[list, list, list]:
    """Who spoke when, whose the words are, and when they were said."""
    speakers = [(e.speaker, e.start_samples, e.end_samples) for e in events if isinstance(e, Speaker)]
    words = [w for e in events if isinstance(e, Final) for w in e.words]
    return speakers, [(w.text, w.speaker) for w in words], [(w.start_samples, w.end_samples) for w in words]


@pytest.fixture(scope="module")
def unbroken(bundled, sound) -> tuple[list, list, list]:
    session = bundled.open(
        SessionSettings(
            context=bundled.context("20,16,4"),
            partial_hop_ms=0,
            endpoint=EndpointRules(silence_ms=500),
            speakers=SpeakerRules(enabled=True, new_below=0.7),
        )
    )
    data = (sound * 32767).astype("<i2").astype(np.float32) / 32768
    found = who([*session.feed(data), *session.finish()])
    first, last = ({name for name, at, _ in found[0] if lo <= at / 16_000 < hi} for lo, hi in ((4, 9.5), (34, 41)))
    assert len({name for name, *_ in found[0]} - {"unknown"}) >= 5
    assert first == last - {"unknown"} != {"speaker 1"}, "the last sentence was heard before"
    return found


@pytest.mark.parametrize("cut", [[760_000], [1_010_000, 300_000], [400_000, 300_000, 300_000]])
def test_another_server_knows_the_speakers(bundled, start_server, break_line, sound, unbroken, cut):
    data = (sound * 32767).astype("<i2").tobytes()
    with (
        start_server(bundled) as first,
        start_server(bundled) as second,
        break_line([first.url, second.url], cut) as proxy,
    ):
        client = Client(proxy.url, WANTED, retry=QUICK)
        found = who(list(client.transcribe(data[i : i + 4000] for i in range(0, len(data), 4000))))
    assert client.reconnections == len(cut)
    assert found[1] == unbroken[1]
    missing = [stretch for stretch in unbroken[0] if stretch not in found[0]]
    assert found[0] == [stretch for stretch in unbroken[0] if stretch not in missing]
    # A voice that goes on behind the last word of a segment is known to the server that heard it alone.
    assert len(missing) <= len(cut)
    assert all(end - start < 320 * STRETCH_FRAMES for _, start, end in missing)
    assert not [1 for _, start, end in missing for a, b in unbroken[2] if a < end and b > start]


def resumed(url: str, settings: dict, speakers: bytes) -> dict:
    """The first answer to a client that comes back with this point."""
    point = {"bytes": 0, "origin_samples": 0, "segment_samples": 0, "finals": 0, "messages": 0}
    point["speakers"] = base64.b64encode(speakers).decode()
    resume = {"session": "elsewhere", "last_seq": 0, "finals": 0, "point": point}
    with connect(url) as client:
        client.send(json.dumps({"type": "start", "settings": settings, "resume": resume}))
        return json.loads(client.recv(30))


def test_speakers_of_another_model_or_none(server, tiny_server):
    right, wrong = (SpeakerMemory((VoiceVector(1, 100, 90.0, np.eye(size)[0]),), 1).to_bytes() for size in (64, 65))
    assert resumed(server.url, WANTED, right)["resumed"] == "replay"
    refused = resumed(server.url, WANTED, wrong)
    assert (refused["type"], refused["code"]) == ("problem", "bad_settings")
    assert "vectors of 64 numbers" in refused["message"]
    for made_up in (b"x", right[:-1], right + b"x", b"\xff" * len(right)):
        answer = resumed(server.url, WANTED, made_up)
        assert answer["code"] in ("bad_settings", "bad_request"), answer
        assert "resume.point.speakers" in answer["message"]
    assert resumed(server.url, {}, wrong)["resumed"] == "replay"  # nobody asks for speakers
    assert resumed(tiny_server.url, {}, right)["resumed"] == "replay"
    assert server.batcher.statistics().ended_failed == 0
