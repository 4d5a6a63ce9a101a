"""Beams of many streams, whose frames were read at once: to the last bit what each finds in its frames alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.streamer import DecodingSettings, EndpointRules, SpeechRules
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.build_language_model import build, choose_vocabulary
from wavlm_live.streamer.chosen_frames import ChosenFrames, Reading, read_rows
from wavlm_live.streamer.decoding import make_decoder
from wavlm_live.streamer.ngrams import NgramModel
from wavlm_live.streamer.segmenter import Segmenter

PRIOR = (-0.3, -1.2, -2.5, -3.0, -3.5, -4.0, -4.5, -5.0, -6.0, -7.0, 0.0)
ALPHABET = Alphabet(("", "", *"abcdefgh", ""), blank_id=0, delimiter_id=1, prior=PRIOR)
SETTINGS = {
    "greedy": DecodingSettings(),
    "default": DecodingSettings("beam", details=True),
    "narrow": DecodingSettings("beam", beam_width=3, token_cutoff=1.5, stability=0.0),
    "every frame": DecodingSettings("beam", blank_skip=1.0, token_cutoff=40.0, beam_width=8),
    "few frames": DecodingSettings("beam", blank_skip=0.6),
    "hotwords": DecodingSettings("beam", hotwords=(("abba", 2.0), ("bad cafe", 1.0))),
    "words": DecodingSettings("beam", lm_path="given", details=True),
    "words, prior": DecodingSettings("beam", lm_path="given", prior_weight=0.4),
    "words, hotwords": DecodingSettings("beam", lm_path="given", hotwords=(("fade", 2.0),)),
}


@pytest.fixture(scope="module")
def language_model() -> NgramModel:
    """Of some words that the alphabet writes."""
    sentences = [line.split() for line in ("a bad cab", "a bed", "bad cafe", "feed a cab", "dead bee", "a face")] * 3
    return build(sentences, choose_vocabulary(sentences, 1), 3)[0]


def frames_of(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Log-probabilities from sure to doubtful, many of them blank."""
    scores = rng.normal(size=(frames, len(ALPHABET))) * rng.choice([1.0, 3.0, 6.0], size=(frames, 1))
    scores[:, 0] += rng.choice([0.0, 4.0, 12.0], size=frames)
    scores[:, 1] += rng.choice([0.0, 3.0], size=frames)
    scores = np.round(scores * 4) / 4  # some outputs are alike
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


class Stream:
    """A decoder and a segmenter of some settings."""

    def __init__(self, name: str, detector: Any, model: NgramModel) -> None:
        setting = SETTINGS[name]
        own = model if setting.lm_path else None
        self.decoder, inner = (make_decoder(ALPHABET, setting, language_model=own) for _ in range(2))
        rules = SpeechRules(detector, words_need_voice=False)
        self.segmenter = Segmenter(inner, EndpointRules(silence_ms=200, max_segment_s=1.0), rules, activity=True)
        self.reading = self.decoder.reading if isinstance(self.decoder, BeamDecoder) else None

    def hear(self, frames: np.ndarray, own: int) -> list[Any]:
        """All that comes of a step: its own frames, and those of the right context, which are only looked at."""
        beam = self.decoder
        events = self.segmenter.accept(frames[:own]) + self.segmenter.partial(frames[own:])
        beam.accept(frames[:own])
        found = [events, beam.words, beam.complete, beam.contested_samples, beam.peek(frames[own:]), beam.candidates]
        return [*found, beam.nbest(), beam.alternatives()] if isinstance(beam, BeamDecoder) else found


@settings(max_examples=25)
@given(
    names=st.lists(st.sampled_from(list(SETTINGS)), min_size=1, max_size=7),
    detector=st.sampled_from(["silero", "model"]),
    number=st.integers(0, 2**32 - 1),
)
def test_together_is_to_the_last_bit_what_each_finds_alone(
    names: list[str], detector: str, number: int, language_model: NgramModel
) -> None:
    """Any settings in one batch, steps with other numbers of frames, and NaN behind them, which nobody may read."""
    rng = np.random.default_rng(number)
    alone, together = ([Stream(name, detector, language_model) for name in names] for _ in range(2))
    for _ in range(4):
        counts = rng.integers(0, 40, size=len(names))
        batch = np.full((len(names), int(counts.max()) + 3, len(ALPHABET)), np.nan, np.float32)
        for row, count in zip(batch, counts, strict=True):
            row[:count] = frames_of(rng, count)
        readings = [stream.reading for stream in together]
        told = read_rows(batch.copy(), counts.tolist(), readings, ALPHABET.silent_ids)
        for n, (count, frames) in enumerate(zip(counts, told, strict=True)):
            own = int(rng.integers(0, count + 1))
            assert alone[n].hear(batch[n, :count].copy(), own) == together[n].hear(frames, own)
        beams = sum(reading is not None for reading in readings)
        assert sum(isinstance(frames, ChosenFrames) for frames in told) == (beams if beams > 1 else 0)


def test_frames_chosen_for_other_settings_are_refused() -> None:
    batch = np.stack([frames_of(np.random.default_rng(n), 6) for n in range(2)])
    one, two = (make_decoder(ALPHABET, SETTINGS[name]) for name in ("default", "narrow"))
    assert isinstance(one, BeamDecoder)
    assert isinstance(two, BeamDecoder)
    told = read_rows(batch, [6, 6], [one.reading, two.reading], ALPHABET.silent_ids)
    with pytest.raises(ValueError, match=r"frames chosen for Reading.*expected Reading"):
        one.accept(told[1])
    one.accept(told[0])
    assert one.frames == 6
    other = read_rows(batch[..., :-1], [6, 6], [one.reading, one.reading], ALPHABET.silent_ids)
    with pytest.raises(ValueError, match=r"shape \[6, 10\], expected \[frames, 11\]"):
        one.accept(other[0])


@given(number=st.integers(0, 2**32 - 1), cuts=st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)))
def test_a_part_of_a_part_has_its_own_frames(number: int, cuts: tuple[int, int, int]) -> None:
    frames = frames_of(np.random.default_rng(number), 30)
    reading = Reading(6.0, -0.05)
    told = read_rows(np.stack([frames, frames]), [30, 30], [reading, reading], ALPHABET.silent_ids)[1]
    assert isinstance(told, ChosenFrames)
    first, middle, last = sorted(cuts)
    part = told[first:][middle - first : last - first]
    expected = list(told.chosen)[middle:last]
    assert list(part.chosen) == expected
    assert len(part) == len(expected)
    for frame, (blank, outputs, values) in zip(frames[middle:last], expected, strict=True):
        skipped = frame[0] > np.float32(-0.05)
        wanted = [] if skipped else [i for i, x in enumerate(frame) if i == 0 or x >= frame.max() - np.float32(6.0)]
        assert (blank, outputs, values) == (frame[0], wanted, frame[wanted].tolist())
