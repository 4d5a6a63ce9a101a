"""Transcripts in every format, captions that can be read, and files that are whole or not there."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from wavlm_live.model.errors import ConfigurationError, OutputError
from wavlm_live.streamer.captions import LINE_CHARACTERS, LINES, LONGEST_S, PAUSE_S, clean_text, cues_of
from wavlm_live.streamer.events import Final, Partial, Speaker, SpeechStarted, Word
from wavlm_live.streamer.formats import FORMATS, format_of, open_writer, timestamp, write_transcript
from wavlm_live.streamer.output_file import write_atomically


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.4, gap_s: float = 0.1, tail_s: float = 0.5) -> Final:
    """A segment whose words all take the same time."""
    words = []
    at = start_s
    for word in text.split():
        words.append(Word(word, round(at * 16_000), round((at + word_s) * 16_000), 0.9))
        at += word_s + gap_s
    return Final(text, tuple(words), round(start_s * 16_000), round((at + tail_s) * 16_000), "silence")


SHORT = [spoken("zero one two"), spoken("go left", start_s=3661.5)]
LONG = spoken(
    "simmer for a minute or two and serve in a tureen while round his body was rolled a long coil of flax rope and "
    "it is a standard in the bluegrass repertoire"
)


def written(name: str, events: list, **about: object) -> str:
    stream = io.StringIO()
    write_transcript(name, events, stream, **about)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def test_txt() -> None:
    assert written("txt", SHORT) == "zero one two\ngo left\n"


def test_srt() -> None:
    assert written("srt", SHORT) == (
        "1\n00:00:00,000 --> 00:00:01,400\nzero one two\n\n2\n01:01:01,500 --> 01:01:02,500\ngo left\n\n"
    )


def test_vtt() -> None:
    assert written("vtt", SHORT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.400\nzero one two\n\n01:01:01.500 --> 01:01:02.500\ngo left\n\n"
    )


def test_json() -> None:
    document = json.loads(written("json", SHORT, source="talk.flac", model="small", duration_s=3663.0))
    assert list(document) == ["source", "model", "duration_s", "text", "segments"]
    assert (document["source"], document["model"], document["duration_s"]) == ("talk.flac", "small", 3663.0)
    assert document["text"] == "zero one two go left"
    assert document["segments"][1] == {
        "text": "go left",
        "words": [
            {"text": "go", "start_s": 3661.5, "end_s": 3661.9, "confidence": 0.9},
            {"text": "left", "start_s": 3662.0, "end_s": 3662.4, "confidence": 0.9},
        ],
        "start_s": 3661.5,
        "end_s": 3663.0,
        "reason": "silence",
    }


def test_jsonl_holds_every_event_on_its_own_line() -> None:
    events = [SpeechStarted(1_600), Partial("zero", "on"), SHORT[0]]
    lines = written("jsonl", events).splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["speech_started", "partial", "final"]
    assert json.loads(lines[2])["words"][2] == {"text": "two", "start_s": 1.0, "end_s": 1.4, "confidence": 0.9}


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_was_said(name: str) -> None:
    empty = written(name, [SpeechStarted(0), Partial("a", "b")] if name != "jsonl" else [], duration_s=1.0)
    assert empty == {"vtt": "WEBVTT\n\n"}.get(name, empty if name == "json" else "")
    if name == "json":
        assert json.loads(empty)["segments"] == []


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "json"])
def test_a_segment_is_flushed_at_once(name: str) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(writing, "w") as stream:
        writer = open_writer(name, stream)
        writer.write(SHORT[0])
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(pipe.read(10_000)), daemon=True)
        reader.start()
        reader.join(timeout=5)
    assert got
    assert b"two" in got[0]


def test_control_characters_are_dropped() -> None:
    dirty = Final(
        "ze\x1b[31mro\n\tone\x07\u2028 \x9b\ud800",
        (Word("ze\x1bro", 0, 1_600, 1.0), Word("\x00", 1_600, 1_700, 1.0)),
        0,
        16_000,
        "end",
    )
    for name in FORMATS:
        text = written(name, [dirty])
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800]|\\u00", text)
        assert "zero" in text or "ze[31mro one" in text
    assert clean_text(" a \r\n b\x00c ") == "a bc"


def test_markup_is_escaped() -> None:
    final = Final(
        "a --> b <i>&",
        tuple(Word(w, i * 8_000, i * 8_000 + 4_000, 1.0) for i, w in enumerate(["a", "-->", "b", "<i>&"])),
        0,
        32_000,
        "end",
    )
    assert written("vtt", [final]).count("-->") == 1
    assert "a --&gt; b &lt;i&gt;&amp;\n" in written("vtt", [final])
    assert written("srt", [final]).count("-->") == 1


def test_long_segments_become_readable_captions() -> None:
    cues = cues_of(LONG)
    assert [w for cue in cues for line in cue.lines for w in line.split()] == LONG.text.split()
    assert len(cues) == 3
    assert cues[0].lines == ("simmer for a minute or two and", "serve in a tureen while round his")
    for cue in cues:
        assert len(cue.lines) <= LINES
        assert max(map(len, cue.lines)) <= LINE_CHARACTERS
        assert cue.end_samples - cue.start_samples <= LONGEST_S * 16_000
    starts = {w.start_samples for w in LONG.words}
    assert all(cue.start_samples in starts for cue in cues)


def test_a_pause_starts_a_new_caption_and_short_ones_stay_a_moment() -> None:
    words = (Word("yes", 0, 1_600, 1.0), Word("no", 3 * 16_000, 3 * 16_000 + 800, 1.0))
    cues = cues_of(Final("yes no", words, 0, 4 * 16_000, "end"))
    assert PAUSE_S < 2.9
    assert [(c.start_samples, c.end_samples, c.lines) for c in cues] == [
        (0, 16_000, ("yes",)),
        (48_000, 64_000, ("no",)),
    ]


def test_words_without_times_share_the_segment() -> None:
    cues = cues_of(Final("one two " * 30, (), 16_000, 31 * 16_000, "length"))
    assert cues[0].start_samples == 16_000
    assert cues[-1].end_samples == 31 * 16_000
    assert len(cues) >= 5


@st.composite
def finals(draw: st.DrawFn) -> Final:
    words = []
    at = draw(st.integers(0, 10**9))
    start = at
    for _ in range(draw(st.integers(0, 30))):
        at += draw(st.integers(0, 40_000))
        end = at + draw(st.integers(0, 150_000))
        words.append(Word(draw(st.text("abcdefé漢𝄞'&<>-", min_size=1, max_size=100)), at, end, 0.5))
        at = end
    return Final(" ".join(w.text for w in words), tuple(words), start, at + draw(st.integers(0, 20_000)), "end")


@settings(max_examples=60, deadline=None)
@given(finals())
def test_captions_of_anything(final: Final) -> None:
    cues = cues_of(final)
    joined = "".join("".join(cue.lines) for cue in cues).replace(" ", "")
    assert joined == clean_text(final.text).replace(" ", "")
    for cue in cues:
        assert 1 <= len(cue.lines) <= LINES
        assert all(0 < len(line) <= LINE_CHARACTERS for line in cue.lines)
        assert final.start_samples <= cue.start_samples <= cue.end_samples <= final.end_samples
    assert all(a.end_samples <= b.start_samples for a, b in pairwise(cues))
    times = re.findall(r"(\S+) --> (\S+)", written("srt", [final]))
    assert len(times) == len(cues)
    assert all(start < end for start, end in times)


def test_timestamps() -> None:
    assert timestamp(16_000, ",") == "00:00:01,000"
    assert timestamp(15_999) == "00:00:01.000"
    assert timestamp(0) == "00:00:00.000"
    assert timestamp(100 * 3600 * 16_000 + 8) == "100:00:00.000"


def test_names_of_formats() -> None:
    assert format_of("a/b.SRT") == "srt"
    assert format_of(Path("x.jsonl")) == "jsonl"
    with pytest.raises(ConfigurationError, match=r"a\.docx names no transcript format"):
        format_of("a.docx")
    with pytest.raises(ConfigurationError, match="'docx' was asked for; there are txt, srt, vtt, json, jsonl"):
        open_writer("docx", io.StringIO())


# Files


def half_written(path: Path, error: BaseException) -> None:
    with write_atomically(path) as stream:
        stream.write("half")
        raise error


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "talk.txt"
    with write_atomically(target) as stream:
        stream.write("first äöü\n")
        stream.flush()
        assert not target.exists()
    assert target.read_bytes() == "first äöü\n".encode()
    target.chmod(0o640)

    with pytest.raises(KeyboardInterrupt):
        half_written(target, KeyboardInterrupt())
    assert target.read_text() == "first äöü\n"

    with write_atomically(str(target)) as stream:
        stream.write("second\n")
    assert target.read_text() == "second\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["talk.txt"]


def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "a.txt") as stream:
            stream.write("a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with write_atomically(tmp_path / "link.txt") as stream:
        stream.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_errors_of_the_block_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError):
        half_written(tmp_path / "a.txt", BrokenPipeError())
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk: the write itself fails, in a process of its own.
    program = f"""
