"""Feeds each protocol random and damaged messages: no exception may come out, and every answer must be well formed.

    python benchmarks/fuzz_protocols.py --inputs 1000000

Messages are drawn from a grammar of the protocol's own words, then damaged; a third of them are plain random bytes. The
inputs are spread over the protocols in turn. What raised is printed with its seed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import machine
import msgspec

from wavlm_live.model import StreamingContext
from wavlm_live.model.errors import AudioError
from wavlm_live.streamer.events import Final, Marker, Partial, SpeechStarted, Word
from wavlm_live.streamer.protocols.audio import ENCODINGS, AudioDecoder, AudioFormat
from wavlm_live.streamer.protocols.commands import Close, Numbered, Send
from wavlm_live.streamer.protocols.deepgram import DeepgramProtocol
from wavlm_live.streamer.protocols.native import NativeProtocol
from wavlm_live.streamer.protocols.native_client import ClientStream, ServerRefused
from wavlm_live.streamer.protocols.openai_realtime import OpenAIRealtimeProtocol
from wavlm_live.streamer.protocols.vosk import VoskProtocol
from wavlm_live.streamer.protocols.wyoming import WyomingProtocol
from wavlm_live.streamer.session_settings import SessionSettings

WORDS = (Word("yes", 0, 3200, 0.5),)
EVENTS = [SpeechStarted(0), Partial("yes", "no", WORDS), Final("yes", WORDS, 0, 3200, "flush"), Marker("finalize-1", 9)]
STRINGS = [
    "type", "start", "flush", "marker", "settings", "keep_alive", "end", "audio", "resume", "session", "config", "eof",
    "reset", "sample_rate", "phrase_list", "words", "session.update", "input_audio_buffer.append", "model", "final",
    "input_audio_buffer.commit", "input_audio_buffer.clear", "turn_detection", "format", "input", "server_vad", "rate",
    "audio/pcm", "Finalize", "KeepAlive", "CloseStream", "Configure", "keyterms", "audio-start", "audio-chunk",
    "audio-stop", "describe", "ping", "data_length", "payload_length", "width", "channels", "encoding", "mulaw",
    "transcription", "point", "QUJD", "silence_duration_ms", "context", "endpoint", "decoding", "hotwords", "ready",
    "seq", "id",
    "event_id", "data", "text", "", "\0", "\ud800", "é" * 50,
]  # fmt: skip
VALUES: list[Any] = [None, True, False, 0, 1, -1, 2**63, 1e308, float("nan"), 16_000, 8000, 24_000, 0.5, [], {}]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON, made of words that mean something."""
    kind = rng.random()
    if depth > 3 or kind < 0.35:
        return rng.choice(VALUES)
    if kind < 0.7:
        return rng.choice(STRINGS)
    if kind < 0.8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(STRINGS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def message(rng: random.Random, kinds: list[str]) -> str | bytes:
    """A message: well formed, damaged, or noise."""
    if rng.random() < 0.3:
        data = rng.randbytes(rng.choice([0, 1, 3, 50, 700]))
        return data if rng.random() < 0.7 else data.decode("latin-1")
    whole = {"type": rng.choice(kinds)} | {rng.choice(STRINGS): value(rng) for _ in range(rng.randrange(4))}
    text = json.dumps(whole)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", '"', "}", "[[", "\\", "\0"]) + text[at + rng.randrange(3) :]
    return text


def server(make: Callable[[random.Random], Any], kinds: list[str], as_json: bool = True) -> Callable:
    """A target: one connection after the other, messages in, events in between."""
    state: dict[str, Any] = {}

    def target(rng: random.Random) -> None:
        if "protocol" not in state or rng.random() < 0.1:
            state["protocol"] = make(rng)
            check(state["protocol"].connected())
        protocol, roll = state["protocol"], rng.random()
        if roll < 0.9:
            check(protocol.received(message(rng, kinds)))
        elif roll < 0.97:
            check(protocol.happened([Numbered(rng.randrange(100), event, 0) for event in rng.sample(EVENTS, 2)]))
        else:
            check(rng.choice([protocol.settled, protocol.finished])())

    def check(commands: list[Any]) -> None:
        for command in commands:
            if isinstance(command, Send) and as_json:
                json.loads(command.data)
                assert isinstance(command.data, str)
                command.data.encode()
            if isinstance(command, Close):
                assert 1000 <= command.code < 5000
                state.pop("protocol", None)

    return target


def native(rng: random.Random) -> NativeProtocol:
    protocol = NativeProtocol(StreamingContext.parse)
    if rng.random() < 0.7:
        protocol.received('{"type":"start"}')
    return protocol


def deepgram(rng: random.Random) -> DeepgramProtocol:
    query = (
        {} if rng.random() < 0.3 else {"encoding": ["linear16"], "interim_results": ["true"], "vad_events": ["true"]}
    )
    return DeepgramProtocol(query, SessionSettings())


def wyoming_target() -> Callable:
    inner = server(lambda rng: WyomingProtocol(), [""], as_json=False)
    state = {"protocol": WyomingProtocol()}

    def target(rng: random.Random) -> None:
        if rng.random() < 0.3:
            inner(rng)
            return
        body = json.dumps({rng.choice(STRINGS): value(rng) for _ in range(2)}).encode()
        header: dict[str, Any] = {
            "type": rng.choice(["audio-start", "audio-chunk", "audio-stop", "describe", "ping", "x"])
        }
        header |= {"data_length": rng.choice([len(body), 0, -1, 2**40, "7"]), rng.choice(STRINGS): value(rng)}
        data = json.dumps(header).encode() + b"\n" + body
        commands = state["protocol"].received(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data)
        if any(isinstance(c, Close) for c in commands) or rng.random() < 0.05:
            state["protocol"] = WyomingProtocol()

    return target


def client_target() -> Callable:
    state: dict[str, Any] = {}
    kinds = ["ready", "final", "partial", "acknowledged", "marker", "problem", "ended", "activity"]

    def target(rng: random.Random) -> None:
        if "client" not in state or rng.random() < 0.1:
            state["client"] = ClientStream()
            state["client"].feed(bytes(1000))
            state["client"].opening()
        client = state["client"]
        try:
            client.received(message(rng, kinds))
            client.outgoing()
        except (ServerRefused, msgspec.DecodeError, UnicodeError):
            state.pop("client")

    return target


def audio_target() -> Callable:
    good = {
        "wav": b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\xff"
        + bytes(200),
        "flac": b"fLaC\x80\0\0\x22" + bytes(34) + b"\xff\xf8\xc9\x08\0" + bytes(100),
        "ogg_opus": b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\1\x38\1\x80\xbb\0\0\0\0\0",
        "webm_opus": b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + b"\xff" * 7 + b"\x16T\xaek\x8a\xae\x88\xd7\x81\1\x86\x83abc",
    }

    def target(rng: random.Random) -> None:
        encoding = rng.choice(ENCODINGS)
        data = bytearray(good.get(encoding, b"") + rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        decoder = AudioDecoder(AudioFormat(encoding))  # type: ignore[arg-type]
        try:
            at = rng.randrange(len(data) + 1)
            for piece in (bytes(data[:at]), bytes(data[at:])):
                for samples in decoder.decode(piece):
                    assert abs(samples).max() <= 1
            decoder.finish()
        except AudioError:
            pass

    return target


NATIVE = ["start", "flush", "marker", "settings", "keep_alive", "end"]
OPENAI = ["session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"]
TARGETS: dict[str, Callable[[], Callable]] = {
    "native": lambda: server(native, NATIVE),
    "openai_realtime": lambda: server(lambda rng: OpenAIRealtimeProtocol(), OPENAI),
    "deepgram": lambda: server(deepgram, ["Finalize", "KeepAlive", "CloseStream", "Configure"]),
    "vosk": lambda: server(lambda rng: VoskProtocol(), ["config", "eof"]),
    "wyoming": wyoming_target,
    "native_client": client_target,
    "audio": audio_target,
}


def run(name: str, inputs: int, seed: int) -> None:
    """So many inputs for one target; raises what came out, with the seed of the input."""
    target = TARGETS[name]()
    for number in range(inputs):
        try:
            target(random.Random(seed * 1_000_003 + number))
        except Exception as error:
            raise AssertionError(f"{name}: input {number} of seed {seed} raised {error!r}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--only", choices=list(TARGETS))
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(TARGETS)
    each, rows = -(-arguments.inputs // len(names)), []
    for name in names:
        began = time.perf_counter()
        run(name, each, arguments.seed)
        rows.append(
            {"protocol": name, "inputs": each, "exceptions": 0, "seconds": round(time.perf_counter() - began, 1)}
        )
        print(rows[-1], flush=True)
    machine.write("fuzz_protocols", {"seed": arguments.seed, "rows": rows})


if __name__ == "__main__":
    main()
