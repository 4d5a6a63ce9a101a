"""Every limit of the server holds, and says what it is: streams, sound, time, files, readers, broken streams."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wavlm_live.streamer.server.keys import make_key
from wavlm_live.streamer.server.limits import AudioBudget, Doorkeeper, LimitReached, RecordingSound
from wavlm_live.streamer.server.settings import Limits

START = '{"type":"start"}'


def ended(client) -> tuple[str, int]:
    """The code of the problem that ended the stream, and the close code."""
    code = ""
    try:
        while True:
            message = json.loads(client.recv(60))
            code = message["code"] if message["type"] == "problem" else code
    except ConnectionClosed as closed:
        return code, closed.rcvd.code if closed.rcvd else 1006


def test_a_stream_is_as_long_as_it_may_be_in_sound(tiny, start_server):
    with start_server(tiny, Limits(session_s=3)) as server, connect(server.url) as client:
        client.send(START)
        for _ in range(12):
            client.send(bytes(32_000))
        assert ended(client) == ("too_long", 1008)


def test_a_stream_is_as_long_as_it_may_be_in_time(tiny, start_server):
    with start_server(tiny, Limits(session_s=1.5)) as server, connect(server.url) as client:
        client.send(START)
        began = time.monotonic()
        while time.monotonic() < began + 1:
            client.send('{"type":"keep_alive"}')
            time.sleep(0.2)
        assert ended(client) == ("too_long", 1008)


def test_a_key_and_an_address_share_their_sound_among_their_streams():
    now = [0.0]
    limits = Limits(audio_rate=10, audio_burst_s=10, audio_rate_per_key=20, audio_rate_per_address=40)
    door = Doorkeeper(limits, lambda: now[0])
    first, second = door.budgets("anna", "1.2.3.4"), door.budgets("anna", "5.6.7.8")
    assert first[1] is second[1]
    assert first[0] is not second[0]
    assert [b.take(20) for b in first] == [0, 0]
    assert [b.take(20) for b in second] == [0, 1.0]  # the key is used up, the other address is not
    assert len(door.budgets("", "1.2.3.4")) == 1
    now[0] = 10
    assert AudioBudget(limits, lambda: now[0], 20).take(21) == pytest.approx(0.05)


def test_streams_of_a_key_are_slowed_together(tiny, start_server):
    key, line = make_key("anna")
    limits = Limits(audio_rate=100, audio_burst_s=100, audio_rate_per_key=2)  # the key's burst: 2 s
    with start_server(tiny, limits, keys=(line,)) as server:
        began = time.monotonic()
        for _ in range(2):
            with connect(server.url, additional_headers={"X-API-Key": key}) as client:
                client.send(START)
                client.send(bytes(32_000 * 3))
                client.send('{"type":"end"}')
                assert ended(client) == ("", 1000)
        assert time.monotonic() - began >= 1.9  # 6 s of sound, 2 of them at once, the rest at twice the pace


def test_a_reader_who_takes_nothing_is_disconnected(tiny, start_server, monkeypatch):
    async def stuck(self, data) -> None:
        await asyncio.sleep(3600)  # as when the network's buffers are full

    with start_server(tiny, Limits(write_s=1)) as server:
        monkeypatch.setattr(WebSocket, "send_text", stuck)
        with connect(server.url) as client:
            client.send(START)
            with pytest.raises(ConnectionClosed):
                client.recv(30)
        assert 'wavlm_live_errors_total{code="slow_reader"} 1.0' in httpx.get(f"{server.http}/metrics").text


def test_a_slow_reader_is_told_and_loses_nothing(tiny, start_server, monkeypatch):
    send = WebSocket.send_text

    async def slowly(self, data) -> None:
        await asyncio.sleep(0.1)
        await send(self, data)

    noise = (np.random.default_rng(0).normal(0, 0.2, 32_000) * 8192).astype("<i2").tobytes()
    with start_server(tiny, Limits(unread_events=5)) as server:
        monkeypatch.setattr(WebSocket, "send_text", slowly)
        with connect(server.url) as client:
            wanted = {"activity": True, "endpoint": {"silence_ms": 40, "max_segment_s": 0.2}}
            client.send(json.dumps({"type": "start", "settings": wanted}))
            for _ in range(6):
                client.send(noise)
            client.send('{"type":"end"}')
            messages = [json.loads(message) for message in client]  # to the close with 1000, or it would raise
    assert "slow_reader" in [m["code"] for m in messages if m["type"] == "problem"]
    indices = [m["index"] for m in messages if m["type"] == "final"]
    assert indices == list(range(len(indices)))
    assert len(indices) > 5


def test_only_so_many_broken_streams_wait(tiny, start_server):
    with start_server(tiny, Limits(held=2)) as server:
        for _ in range(4):
            with connect(server.url) as client:
                client.send(START)
                client.recv(30)
                client.socket.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + 20
        while server.batcher.statistics().sessions != 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert server.batcher.statistics().sessions == 2
        assert "\nwavlm_live_held_streams 2.0" in httpx.get(f"{server.http}/metrics").text


def flac(seconds: float) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(round(16_000 * seconds), np.float32), 16_000, format="FLAC")
    return out.getvalue()


def posted(server, data: bytes) -> tuple[int, str]:
    answer = httpx.post(f"{server.http}/v1/audio/transcriptions", files={"file": ("a.flac", data)}, timeout=60)
    return answer.status_code, answer.json()["error"]["code"] if answer.status_code != 200 else ""


def test_files_are_as_large_and_as_long_as_they_may_be(tiny, start_server):
    with start_server(tiny, Limits(upload_bytes=300_000, upload_s=30)) as server:
        assert posted(server, bytes(500_000)) == (413, "too_big")
        assert posted(server, flac(600)) == (413, "too_long")  # a few kilobytes of silence
        assert posted(server, flac(2)) == (200, "")


def test_a_recording_is_let_in_whole_or_not_at_all():
    now = [0.0]
    limits = Limits(audio_rate=10, audio_burst_s=10, audio_rate_per_key=20, audio_rate_per_address=40)
    key, address = budgets = list(reversed(Doorkeeper(limits, lambda: now[0]).budgets("anna", "1.2.3.4")))
    first = RecordingSound(budgets, 15)  # of 20 that the key may send at once
    assert [first.take(5), first.take(10)] == [0, 0]
    with pytest.raises(LimitReached, match=r"a recording of 10 s has to wait 0\.2 s") as refused:
        RecordingSound(budgets, 10)
    assert refused.value.retry_after_s == pytest.approx(0.25)
    assert address.wait_s(25) == 0, "what is refused takes nothing"
    now[0] = 0.25
    second = RecordingSound(budgets, 10)
    assert key.take(0) == 0, "live streams of the key need not wait"
    assert second.take(4) == 0
    second.close()
    second.close()
    assert key.wait_s(6) == 0, "what it did not need comes back"
    assert key.wait_s(6.1) > 0
    now[0] = 10.0
    long = RecordingSound(budgets, 3600)  # longer than any burst
    waits = [long.take(1) for _ in range(30)]
    assert waits[:20] == [0] * 20
    assert waits[20:] == pytest.approx([n / 20 for n in range(1, 11)])  # who reads on waits, as live streams do
    unstated = RecordingSound(Doorkeeper(limits, lambda: now[0]).budgets("", "5.6.7.8"), 0)
    assert [unstated.take(40), unstated.take(4)] == pytest.approx([0, 0.1])


def test_files_count_against_the_sound_of_their_address(tiny, start_server):
    limits = Limits(audio_rate=10, audio_burst_s=40, audio_rate_per_address=1)  # the address' burst: 4 s
    with start_server(tiny, limits) as server, httpx.Client(base_url=server.http, timeout=60) as client:

        def post(seconds: float, **form: str) -> httpx.Response:
            return client.post("/v1/audio/transcriptions", files={"file": ("a.flac", flac(seconds))}, data=form)

        began = time.monotonic()
        assert post(3.5).status_code == 200
        for form in ({}, {"stream": "true"}):
            refused = post(3.5, **form)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_much_sound"
            assert "a recording of 4 s has to wait" in refused.json()["error"]["message"]
        wait_s = int(refused.headers["retry-after"])
        assert 1 <= wait_s <= 4
        time.sleep(wait_s)
        assert post(3.5).status_code == 200, "after as long as it was told"
        assert time.monotonic() - began >= 3
        time.sleep(max(0.0, 4 - (time.monotonic() - began)))
        with connect(server.url) as stream:  # live streams share what is left with them
            began = time.monotonic()
            stream.send(START)
            stream.send(bytes(32_000 * 6))
            stream.send('{"type":"end"}')
            assert ended(stream) == ("", 1000)
            assert time.monotonic() - began >= 1.9
        assert 'wavlm_live_refused_total{code="too_much_sound"} 2.0' in client.get("/metrics").text


def test_a_file_longer_than_the_burst_is_read_more_slowly(tiny, start_server):
    key, line = make_key("anna")
    limits = Limits(audio_rate=100, audio_burst_s=100, audio_rate_per_key=2)  # the key's burst: 2 s
    with start_server(tiny, limits, keys=(line,)) as server:
        began = time.monotonic()
        answer = httpx.post(
            f"{server.http}/v1/audio/transcriptions",
            files={"file": ("a.flac", flac(6))},
            headers={"X-API-Key": key},
            timeout=60,
        )
        assert answer.json()["usage"]["seconds"] == pytest.approx(6, abs=0.01)
        assert time.monotonic() - began >= 1.9


@contextmanager
def half_an_upload(server):
    """A client that has sent the first half of a form, and sends the rest when it is told to."""
    data = flac(1)
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.flac"\r\n\r\n' + data + b"\r\n--x--\r\n"
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {len(form)}\r\n\r\n"
    )
    address = urlsplit(server.http)
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(head.encode() + form[:100])

        def rest() -> bytes:
            line.sendall(form[100:])
            answer = b""
            while piece := line.recv(1 << 16):
                answer += piece
            return answer

        yield rest


def settled(server, seconds: float, wanted: tuple[int, str]) -> bool:
    """Whether a file is answered so, soon."""
    end = time.monotonic() + 20
    while (found := posted(server, flac(seconds))) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return found == wanted


def test_so_many_files_at_once(tiny, start_server):
    """Those that are still being sent count, those whose clients went away do not."""
    with start_server(tiny, Limits(uploads=2)) as server:
        with half_an_upload(server) as first, half_an_upload(server):
            assert settled(server, 1, (503, "busy"))
            answer = httpx.post(f"{server.http}/v1/audio/transcriptions", files={"file": ("a.flac", flac(1))})
            assert answer.headers["retry-after"] == "5"
            assert b"HTTP/1.1 200" in first()
            assert settled(server, 1, (200, ""))
        assert settled(server, 1, (200, ""))
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(half_an_upload(server))
            assert settled(server, 1, (503, "busy"))
    assert Limits().uploads == 4


def test_files_are_streams_of_their_key_and_address(tiny, start_server):
    with (
        start_server(tiny, Limits(sessions_per_address=2)) as server,
        half_an_upload(server),
        connect(server.url) as live,
    ):
        live.send(START)
        live.recv(30)
        assert settled(server, 1, (429, "too_many_sessions"))
