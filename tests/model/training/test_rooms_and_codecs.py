"""Simulated rooms against the image source formula and the decay asked for; codecs keep place and content."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.training import augment as a
from wavlm_live.model.training.rooms import RATE, SPEED_M_S, Room, draw_responses, draw_room, impulse_response
from wavlm_live.model.training.sound_codecs import CODECS, through_codec


def test_reflections_are_those_of_mirroring_again_and_again(seed: int) -> None:
    """Images found by mirroring the source in each wall, the images in each wall, and so on."""
    rng = np.random.default_rng(seed)
    room = draw_room(rng, (0.05, 0.08))  # walls so soft that nine reflections are enough
    response = impulse_response(room, 0.05)
    images = {tuple(np.round(room.source, 9)): 0}
    edge = dict(images)
    for order in range(1, 10):
        mirrored = {}
        for image, axis, wall in itertools.product(edge, range(3), (0.0, 1.0)):
            other = list(image)
            other[axis] = round(2 * wall * room.size[axis] - other[axis], 9)
            if tuple(other) not in images:
                mirrored[tuple(other)] = order
        images |= mirrored
        edge = mirrored
    microphone = np.array(room.microphone)
    direct = np.linalg.norm(np.array(room.source) - microphone)
    expected = np.zeros(len(response))
    for image, order in images.items():
        distance = np.linalg.norm(np.array(image) - microphone)
        at = round((distance - direct) / SPEED_M_S * RATE)
        if at < len(expected):
            expected[at] += room.reflection**order * direct / distance
    assert response[0] == pytest.approx(1.0, abs=0.05)
    smooth = np.hanning(41) / np.hanning(41).sum()  # where within its sample an impulse lies does not matter
    got, want = np.convolve(response[1:], smooth), np.convolve(expected[1:], smooth)
    assert np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)


@pytest.mark.parametrize("decay_s", [0.2, 0.5])
def test_rooms_decay_as_asked_for(decay_s: float) -> None:
    measured = []
    for seed in range(6):
        response = impulse_response(draw_room(np.random.default_rng(seed), (decay_s, decay_s)), decay_s)
        energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
        decibel = 10 * np.log10(energy / energy[0] + 1e-12)
        measured.append((np.argmax(decibel < -25) - np.argmax(decibel < -5)) / RATE * 3)
    assert 0.8 * decay_s < np.median(measured) < 1.7 * decay_s


def test_rooms_are_decided_by_the_seed_and_refuse_places_outside() -> None:
    one, again, other = draw_responses(3, 1), draw_responses(3, 1), draw_responses(3, 2)
    assert all(np.array_equal(x, y) for x, y in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0][: len(one[0])])
    with pytest.raises(ConfigurationError, match="outside the room"):
        Room((3.0, 3.0, 3.0), (4.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.3)
    with pytest.raises(ConfigurationError, match="decay"):
        Room((3.0, 3.0, 3.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.0)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_codecs_change_speech_but_not_its_place(name: str, strength: float, audio_folder: Path) -> None:
    wave = soundfile.read(audio_folder / "sentence_rope.opus", dtype="float32")[0][16000:48000]
    coded = CODECS[name](wave, strength)
    assert coded.dtype == np.float32
    assert len(coded) == len(wave)
    middle = slice(4000, -4000)
    lags = np.correlate(coded[middle], wave[4400:-4400], "valid")
    assert abs(int(np.abs(lags).argmax()) - 400) <= 1
    alike = float(np.corrcoef(coded[middle], wave[middle])[0, 1])
    assert 0.7 < alike < 0.9999999
    assert not np.array_equal(coded, wave)


def test_augmentation_with_rooms_and_codecs_is_decided_by_the_generator() -> None:
    wave = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    settings = a.Augmentation(rooms=1.0, codec=1.0)

    def make(seed: int) -> np.ndarray:
        return a.augment([wave], settings, np.random.default_rng(seed), responses=draw_responses(2, 0))

    assert len(make(1)) == len(wave)
    assert np.abs(make(1)).max() <= 1.0
    np.testing.assert_array_equal(make(1), make(1))
    assert not np.array_equal(make(1), make(2))
    dry = a.augment([wave], a.Augmentation(rooms=1.0), np.random.default_rng(1))
    assert np.corrcoef(dry, wave)[0, 1] > 0.999  # no room at hand, none used
    assert len(through_codec(wave[:500], np.random.default_rng(0))) == 500
