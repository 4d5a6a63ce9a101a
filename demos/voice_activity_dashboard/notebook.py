"""The lane for notebooks and desktops: voice activity and words while they come, drawn by matplotlib.

    python demos/voice_activity_dashboard/notebook.py                      the microphone, in a window
    python demos/voice_activity_dashboard/notebook.py --file talk.flac --save lane.png

In a notebook: `%matplotlib widget`, then `for figure in watch(MicrophoneSource()): pass`.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from wavlm_live.streamer import Activity, Final, Partial, Recogniser, SessionSettings, SpeechStarted, SpeechStopped
from wavlm_live.streamer.sources import AudioSource, FileSource, MicrophoneSource

SPAN_S, REDRAW_S = 8.0, 0.1


def watch(source: AudioSource, recogniser: Recogniser | None = None, span_s: float = SPAN_S) -> Iterator[Figure]:
    """Hear a source to its end; the figure is drawn anew ten times a second of sound.

    Args:
        source: of float32 blocks at 16 kHz.
        recogniser: None for the bundled model.
        span_s: seconds in view.

    Yields:
        The figure, the same each time.
    """
    session = (recogniser or Recogniser.load()).open(SessionSettings(activity=True))
    sound: deque[tuple[float, float]] = deque(maxlen=round(span_s / 0.02))  # time and peak of 20 ms
    voice: deque[tuple[float, float]] = deque(maxlen=round(span_s / 0.02))  # time and probability
    speech: deque[list[float]] = deque(maxlen=50)
    words: dict[float, str] = {}
    figure, axes = plt.subplots(figsize=(11, 3))
    heard_s = drawn_s = 0.0
    blocks = iter(source)
    while True:
        block = next(blocks, None)
        events = session.finish() if block is None else session.feed(block)
        for start in range(0, 0 if block is None else len(block), 320):
            sound.append((heard_s + start / 16_000, float(np.abs(block[start : start + 320]).max())))
        heard_s += 0 if block is None else len(block) / 16_000
        for event in events:
            match event:
                case Activity(start, hop, probabilities):
                    voice.extend(((start + n * hop) / 16_000, p) for n, p in enumerate(probabilities))
                case SpeechStarted(at):
                    speech.append([at / 16_000, np.inf])
                case SpeechStopped(at):
                    speech[-1][1] = at / 16_000
                case Partial() | Final():
                    words.update((word.start_samples / 16_000, word.text) for word in event.words)
        if block is None or heard_s - drawn_s >= REDRAW_S:
            drawn_s = heard_s
            draw(axes, sound, voice, speech, words, heard_s, span_s)
            yield figure
        if block is None:
            return


def draw(axes, sound, voice, speech, words, now_s: float, span_s: float) -> None:
    axes.clear()
    axes.set(xlim=(now_s - span_s, now_s), ylim=(-1.6, 1.05), xlabel="seconds", yticks=[0, 0.5, 1])
    for start, end in speech:
        axes.axvspan(start, min(end, now_s), color="#dff1e4")
    for series, colour in ((sound, "#2b6cb0"), (voice, "#1f8a4c")):
        if series:
            times, values = zip(*series, strict=True)
            axes.plot(times, values, color=colour, linewidth=1)
    axes.axhline(0.5, color="#a81b1b", linestyle="--", linewidth=0.7)
    for n, (at, text) in enumerate(sorted(words.items())):
        if at > now_s - span_s:
            axes.text(at, -0.5 - 0.45 * (n % 2), text, fontsize=10, clip_on=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--microphone", help="number or part of the name")
    parser.add_argument("--file", help="a recording instead of a microphone")
    parser.add_argument("--save", help="write the last picture to this file; no window")
    options = parser.parse_args()
    if options.save:
        plt.switch_backend("agg")
    with FileSource(options.file) if options.file else MicrophoneSource(options.microphone) as source:
        if options.save:
            *_, last = watch(source)
            last.savefig(options.save)
            return
        for _ in watch(source):
            plt.pause(0.001)


if __name__ == "__main__":
    main()
