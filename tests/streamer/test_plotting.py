"""`--plot`: the picture shows the sound, the speech and the words that were recognised."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.events import Activity, Final, SpeechStarted, SpeechStopped, Word
from wavlm_live.streamer.plotting import Plot, check_plot

matplotlib = pytest.importorskip("matplotlib")


def svg_of(plot: Plot, path) -> str:
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    plot.save(path)
    return path.read_text()


def test_words_and_ends_are_drawn(tmp_path, seed):
    rng = np.random.default_rng(seed)
    plot = Plot("talk.wav", 0.6)
    for length in rng.integers(1, 4000, 200):
        plot.hear(rng.uniform(-0.5, 0.5, length).astype(np.float32))
    words = (Word("four", 16_000, 20_000, 0.9), Word("$even", 24_000, 28_000, 0.3))
    plot.take([SpeechStarted(15_000), SpeechStopped(30_000), SpeechStarted(40_000)])
    plot.take([Activity(0, 512, (0.1, 0.9)), Final("four $even", words, 16_000, 28_000, "silence")])
    text = svg_of(plot, tmp_path / "p.svg")
    for shown in ("talk.wav", ">four<", "$even?", "silence", "speech 60%"):
        assert shown in text, shown


def test_the_outline_is_the_sounds(seed):
    rng = np.random.default_rng(seed)
    samples = rng.uniform(-1, 1, 50_000).astype(np.float32)
    plot = Plot("")
    at = 0
    for cut in [*np.sort(rng.integers(0, 50_000, 40)), 50_000]:
        plot.hear(samples[at:cut])
        at = int(cut)
    rows = samples[: 50_000 // 160 * 160].reshape(-1, 160)
    peaks = np.concatenate(plot._peaks)
    assert np.abs(peaks[:, 0] - rows.min(1)).max() < 1e-3
    assert np.abs(peaks[:, 1] - rows.max(1)).max() < 1e-3


def test_long_recordings_have_no_more_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("wavlm_live.streamer.plotting.MOST_ROWS", 4)
    plot = Plot("long")
    for _ in range(10):
        plot.hear(np.zeros(60 * 16_000, np.float32))
    assert svg_of(plot, tmp_path / "p.svg").count('id="axes_') == 4


def test_other_names_are_refused_before_anything_is_heard(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"\.png, \.svg, \.pdf"):
        check_plot(tmp_path / "p.docx")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'wavlm-live\[plot\]'"):
        check_plot(tmp_path / "p.png")
