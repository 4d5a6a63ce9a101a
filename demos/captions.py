"""Live captions: in a window, or in a text file that OBS Studio shows (Sources, Text, "Read from file").

    python demos/captions.py --output captions.txt           the microphone, for OBS
    python demos/captions.py --window                        the microphone, in a window of its own
    python demos/captions.py --output captions.txt --file talk.flac

Two lines of 42 characters, as television does it. Only words that do not change any more are shown, so that nobody
reads a word twice; after three seconds of silence the captions go.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from wavlm_live.streamer import Event, Final, Partial, Recogniser
from wavlm_live.streamer.sources import FileSource, MicrophoneSource

LINE, LINES, CLEAR_S = 42, 2, 3.0


class Captions:
    """What is on the screen: the last lines of what is certain."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._shown = show, ""
        self._said = ""  # finals since the screen was last empty
        self._changed_s = 0.0

    def take(self, events: list[Event], now_s: float) -> None:
        """Events, and the time of the sound."""
        for event in events:
            if isinstance(event, Partial):
                self._put(f"{self._said} {event.stable}", now_s)
            elif isinstance(event, Final):
                self._said = f"{self._said} {event.text}"
                self._put(self._said, now_s)
        if self._shown and now_s - self._changed_s > CLEAR_S:
            self._said = ""
            self._put("", now_s)

    def _put(self, text: str, now_s: float) -> None:
        text = "\n".join(textwrap.wrap(text.strip(), LINE)[-LINES:])
        if text != self._shown:
            self._shown, self._changed_s = text, now_s
            self._show(text)


def write_to(path: Path) -> Callable[[str], None]:
    """Replaces the file as a whole, so that OBS never reads half a caption."""

    def show(text: str) -> None:
        beside = path.with_name(path.name + ".part")
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)

    return show


def window() -> Callable[[str], None]:
    """A black window with large letters; needs a desktop and Python's tkinter."""
    import tkinter

    root = tkinter.Tk()
    root.title("captions")
    label = tkinter.Label(root, font=("sans-serif", 32), fg="white", bg="black", width=LINE, height=LINES)
    label.pack(expand=True, fill="both")

    def show(text: str) -> None:
        label.config(text=text)
        root.update()

    show("")
    return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("captions.txt"))
    parser.add_argument("--window", action="store_true")
    parser.add_argument("--microphone", help="number or part of the name")
    parser.add_argument("--file", help="a recording instead of a microphone, at the pace of speech")
    options = parser.parse_args()
    captions = Captions(window() if options.window else write_to(options.output))
    session = Recogniser.load().open()
    source = FileSource(options.file, block_samples=1600) if options.file else MicrophoneSource(options.microphone)
    heard_s, began_s = 0.0, time.monotonic()
    with source:
        try:
            for block in source:
                heard_s += len(block) / 16_000
                if options.file:
                    time.sleep(max(0.0, began_s + heard_s - time.monotonic()))
                captions.take(session.feed(block), heard_s)
        except KeyboardInterrupt:
            pass
        captions.take(session.finish(), heard_s)


if __name__ == "__main__":
    main()
