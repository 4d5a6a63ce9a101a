"""A line that breaks anywhere loses no result and doubles none: on the same server, and on another one."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wavlm_live.streamer import Recogniser, SessionSettings
from wavlm_live.streamer.client import AsyncClient, Client, Retry
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Activity, Final, Marker, SpeechStarted, SpeechStopped
from wavlm_live.streamer.protocols.audio import AudioFormat
from wavlm_live.streamer.server.settings import Limits
from wavlm_live.streamer.voice_activity import SpeechRules

SETTINGS = {"context": "20,16,4", "partial_hop_ms": 0, "endpoint": {"silence_ms": 500}}
QUICK = Retry(first_s=0.01, longest_s=0.05, give_up_s=60)


def said(event: Final):
    return event.text, event.start_samples, event.end_samples, event.reason


def finals(events) -> list:
    return [said(e) for e in events if isinstance(e, Final)]


def told(events) -> dict[str, list]:
    """Finals, starts and stops of speech, and the probability of speech in every window."""
    heard = [e for e in events if isinstance(e, Activity)]
    windows = [(e.start_samples + n * e.hop_samples, round(p, 4)) for e in heard for n, p in enumerate(e.probabilities)]
    speech = [(type(e), e.at_samples) for e in events if isinstance(e, SpeechStarted | SpeechStopped)]
    return {"finals": finals(events), "speech": speech, "windows": windows}


@pytest.fixture(scope="module")
def sound(recording) -> bytes:
    return (recording[: 16_000 * 12] * 32768).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def unbroken(bundled: Recogniser, sound) -> list:
    context = bundled.context("20,16,4")
    session = bundled.open(SessionSettings(context=context, partial_hop_ms=0, endpoint=EndpointRules(silence_ms=500)))
    samples = np.frombuffer(sound, "<i2").astype(np.float32) / 32768
    found = finals([*session.feed(samples), *session.finish()])
    assert len(found) >= 5
    return found


@pytest.fixture(scope="module")
def two_servers(bundled, start_server):
    with start_server(bundled) as first, start_server(bundled) as second:
        yield [first.url, second.url]


def blocks(sound: bytes, size: int) -> list[bytes]:
    return [sound[i : i + size] for i in range(0, len(sound), size)]


def run(url: str, sound: bytes, size: int = 5000) -> tuple[list, Client]:
    client = Client(url, SETTINGS, retry=QUICK)
    return finals(client.transcribe(blocks(sound, size))), client


def test_an_unbroken_run_equals_a_session(server, sound, unbroken):
    found, client = run(server.url, sound)
    assert found == unbroken
    assert client.reconnections == 0


cuts = st.lists(st.integers(0, 420_000), min_size=1, max_size=4)
few = settings(
    max_examples=3,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example is not worth minutes of sockets
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@few
@given(cuts=cuts, size=st.sampled_from([1001, 4000, 64_000]))
def test_a_broken_line_to_the_same_server(server, break_line, sound, unbroken, cuts, size):
    with break_line([server.url], cuts) as proxy:
        found, _ = run(proxy.url, sound, size)
    assert found == unbroken


@few
@given(cuts=cuts, size=st.sampled_from([1001, 4000, 64_000]))
def test_another_server_goes_on_from_what_the_client_kept(two_servers, break_line, sound, unbroken, cuts, size):
    with break_line(two_servers, cuts) as proxy:
        found, _ = run(proxy.url, sound, size)
    assert found == unbroken


@settings(few, max_examples=2)
@given(cuts=st.lists(st.integers(200_000, 900_000), min_size=1, max_size=3))
def test_another_server_hears_voices_as_the_broken_one_did(bundled, two_servers, break_line, recording, cuts):
    """Loud noise drives the voice detector's state far away, and no pause resets it before the line breaks."""
    rng = np.random.default_rng(len(cuts))
    parts = [rng.normal(0, 0.3, 16_000 * 14), recording[: 16_000 * 8], rng.normal(0, 0.1, 16_000 * 4)]
    data = (np.concatenate([*parts, recording[: 16_000 * 6]]).clip(-1, 1) * 32767).astype("<i2").tobytes()
    wanted = SETTINGS | {"activity": True, "speech": {"min_silence_ms": 100}}
    session = bundled.open(
        SessionSettings(
            context=bundled.context("20,16,4"),
            partial_hop_ms=0,
            endpoint=EndpointRules(silence_ms=500),
            speech=SpeechRules(min_silence_ms=100),
            activity=True,
        )
    )
    expected = told([*session.feed(np.frombuffer(data, "<i2").astype(np.float32) / 32768), *session.finish()])
    assert len(expected["speech"]) >= 4
    with break_line(two_servers, cuts) as proxy:
        client = Client(proxy.url, wanted, retry=QUICK)
        assert told(list(client.transcribe(blocks(data, 4000)))) == expected
    assert client.reconnections >= 1


