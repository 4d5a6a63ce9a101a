"""The live view says whether somebody speaks; tmux, with 16 colours, shows what it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from wavlm_live.streamer.events import SpeechStarted, SpeechStopped
from wavlm_live.streamer.hearing import Gauges
from wavlm_live.streamer.live_view import LiveView, gauge_line, voice_sign
from wavlm_live.streamer.terminal import Terminal


def test_speech_and_silence_are_shown(screen):
    view = LiveView(Terminal(out=screen.stream, err=screen.stream), Gauges(), "gauges")
    view.take([SpeechStarted(0)])
    assert "● speech" in screen.lines()[-1]
    view.take([SpeechStopped(16_000)])
    assert "○ silence" in screen.lines()[-1]


def test_the_sign_is_as_wide_for_both_and_needs_no_colour():
    for fancy in (True, False):
        speech, silence, unknown = (voice_sign(s, fancy) for s in (True, False, None))
        assert speech.cell_len == silence.cell_len
        assert speech.plain != silence.plain == unknown.plain
    assert voice_sign(True, False).plain.isascii()


def test_narrow_screens_keep_the_sign():
    gauges = Gauges(16_000, speaking=True)
    assert "●" in gauge_line(gauges, 36, True).plain
    assert "speech" in gauge_line(gauges, 60, True).plain


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux: apt-get install tmux")
def test_in_tmux_with_16_colours(audio_folder: Path, tmp_path: Path):
    """A recording at the pace of speech in a real terminal that is made narrower while it runs: the results stand
    whole above, no remains of live lines are left, and no colour beyond the sixteen is asked for."""
    socket = f"wavlm-live-{tmp_path.name}-{time.monotonic_ns()}"

    def tmux(*arguments: str) -> str:
        return subprocess.run(["tmux", "-L", socket, *arguments], capture_output=True, text=True, check=True).stdout

    recording = tmp_path / "speech.wav"
    samples, rate = soundfile.read(audio_folder / "digits_and_commands.flac", dtype="int16")
    soundfile.write(recording, samples[: 9 * rate], rate)
    command = f"{sys.executable} -m wavlm_live.streamer.cli transcribe --realtime --threads 1 {recording}"
    wait = "echo FINISHED $?; sleep 1000"
    environment = "env -u NO_COLOR -u COLORTERM LC_ALL=C.UTF-8 TERM=screen"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "20", f"{environment} sh -c '{command}; {wait}'")
    try:
        seen = raw = ""
        end = time.monotonic() + 120
        while "speech" not in seen:
            assert time.monotonic() < end, seen
            time.sleep(0.2)
            seen = tmux("capture-pane", "-p")
            raw += tmux("capture-pane", "-p", "-e")
        assert "latency" in seen
        assert "real-time factor" in seen
        tmux("resize-window", "-x", "44", "-y", "20")
        while "FINISHED" not in seen:
            assert time.monotonic() < end, seen
            time.sleep(0.5)
            seen = tmux("capture-pane", "-p")
            raw += tmux("capture-pane", "-p", "-e")
        scrolled = tmux("capture-pane", "-p", "-S", "-")  # what tmux moved out of sight, too
    finally:
        tmux("kill-server")
    lines = [line.rstrip() for line in seen.splitlines() if line.strip()]
    assert lines[-1] == "FINISHED 0"
    assert all("latency" not in line and "rtf" not in line for line in lines), lines
    assert any("go left" in line for line in lines)  # behind the time of the result
    results = [line for line in scrolled.splitlines() if re.match(r" 0:0\d  [a-z]", line)]
    assert len(results) >= 2
    assert "\x1b[38;" not in raw, "a colour that a 16-colour terminal does not have"
