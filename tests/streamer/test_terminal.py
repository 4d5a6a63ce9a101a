"""What a terminal really shows: a pseudo-terminal and an emulator, at several widths, while it is resized."""

from __future__ import annotations

import io
from typing import Any

import pytest

from wavlm_live.model.errors import OutputError
from wavlm_live.streamer.events import Final, Partial
from wavlm_live.streamer.hearing import Gauges
from wavlm_live.streamer.live_view import LiveView, clock_of, gauge_line, level_meter, partial_lines, progress_line
from wavlm_live.streamer.terminal import ResultStream, Terminal, escape

SPEECH = "round his body was rolled a long coil of flax rope and the boy sat down and waited"


def terminal_on(screen: Any, **options: Any) -> Terminal:
    return Terminal(out=screen.stream, err=screen.stream, **options)


def final(text: str) -> Final:
    return Final(text, (), 0, 16_000, "silence")


def show(view: LiveView, results: ResultStream, event: Partial | Final) -> None:
    """What the commands do with an event."""
    if isinstance(event, Final):
        results.write(event.text + "\n")
    view.take([event])


def test_a_partial_is_rewritten_and_a_final_stays(screen):
    terminal = terminal_on(screen)
    view, results = LiveView(terminal, Gauges()), ResultStream(terminal)
    show(view, results, Partial("", "roun"))
    assert screen.lines() == ["roun"]
    show(view, results, Partial("round his", "bod"))
    assert screen.lines() == ["round his bod"]
    show(view, results, final("round his body"))
    assert screen.lines() == ["round his body"]
    show(view, results, Partial("", "was"))
    assert screen.lines() == ["round his body", "was"]
    view.close()
    assert screen.lines() == ["round his body"]


def test_stable_text_is_plain_and_unstable_text_dim(screen):
    terminal = terminal_on(screen)
    LiveView(terminal, Gauges()).take([Partial("round his", "body")])
    screen.lines()
    assert "round his \x1b[2mbody\x1b[0m" in screen.raw


def test_messages_go_above_the_live_lines(screen):
    terminal = terminal_on(screen)
    view = LiveView(terminal, Gauges(), "gauges")
    view.take([Partial("so far", "")])
    terminal.warn("the microphone lost 0.1 s")
    view.take([Partial("so far so", "good")])
    lines = screen.lines()
    assert lines[:2] == ["wavlm-live: warning: the microphone lost 0.1 s", "so far so good"]
    assert len(lines) == 3


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_long_text_is_wrapped_between_words_and_its_end_is_shown(screen, columns):
    screen.resize(columns, 8)
    terminal = terminal_on(screen)
    view, results = LiveView(terminal, Gauges(), "gauges"), ResultStream(terminal)
    show(view, results, final("before"))
    heard = [((SPEECH + " ") * 4)[:end].strip() for end in range(10, 320, 7)]
    for text in heard:
        show(view, results, Partial(text, "x"))
    shown = screen.lines()
    assert len(shown) <= 8
    assert shown[-1].startswith("0:00")
    assert " ".join(shown[1:-1] if shown[0] == "before" else shown[:-1]).endswith(heard[-1][-30:] + " x")
    show(view, results, final("after"))
    view.close()
    assert screen.lines()[-1] == "after"


def test_narrowing_leaves_no_remains(screen):
    terminal = terminal_on(screen)
    view, results = LiveView(terminal, Gauges(), "gauges"), ResultStream(terminal)
    show(view, results, final("one"))
    show(view, results, Partial(SPEECH, ""))
    for columns in (40, 33, 60, 80):
        screen.resize(columns)
        show(view, results, Partial(SPEECH, "now"))
        lines = screen.lines()
        assert lines[0] == "one"
        assert " ".join(lines[1:-1]) == f"{SPEECH} now"
        assert lines[-1].startswith("0:00")


def test_wide_and_combining_letters_keep_their_place(screen):
    screen.resize(20)
    terminal = terminal_on(screen)
    view = LiveView(terminal, Gauges())
    text = "日本語の音声認識はとても楽しいです"  # 17 letters, 34 cells
    for end in range(1, len(text) + 1):
        view.take([Partial(text[:end], "")])
    assert "".join(line.replace(" ", "") for line in screen.lines()) == text
    view.take([Partial("naïve cafe\u0301", "")])
    assert len(screen.lines()) == 1


def test_control_characters_of_a_vocabulary_are_shown_not_obeyed(screen):
    terminal = terminal_on(screen)
    view, results = LiveView(terminal, Gauges()), ResultStream(terminal)
    show(view, results, Partial("a\x1b[2Jb", "\u202ec"))
    assert screen.lines() == ["a\\x1b[2Jb \\u202ec"]
    show(view, results, final("a\x1b]0;title\x07b\rc"))
    view.close()
    assert screen.lines() == ["a\\x1b]0;title\\x07b\\rc"]


