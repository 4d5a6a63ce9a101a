"""Voice and pauses on the command line: the same defaults as in Python, every field, bad values by name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from wavlm_live.streamer import EndpointRules, SessionSettings, SpeechRules
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.voice_options import Detector, Pauses


def test_the_defaults_are_those_of_the_rules() -> None:
    assert Pauses().endpoint() == EndpointRules()
    assert Pauses().speech() == SpeechRules()


def test_every_field_can_be_set() -> None:
    """Each option changes one field of the rules, and every field but the frame's length has one."""
    others = {
        "silence_ms": 500, "max_segment_s": 9.0, "min_segment_s": 1.0, "no_speech_ms": 700, "blank_ms": 900,
        "pause_by_voice": False, "voice_detector": Detector.both, "voice_start": 0.7, "voice_stay": 0.1,
        "min_speech_ms": 5, "min_silence_ms": 70, "voice_padding_ms": 10, "words_need_voice": True,
        "word_padding_ms": 3,
    }  # fmt: skip
    changed = set()
    for name, value in others.items():
        pauses = Pauses(**{name: value})
        for old, new in ((EndpointRules(), pauses.endpoint()), (SpeechRules(), pauses.speech())):
            changed |= {f"{type(old).__name__}.{f.name}" for f in fields(old) if vars(old)[f.name] != vars(new)[f.name]}
    every = {f"{rules.__name__}.{f.name}" for rules in (EndpointRules, SpeechRules) for f in fields(rules)}
    assert every - changed == {"EndpointRules.frame_ms"}


def test_the_options_reach_the_session(command: Any, audio_folder: Path) -> None:
    recording = audio_folder / "command_yes.opus"
    quiet = ("--format", "jsonl", "--no-progress")
    plain = [json.loads(line) for line in command("transcribe", recording, *quiet).out.splitlines()]
    assert {"speech_started", "speech_stopped"} <= {event["type"] for event in plain}
    assert not [event for event in plain if event["type"] == "activity"]
    options = ("--activity", "--voice-detector", "model", "--words-by-voice", "--word-pad-ms", "0")
    other = [json.loads(line) for line in command("transcribe", recording, *quiet, *options).out.splitlines()]
    assert {event["hop_s"] for event in other if event["type"] == "activity"} == {0.02}
    words = [[w["start_s"] for e in events if e["type"] == "final" for w in e["words"]] for events in (plain, other)]
    assert set(words[1]) < set(words[0])  # the little model babbles before and after the word


def test_sleep_is_off_unless_asked_for(command: Any, audio_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording is then heard as a stream, which can sleep; else it is computed in long stretches."""
    ways: list[tuple[str, float]] = []
    for way in ("alone", "offline"):
        usual = getattr(Recogniser, way)

        def noted(self: Recogniser, settings: SessionSettings, way: str = way, usual: Any = usual) -> Any:
            ways.append((way, settings.sleep_after_s))
            return usual(self, settings)

        monkeypatch.setattr(Recogniser, way, noted)
    command("transcribe", audio_folder / "command_yes.opus")
    command("transcribe", audio_folder / "command_yes.opus", "--sleep-after-s", "3")
    assert ways == [("offline", 0.0), ("alone", 3.0)]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--voice-start", "0.3"), "SpeechRules.stay_probability is 0.35"),
        (("--voice-start", "1.5"), "--voice-start"),
        (("--voice-detector", "ears"), "ears"),
        (("--voice-pad-ms", "500"), "SpeechRules.padding_ms is 500"),
        (("--min-segment-s", "11"), "EndpointRules.min_segment_s is 11"),
        (("--blank-ms", "5"), "--blank-ms"),
        (("--sleep-after-s", "0.5"), "SessionSettings.sleep_after_s is 0.5"),
    ],
)
def test_what_cannot_be_ends_with_2(command: Any, audio_folder: Path, arguments: tuple[str, ...], part: str) -> None:
    answer = command("transcribe", audio_folder / "command_yes.opus", *arguments)
    assert answer.code == 2
    assert part in answer.err
