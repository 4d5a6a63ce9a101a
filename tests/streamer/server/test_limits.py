"""Every limit of the server holds, and says what it is: streams, sound, time, files, readers, broken streams."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time

import httpx
import numpy as np
import pytest
import soundfile
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wavlm_live.streamer.server.keys import make_key
from wavlm_live.streamer.server.limits import AudioBudget, Doorkeeper
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
