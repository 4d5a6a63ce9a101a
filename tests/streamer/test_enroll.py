"""Enrolment: files of known speakers, and the command that writes them, with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model import ConfigurationError
from wavlm_live.streamer.cli import main
from wavlm_live.streamer.known_speakers import check_name, enrolled, load_file, read_known, without

SENTENCES = ("sentence_waited.opus", "sentence_rope.opus")


def test_a_file_holds_speakers_until_they_are_taken_out(tmp_path: Path):
    path = tmp_path / "known.json"
    enrolled(path, "m-3", "Anna", np.array([3.0, 0.0, 4.0]), 12.345)
    enrolled(path, "m-3", "Otto", np.array([0.0, 1.0, 0.0]), 5.0)
    assert {n: v.tolist() for n, v in read_known(path, "m-3").items()} == {"Anna": [0.6, 0, 0.8], "Otto": [0, 1, 0]}
    enrolled(path, "m-3", "Anna", np.array([0.0, 0.0, 1.0]), 1.0)  # again: the newer voice counts
    assert read_known(path, "m-3")["Anna"].tolist() == [0, 0, 1]
    assert list(without(path, "Otto").speakers) == ["Anna"]
    assert load_file(path).speakers["Anna"].speech_s == 1.0
    with pytest.raises(ConfigurationError, match=r"'Otto' is not in .*there are Anna"):
        without(path, "Otto")
    with pytest.raises(ConfigurationError, match="enrolled with the speaker head m-3, this model's is m-4"):
        read_known(path, "m-4")
    with pytest.raises(ConfigurationError, match="m-4"):
        enrolled(path, "m-4", "Eva", np.ones(3), 9.0)
    assert list(load_file(path).speakers) == ["Anna"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no file of known speakers"),
        ('{"model": "m", "speakers": {"a": {"vector": [1.0], "speech_s": 1}}, "more": 1}', "more"),
        ('{"model": "m", "speakers": {"a": {"vector": [2.0], "speech_s": 1}}}', "vector of 'a' has length 2"),
        ('{"model": "m", "speakers": {"a": {"vector": ["x"], "speech_s": 1}}}', "Expected `float`"),
        ('{"model": "m", "speakers": {"speaker 1": {"vector": [1.0], "speech_s": 1}}}', "choose another"),
        ('{"model": "m", "speakers": {}, "format": 2}', "format 2"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, words: str):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(ConfigurationError, match=words):
        load_file(tmp_path / "f.json")
    with pytest.raises(ConfigurationError, match=r"cannot be read.*enroll"):
        load_file(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["", " anna", "a\nb", "x" * 101, "speaker 3", "Unknown", "a\x1b[2J"])
def test_names_that_cannot_be(name: str):
    with pytest.raises(ConfigurationError, match="name"):
        check_name(name)


def test_the_command(tmp_path: Path, audio_folder: Path, capsys: pytest.CaptureFixture[str]):
    """Enrolled from two recordings, the speaker is named in a transcript; a wrong recording changes nothing."""
    path, recordings = tmp_path / "known.json", [str(audio_folder / name) for name in SENTENCES]
    assert main(["enroll", "Anna", *recordings, "--known-speakers", str(path), "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "Anna: " in told.err
    before = path.read_bytes()
    assert json.loads(before)["speakers"]["Anna"]["speech_s"] > 3
    assert main(["transcribe", recordings[0], "--known-speakers", str(path), "--known-above", "0", "-f", "jsonl"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stretches = [e for e in events if e["type"] == "speaker"]
    assert stretches
    # a stretch that is too short to found a voice and not like hers is unknown
    assert {(e["speaker"], e["known"]) for e in stretches} <= {("Anna", True), ("speaker 1", False), ("unknown", False)}
    assert ("Anna", True) in {(e["speaker"], e["known"]) for e in stretches}
    words = [w for e in events if e["type"] == "final" for w in e["words"]]
    assert "Anna" in {w.get("speaker") for w in words}
    silence = tmp_path / "silence.wav"
    import soundfile

    soundfile.write(silence, np.zeros(32_000), 16_000)
    assert main(["enroll", "Otto", str(silence), "--known-speakers", str(path)]) == 1
    assert "0.0 s of speech, expected at least 3 s" in capsys.readouterr().err
    assert main(["enroll", "Otto", str(tmp_path / "none.wav"), "--known-speakers", str(path)]) == 1
    assert main(["enroll", "speaker 1", recordings[0], "--known-speakers", str(path)]) == 2
    assert main(["enroll", "Otto", "--known-speakers", str(path)]) == 2
    capsys.readouterr()
    assert path.read_bytes() == before
    assert main(["enroll", "Anna", "--remove", "--known-speakers", str(path)]) == 0
    assert json.loads(path.read_bytes())["speakers"] == {}
    assert main(["transcribe", recordings[0], "--known-speakers", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
