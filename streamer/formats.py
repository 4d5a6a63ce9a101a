"""Transcripts as txt, srt, vtt, json and jsonl, written segment by segment while the text comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import msgspec

from ..model.errors import ConfigurationError
from .captions import Cue, clean_final, clean_text, cues_of, with_speakers
from .events import SAMPLE_RATE, Event, Final, Speaker, to_wire


class TranscriptWriter(ABC):
    """Writes the finals of one stream in one format. Other events are left out, save for jsonl.

    What is finished is flushed after every segment, so that a reader at the other end of a pipe sees it at once.

    Args:
        stream: text stream; it stays the caller's to close.
        source: name of the recording or microphone.
        model: name of the model.
    """

    def __init__(self, stream: TextIO, *, source: str = "", model: str = "") -> None:
        self.stream = stream
        self.source = source
        self.model = model
        self._begin()

    def write(self, event: Event) -> None:
        """Take the next event of the stream."""
        if isinstance(event, Final):
            self._write_final(clean_final(event))
            self.stream.flush()

    def finish(self, duration_s: float | None = None) -> None:
        """Write what comes after the last segment; called once.

        Args:
            duration_s: length of the whole recording in seconds, if known.
        """
        self._end(duration_s)
        self.stream.flush()

    def _begin(self) -> None:  # noqa: B027 (most formats have no header)
        """Write what comes before the first segment."""

    @abstractmethod
    def _write_final(self, final: Final) -> None:
        """Write one segment, its text clean of control characters."""

    def _end(self, duration_s: float | None) -> None:  # noqa: B027 (most formats have no footer)
        """Write what comes after the last segment."""


class TextWriter(TranscriptWriter):
    """txt: one line a segment; where speakers are told apart, one for each that speaks in it, with his name first."""

    def _write_final(self, final: Final) -> None:
        for line in spoken_lines(final):
            self.stream.write(line + "\n")


class SrtWriter(TranscriptWriter):
    """srt (SubRip): numbered captions, times as 00:00:01,000; a known speaker as `name: ` before the text."""

    def _begin(self) -> None:
        self._number = 0

    def _write_final(self, final: Final) -> None:
        for cue in cues_of(final, named=True):
            self._number += 1
            # SubRip has no way to escape; only its own arrow could break a file.
            lines = "\n".join(line.replace("-->", "->") for line in cue.lines)
            self.stream.write(f"{self._number}\n{_times(cue, ',')}\n{lines}\n\n")


class VttWriter(TranscriptWriter):
    """vtt (WebVTT): captions under a header, times as 00:00:01.000, `&`, `<`, `>` escaped; `<v name>` for speakers."""

    def _begin(self) -> None:
        self.stream.write("WEBVTT\n\n")

    def _write_final(self, final: Final) -> None:
        for cue in cues_of(final):
            voice = f"<v {_escaped(clean_text(cue.speaker))}>" if cue.speaker else ""
            lines = "\n".join(_escaped(line) for line in cue.lines)
            self.stream.write(f"{_times(cue, '.')}\n{voice}{lines}\n\n")


class JsonWriter(TranscriptWriter):
    """json: one document, written at the end, with `source`, `model`, `duration_s`, `text` and `segments`.

    A segment has `text`, `start_s`, `end_s`, `reason` and `words`, each with `text`, `start_s`, `end_s` and
    `confidence`. Where speakers are told apart, words have a `speaker`, and `speakers` lists who spoke when.
    """

    def _begin(self) -> None:
        self._segments: list[dict[str, Any]] = []
        self._speakers: list[dict[str, Any]] = []

    def write(self, event: Event) -> None:
        if isinstance(event, Speaker):
            stretch = to_wire(event)
            del stretch["type"]
            self._speakers.append(stretch)
        super().write(event)

    def _write_final(self, final: Final) -> None:
        segment = to_wire(final)
        del segment["type"]
        self._segments.append(segment)

    def _end(self, duration_s: float | None) -> None:
        document = {
            "source": self.source,
            "model": self.model,
            "duration_s": duration_s,
            "text": " ".join(s["text"] for s in self._segments if s["text"]),
            "segments": self._segments,
        }
        if self._speakers:
            document["speakers"] = self._speakers
        self.stream.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


class JsonLinesWriter(TranscriptWriter):
    """jsonl: every event on its own line, as on the wire."""

    def write(self, event: Event) -> None:
        if isinstance(event, Final):
            super().write(event)
        else:
            self._write_line(event)
            self.stream.flush()

    def _write_final(self, final: Final) -> None:
        self._write_line(final)

    def _write_line(self, event: Event) -> None:
        self.stream.write(msgspec.json.encode(to_wire(event)).decode() + "\n")


FORMATS: dict[str, type[TranscriptWriter]] = {
    "txt": TextWriter,
    "srt": SrtWriter,
    "vtt": VttWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
}
"""Writers by the name of their format, which is also the suffix of its files."""


def open_writer(name: str, stream: TextIO, *, source: str = "", model: str = "") -> TranscriptWriter:
    """The writer of a format.

    Raises:
        ConfigurationError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigurationError(f"the format {name!r} was asked for; there are {', '.join(FORMATS)}")
    return FORMATS[name](stream, source=source, model=model)


def format_of(path: str | Path) -> str:
    """The format that a file's suffix names.

    Raises:
        ConfigurationError: it names none.
    """
    name = Path(path).suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise ConfigurationError(
            f"{path} names no transcript format; its suffix must be one of {', '.join('.' + f for f in FORMATS)}"
        )
    return name


def write_transcript(
    name: str,
    events: Iterable[Event],
    stream: TextIO,
    *,
    source: str = "",
    model: str = "",
    duration_s: float | None = None,
) -> None:
    """All events of a finished stream in one call; arguments as for `open_writer` and `finish`."""
    writer = open_writer(name, stream, source=source, model=model)
    for event in events:
        writer.write(event)
    writer.finish(duration_s)


def spoken_lines(final: Final) -> list[str]:
    """The text of a segment: one line, or one for each turn of a speaker, as `name: text`."""
    if not any(word.speaker for word in final.words):
        return [final.text] if final.text else []
    turns: list[tuple[str, list[str]]] = []
    for word in with_speakers(final.words):
        if not turns or turns[-1][0] != word.speaker:
            turns.append((word.speaker, []))
        turns[-1][1].append(word.text)
    return [f"{clean_text(name)}: {' '.join(texts)}" for name, texts in turns]


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def timestamp(samples: int, decimal_mark: str = ".") -> str:
    """Samples as hours, minutes, seconds and milliseconds: 00:00:01.000."""
    return _clock(round(samples * 1000 / SAMPLE_RATE), decimal_mark)


def _times(cue: Cue, decimal_mark: str) -> str:
    start_ms, end_ms = (round(at * 1000 / SAMPLE_RATE) for at in (cue.start_samples, cue.end_samples))
    # Players leave out captions that last no time.
    return f"{_clock(start_ms, decimal_mark)} --> {_clock(max(end_ms, start_ms + 1), decimal_mark)}"


def _clock(milliseconds: int, decimal_mark: str) -> str:
    seconds, ms = divmod(milliseconds, 1000)
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    return f"{hours:02d}:{m:02d}:{s:02d}{decimal_mark}{ms:03d}"
