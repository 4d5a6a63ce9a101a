"""The inverse view: letters with times, other readings of a word, the best texts, and their way into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import LEAST_SHARE, BeamDecoder
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Final, Letter, to_wire
from wavlm_live.streamer.segmenter import Segmenter, SpeechRules

ALPHABET = Alphabet(("", "", "a", "b", "ch", "d"), blank_id=0, delimiter_id=1)
GREEDY, BEAM = DecodingSettings(details=True), DecodingSettings(method="beam", details=True, stability=0.2)


def rows_of(seed: int, frames: int, sharpness: float = 3.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, len(ALPHABET))) * sharpness
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def peaks(ids: list[int], p: float = 0.999) -> np.ndarray:
    rows = np.full((len(ids), len(ALPHABET)), (1 - p) / (len(ALPHABET) - 1), dtype=np.float32)
    rows[np.arange(len(ids)), ids] = p
    return np.log(rows)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), frames=st.integers(0, 100), cut=st.integers(0, 100), beam=st.booleans())
def test_letters_spell_the_word_in_order_and_inside_it(seed: int, frames: int, cut: int, beam: bool) -> None:
    logprobs = rows_of(seed, frames)
    decoder = make_decoder(ALPHABET, BEAM if beam else GREEDY)
    decoder.accept(logprobs[:cut])
    fork = decoder.fork()
    decoder.accept(logprobs[cut:])
    for word in decoder.words:
        assert "".join(letter.text for letter in word.letters) == word.text
        assert word.letters[0].start_samples == word.start_samples
        assert word.letters[-1].end_samples == word.end_samples
        last = word.start_samples
        for letter in word.letters:
            assert last <= letter.start_samples < letter.end_samples
            last = letter.end_samples
    fork.accept(logprobs[cut:])
    assert fork.words == decoder.words


@pytest.mark.parametrize("given_settings", [GREEDY, BEAM])
def test_the_frames_of_each_letter(given_settings: DecodingSettings) -> None:
    decoder = make_decoder(ALPHABET, given_settings, hop_samples=320)
    decoder.accept(peaks([0, 2, 2, 0, 4, 0, 0, 4, 3, 3, 1, 0, 5]))
    first, second = decoder.words
    expected = [("a", 1, 3), ("ch", 4, 5), ("ch", 7, 8), ("b", 8, 10)]
    assert first.letters == tuple(Letter(text, at * 320, end * 320) for text, at, end in expected)
    assert second.letters == (Letter("d", 12 * 320, 13 * 320),)


def test_without_details_nothing_is_carried(seed: int) -> None:
    for method in ("greedy", "beam"):
        decoder = make_decoder(ALPHABET, DecodingSettings(method=method))
        decoder.accept(rows_of(seed, 60))
        assert decoder.candidates == ()
        assert all(word.letters == word.alternatives == () for word in decoder.words)
        assert set(to_wire(decoder.words[0])) == {"text", "start_s", "end_s", "confidence"}


def test_readings_of_a_doubtful_word() -> None:
    rows = np.exp(peaks([0, 2, 0, 1, 0, 3, 0, 1, 0, 0]))
    rows[5] = [1e-5, 1e-5, 1e-5, 0.6, 0.4, 1e-5]
    decoder = make_decoder(ALPHABET, BEAM)
    assert isinstance(decoder, BeamDecoder)
    decoder.accept(np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32))
    sure, doubtful = decoder.words
    assert sum(choice.share for choice in sure.alternatives) < 0.05
    assert doubtful.text == "b"
    assert doubtful.alternatives[0].text == "ch"
    assert doubtful.alternatives[0].share == pytest.approx(0.4, abs=0.01)
    shares = [choice.share for choice in doubtful.alternatives]
    assert shares == sorted(shares, reverse=True)
    assert min(shares) >= LEAST_SHARE
    best, second = decoder.candidates[:2]
    assert (best.text, second.text) == ("a b", "a ch")
    assert best.score - second.score == pytest.approx(np.log(0.6 / 0.4), abs=0.01)
    assert best.score == pytest.approx(best.acoustic)


def test_finals_carry_the_best_texts(seed: int) -> None:
    careful = DecodingSettings(method="beam", details=True, stability=1.0)
    segmenter = Segmenter(make_decoder(ALPHABET, careful), EndpointRules(), SpeechRules())
    logprobs = np.concatenate([rows_of(seed, 50), peaks([1] + [0] * 60), rows_of(seed + 1, 50)])
    events = [e for start in range(0, len(logprobs), 7) for e in segmenter.accept(logprobs[start : start + 7])]
    events += segmenter.close()
    finals = [e for e in events if isinstance(e, Final)]
    assert finals
    for final in finals:
        assert final.candidates[0].text == final.text
        assert len({c.text for c in final.candidates}) == len(final.candidates) > 1


@pytest.mark.parametrize("arguments", [(), ("--beam", "8")])
def test_in_json(command: Any, audio_folder: Path, arguments: tuple[str, ...]) -> None:
    recording = str(audio_folder / "digit_seven.opus")
    plain = json.loads(command("transcribe", recording, "--format", "json", *arguments).out)
    found = json.loads(command("transcribe", recording, "--format", "json", "--details", *arguments).out)
    assert found["text"] == plain["text"]
    assert all("letters" not in word for segment in plain["segments"] for word in segment["words"])
    words = [word for segment in found["segments"] for word in segment["words"]]
    assert words
    for word in words:
        assert "".join(letter["text"] for letter in word["letters"]) == word["text"]
        assert word["letters"][0]["start_s"] == word["start_s"]
    assert all(("candidates" in segment) == bool(arguments) for segment in found["segments"])


def test_confidences_from_letters_are_those_of_greedy_decoding() -> None:
    """A beam's word with the letters alone: the geometric mean of their highest probabilities."""
    rows = np.exp(peaks([0, 2, 2, 0, 4, 0, 3, 3, 3, 1, 5, 0, 0]))
    rows[2, 2], rows[6, 3], rows[7, 3] = 0.9, 0.7, 0.8
    logprobs = np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    plain = make_decoder(ALPHABET)
    letters = DecodingSettings(method="beam", confidence_scale=0.0, confidence_letters=1.0)
    beam = make_decoder(ALPHABET, letters)
    for decoder in (plain, beam):
        decoder.accept(logprobs)
    assert [w.text for w in beam.words] == [w.text for w in plain.words] == ["achb", "d"]
    for found, expected in zip(beam.words, plain.words, strict=True):
        assert found.confidence == pytest.approx(expected.confidence, rel=1e-4)
