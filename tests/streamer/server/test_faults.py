"""Hostile, broken, slow and hasty clients; limits; a failing device, a full server, an orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.client import Client, Retry
from wavlm_live.streamer.events import Final
from wavlm_live.streamer.server.limits import AudioBudget
from wavlm_live.streamer.server.settings import Limits

START = '{"type":"start"}'


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1).astype(np.float32)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def closing(socket) -> tuple[list[dict], int]:
    """Messages up to the end, and the close code."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(30)))
    except ConnectionClosed as error:
        return messages, error.rcvd.code if error.rcvd else 1006


def works(server) -> bool:
    """Whether a good client is served as ever."""
    return any(isinstance(e, Final) for e in Client(server.url, retry=Retry(give_up_s=0)).transcribe([noise(3)]))


# Wrong messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (["not json"], 1007),
        ([b"sound first"], 1003),
        (['{"type":"start","version":99}'], 1007),
        ([START, START], 1007),
        ([START, '{"type":"marker","id":""}'], 1007),
        ([START, '{"type":"end"}', b"more"], 1007),
        (["[" * 100_000], 1007),
        (['{"type":"start","audio":{"encoding":"flac"}}', b"no flac at all"], 1007),
        (['{"type":"start","resume":{"session":"x","last_seq":0,"finals":0,"point":{"origin_samples":7}}}'], 1007),
    ],
)
def test_wrong_messages_end_the_connection_with_a_reason(tiny_server, sent, code):
    with connect(tiny_server.url) as client:
        for message in sent:
            client.send(message)
        messages, closed = closing(client)
    assert closed == code
    assert messages[-1]["type"] == "problem"
    assert messages[-1]["fatal"] is True


def test_huge_messages_are_refused(tiny, start_server):
    with start_server(tiny, Limits(message_bytes=100_000)) as server:
        with connect(server.url) as client:
            client.send(START)
            client.send(bytes(200_000))
            assert closing(client)[1] == 1009
        assert works(server)


def test_garbage_on_the_socket_harms_nobody(tiny_server, seed):
    rng = np.random.default_rng(seed)
    place = urlsplit(tiny_server.url)
    shake = (
        f"GET /v1/stream HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    for kind in range(12):
        with socket.create_connection((place.hostname, place.port)) as raw:
            try:
                if kind % 3:
                    raw.sendall(shake)
                    raw.recv(1000)
                if kind % 3 == 2:
                    raw.sendall(b"\x81\xfe\xff\xff")  # half a frame, then nothing
                else:
                    raw.sendall(rng.bytes(int(rng.integers(1, 5000))))
            except OSError:
                pass
    assert works(tiny_server)


def test_who_says_nothing_is_shown_out(tiny, start_server):
    with start_server(tiny, Limits(start_s=1, idle_s=1)) as server:
        with connect(server.url) as client:
            assert closing(client)[1] == 1008
        with connect(server.url) as client:
            client.send(START)
            messages, code = closing(client)
            assert (messages[-1]["code"], code) == ("idle", 1008)
        with connect(server.url) as client:
            client.send(START)
            for _ in range(6):
                time.sleep(0.4)
                client.send('{"type":"keep_alive"}')
            client.send('{"type":"end"}')
            assert closing(client)[0][-1]["type"] == "ended"


# Speed ---------------------------------------------------------------------------------------------------


def test_pings_are_answered_while_the_device_is_busy(tiny, start_server, monkeypatch):
    from wavlm_live.streamer import session as sessions

    async def pongs(url: str) -> list[float]:
        found = []
        async with async_connect(url) as client:
            await client.send(START)
            await client.recv()
            await client.send(pcm(noise(3)))
            await asyncio.sleep(0.2)
            for _ in range(5):
                began = time.monotonic()
                async with asyncio.timeout(30):
                    await (await client.ping())
                found.append(time.monotonic() - began)
                await asyncio.sleep(0.05)
        return found

    with start_server(tiny) as server:
        feed = sessions.Session.begin_feed
        monkeypatch.setattr(sessions.Session, "begin_feed", lambda *a: (time.sleep(1.5), feed(*a))[1])
        assert max(asyncio.run(pongs(server.url))) < 1.0
        monkeypatch.undo()


def test_a_flood_is_slowed_down_and_others_do_not_notice(tiny, start_server):
    async def send_all(client) -> None:
        for _ in range(1000):
            await client.send(bytes(32_000))

    async def flood(url: str) -> None:
        async with async_connect(url) as client:
            await client.send(START)
            sending = asyncio.create_task(send_all(client))
            await asyncio.sleep(1.5)
            assert not sending.done()
            sending.cancel()
            assert await asyncio.to_thread(works, server)

    with start_server(tiny, Limits(audio_rate=4, audio_burst_s=2, queue_s=2)) as server:
        asyncio.run(flood(server.url))
        throttled = re.search(r"\nwavlm_live_throttled_total (\S+)", httpx.get(f"{server.http}/metrics").text)
        assert float(throttled[1]) > 0


def test_a_slow_reader_slows_only_itself(tiny, start_server):
    limits = Limits(unread_events=20)
    with start_server(tiny, limits) as server:
        place = urlsplit(server.url)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((place.hostname, place.port))
        with connect(server.url, sock=raw, max_queue=1) as slow:
            slow.send('{"type":"start","settings":{"activity":true,"endpoint":{"silence_ms":40,"max_segment_s":0.2}}}')
            slow.recv()
            for block in range(20):
                slow.send(pcm(noise(0.5, block)))
            began = time.monotonic()
            assert works(server)
            assert time.monotonic() - began < 60
            slow.send('{"type":"end"}')
            kinds = [m["type"] for m in closing(slow)[0]]
        assert kinds[-1] == "ended"
        assert kinds.count("final") > 5


def test_audio_budget_fills_with_time():
    now = [0.0]
    budget = AudioBudget(Limits(audio_rate=2, audio_burst_s=10), lambda: now[0])
    assert budget.take(10) == 0
    assert budget.take(1) == pytest.approx(0.5)
    now[0] += 100
    assert budget.take(10) == 0


def test_decode_bombs_are_refused(tiny, start_server):
    import io

    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.zeros(16_000 * 900, np.float32), 16_000, format="FLAC")
    with start_server(tiny, Limits(message_audio_s=10, audio_burst_s=1e6)) as server, connect(server.url) as client:
        client.send('{"type":"start","audio":{"encoding":"flac"}}')
        client.send(out.getvalue())
        messages, _ = closing(client)
        assert messages[-1]["code"] == "too_much_sound"


