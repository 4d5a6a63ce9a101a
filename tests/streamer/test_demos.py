"""The demos run as their first lines say, on a recording in place of the microphone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.streamer import Recogniser

DEMOS = Path(__file__).resolve().parents[2] / "demos"


@pytest.fixture(scope="module")
def recording(audio_folder: Path, tmp_path_factory) -> Path:
    """The first group of words, and the pause after it."""
    samples, rate = soundfile.read(audio_folder / "digits_and_commands.flac", dtype="int16")
    path = tmp_path_factory.mktemp("sound") / "words.wav"
    soundfile.write(path, samples[: round(4.4 * rate)], rate)
    return path


@pytest.fixture(scope="module")
def said(recording: Path) -> list[str]:
    """What a session says of it."""
    samples, _ = soundfile.read(recording, dtype="float32")
    session = Recogniser.load(device="cpu").open()
    return [e.text for e in [*session.feed(samples), *session.finish()] if type(e).__name__ == "Final"]


def run(demo: str, *arguments: object, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, DEMOS / demo, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_live_microphone(recording, said, tmp_path):
    out = run("live_microphone.py", "--file", recording, folder=tmp_path)
    finals = re.findall(r"^ +[\d.]+  (.*)  \(not sure of: .*\)$", out, re.M)
    assert finals == said
    assert "(somebody speaks)" in out
    assert "(silence)" in out
    assert re.search(r"\[\w+\]", out), "no partial text"


def test_many_streams(recording, said, tmp_path):
    out = run("many_streams.py", recording, "--streams", 3, "--seconds", 4.4, folder=tmp_path)
    first = [line.split(" s  ")[1] for line in out.splitlines() if line.startswith("stream  0")]
    assert first == said
    figures = re.search(r"^(\d+) streams, (\d+) s of sound", out, re.M)
    assert figures is not None
    assert (int(figures[1]), int(figures[2])) == (3, 13)


def test_captions(recording, said, tmp_path):
    run("captions.py", "--file", recording, "--output", tmp_path / "now.txt", folder=tmp_path)
    shown = (tmp_path / "now.txt").read_text()
    assert shown.split() == " ".join(said).split()
    assert all(len(line) <= 42 for line in shown.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["now.txt"]


def test_speaker_gate(audio_folder, tmp_path):
    """Enrolled from what one of three speakers says, only his two groups of words are transcribed."""
    recording = audio_folder / "digits_and_commands.flac"
    samples, rate = soundfile.read(recording, dtype="int16")
    his = np.concatenate([samples[: round(4.2 * rate)], samples[9 * rate : round(13.9 * rate)]])
    soundfile.write(tmp_path / "voice.wav", np.tile(his, 2), rate)  # once through is hardly the 3 s of speech it takes
    out = run("speaker_gate.py", tmp_path / "voice.wav", "--file", recording, folder=tmp_path)
    shown = re.findall(r"^ +([\d.]+)  ([a-z' ]+)$", out, re.M)
    heard = " ".join(text for _, text in shown).split()
    assert len(heard) >= 6
    assert all(float(at) < 4.2 or 9 < float(at) < 13.9 for at, _ in shown), out
    assert not {"left", "stop", "up", "off"} & set(heard), out
    others = re.findall(r"^ +([\d.]+)  \(([\d.]+) s of somebody else\)$", out, re.M)
    assert any(4.2 < float(at) < 9 for at, _ in others)
    assert any(float(at) > 14.5 for at, _ in others)


def test_captions_go_after_silence():
    from importlib.util import module_from_spec, spec_from_file_location

    from wavlm_live.streamer.events import Final, Partial

    spec = spec_from_file_location("captions", DEMOS / "captions.py")
    captions = module_from_spec(spec)
    spec.loader.exec_module(captions)
    shown: list[str] = []
    screen = captions.Captions(shown.append)
    screen.take([Partial("one", "tw")], 1.0)
    screen.take([Partial("one two", "")], 1.5)
    screen.take([Final("one two", (), 0, 16_000, "silence"), Partial("three " * 20, "")], 2.0)
    assert shown[:2] == ["one", "one two"]
    assert len(shown[2].splitlines()) == 2
    assert all(len(line) <= 42 for line in shown[2].splitlines())
    screen.take([], 4.0)
    assert shown[-1]
    screen.take([], 5.1)
    assert shown[-1] == ""
    screen.take([Partial("new", "")], 6.0)
    assert shown[-1] == "new"


def test_a_lane_for_notebooks(recording, tmp_path):
    pytest.importorskip("matplotlib")
    run("voice_activity_dashboard/notebook.py", "--file", recording, "--save", tmp_path / "lane.svg", folder=tmp_path)
    # spans of speech are drawn in their colour
    assert "#dff1e4" in (tmp_path / "lane.svg").read_text()
