"""Other servers' clients, the real packages, on our server: the same words as a session hears."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import numpy as np
import pytest
import soundfile
import soxr

from wavlm_live.streamer import SessionSettings
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Final
from wavlm_live.streamer.formats import write_transcript
from wavlm_live.streamer.sources.resample import StreamResampler


def heard(recogniser, samples: np.ndarray, silence_ms: int = 800) -> list[Final]:
    session = recogniser.open(SessionSettings(partial_hop_ms=0, endpoint=EndpointRules(silence_ms=silence_ms)))
    return [e for e in [*session.feed(samples), *session.finish()] if isinstance(e, Final)]


def text_of(finals: list[Final]) -> str:
    return " ".join(final.text for final in finals)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32768).astype("<i2").tobytes()


def sent_at_24k(samples: np.ndarray) -> tuple[bytes, np.ndarray]:
    """What a client at 24 kHz sends, and what a server hears of it: a letter in doubt may hang on the difference."""
    sent = pcm(soxr.resample(samples, 16_000, 24_000).astype(np.float32))
    resampler = StreamResampler(24_000)
    back = [resampler.feed(np.frombuffer(block, "<i2").astype(np.float32) / 32768) for block in blocks(sent)]
    return sent, np.concatenate([*back, resampler.finish()])


def blocks(data: bytes, size: int = 16_000) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.fixture(scope="module")
def short(recording) -> np.ndarray:
    return recording[: 16_000 * 6]


@pytest.fixture
def openai_client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(
        api_key="none-needed", base_url=f"{server.http}/v1", websocket_base_url=server.url[:-7], max_retries=0
    )


def test_openai_realtime_with_turn_detection(openai_client, bundled, short):
    sent, there = sent_at_24k(np.concatenate([short, np.zeros(20_000, np.float32)]))
    got, deltas, kinds = [], {}, []
    with openai_client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        turns = {"type": "server_vad", "silence_duration_ms": 500}
        audio = {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": turns}}
        connection.session.update(session={"type": "transcription", "audio": audio})
        updated = connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 500
        for block in blocks(sent):
            connection.input_audio_buffer.append(audio=base64.b64encode(block).decode())
        expected = heard(bundled, there, 500)
        while len(got) < len(expected):
            event = connection.recv()
            kinds.append(event.type)
            assert event.type != "error", event
            if event.type.endswith("transcription.delta"):
                deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
            if event.type.endswith("transcription.completed"):
                assert deltas[event.item_id] == event.transcript
                assert event.usage.type == "duration"
                got.append(event.transcript)
    assert got == [final.text for final in expected]
    assert "input_audio_buffer.speech_started" in kinds
    assert kinds.count("input_audio_buffer.committed") == len(expected)


def test_openai_realtime_with_commits(openai_client, bundled, short):
    sent, there = sent_at_24k(short)
    with openai_client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.recv()
        audio = {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None}}
        connection.session.update(session={"type": "transcription", "audio": audio})
        assert connection.recv().session.audio.input.turn_detection is None
        items = []
        for _ in range(2):
            for block in blocks(sent):
                connection.input_audio_buffer.append(audio=base64.b64encode(block).decode())
            connection.input_audio_buffer.commit()
        while len(items) < 2:
            event = connection.recv()
            assert event.type != "error", event
            if event.type.endswith("completed"):
                items.append((event.item_id, event.transcript))
        connection.input_audio_buffer.commit()
        assert connection.recv().error.code == "input_audio_buffer_commit_empty"
    assert items[0][0] != items[1][0]
    assert [text for _, text in items] == [text_of(heard(bundled, there))] * 2


def test_vllm_dialect(server, bundled, short):
    from websockets.sync.client import connect

    with connect(f"{server.url[:-7]}/realtime") as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        socket.send(json.dumps({"type": "session.update", "model": "english"}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        for block in blocks(pcm(short)):
            audio = base64.b64encode(block).decode()
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        text = ""
        for message in socket:
            event = json.loads(message)
            if event["type"] == "transcription.delta":
                text += event["delta"]
            else:
                assert event["type"] == "transcription.done", event
                assert event["text"] == text == text_of(heard(bundled, short))
                break


@pytest.mark.parametrize("finalize", [False, True])
def test_deepgram_live(server, bundled, short, finalize):
    deepgram = pytest.importorskip("deepgram")
    from deepgram.environment import DeepgramClientEnvironment

    host = server.url[:-10]
    environment = DeepgramClientEnvironment(base=server.http, production=host, agent=host, agent_rest=server.http)
    client = deepgram.DeepgramClient(api_key="none-needed", environment=environment)
    results, others = [], []
    with client.listen.v1.connect(
        model="nova-3", encoding="linear16", sample_rate="16000", interim_results="true", endpointing="500",
        vad_events="true", utterance_end_ms="1000",
    ) as connection:  # fmt: skip
        for number, block in enumerate(blocks(pcm(short))):
            connection.send_media(block)
            if finalize and number == 5:
                connection.send_finalize()
        connection.send_keep_alive()
        connection.send_close_stream()
        for message in connection:
            (results if message.type == "Results" else others).append(message)
    final = [r for r in results if r.is_final]
    words = [w for r in final for w in r.channel.alternatives[0].words]
    expected = heard(bundled, short, 500)
    if finalize:
        assert any(r.from_finalize for r in final)
    else:
        assert [r.channel.alternatives[0].transcript for r in final] == [f.text for f in expected]
        assert [(w.word, w.start) for w in words] == [
            (w.text, w.start_samples / 16_000) for f in expected for w in f.words
        ]
        assert any(not r.is_final for r in results)
    assert others[-1].type == "Metadata"
    assert {"SpeechStarted", "UtteranceEnd"} <= {m.type for m in others}


def test_vosk_documented_exchange(server, bundled, short):
    from websockets.sync.client import connect

    replies = []
    with connect(f"{server.url[:-10]}/vosk") as socket:
        socket.send('{"config": {"sample_rate": 16000}}')
        sent = blocks(pcm(short), 8000)
        for block in sent:
            socket.send(block)
            replies.append(json.loads(socket.recv()))
        socket.send('{"eof" : 1}')
        replies.append(json.loads(socket.recv()))
    assert all(("partial" in r) != ("text" in r) for r in replies)
    assert any(r.get("partial") for r in replies)
    texts = [r["text"] for r in replies if r.get("text")]
    assert " ".join(texts) == text_of(heard(bundled, short))
    words = [w["word"] for r in replies for w in r.get("result", [])]
    assert words == " ".join(texts).split()


def test_vosk_reset_begins_anew(server, bundled, short):
    from websockets.sync.client import connect

    with connect(f"{server.url[:-10]}/vosk") as socket:
        socket.send('{"config": {"sample_rate": 16000}}')
        texts = []
        for end in ('{"reset": 1}', '{"eof": 1}'):
            for block in blocks(pcm(short)):
                socket.send(block)
                texts.append(json.loads(socket.recv()).get("text", ""))
            socket.send(end)
            texts.append(json.loads(socket.recv())["text"])
    assert " ".join(filter(None, texts)) == " ".join([text_of(heard(bundled, short))] * 2)


def test_wyoming(bundled, start_server, short):
    pytest.importorskip("wyoming")
    from wyoming.asr import Transcribe, Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.info import Describe, Info

    async def speak(port: int) -> tuple:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            texts = []
            for _ in range(2):
                await client.write_event(Transcribe(language="en").event())
                await client.write_event(AudioStart(16_000, 2, 1).event())
                for block in blocks(pcm(short)):
                    await client.write_event(AudioChunk(16_000, 2, 1, block).event())
                await client.write_event(AudioStop().event())
                kinds = []
                while (event := await client.read_event()) is not None:
                    kinds.append(event.type)
                    if Transcript.is_type(event.type):
                        texts.append(Transcript.from_event(event).text)
                    if event.type == "transcript-stop":
                        break
            return info, texts, kinds

    with start_server(bundled, wyoming_port=0) as server:
        info, texts, kinds = asyncio.run(speak(server.addresses.wyoming_port))
    assert info.asr[0].models[0].name == "english"
    assert texts == [text_of(heard(bundled, short))] * 2
    assert kinds[0] == "transcript-start"
    assert "transcript-chunk" in kinds


@pytest.fixture(scope="module")
def upload(short) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, short, 16_000, format="FLAC")
    return out.getvalue()


def test_rest_formats(openai_client, bundled, short, upload):
    expected = heard(bundled, short)
    create = openai_client.audio.transcriptions.create
    sent = {"model": "whisper-1", "file": ("../../etc/passwd.flac", upload)}
    assert create(**sent).text == text_of(expected)
    assert create(**sent, response_format="text") == text_of(expected) + "\n"
    for format in ("srt", "vtt"):
        out = io.StringIO()
        write_transcript(format, expected, out)
        assert create(**sent, response_format=format) == out.getvalue()
    verbose = create(**sent, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert [s.text for s in verbose.segments] == [f.text for f in expected]
    assert [(w.word, w.start) for w in verbose.words] == [
        (w.text, w.start_samples / 16_000) for f in expected for w in f.words
    ]
    assert verbose.duration == pytest.approx(6)


def test_rest_streaming(openai_client, bundled, short, upload):
    events = list(openai_client.audio.transcriptions.create(model="x", file=("a.flac", upload), stream=True))
    deltas = "".join(e.delta for e in events if e.type == "transcript.text.delta")
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == deltas == text_of(heard(bundled, short))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (b"#EXTM3U\nfile:///etc/passwd\n", "invalid_file"),
        (b"", "invalid_file"),
        (b"RIFF1234WAVEjunk" * 20, "invalid_file"),
    ],
)
def test_rest_refuses_what_is_no_sound(openai_client, file, code):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as error:
        openai_client.audio.transcriptions.create(model="x", file=("a.wav", file))
    assert error.value.code == code
    assert "/" not in error.value.body["message"]
