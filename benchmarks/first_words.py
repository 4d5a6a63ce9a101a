"""A new user's path, timed: from `git clone` to the first words on the screen; for file, microphone and browser.

    python benchmarks/first_words.py

Clones this repository into a temporary folder and runs the command that README prints there, as it is printed, on a
terminal; then `wavlm-live listen` with a virtual microphone (PulseAudio) that hears a recording, and `wavlm-live serve`
with Chromium whose fake microphone hears it. Every message on the way is written down, to be read.

The clone comes from this folder and packages from what pip is configured to use: times over the internet are longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import machine
import pyte
import soundfile
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
RECORDING = "tests/audio/digits_and_commands.flac"
LONGEST_S = 900.0
COLUMNS, LINES = 100, 40


@dataclass
class Run:
    """A command on a terminal: what it showed, and when."""

    seconds: dict[str, float] = field(default_factory=dict)
    screen: list[str] = field(default_factory=list)


def readme_command() -> str:
    """The first command that README prints: it installs, and transcribes a recording."""
    found = re.search(r"```bash\n(python3.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None, "README prints no command"
    assert "git clone" not in found[1]
    return found[1]


def after_pip(rows: list[str]) -> list[str]:
    """Without pip's own rows, but the warnings and errors among them that are not about where packages lie."""
    last = max(n for n, row in enumerate(rows) if row.startswith("Successfully installed"))
    told = [row for row in rows[:last] if re.match(r"(WARNING|ERROR)", row) and "is ignored" not in row]
    return told + [row for row in rows[last + 1 :] if not re.search(r"-\d+\.\d", row)]


def words_of(venv: Path, recording: Path) -> set[str]:
    """What the model says of the recording: the words to look for."""
    done = subprocess.run(
        [venv / "bin/wavlm-live", "transcribe", recording], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def on_terminal(
    command: list[str], folder: Path, environment: dict[str, str], look: Callable[[list[str], float], str | None]
) -> Run:
    """Run a command on a pseudo-terminal.

    Args:
        command: that is run.
        folder: in which.
        environment: with which.
        look: is given the rows on the screen and the seconds since the start whenever something new is shown; gives
            the name of what it has found, each once. "end" ends the command as Ctrl+C does.
    """
    run, screen = Run(), pyte.HistoryScreen(COLUMNS, LINES, history=5000, ratio=0.5)
    stream = pyte.ByteStream(screen)
    began = time.perf_counter()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)})
    try:
        while (now := time.perf_counter() - began) < LONGEST_S:
            ready, _, _ = select.select([terminal], [], [], 0.05)
            if ready:
                try:
                    stream.feed(os.read(terminal, 65536))
                except OSError:
                    break
            found = look([row.rstrip() for row in screen.display], now)
            if found == "end" and "end" not in run.seconds:
                os.kill(process, signal.SIGINT)
            if found:
                run.seconds.setdefault(found, round(now, 2))
    finally:
        os.waitpid(process, 0)
        os.close(terminal)
    past = ["".join(row[n].data for n in range(COLUMNS)).rstrip() for row in screen.history.top]
    run.screen = [row for row in (*past, *(row.rstrip() for row in screen.display)) if row]
    run.seconds["whole"] = round(time.perf_counter() - began, 2)
    return run


def file_path(clone: Path) -> Run:
    """README's command: from an empty folder to a transcript."""

    def look(rows: list[str], now: float) -> str | None:
        text = "\n".join(rows)
        if "Successfully installed" not in text:
            return None
        after = text.rpartition("Successfully installed")[2]
        # packages and their versions fill some rows; then come the words of the live view
        spoken = [row for row in after.split("\n")[1:] if re.fullmatch(r"[a-z' ]+", row)]
        return "first words" if spoken else "installed"

    return on_terminal(["bash", "-c", readme_command()], clone, dict(os.environ), look)


def microphone_path(venv: Path, recording: Path, known: set[str], fixtures: ModuleType) -> Run:
    """`wavlm-live listen`; the recording is played when the program hears."""
    if missing := fixtures.missing_packages():
        raise SystemExit(f"no virtual microphone without {', '.join(missing)}: apt-get install them")
    with fixtures.running_microphone() as microphone:
        state: dict[str, Any] = {}

        def look(rows: list[str], now: float) -> str | None:
            text = "\n".join(rows)
            if "player" not in state:
                if not re.search(r"^\d+:\d\d ", text, re.M):
                    return None
                state["player"] = microphone.play(recording)
                return "listening"
            if known & set(text.split()):
                state.setdefault("heard", now)
                return "end" if now > state["heard"] + 3 else "first words"
            return None

        return on_terminal([str(venv / "bin/wavlm-live"), "listen"], venv.parent, microphone.environment, look)


@contextmanager
def serving(venv: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server, and its address."""
    command = [venv / "bin/wavlm-live", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def browser_path(venv: Path, recording: Path) -> Run:
    """`wavlm-live serve`, a page, one click."""
    run = Run()
    began = time.perf_counter()

    def mark(name: str) -> None:
        run.seconds[name] = round(time.perf_counter() - began, 2)

    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with serving(venv) as (url, server), sync_playwright() as driver:
        mark("server")
        run.screen.append(url)
        sound = f"--use-file-for-fake-audio-capture={recording}%noloop"
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*arguments, sound])
        page = browser.new_page()
        page.on("console", lambda message: run.screen.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: run.screen.append(f"error: {error}"))
        page.goto(re.sub(r"^ws://([^/]+)/.*", r"http://\1/", url))
        mark("page")
        page.get_by_role("button", name="Microphone").click()
        seen: list[str] = []
        while not page.evaluate("document.querySelector('.partial')?.textContent.trim()"):
            state = page.evaluate("document.querySelector('.lane .pill')?.textContent ?? ''")
            if state and state not in seen:
                seen.append(state)
            if time.perf_counter() - began > 120:
                raise SystemExit(f"no words in the browser; the page shows: {page.locator('body').inner_text()}")
            page.wait_for_timeout(20)
        mark("first words")
        run.screen += [*(f"page: {state}" for state in seen), f"page: {page.locator('.advice').first.inner_text()}"]
        browser.close()
    assert server.stderr is not None
    run.screen += server.stderr.read().splitlines()
    mark("whole")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", default="first_words", help="name of the file in results/; empty for none")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("fixtures", ROOT / "tests/streamer/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    fixtures = importlib.util.module_from_spec(spec)
    sys.modules["fixtures"] = fixtures
    spec.loader.exec_module(fixtures)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "wavlm-live"
        began = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", f"file://{ROOT}", clone], check=True)
        cloned_s = round(time.perf_counter() - began, 2)
        venv = clone / ".venv"
        runs = {"file": file_path(clone)}
        samples, rate = soundfile.read(clone / RECORDING, dtype="int16")
        recording = Path(folder) / "recording.wav"
        soundfile.write(recording, samples, rate)
        known = words_of(venv, recording)
        runs["microphone"] = microphone_path(venv, recording, known, fixtures)
        runs["browser"] = browser_path(venv, recording)
        size_mb = sum(f.stat().st_size for f in venv.rglob("*") if f.is_file()) / 1e6
    runs["file"].screen = after_pip(runs["file"].screen)
    for name, run in runs.items():
        print(f"== {name}: {run.seconds}")
        print("\n".join(f"   {line}" for line in run.screen))
    result = {
        "clone_s": cloned_s,
        "environment_mb": round(size_mb),
        "paths": {name: {"seconds": run.seconds, "messages": run.screen} for name, run in runs.items()},
    }
    if options.result:
        machine.write(options.result, result)


if __name__ == "__main__":
    main()
