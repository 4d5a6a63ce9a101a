"""`wavlm-live transcribe`: formats, several recordings, outputs, bad recordings, and how it is ended."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from wavlm_live.model import StreamingContext
from wavlm_live.streamer import Session, SessionSettings
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.encoder import EncoderStep
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.transcribe import Request, plan_outputs

LETTERS = Alphabet(("", "", *"abcdefghijklmnopqrstuvwxyz"), blank_id=0, delimiter_id=1)
CONTEXT = StreamingContext(50, 10, 2)
SCRIPT = ((10, "one"), (30, "two"), (110, "four"))
"""Words and the frames of 20 ms at which they are spoken: two segments with a second of silence between."""
TEXT = "one two\nfour\n"


class ScriptedEncoder:
    """Hears the words of a script, whatever the sound is; between them the delimiter."""

    hop_samples, receptive_samples = 320, 400

    def __init__(self, script: Sequence[tuple[int, str]]) -> None:
        self.ids = [0] * 200
        for start, word in script:
            for i, letter in enumerate(f"{word}|"):
                self.ids[start + i] = 1 if letter == "|" else ord(letter) - ord("a") + 2
        self.heard = self.committed = 0

    @property
    def waiting_frames(self) -> int:
        return max(0, (self.heard - 80) // 320) - self.committed

    def listen(self, samples: np.ndarray) -> None:
        self.heard += len(samples)

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        frames = min(self.waiting_frames, CONTEXT.step_frames)
        own = min(frames, CONTEXT.chunk_frames)
        ids = [*self.ids, *[0] * (self.committed + frames)][self.committed : self.committed + frames]
        rows = np.full((frames, len(LETTERS)), 0.001, dtype=np.float32)
        rows[np.arange(frames), ids] = 0.973
        self.committed += own if commit else 0
        return EncoderStep(np.log(rows), own)

    def close(self) -> None:
        pass


class ScriptedRecogniser:
    """Stands for a loaded model."""

    name = "scripted"
    contexts = {"default": CONTEXT}  # noqa: RUF012

    def context(self, _name: str) -> StreamingContext:
        return CONTEXT

    def open(self, settings: SessionSettings) -> Session:
        return Session(ScriptedEncoder(SCRIPT), LETTERS, CONTEXT, settings, self.name)

    alone = offline = open

    def together(self, sounds: Sequence[np.ndarray], settings: SessionSettings) -> list[Session]:
        return [self.open(settings) for _ in sounds]


@pytest.fixture
def scripted(monkeypatch):
    """The command line hears `SCRIPT` in every recording."""
    monkeypatch.setattr(Recogniser, "load", lambda *_, **__: ScriptedRecogniser())


@pytest.fixture
def recording(tmp_path) -> Path:
    """Three seconds of noise."""
    return write_wav(tmp_path / "noise.wav", noise(3))


def noise(seconds: float, rate: int = 16_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * rate)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


# Formats and outputs -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scripted")
def test_text_on_stdout(command, recording):
    answer = command("transcribe", recording)
    assert (answer.code, answer.out, answer.err) == (0, TEXT, "")


@pytest.mark.usefixtures("scripted")
def test_captions(command, recording):
    srt = command("transcribe", recording, "-f", "srt").out.split("\n\n")
    assert srt[0].splitlines()[::2] == ["1", "one two"]
    assert srt[0].splitlines()[1].startswith("00:00:00,200 --> 00:00:0")
    assert srt[1].splitlines()[::2] == ["2", "four"]
    vtt = command("transcribe", recording, "-f", "vtt").out
    assert vtt.startswith("WEBVTT\n\n00:00:00.200 --> ")


@pytest.mark.usefixtures("scripted")
def test_json(command, recording):
    found = json.loads(command("transcribe", recording, "-f", "json").out)
    assert (found["text"], found["duration_s"], found["model"]) == ("one two four", 3.0, "scripted")
    assert [s["text"] for s in found["segments"]] == ["one two", "four"]
    assert found["segments"][0]["words"][1] == {"text": "two", "start_s": 0.6, "end_s": 0.66, "confidence": 0.973}


@pytest.mark.usefixtures("scripted")
def test_jsonl_with_and_without_partials(command, recording):
    lines = [json.loads(line) for line in command("transcribe", recording, "-f", "jsonl").out.splitlines()]
    assert lines[0]["type"] == "ready"
    assert [line["text"] for line in lines if line["type"] == "final"] == ["one two", "four"]
    assert "partial" not in {line["type"] for line in lines}
    partials = [json.loads(x) for x in command("transcribe", recording, "-f", "jsonl", "--partials").out.splitlines()]
    assert any(line["type"] == "partial" and line["stable"] == "one two" for line in partials)


@pytest.mark.usefixtures("scripted")
def test_output_file_by_its_suffix(command, recording, tmp_path):
    answer = command("transcribe", recording, "-o", tmp_path / "text.vtt")
    assert (answer.code, answer.out) == (0, "")
    assert f"0:03 written to {tmp_path / 'text.vtt'}" in answer.err
    assert (tmp_path / "text.vtt").read_text().startswith("WEBVTT\n\n00:00:00.200")


@pytest.mark.usefixtures("scripted")
def test_several_recordings_into_a_folder_and_one_fails(command, recording, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    (tmp_path / "out").mkdir()
    answer = command("transcribe", tmp_path / "bad.wav", recording, "-o", tmp_path / "out", "--quiet")
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(f"wavlm-live: error: {tmp_path / 'bad.wav'} cannot be read as sound")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["noise.txt"]
    assert (tmp_path / "out" / "noise.txt").read_text() == TEXT


@pytest.mark.usefixtures("scripted")
def test_several_recordings_on_stdout(command, recording):
    answer = command("transcribe", recording, recording)
    assert (answer.code, answer.out) == (0, TEXT * 2)
    assert answer.err.splitlines() == [f"{recording}:"] * 2


def test_names_in_a_folder_do_not_meet(tmp_path):
    recordings = ["a/call.wav", "b/call.WAV", "call.mp3", "c/call.mp3", "-", "d/other.flac"]
    places = plan_outputs(Request(recordings, tmp_path, "srt"))
    assert [place.name for place, _ in places if place] == [
        "call.srt",
        "call.WAV.srt",
        "call.mp3.srt",
        "call.mp3-2.srt",
        "stdin.srt",
        "other.srt",
    ]


@pytest.mark.usefixtures("scripted")
def test_an_output_never_replaces_a_recording(command, tmp_path):
    odd = tmp_path / "recording.txt"
    write_wav(tmp_path / "x.wav", noise(1)).rename(odd)
    before = odd.read_bytes()
    for output in (odd, tmp_path):
        answer = command("transcribe", odd, "-o", output)
        assert answer.code == 2
        assert "is one of the recordings" in answer.err
    assert odd.read_bytes() == before


@pytest.mark.usefixtures("scripted")
def test_outputs_that_cannot_be_written(command, recording, tmp_path):
    answer = command("transcribe", recording, "-o", tmp_path / "missing" / "text.txt")
    assert answer.code == 1
    assert "does not exist; create it first" in answer.err
    if Path("/dev/full").exists():
        answer = command("transcribe", recording, "-o", "/dev/full", "-f", "json")
        assert answer.code == 1
        assert answer.err == (
            "wavlm-live: error: /dev/full cannot be written: No space left on device; free some space\n"
        )


@pytest.mark.usefixtures("scripted")
def test_a_failure_leaves_the_old_output(command, tmp_path):
    (tmp_path / "text.txt").write_text("old")
    nothing = write_wav(tmp_path / "nothing.wav", np.zeros(0, np.float32))
    assert command("transcribe", nothing, "-o", tmp_path / "text.txt").code == 1
    assert (tmp_path / "text.txt").read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"text.txt", "nothing.wav"}


# Stdin -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scripted")
def test_raw_sound_on_stdin(command, monkeypatch):
    pipe = io.BytesIO((noise(3) * 32767).astype("<i2").tobytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe, isatty=lambda: False))
    answer = command("transcribe", "-", "-f", "json")
    found = json.loads(answer.out)
    assert (answer.code, found["source"], found["text"], found["duration_s"]) == (0, "stdin", "one two four", 3.0)


@pytest.mark.parametrize(
    ("data", "part"),
    [(b"", "stdin holds no sound"), (b"RIFF1234WAVE", "stdin brings a WAV file, expected raw samples")],
)
def test_bad_stdin(command, monkeypatch, data, part):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    answer = command("transcribe", "-")
    assert (answer.code, answer.out) == (1, "")
    assert part in answer.err


# Unusual recordings ----------------------------------------------------------------------------------


def _with_nan(path: Path) -> None:
    samples = noise(3)
    samples[1000:1010] = np.nan
    write_wav(path, samples, subtype="FLOAT")


def _truncated(path: Path) -> None:
    write_wav(path, noise(4))
    path.write_bytes(path.read_bytes()[:-32_000])


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (lambda p: write_wav(p, noise(3), subtype="PCM_U8"), ""),
        (lambda p: write_wav(p, noise(3), subtype="FLOAT"), ""),
        (lambda p: write_wav(p, noise(3, 96_000), 96_000, "PCM_24"), ""),
        (lambda p: write_wav(p, np.stack([noise(3)] * 5, axis=1)), ""),
        (lambda p: write_wav(p, np.zeros(48_000, np.float32)), "is silent"),
        (_with_nan, ": 10 samples"),
        (_truncated, "is cut off"),
    ],
    ids=["8-bit", "float", "96 kHz", "5 channels", "silent", "some NaN", "truncated"],
)
def test_unusual_recordings_are_heard(command, tmp_path, make: Callable[[Path], None], warning):
    path = tmp_path / "recording.wav"
    make(path)
    answer = command("transcribe", path, "-f", "json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert found["duration_s"] == pytest.approx(3, abs=0.001)
    assert found["text"] == "one two four"
    assert answer.err.startswith(f"wavlm-live: warning: {path}") if warning else answer.err == ""
    assert warning in answer.err


def test_silence_gives_no_text(command, tmp_path):
    """A model hears what it hears, but a silent file must not fail."""
    answer = command("transcribe", write_wav(tmp_path / "silent.wav", np.zeros(16_000, np.float32)), "-q")
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(("channel", "code"), [(4, 0), (5, 1)])
def test_channels(command, tmp_path, channel, code):
    path = write_wav(tmp_path / "five.wav", np.stack([noise(3)] * 5, axis=1))
    answer = command("transcribe", path, "--channel", channel)
    assert (answer.code, answer.out) == (code, TEXT if code == 0 else "")
    assert "channels 0 to 4" in answer.err or code == 0


# Real time, screens and signals ------------------------------------------------------------------------------


@pytest.mark.usefixtures("scripted")
def test_realtime_takes_its_time(command, tmp_path):
    path = write_wav(tmp_path / "short.wav", noise(1.2))
    started = time.monotonic()
    answer = command("transcribe", path, "--realtime", "-f", "jsonl", "--partials")
    assert time.monotonic() - started > 1.1
    assert answer.code == 0
    partials = [e for e in map(json.loads, answer.out.splitlines()) if e["type"] == "partial"]
    # the word is seen before its chunk is committed
    assert next(e["unstable"] for e in partials if e["unstable"]).startswith("o")


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("options", "seen"),
    [((), "100%"), (("--realtime",), "real-time factor"), (("--no-progress",), ""), (("--plain",), "")],
)
def test_what_stays_on_a_screen(command, recording, screen, monkeypatch, options, seen):
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(sys, "stderr", screen.stream)
    assert command("transcribe", recording, *options).code == 0
    # who watches is told when it was said
    timed = [" 0:00  one two", " 0:02  four"]
    assert screen.lines() == (timed if "--realtime" in options else TEXT.splitlines())
    assert [mark for mark in ("100%", "real-time factor") if mark in screen.raw] == [seen] * bool(seen)
    assert ("\x1b" in screen.raw) == (options != ("--plain",))


@contextmanager
def signals(*moments: tuple[float, signal.Signals]) -> Iterator[None]:
    """Sends signals to this process at times in seconds from now."""
    timers = [threading.Timer(at, os.kill, (os.getpid(), number)) for at, number in moments]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_last_words_out(command, recording, tmp_path, number, code):
    output = tmp_path / "text.json"
    with signals((1.0, number)):
        answer = command("transcribe", recording, recording, "--realtime", "-f", "txt")
    assert answer.code == code
    assert answer.out == "one two\n"
    assert "stopped after 0:0" in answer.err
    with signals((1.0, number)):
        answer = command("transcribe", recording, "--realtime", "-o", output)
    assert answer.code == code
    assert json.loads(output.read_text())["text"] == "one two"


@pytest.mark.usefixtures("scripted")
def test_the_second_ctrl_c_quits_at_once_and_leaves_nothing_half_written(command, recording, tmp_path, monkeypatch):
    def finish(_: Session) -> None:
        with signals((0.2, signal.SIGINT)):  # once the first was heard: of two that come together Python hears one
            time.sleep(30)

    monkeypatch.setattr(Session, "finish", finish)
    started = time.monotonic()
    with signals((0.5, signal.SIGINT)):
        answer = command("transcribe", recording, "--realtime", "-o", tmp_path / "text.txt")
    assert time.monotonic() - started < 10
    assert answer.code == 130
    assert [p.name for p in tmp_path.iterdir()] == ["noise.wav"]


def test_ctrl_c_in_a_process_of_its_own(tiny_model, audio_folder):
    """A real model, a real process, a real signal."""
    recording = str(audio_folder / "digits_and_commands.flac")
    program = [sys.executable, "-m", "wavlm_live.streamer.cli", "transcribe", "--model", str(tiny_model)]
    with subprocess.Popen(
        [*program, "--realtime", "--threads", "1", "-f", "jsonl", "--partials", recording],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        lines = []
        for line in running.stdout:
            lines.append(json.loads(line))
            if lines[-1]["type"] == "partial" and len(lines) > 5:
                running.send_signal(signal.SIGINT)
                break
        lines += [json.loads(line) for line in running.stdout]
        err = running.stderr.read()
    assert running.returncode == 130
    assert lines[-1]["type"] == "final"
    assert lines[-1]["reason"] == "end"
    stable = [line["stable"] for line in lines if line["type"] == "partial"][-1]
    assert lines[-1]["text"].startswith(stable)
    assert lines[-1]["end_s"] < 20
    assert "Traceback" not in err
    assert "stopped after" in err