import resource, signal
from wavlm_live.model.errors import OutputError
from wavlm_live.streamer.output_file import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with write_atomically({str(tmp_path / "talk.txt")!r}) as stream:
        for _ in range(1000):
            stream.write("many words " * 10)
except OutputError as error:
    print(error)
"""
    (tmp_path / "talk.txt").write_text("old")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert re.fullmatch(r".*talk\.txt cannot be written: File too large; free some space\n", done.stdout)
    assert os.listdir(tmp_path) == ["talk.txt"]
    assert (tmp_path / "talk.txt").read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_devices_are_written_to_directly() -> None:
    with write_atomically("/dev/null") as stream:
        stream.write("a")
    assert Path("/dev/null").is_char_device()
    with (
        pytest.raises(OutputError, match="/dev/full cannot be written: No space left on device; free some space"),
        write_atomically("/dev/full") as stream,
    ):
        stream.write("a")
    assert Path("/dev/full").is_char_device()


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(path: Path) -> None:
        with write_atomically(path) as stream:
            stream.write("a")

    with pytest.raises(OutputError, match="it is a folder"):
        attempt(tmp_path)
    with pytest.raises(OutputError, match="nowhere does not exist; create it first"):
        attempt(tmp_path / "nowhere" / "a.txt")
    with pytest.raises(OutputError, match="cannot be written"):
        attempt(tmp_path / ("a" * 300))
    with pytest.raises(OutputError, match="cannot be written"):
        attempt(tmp_path / "a\0b")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="Permission denied; choose another place"):
        attempt(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == []


def said_by(final: Final, *speakers: str) -> Final:
    words = tuple(replace(word, speaker=speaker) for word, speaker in zip(final.words, speakers, strict=True))
    return replace(final, words=words)


def test_speakers_in_every_format() -> None:
    """A line or caption for each speaker; a word that nobody is known to have said goes with its neighbours."""
    final = said_by(spoken("zero one two three"), "anna", "", "speaker 2", "speaker 2")
    stretch = Speaker("anna", 0, 15_000, 0.87654, 0.5, True)
    assert written("txt", [stretch, final]) == "anna: zero one\nspeaker 2: two three\n"
    srt = written("srt", [stretch, final]).split("\n\n")
    assert [cue.split("\n")[2] for cue in srt[:2]] == ["anna: zero one", "speaker 2: two three"]
    vtt = written("vtt", [stretch, said_by(spoken("a b"), "<i>", "<i>")])
    assert "\n<v &lt;i&gt;>a b\n" in vtt
    document = json.loads(written("json", [stretch, final]))
    assert document["speakers"] == [
        {"speaker": "anna", "start_s": 0.0, "end_s": 0.9375, "confidence": 0.8765, "score": 0.5, "known": True}
    ]
    assert [w.get("speaker") for w in document["segments"][0]["words"]] == ["anna", None, "speaker 2", "speaker 2"]
    lines = [json.loads(line) for line in written("jsonl", [stretch, final]).splitlines()]
    assert [line["type"] for line in lines] == ["speaker", "final"]
    long = said_by(LONG, *["a name that is far too long for a caption of its own"] * len(LONG.words))
    for cue in cues_of(long, named=True):
        assert len(cue.lines) <= LINES
        assert all(len(line) <= LINE_CHARACTERS for line in cue.lines)
    assert " ".join(" ".join(c.lines) for c in cues_of(long)) == LONG.text
