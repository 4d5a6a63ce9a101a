"""`wavlm-live listen`: the ends of a live stream with a microphone made of arrays, and a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model.bundled import bundled_names
from wavlm_live.model.errors import DeviceError
from wavlm_live.streamer.hearing import Gauges, Hearing
from wavlm_live.streamer.interrupts import Interruption
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.sources import FileSource, MicrophoneSource
from wavlm_live.streamer.sources.devices import InputDevice

HEADSET = InputDevice(0, "Headset", 1, 16_000, True, "test")
BLOCK = 320


class ArrayMicrophone(MicrophoneSource):
    """Delivers an array block by block, and what its class attributes ask for."""

    samples = np.zeros(0, np.float32)
    gone_after: int | None = None
    signal_after: int | None = None
    waiting_blocks = 0
    dropped = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.name = HEADSET.name
        self.device = HEADSET
        self.overflows = 0
        self.dropped_blocks = self.dropped
        self._dropped_frames, self.rate = self.dropped * BLOCK, 16_000
        self._given = 0
        self._stop_at: int | None = None

    @property
    def waiting_samples(self) -> int:
        return 0

    def __next__(self) -> np.ndarray:
        if self._given == self.gone_after:
            raise DeviceError("the input device Headset stopped delivering sound")
        if self._given == self.signal_after and self._stop_at is None:
            signal.raise_signal(signal.SIGINT)
        if self._given == self._stop_at or self._given * BLOCK >= len(self.samples):
            raise StopIteration
        self._given += 1
        return self.samples[(self._given - 1) * BLOCK : self._given * BLOCK]

    def stop(self) -> None:
        if self._stop_at is None:
            self._stop_at = self._given + self.waiting_blocks

    def close(self) -> None:
        pass


@pytest.fixture
def microphone(monkeypatch, audio_folder):
    """The class of the microphone that `listen` opens; it hears three sentences and ends."""

    class Microphone(ArrayMicrophone):
        samples = np.concatenate(list(FileSource(audio_folder / "sentence_rope.opus")))

    monkeypatch.setattr("wavlm_live.streamer.listen.MicrophoneSource", Microphone)
    monkeypatch.setattr("wavlm_live.streamer.listen.list_input_devices", lambda: [HEADSET])
    return Microphone


@pytest.fixture
def said(tiny_model):
    """What the tiny model says of so many blocks of the microphone."""

    def text(samples: np.ndarray) -> list[str]:
        session = Recogniser.load(tiny_model, "cpu").open()
        events = [*session.feed(samples.astype(np.float32)), *session.finish()]
        return [event.text for event in events if type(event).__name__ == "Final"]

    return text


def test_what_is_said_is_written(command, microphone, said):
    answer = command("listen")
    assert answer.code == 0
    assert answer.out.splitlines() == said(microphone.samples)
    assert answer.err == "Listening to Headset. Ctrl+C ends.\n"


def test_ctrl_c_lets_the_last_words_out(command, microphone, said):
    """And what the microphone had recorded but the program not heard is not lost."""
    microphone.signal_after, microphone.waiting_blocks = 100, 20
    answer = command("listen")
    assert answer.code == 130
    assert answer.out.splitlines() == said(microphone.samples[: 120 * BLOCK])


def test_a_microphone_that_goes_away(command, microphone, said, tmp_path):
    """Every word until then comes out, into a file too, before the error."""
    microphone.gone_after = 100
    expected = said(microphone.samples[: 100 * BLOCK])
    answer = command("listen")
    assert (answer.code, answer.out.splitlines()) == (1, expected)
    assert answer.err.splitlines()[-1] == "wavlm-live: error: the input device Headset stopped delivering sound"
    answer = command("listen", "-o", tmp_path / "text.txt")
    assert (answer.code, answer.out) == (1, "")
    assert (tmp_path / "text.txt").read_text().splitlines() == expected


def test_dropped_sound_is_told(command, microphone):
    microphone.dropped = 50
    answer = command("listen")
    assert answer.code == 0
    assert "wavlm-live: warning: Headset: 1.00 s of sound were dropped" in answer.err


def test_a_screen_shows_results_beside_a_file(command, microphone, said, screen, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(sys, "stderr", screen.stream)
    assert command("listen", "-o", tmp_path / "text.json", "--max-segment-s", "2").code == 0
    text = json.loads((tmp_path / "text.json").read_text())["text"]
    assert text
    shown = re.sub(r"(?m)^ *\d+:\d\d  ", "", "\n".join(screen.lines()))  # without the times
    assert "".join(text.split()) in "".join(shown.split())
    assert "latency" in screen.raw


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--input-device", "banana"), 1, "no input device fits 'banana'; there are: 0: Headset, test (default)"),
        (("-o", "text.docx"), 2, "names no transcript format"),
        (("-o", "missing/text.txt"), 1, "does not exist; create it first"),
    ],
)
def test_bad_requests(command, microphone, arguments, code, part, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = command("listen", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert part in answer.err
    assert list(tmp_path.iterdir()) == []


# Hearing -----------------------------------------------------------------------------------------------------


def test_gauges():
    gauges = Gauges()
    loud = np.full(16_000, 0.1, np.float32)
    gauges.count(loud, busy_s=0.25)
    assert gauges.heard_s == 1
    assert gauges.level_db == pytest.approx(-20, abs=0.01)
    assert gauges.realtime_factor == pytest.approx(0.25)
    gauges.count(np.zeros(3200, np.float32), busy_s=0.05)
    assert gauges.level_db == pytest.approx(-28, abs=0.01)  # falls by 40 dB a second
    for _ in range(100):
        gauges.count(loud, busy_s=0.5)
    assert gauges.realtime_factor == pytest.approx(0.5, abs=0.01)  # old sound is forgotten


def test_latency_counts_from_the_arrival_of_the_sound(tiny_model, audio_folder):
    """Computing that is slower than the sound comes must be seen, also when it catches up later."""
    recogniser = Recogniser.load(tiny_model, "cpu")
    session = recogniser.open()
    latencies = []
    with FileSource(audio_folder / "digit_four.opus", block_samples=1600) as source, Interruption() as interruption:
        hearing = Hearing(source, session, interruption, paced=True)

        def take(events: list) -> None:
            latencies.append(hearing.gauges.latency_s)
            if latencies[-1] is not None and latencies[-2:-1] == [None]:
                time.sleep(0.5)  # after the first text

        hearing.run(take)
    known = [latency for latency in latencies if latency is not None]
    assert max(known) > 0.3
    assert known[0] < 0.3


# A real microphone -------------------------------------------------------------------------------------------


def listen_to(microphone, recording: Path, *options: str, seconds: float = 60) -> tuple[int, list[dict], str]:
    """Runs `listen` in a process, plays the recording to it, then presses Ctrl+C."""
    program = [sys.executable, "-m", "wavlm_live.streamer.cli", "listen", "--threads", "1", "-f", "jsonl", *options]
    # stderr goes into a file: nobody reads it meanwhile, and a full pipe would stop the program
    errors = microphone.folder / f"errors-{time.monotonic_ns()}"
    with (
        errors.open("w") as err,
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=err, text=True, env=microphone.environment) as running,
    ):
        assert running.stdout is not None
        watchdog = threading.Timer(seconds, running.kill)
        watchdog.start()
        try:
            lines = [json.loads(running.stdout.readline() or "{}")]  # ready: the microphone is open
            microphone.play(recording).wait()
            time.sleep(0.5)  # what was played is on its way through the sound server
            running.send_signal(signal.SIGINT)
            lines += [json.loads(line) for line in running.stdout]
            running.wait()
        finally:
            watchdog.cancel()
    return running.returncode, lines, errors.read_text()


@pytest.mark.microphone
def test_listen_to_a_real_microphone(virtual_microphone, tiny_model, audio_folder):
    code, lines, err = listen_to(virtual_microphone, audio_folder / "sentence_rope.opus", "--model", str(tiny_model))
    assert code == 130, err
    assert "Traceback" not in err
    assert lines[0]["type"] == "ready"
    finals = [line for line in lines if line["type"] == "final"]
    assert finals[-1]["reason"] == "end"
    assert finals[-1]["end_s"] > 3  # the sentence is four seconds long
    assert sum(len(final["text"]) for final in finals) > 20


@pytest.mark.slow
@pytest.mark.microphone
@pytest.mark.skipif(not bundled_names(), reason="no bundled model in this installation")
def test_the_words_come_out(virtual_microphone, command, audio_folder):
    """A recording played into a microphone gives about the words that the file gives, most of which were spoken."""
    recording = audio_folder / "digits_and_commands.flac"
    spoken = json.loads((audio_folder / "transcripts.json").read_text())[recording.name].split()
    code, lines, err = listen_to(virtual_microphone, recording, seconds=120)
    assert code == 130, err
    heard = " ".join(line["text"] for line in lines if line["type"] == "final").split()
    read = command("transcribe", recording, model=False).out.split()
    right, right_of_file = (sum(word in words for word in spoken) for words in (heard, read))
    told = f"{' '.join(heard)} from the microphone, {' '.join(read)} from the file"
    assert right >= 0.4 * len(spoken), told
    assert right >= 0.75 * right_of_file, told


@pytest.mark.microphone
def test_devices_lists_the_real_microphone(virtual_microphone):
    program = [sys.executable, "-m", "wavlm_live.streamer.cli", "devices"]
    done = subprocess.run(program, env=os.environ | virtual_microphone.environment, capture_output=True, text=True)
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {"headset", "default"} <= {row[2] for row in rows}
    assert [row for row in rows if row[1] == "*"]
