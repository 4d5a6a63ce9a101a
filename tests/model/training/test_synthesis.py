"""Synthetic speech: what is asked for is spoken, by many voices, the same for the same seed; the trainer reads it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from wavlm_live.model.errors import AudioError, ConfigurationError
from wavlm_live.model.training import synthesis as s
from wavlm_live.model.training.cache import RATE, build_cache, usable
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.manifest import read_manifest

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
LINES = [
    "The door was open.",
    "i have three dogs and a cat",
    "dr smith came",
    "in 1999 it rained",
    "no",
    "it is b or c",
]


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    return path


def test_sentences_that_cannot_be_spoken_as_written_are_left_out(sentences: Path, tmp_path: Path) -> None:
    assert s.read_sentences(sentences) == ["the door was open", "i have three dogs and a cat"]
    assert s.read_sentences(sentences, (7, 9)) == ["i have three dogs and a cat"]
    (tmp_path / "plain.txt").write_text("one two three\none two three\n")
    assert s.read_sentences(tmp_path / "plain.txt") == ["one two three"]
    with pytest.raises(ConfigurationError, match="no sentence of 20 to 30"):
        s.read_sentences(sentences, (20, 30))
    with pytest.raises(ConfigurationError, match="cannot read"):
        s.read_sentences(tmp_path / "missing.txt")


def test_voices_are_many_and_decided_by_the_generator() -> None:
    def draw(seed: int) -> list[s.Voice]:
        rng = np.random.default_rng(seed)
        return [s.draw_voice(rng, ("en-gb", "en-us"), ("f1", "m1"), 0.3) for _ in range(200)]

    voices = draw(1)
    assert voices == draw(1) != draw(2)
    assert {v.name for v in voices if v.engine == "espeak-ng"} == {
        *("en-gb", "en-us"), "en-gb+f1", "en-gb+m1", "en-us+f1", "en-us+m1"
    }  # fmt: skip
    assert {v.name for v in voices if v.engine == "flite"} == set(s.FLITE_VOICES)
    assert 0.2 < np.mean([v.engine == "flite" for v in voices]) < 0.4


def test_trimming_leaves_the_edges_asked_for() -> None:
    wave = np.concatenate([np.zeros(5000), np.sin(np.arange(3000)), np.zeros(4000)]).astype(np.float32)
    cut = s.trim(wave, 100, 50)
    assert len(cut) == pytest.approx(3150, abs=3)
    assert not cut[:98].any()
    assert len(s.trim(np.zeros(10, np.float32), 5, 5)) == 0


@needs_espeak
def test_a_voice_says_the_text_at_its_speed() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    slow, fast = (s.speak(text, s.Voice("espeak-ng", "en-us", wpm, 50.0)) for wpm in (120.0, 220.0))
    assert slow.dtype == np.float32
    assert np.abs(slow).max() <= 1.0
    assert 1.3 < len(s.trim(slow, 0, 0)) / len(s.trim(fast, 0, 0)) < 2.2
    assert 1.5 < len(fast) / RATE < 4.0
    with pytest.raises(AudioError, match="no such voice"):
        s.speak(text, s.Voice("espeak-ng", "no such voice", 150.0, 50.0))


@needs_espeak
@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_speaks_too() -> None:
    wave = s.speak("good morning everybody", s.Voice("flite", "kal16", 1.0, 110.0))
    assert 0.8 < len(wave) / RATE < 3.0


@needs_espeak
def test_a_corpus_is_made_the_same_again_and_read_by_the_trainer(sentences: Path, tmp_path: Path) -> None:
    arguments = ["synthesize", "--sentences", str(sentences), "--hours", "0.003", "--word-hours", "0.0015"]
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, workers in zip(folders, ("0", "2"), strict=True):
        assert main([*arguments, "--out", str(folder), "--workers", workers, "--words", "yes", "no"]) == 0
    texts = [(folder / "utterances.tsv").read_text() for folder in folders]
    assert texts[0] == texts[1]
    utterances, report = read_manifest(folders[0] / "utterances.tsv")
    assert not report.refused
    assert {u.text for u in utterances if u.corpus == s.WORDS} == {"yes", "no"}
    assert {u.text for u in utterances if u.corpus == s.SENTENCES} <= set(s.read_sentences(sentences))
    assert len({u.speaker for u in utterances}) > 3
    hours = sum(u.duration_s for u in utterances) / 3600
    assert 0.0045 <= hours < 0.0065
    cache = build_cache({u.file: u.location for u in utterances}, tmp_path / "cache", workers=0)
    assert len(usable(utterances, cache, report)) == len(utterances)
    for u in utterances:
        assert cache.samples(u.file) / RATE == pytest.approx(u.duration_s, abs=1e-3)
        assert 0.6 < np.abs(cache.wave(u.file)).max() <= 0.71


def test_what_cannot_be_made_is_refused(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="expected above 0"):
        s.synthesise(tmp_path, sentences, hours=0, word_hours=0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="espeak-ng is not installed"):
        s.synthesise(tmp_path / "x", sentences, hours=0.01, word_hours=0)
