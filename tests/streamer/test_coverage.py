"""The timeline with everything at once: voices, flushes, marks, other rules on the way, segments cut at their limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Event, Final, Marker, Partial, SpeechStarted, SpeechStopped
from wavlm_live.streamer.segmenter import Segmenter
from wavlm_live.streamer.silero import WINDOW_SAMPLES
from wavlm_live.streamer.voice_activity import SpeechRules
from wavlm_live.streamer.voice_detector import VoiceDetector

HOP = 320
ALPHABET = Alphabet(("", "", "a", "b", "c"), blank_id=0, delimiter_id=1)
LETTERS, LONGEST = (2, 3, 4), 60
AHEAD = 20 * HOP + 2200
"""Sound is heard so far ahead of the committed frames: a word is judged by the voices known when its segment ends."""
RULES = EndpointRules(silence_ms=200, max_segment_s=LONGEST / 50, no_speech_ms=400, blank_ms=400)


@pytest.fixture(scope="module")
def speech(audio_folder: Path) -> np.ndarray:
    return soundfile.read(audio_folder / "command_yes.opus", dtype="float32")[0]


def frames_of(rng: np.random.Generator, kinds: list[str]) -> np.ndarray:
    """Log-probabilities in stretches that favour letters, borders or blanks."""
    parts = []
    for kind in kinds:
        rows = rng.normal(size=(int(rng.integers(5, 70)), len(ALPHABET))) * rng.choice([0.5, 2.0])
        rows[:, {"letters": [2, 3, 4], "blanks": [0], "all": [], "borders": [1, 2]}[kind]] += 4
        parts.append(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
    return np.concatenate(parts).astype(np.float32)


kinds = st.lists(st.sampled_from(["letters", "blanks", "all", "borders"]), min_size=1, max_size=6)


@given(
    seed=st.integers(0, 10**6),
    kinds=kinds,
    method=st.sampled_from(["greedy", "beam"]),
    detector=st.sampled_from(["silero", "model", "both"]),
    needed=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_sample_is_in_one_final_or_silence(
    speech: np.ndarray, seed: int, kinds: list[str], method: Any, detector: Any, needed: bool
) -> None:
    rng = np.random.default_rng(seed)
    logprobs = frames_of(rng, kinds)
    sound = np.zeros((len(logprobs) + 1) * HOP, np.float32)
    start = int(rng.integers(len(sound)))
    said = speech[: len(sound) - start]
    sound[start : start + len(said)] = said
    rules = SpeechRules(detector, words_need_voice=needed, word_padding_ms=100, min_silence_ms=100, padding_ms=20)
    segmenter = Segmenter(make_decoder(ALPHABET, DecodingSettings(method, beam_width=4), HOP), RULES, rules, True, 2)
    events: list[Event] = []
    marks = at = decided = heard = 0
    stable = ""
    while at < len(logprobs):
        size, ahead = int(rng.integers(1, 60)), int(rng.integers(0, 20))
        now = segmenter.listen(sound[heard : (at + size) * HOP + AHEAD])
        heard = (at + size) * HOP + AHEAD
        now += segmenter.accept(logprobs[at : at + size])
        at = min(at + size, len(logprobs))
        action = rng.choice(["look", "flush", "mark", "change", "nothing"])
        if action == "look":
            now += segmenter.partial(logprobs[at : at + ahead])
        elif action == "flush":
            now += segmenter.flush(logprobs[at : at + ahead], at * HOP)
        elif action == "mark":
            marks += 1
            now += segmenter.mark(Marker(str(marks), at * HOP))
        elif action == "change":
            shorter = replace(RULES, silence_ms=int(rng.integers(60, 300)), by_voice=bool(rng.integers(2)))
            segmenter.change(shorter, rules, bool(rng.integers(2)))
        for event in now:
            if isinstance(event, Final):
                assert (event.text + " ").startswith(f"{stable} " if stable else "")
                stable = ""
            elif isinstance(event, Partial):
                assert (event.stable + " ").startswith(f"{stable} " if stable else "")
                stable = event.stable
        events += now
        assert segmenter.decided_samples >= decided
        decided = segmenter.decided_samples
    events += segmenter.close()
    check(events, marks, len(logprobs) * HOP)
    if method == "greedy":
        check_letters(events, logprobs, sound, needed)


def check(events: list[Event], marks: int, end_samples: int) -> None:
    """Finals in order, none too long; marks in order, each behind all finals of what was before it."""
    last = seen = 0
    for event in events:
        if isinstance(event, Final):
            assert last <= event.start_samples < event.end_samples <= end_samples
            assert event.end_samples - event.start_samples <= (LONGEST + 20) * HOP  # a flush gives what waits as well
            last = event.end_samples
        elif isinstance(event, Marker):
            seen += 1
            assert event.id == str(seen)
            later = [e for e in events[events.index(event) :] if isinstance(e, Final)]
            assert all(e.start_samples >= event.at_samples for e in later)
    assert seen == marks
    turns = [e for e in events if isinstance(e, SpeechStarted | SpeechStopped)]
    assert [isinstance(e, SpeechStarted) for e in turns] == [n % 2 == 0 for n in range(len(turns))]
    assert [e.at_samples for e in turns] == sorted(e.at_samples for e in turns)


def check_letters(events: list[Event], logprobs: np.ndarray, sound: np.ndarray, needed: bool) -> None:
    """Each frame of a letter lies in one final, but for words without a voice; finals hold no others' letters."""
    finals = [e for e in events if isinstance(e, Final)]
    best = logprobs.argmax(axis=1)
    voices = VoiceDetector().push(sound)
    for frame in np.flatnonzero(np.isin(best, LETTERS)).tolist():
        covering = sum(f.start_samples <= frame * HOP < f.end_samples for f in finals)
        first = frame  # a letter that sounds on over the end of a final is written, and timed, once
        while not covering and first and best[first - 1] == best[frame]:
            first -= 1
            covering = sum(f.start_samples <= first * HOP < f.end_samples for f in finals)
        near = range(max(0, frame * HOP - 1600) // WINDOW_SAMPLES, ((frame + 1) * HOP + 1600) // WINDOW_SAMPLES)
        voiced = any(voices[n] > 0.5 for n in near if n < len(voices))
        assert covering == 1 or (needed and not voiced and covering == 0)