def test_markers_and_flushes_come_once_however_the_line_breaks(two_servers, break_line, sound):
    def played(url: str) -> tuple[list, list]:
        async def play():
            events = []
            async with AsyncClient(url, SETTINGS, retry=QUICK) as client:
                for number, block in enumerate(blocks(sound, 32_000)):
                    await client.send(block)
                    if number in (3, 7):
                        await client.flush()
                    await client.mark(f"m{number}")
                await client.finish()
                async for event in client:
                    events.append(event)
            return events

        events = asyncio.run(play())
        return finals(events), [(e.id, e.at_samples) for e in events if isinstance(e, Marker)]

    expected = played(two_servers[0])
    assert len(expected[1]) == 12
    assert {reason for *_, reason in expected[0]} >= {"flush", "silence"}
    for broken, servers in (
        ([50_000, 120_000, 90_000], two_servers[:1]),
        ([200_000, 3_000, 3_000, 90_000], two_servers),
    ):
        with break_line(servers, broken) as proxy:
            assert played(proxy.url) == expected


@pytest.mark.parametrize("encoding", ["flac", "ogg_opus"])
def test_containers_go_on_too(two_servers, break_line, encoding, recording):
    import io

    import soundfile

    out = io.BytesIO()
    kinds = {"flac": ("FLAC", "PCM_16"), "ogg_opus": ("OGG", "OPUS")}
    soundfile.write(out, recording[: 16_000 * 12], 16_000, format=kinds[encoding][0], subtype=kinds[encoding][1])
    data = out.getvalue()

    def played(url: str) -> list:
        client = Client(url, SETTINGS, audio=AudioFormat(encoding), retry=QUICK)
        return finals(client.transcribe(blocks(data, 2000)))

    expected = played(two_servers[0])
    assert len(expected) >= 5
    servers = two_servers if encoding == "flac" else two_servers[:1]
    with break_line(servers, [len(data) // 2, len(data) // 3]) as proxy:
        assert played(proxy.url) == expected


@pytest.mark.parametrize("cut", [150_000, 260_000])
def test_what_a_broken_line_brought_is_heard_before_the_next_line_speaks(
    bundled, start_server, break_line, sound, unbroken, cut
):
    """The server is made slow, so that a message is being taken when its line breaks."""
    with start_server(bundled, Limits(audio_rate=6, audio_burst_s=1)) as server:
        with break_line([server.url], [cut] + [70_000] * 4) as proxy:
            found, client = run(proxy.url, sound, 64_000)
        assert found == unbroken
        assert client.reconnections >= 2


def test_a_killed_server_is_replaced_by_another(start_process, sound, unbroken):
    with start_process() as first, start_process() as second:
        client = Client([first.url, second.url], SETTINGS, retry=QUICK)

        def source():
            for number, block in enumerate(blocks(sound, 16_000)):
                if number == 14:
                    first.kill()
                time.sleep(0.05)
                yield block

        assert finals(client.transcribe(source())) == unbroken
        assert client.reconnections == 1
        assert second.terminate() == 0


def test_a_stream_that_nobody_comes_back_for_is_given_up(bundled, start_server, break_line, sound):
    with start_server(bundled, Limits(hold_s=0.5)) as server:
        with break_line([server.url], [60_000]) as proxy, pytest.raises(Exception, match="no connection"):
            list(Client(proxy.url, SETTINGS, retry=Retry(give_up_s=0)).transcribe(blocks(sound, 4000)))
        assert server.batcher.statistics().sessions == 1
        end = time.monotonic() + 20
        while server.batcher.statistics().sessions and time.monotonic() < end:
            time.sleep(0.05)
        assert server.batcher.statistics().sessions == 0
