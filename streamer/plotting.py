"""`--plot OUT.png`: waveform, probability of speech and words of a recording as a picture; needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.errors import ConfigurationError, OutputError
from .events import SAMPLE_RATE, Activity, Event, Final, SpeechStarted, SpeechStopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEAK_SAMPLES = 160
"""Sound that becomes one column of the outline: 10 ms."""
ROW_S = 20.0
"""Sound in a row of the picture, as long as there are not too many rows."""
MOST_ROWS = 30
_WAVE, _SPEECH, _PROBABILITY, _MARK = "#2b6cb0", "#dff1e4", "#1f8a4c", "#7a2a8c"
SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """See whether a picture can be made, before an hour of sound is heard.

    Raises:
        ConfigurationError: another suffix, or matplotlib is not there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"--plot {path}: expected a name that ends with {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("--plot needs matplotlib; install it with: pip install 'wavlm-live[plot]'") from error


class Plot:
    """Takes in what a picture shows, in memory that grows by 400 bytes a second.

    Args:
        title: name of the recording.
        threshold: probability at which speech begins.
    """

    def __init__(self, title: str, threshold: float = 0.5) -> None:
        self._title, self._threshold = title, threshold
        self._rest = np.zeros(0, np.float32)
        self._peaks: list[np.ndarray] = []  # float16 [hops, 2], lowest and highest sample
        self._samples = 0
        self._activity: list[Activity] = []
        self._speech: list[list[float]] = []
        self._finals: list[Final] = []

    def hear(self, block: np.ndarray) -> None:
        """Take the next samples, float32 `[samples]`."""
        self._samples += len(block)
        joined = np.concatenate([self._rest, block])
        whole = len(joined) - len(joined) % PEAK_SAMPLES
        rows = joined[:whole].reshape(-1, PEAK_SAMPLES)
        self._peaks.append(np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1).astype(np.float16))
        self._rest = joined[whole:]

    def take(self, events: Iterable[Event]) -> None:
        """Take events of the stream; those that no picture shows are left out."""
        for event in events:
            match event:
                case Activity():
                    self._activity.append(event)
                case SpeechStarted(at):
                    self._speech.append([at / SAMPLE_RATE, float("inf")])
                case SpeechStopped(at) if self._speech:
                    self._speech[-1][1] = at / SAMPLE_RATE
                case Final():
                    self._finals.append(event)

    def save(self, path: Path) -> None:
        """Draw it.

        Raises:
            OutputError: the file cannot be written.
        """
        from matplotlib.figure import Figure  # draws without a window, whatever the machine

        duration_s = max(self._samples / SAMPLE_RATE, 0.1)
        row_s = max(ROW_S if duration_s > ROW_S else duration_s, duration_s / MOST_ROWS)
        rows = max(1, int(np.ceil(duration_s / row_s - 1e-9)))
        figure = Figure(figsize=(14, 0.6 + 2.4 * rows), layout="constrained")
        figure.suptitle(self._title, fontsize=11)
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
        for row, ax in enumerate(axes):
            self._draw(ax, row * row_s, (row + 1) * row_s)
        axes[-1].set_xlabel("seconds")
        try:
            figure.savefig(path, dpi=100)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    def _draw(self, ax: Axes, start_s: float, end_s: float) -> None:
        ax.set_xlim(start_s, end_s)
        ax.set_ylim(-3.1, 1.05)
        ax.set_yticks(
            [-1.9, -1.9 + self._threshold * 0.85, 0], ["0", f"speech {self._threshold:.0%}", "wave"], fontsize=8
        )
        ax.grid(axis="x", alpha=0.2)
        for first, last in self._speech:
            if last > start_s and first < end_s:
                ax.axvspan(max(first, start_s), min(last, end_s), color=_SPEECH, zorder=0)
        self._draw_wave(ax, start_s, end_s)
        self._draw_probability(ax, start_s, end_s)
        ends = [float("-inf")] * 3  # of the texts in each row of words
        seconds_a_letter = (end_s - start_s) / 135
        for final in self._finals:
            for word in final.words:
                at = word.start_samples / SAMPLE_RATE
                if start_s <= at < end_s:
                    line = min(range(3), key=lambda n: (ends[n] > at, ends[n] if ends[n] > at else n))
                    ends[line] = at + (len(word.text) + 1.5) * seconds_a_letter
                    _write_word(ax, word, -2.1 - 0.36 * line)
            at = final.end_samples / SAMPLE_RATE
            if start_s <= at < end_s:
                ax.axvline(at, color=_MARK, linestyle=":", linewidth=1)
                ax.text(at, 0.98, f" {final.reason}", color=_MARK, fontsize=7, va="top")

    def _draw_wave(self, ax: Axes, start_s: float, end_s: float) -> None:
        peaks = np.concatenate(self._peaks) if self._peaks else np.zeros((0, 2), np.float16)
        low, high = (int(s * SAMPLE_RATE / PEAK_SAMPLES) for s in (start_s, end_s))
        part = peaks[low:high].astype(np.float32)
        # the root shows quiet speech beside loud
        part = np.sign(part) * np.sqrt(np.abs(part))
        time_s = (low + np.arange(len(part))) * PEAK_SAMPLES / SAMPLE_RATE
        ax.fill_between(time_s, part[:, 0], part[:, 1], color=_WAVE, linewidth=0.5)

    def _draw_probability(self, ax: Axes, start_s: float, end_s: float) -> None:
        bottom, height = -1.9, 0.85
        for event in self._activity:
            first = event.start_samples / SAMPLE_RATE
            hop = event.hop_samples / SAMPLE_RATE
            if first < end_s and first + len(event.probabilities) * hop > start_s:
                times = first + hop * np.arange(len(event.probabilities) + 1)
                values = bottom + height * np.array([*event.probabilities, event.probabilities[-1]])
                ax.fill_between(times, bottom, values, step="post", color=_PROBABILITY, linewidth=0)
        ax.axhline(bottom + height * self._threshold, color="#a81b1b", linestyle="--", linewidth=0.7)


def _write_word(ax: Axes, word: Any, y: float) -> None:
    """The word, and above it a bar as long as its sound, whose solid share is its confidence."""
    start, end = word.start_samples / SAMPLE_RATE, word.end_samples / SAMPLE_RATE
    ax.plot([start, end], [y, y], color="#99a3a0", linewidth=1, solid_capstyle="butt")
    ax.plot(
        [start, start + (end - start) * word.confidence], [y, y], color="#17211f", linewidth=3, solid_capstyle="butt"
    )
    label = word.text.replace("$", r"\$") + ("?" if word.confidence < 0.5 else "")
    ax.text(start, y - 0.06, label, fontsize=9, va="top", clip_on=True)