def test_no_color(screen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = terminal_on(screen)
    gauges = Gauges(level_db=-10, dropped_blocks=3)
    LiveView(terminal, gauges, "gauges").take([Partial("yes", "")])
    assert "3 dropped" in screen.lines()[1]
    colours = {f"\x1b[{code}m" for code in (*range(30, 38), *range(90, 98))}
    assert not [colour for colour in colours if colour in screen.raw]


@pytest.mark.parametrize("why", ["plain", "quiet", "dumb"])
def test_nothing_is_rewritten_when_it_must_not_be(screen, monkeypatch, why):
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    terminal = terminal_on(screen, plain=why == "plain", quiet=why == "quiet")
    view, results = LiveView(terminal, Gauges(), "gauges"), ResultStream(terminal)
    show(view, results, Partial("yes", "no"))
    show(view, results, final("yes"))
    view.close()
    assert screen.lines() == ["yes"]
    assert "\x1b" not in screen.raw


def test_results_in_a_pipe_and_live_lines_on_stderr(screen):
    pipe = io.StringIO()
    terminal = Terminal(out=pipe, err=screen.stream)
    view, results = LiveView(terminal, Gauges()), ResultStream(terminal)
    show(view, results, Partial("yes", ""))
    assert screen.lines() == ["yes"]
    show(view, results, final("yes\x07"))
    view.close()
    assert (screen.lines(), pipe.getvalue()) == ([], "yes\x07\n")


def test_nothing_live_without_a_terminal():
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(out=out, err=err)
    LiveView(terminal, Gauges(), "gauges").take([Partial("yes", "")])
    assert not terminal.live
    assert out.getvalue() + err.getvalue() == ""


def test_stdout_that_fails_is_an_output_error():
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="standard output cannot be written: No space left on device"):
        ResultStream(Terminal(out=Full(), err=io.StringIO())).write("yes\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Grüße, 世界, नमस्ते, 🎙", "Grüße, 世界, नमस्ते, 🎙"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m\x9b\x00", "\\x1b[31m\\x9b\\x00"),
        ("\u202eevil\u2069 \u2028", "\\u202eevil\\u2069 \\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


GAUGES = Gauges(16_000 * 75, -22.5, 0.0853, 0.123)


@pytest.mark.parametrize(
    ("columns", "dropped", "line"),
    [
        (80, 0, "1:15  ▕█████   ▏  ○ silence  latency 85 ms  real-time factor 0.12  0 dropped"),
        (80, 2, "1:15  ▕█████   ▏  ○ silence  latency 85 ms  real-time factor 0.12  2 dropped"),
        (40, 0, "1:15  ▕█████   ▏  ○  85 ms  rtf 0.12"),
        (50, 2, "1:15  ▕█████   ▏  ○  85 ms  rtf 0.12  2 dropped"),
        (60, 0, "1:15  ▕█████   ▏  ○ silence  latency 85 ms  rtf 0.12"),
        (20, 2, "1:15  2 dropped"),
        (20, 0, "1:15  ▕█████   ▏"),
    ],
)
def test_gauges_fit_the_width(columns, dropped, line):
    gauges = Gauges(GAUGES.heard_samples, GAUGES.level_db, GAUGES.latency_s, GAUGES.realtime_factor, dropped)
    assert gauge_line(gauges, columns, fancy=True).plain == line


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "call.wav  ━━━━━━━━━━━━────────────   50%  1:00/2:00  12.0x  0:05 left"),
        (60, "call.wav  ━━━━━━──────   50%  12.0x  0:05 left"),
        (39, "━━━━━━──────   50%  12.0x  0:05 left"),
        (30, " 50%  12.0x  0:05 left"),
    ],
)
def test_progress_fits_the_width(columns, line):
    assert progress_line("calls/call.wav", 60, 120, 5, columns, fancy=True).plain == line


def test_progress_of_what_has_no_known_length():
    assert progress_line("stdin", 60, None, 5, 80, fancy=True).plain == "stdin  1:00  12.0x"
    assert progress_line("a.wav", 0, 10, 0, 80, fancy=False).plain.startswith("a.wav  ------")


@pytest.mark.parametrize(("level_db", "meter"), [(-120, "[        ]"), (-30, "[####    ]"), (0, "[########]")])
def test_level_meter_in_ascii(level_db, meter):
    assert level_meter(level_db, fancy=False).plain == meter


def test_partial_without_text_takes_no_row():
    assert partial_lines(Partial("", ""), 40, 5) == []


def test_clock():
    assert [clock_of(s) for s in (0, 9.99, 754, 3723)] == ["0:00", "0:09", "12:34", "1:02:03"]