# Load and faults -----------------------------------------------------------------------------------------


def test_a_full_server_says_so_at_once(tiny, start_server):
    rules = BatcherRules(most_load=10, late_s=3600, most_sessions=2)
    with start_server(tiny, Limits(hold_s=0), rules) as server:
        with connect(server.url) as first, connect(server.url) as second, connect(server.url) as third:
            for client in (first, second):
                client.send(START)
                client.recv()
            third.send(START)
            messages, code = closing(third)
            assert (code, messages[-1]["code"]) == (1013, "overloaded")
            assert messages[-1]["retry_after_s"] > 0
            with pytest.raises(InvalidStatus) as error:
                connect(server.url)
            assert error.value.response.status_code == 503
            assert int(error.value.response.headers["Retry-After"]) > 0
            ready = httpx.get(f"{server.http}/readyz")
            assert (ready.status_code, ready.json()["state"]) == (503, "full")
        end = time.monotonic() + 20
        while server.batcher.statistics().sessions and time.monotonic() < end:
            time.sleep(0.05)
        assert works(server)


def test_too_many_streams_of_one_address(tiny, start_server):
    with start_server(tiny, Limits(sessions_per_address=1)) as server, connect(server.url) as first:
        first.send(START)
        first.recv()
        with connect(server.url) as second:
            second.send(START)
            messages, code = closing(second)
        assert (code, messages[-1]["code"]) == (1013, "too_many_sessions")


def test_a_failing_step_ends_its_own_streams_and_the_server_goes_on(tiny, start_server, monkeypatch):
    from wavlm_live.streamer import session as sessions

    with start_server(tiny) as server:
        with connect(server.url) as client:
            client.send(START)
            client.recv()

            def broken(self, *args):
                raise RuntimeError("the device is on fire")

            monkeypatch.setattr(sessions.Session, "begin_feed", broken)
            client.send(pcm(noise(1)))
            messages, code = closing(client)
            monkeypatch.undo()
        assert code == 1011
        assert messages[-1]["code"] == "internal"
        assert works(server)


def test_an_orderly_end_gives_the_last_results(bundled, start_server, recording):
    with start_server(bundled) as server:
        with connect(server.url) as client:
            client.send(START)
            client.recv()
            client.send(pcm(recording[: 16_000 * 3]))
            time.sleep(0.5)
            server._stop()
            messages, code = closing(client)
        assert code == 1012
        assert " ".join(m["text"] for m in messages if m["type"] == "final")
        assert messages[-1]["type"] == "ended"


def test_sigterm_lets_open_streams_end(start_process, recording):
    with start_process() as server, connect(server.url) as client:
        client.send(START)
        client.recv()
        client.send(pcm(recording[: 16_000 * 3]))
        time.sleep(0.2)
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(server.terminate)
            messages, code = closing(client)
            assert stopped.result() == 0
    assert code == 1012
    assert " ".join(m["text"] for m in messages if m["type"] == "final")
    assert messages[-1]["type"] == "ended"


def test_logs_name_the_session_and_hold_no_text(bundled, start_server, recording, caplog):
    with caplog.at_level(logging.INFO, "wavlm_live"), start_server(bundled) as server:
        finals = [e for e in Client(server.url).transcribe([recording[: 16_000 * 3]]) if isinstance(e, Final)]
    found = [r for r in caplog.records if r.getMessage() == "final"]
    assert len(found) == len(finals) > 0
    assert all(len(r.session) == 8 for r in found)
    from wavlm_live.streamer.server.logs import JsonLines

    lines = [JsonLines().format(r) for r in caplog.records]
    assert all(json.loads(line)["message"] for line in lines)
    assert not any(finals[0].text in line for line in lines)


def test_metrics(bundled, start_server, recording):
    with start_server(bundled) as server:
        list(Client(server.url).transcribe([recording[: 16_000 * 3]]))
        text = httpx.get(f"{server.http}/metrics").text
    for name in ("batcher_sessions", "batcher_step_p50_ms", "batcher_latency_p99_ms", "batcher_realtime_factor",
                 "batcher_queued_s", "batcher_batch_mean", "batcher_refused_total", "received_bytes_total",
                 "batcher_provisional_dropped_total", "connections"):  # fmt: skip
        assert f"\nwavlm_live_{name}" in text, name
    assert 'wavlm_live_streams_total{protocol="native"} 1.0' in text
