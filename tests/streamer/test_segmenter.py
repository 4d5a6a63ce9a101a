"""Finals, partials and flushes over scripted frames: nothing lost, nothing twice, nothing stable taken back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Activity, Event, Final, Partial, SpeechStarted, SpeechStopped, Word
from wavlm_live.streamer.greedy import GreedyDecoder
from wavlm_live.streamer.segmenter import Segmenter
from wavlm_live.streamer.voice_activity import SpeechRules

HOP = 320
ALPHABET = Alphabet(("", "", "a", "b", "c"), blank_id=0, delimiter_id=1)
IDS = {".": 0, "|": 1, "a": 2, "b": 3, "c": 4}
SPEECH = SpeechRules("model", stay_probability=0.2, min_speech_ms=0, min_silence_ms=100, padding_ms=0)
RULES = EndpointRules(silence_ms=200, max_segment_s=1.2, no_speech_ms=400)  # 10, 60 and 20 frames
WHOLE_WORDS = replace(RULES, max_segment_s=3.6)
"""No word of `scripts` (21 frames at most) fills the last eighth of the longest segment, so none is ever cut."""


def logprobs_of(text: str) -> np.ndarray:
    """Frames `[frames, labels]`: one a character, "." for the blank, the named output at 0.9."""
    rows = np.full((len(text), len(ALPHABET)), 0.025, dtype=np.float32)
    rows[np.arange(len(text)), [IDS[c] for c in text]] = 0.9
    return np.log(rows)


def new(rules: EndpointRules = RULES, activity: bool = False) -> Segmenter:
    return Segmenter(
        GreedyDecoder(ALPHABET, HOP),
        rules,
        SPEECH,
        activity,
    )


def offline(text: str) -> tuple[Word, ...]:
    decoder = GreedyDecoder(ALPHABET, HOP)
    decoder.accept(logprobs_of(text))
    return decoder.words


def finals(events: list[Event]) -> list[Final]:
    return [e for e in events if isinstance(e, Final)]


def check_timeline(found: list[Final], end_samples: int) -> None:
    """Finals are in order, do not overlap, lie within the sound, and hold their words in order."""
    ends = [0]
    for final in found:
        assert final.words
        assert final.text == " ".join(w.text for w in final.words)
        assert (final.start_samples, final.end_samples) == (final.words[0].start_samples, final.words[-1].end_samples)
        for word in final.words:
            assert ends[-1] <= word.start_samples < word.end_samples <= end_samples
            ends.append(word.end_samples)


@st.composite
def scripts(draw: st.DrawFn) -> str:
    """Words as a CTC head writes them: letters of some frames, blanks within, the delimiter somewhere in the gap."""
    text = "." * draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 8))):
        word = ""
        for letter in draw(st.text("abc", min_size=1, max_size=4)):
            gap = "." * draw(st.integers(1 if word.endswith(letter) else 0, 3))
            word += gap + letter * draw(st.integers(1, 3))
        gap = draw(st.integers(0, 4) | st.integers(0, 50))
        place = draw(st.integers(0, gap))
        text += word.lstrip(".") + "." * place + "|" + "." * (gap - place)
    return text


splits = st.lists(st.integers(0, 400), max_size=8)


@given(scripts(), splits)
def test_finals_hold_every_word_once_whatever_the_splits(text: str, cuts: list[int]) -> None:
    segmenter, events, decided = new(WHOLE_WORDS), [], 0
    for part in np.split(logprobs_of(text), sorted(min(c, len(text)) for c in cuts)):
        events += segmenter.accept(part)
        assert segmenter.decided_samples >= decided
        decided = segmenter.decided_samples
        last = max((f.end_samples for f in finals(events)), default=0)
        heard = segmenter.decoder.frames
        assert last <= decided
        # what is decided and in no final is silence
        assert not {*text[-(-last // HOP) : decided // HOP]} & set("abc")
        assert decided <= heard * HOP
    events += segmenter.close()
    found = finals(events)
    check_timeline(found, len(text) * HOP)
    assert [w for f in found for w in f.words] == list(offline(text))
    whole = new(WHOLE_WORDS)
    assert events == whole.accept(logprobs_of(text)) + whole.close()


@given(st.text(".|abc", max_size=300))
def test_every_sample_is_in_one_final_or_silent(text: str) -> None:
    segmenter = new()
    found = finals(segmenter.accept(logprobs_of(text)) + segmenter.close())
    check_timeline(found, len(text) * HOP)
    assert "".join(w.text for f in found for w in f.words) == "".join(w.text for w in offline(text))
    spans = [(f.start_samples, f.end_samples) for f in found]
    for frame, kind in enumerate(text):
        covering = sum(start <= frame * HOP and (frame + 1) * HOP <= end for start, end in spans)
        touching = sum(start < (frame + 1) * HOP and frame * HOP < end for start, end in spans)
        assert covering == touching
        assert covering == 1 or (covering == 0 and (kind in ".|"))


@given(scripts(), st.data())
def test_stable_text_only_grows_and_the_final_begins_with_it(text: str, data: st.DataObject) -> None:
    segmenter, at, stable, shown = new(), 0, "", ""
    while at < len(text):
        size = data.draw(st.integers(1, 30))
        events = segmenter.accept(logprobs_of(text[at : at + size]))
        at += size
        ahead = data.draw(st.none() | st.text(".|abc", max_size=12))
        events += segmenter.partial(None if ahead is None else logprobs_of(ahead))
        for event in events:
            if isinstance(event, Final):
                assert (event.text + " ").startswith(stable + " " if stable else "")
                stable = shown = ""
            elif isinstance(event, Partial):
                assert (event.stable + " ").startswith(stable + " " if stable else "")
                stable = event.stable
                assert event.text == " ".join(w.text for w in event.words)
                assert event.text != shown or event.stable  # something changed
                shown = event.text
        assert segmenter.partial(None if ahead is None else logprobs_of(ahead)) == []
    last = [e for e in segmenter.close() if isinstance(e, Final | Partial)]
    assert len(last) == 1 if shown else len(last) <= 1  # a final, or the partial taken back
    if last and isinstance(last[0], Final):
        assert last[0].text.startswith(stable)


@given(scripts(), st.data())
def test_flush_loses_nothing_and_repeats_nothing(text: str, data: st.DataObject) -> None:
    """Provisional frames that come true: the letters of all finals are those of the stream."""
    segmenter, events, at = new(), [], 0
    while at < len(text):
        size, ahead = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 20))
        events += segmenter.accept(logprobs_of(text[at : at + size]))
        at += size
        if data.draw(st.booleans()):
            events += segmenter.flush(logprobs_of(text[at : at + ahead]))
    events += segmenter.close()
    check_timeline(finals(events), len(text) * HOP)
    assert "".join(w.text for f in finals(events) for w in f.words) == "".join(w.text for w in offline(text))


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("word", ["a", "ab", "abca"])
def test_a_word_that_moves_when_it_is_committed_is_not_said_twice(word: str, shift: int) -> None:
    segmenter = new()
    segmenter.accept(logprobs_of("b|"))
    events = segmenter.flush(logprobs_of("." * 5 + word + "..."))
    events += segmenter.accept(logprobs_of("." * (5 + shift) + word + "|....c|"))
    events += segmenter.close()
    assert [f.text for f in finals(events)] == [f"b {word}", "c"]


def test_a_word_cut_by_a_flush_goes_on_in_the_next_segment() -> None:
    segmenter = new()
    events = segmenter.accept(logprobs_of("a|.b"))
    events += segmenter.flush(logprobs_of("c"))
    events += segmenter.accept(logprobs_of("ca.a|bb"))
    events += segmenter.partial()
    events += segmenter.close()
    assert [f.text for f in finals(events)] == ["a bc", "aa b"]
    assert [w.start_samples for w in finals(events)[1].words] == [5 * HOP, 9 * HOP]
    (partial,) = [e for e in events if isinstance(e, Partial)]
    assert (partial.stable, partial.unstable) == ("aa", "b")


def test_a_committed_word_may_come_again_right_after_a_flush() -> None:
    segmenter = new()
    events = segmenter.accept(logprobs_of("..a|"))
    events += segmenter.flush()
    events += segmenter.accept(logprobs_of("a|"))
    assert [f.text for f in finals(events + segmenter.close())] == ["a", "a"]


def test_a_segment_is_measured_from_the_flush_on() -> None:
    segmenter = new()
    events = segmenter.accept(logprobs_of("ab.c|b|" * 6))
    events += segmenter.flush()
    events += segmenter.accept(logprobs_of("ab.c|b|" * 6))
    events += segmenter.flush()
    assert [(len(f.words), f.reason) for f in finals(events)] == [(12, "flush")] * 2


def test_a_flush_without_text_says_nothing() -> None:
    segmenter = new()
    assert segmenter.flush() == []
    segmenter.accept(logprobs_of("...|"))
    assert segmenter.flush(logprobs_of("...")) == []
    segmenter.accept(logprobs_of("a|"))
    assert len(segmenter.flush()) == 1
    assert segmenter.flush() == []


def test_no_first_word_lost_after_an_endpoint_in_the_middle_of_a_block() -> None:
    segmenter = new()
    events = segmenter.accept(logprobs_of("ab" + "." * 10 + "c|ba" + "." * 10 + "a"))
    assert [f.text for f in finals(events)] == ["ab", "c ba"]
    assert [f.reason for f in finals(events)] == ["silence", "silence"]
    assert finals(segmenter.close())[0].text == "a"


def test_provisional_frames_beyond_an_endpoint_are_words_of_their_own() -> None:
    segmenter = new()
    segmenter.accept(logprobs_of("ab" + "." * 6))
    (partial,) = segmenter.partial(logprobs_of("." * 6 + "ca"))
    assert isinstance(partial, Partial)
    assert partial.text == "ab ca"  # the model wrote no delimiter, the pause is one


def test_long_silence_gives_no_text_and_moves_the_timeline() -> None:
    segmenter = new()
    events: list[Event] = []
    for _ in range(100):
        events += segmenter.accept(logprobs_of("." * 37 + "|"))
        assert segmenter.partial() == []
    assert events == []
    assert segmenter.decided_samples == 3800 * HOP


def test_the_longest_segment_ends_between_words() -> None:
    segmenter = new()
    text = "ab.c|" * 60
    found = finals(segmenter.accept(logprobs_of(text)) + segmenter.close())
    assert {f.reason for f in found[:-1]} == {"length"}
    assert {w.text for f in found for w in f.words} == {"abc"}
    assert max(f.end_samples - f.start_samples for f in found) <= 60 * HOP
    assert min(f.end_samples - f.start_samples for f in found[:-1]) >= 30 * HOP


def test_speech_and_activity_events_in_the_order_of_time() -> None:
    segmenter = new(activity=True)
    events = segmenter.accept(logprobs_of("..a" + "." * 10 + "b" + "." * 10))
    assert [type(e) for e in events] == [
        Activity, SpeechStarted, SpeechStopped, Final, SpeechStarted, SpeechStopped, Final,
    ]  # fmt: skip
    assert [e.at_samples // HOP for e in events if isinstance(e, SpeechStarted | SpeechStopped)] == [2, 3, 13, 14]
    assert isinstance(events[0], Activity)
    assert events[0].probabilities[:4] == pytest.approx([0.075, 0.075, 0.95, 0.075], abs=1e-6)
    segmenter.accept(logprobs_of("..."))
    (more,) = segmenter.accept(logprobs_of(".."))
    assert isinstance(more, Activity)
    assert more.start_samples == 27 * HOP


def test_nothing_is_said_of_what_lies_behind_the_sound() -> None:
    segmenter = new(activity=True)
    segmenter.limit_samples = 5 * HOP + 7
    events = segmenter.accept(logprobs_of("..|abbb.|c.")) + segmenter.close()
    (activity,) = [e for e in events if isinstance(e, Activity)]
    assert len(activity.probabilities) == 6
    (final,) = finals(events)
    assert (final.text, final.words[-1].end_samples, final.end_samples) == ("ab", 5 * HOP + 7, 5 * HOP + 7)
    assert [e.at_samples for e in events if isinstance(e, SpeechStopped)] == [5 * HOP + 7]
    assert segmenter.decided_samples == 5 * HOP + 7


def test_what_is_kept_does_not_grow() -> None:
    segmenter = new()
    most = 0
    for _ in range(300):
        segmenter.accept(logprobs_of("ab.c|a.b.|"))
        segmenter.partial(logprobs_of("abc"))
        most = max(most, len(segmenter.decoder.words))
    assert 5 < most < 30
    segmenter = new()
    for _ in range(300):
        segmenter.accept(logprobs_of("abc"))  # no pause at all
        most = max(most, len(segmenter.decoder._reading.letters))
    assert most <= 120


def test_pairs_of_finals_leave_the_pause_between_them_to_silence() -> None:
    segmenter = new()
    found = finals(segmenter.accept(logprobs_of(("a" + "." * 12) * 3)))
    assert [b.start_samples - a.end_samples for a, b in pairwise(found)] == [12 * HOP, 12 * HOP]


@st.composite
def rough(draw: st.DrawFn) -> np.ndarray:
    """Frames of a model that is sure of nothing, in stretches that favour letters, borders or blanks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for kind in draw(st.lists(st.sampled_from(["letters", "blanks", "all", "a"]), min_size=1, max_size=6)):
        rows = rng.normal(size=(draw(st.integers(5, 120)), len(ALPHABET))) * draw(st.sampled_from([0.5, 2.0, 5.0]))
        rows[:, {"letters": [2, 3, 4], "blanks": [0], "all": [], "a": [2]}[kind]] += 4
        parts.append(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
    return np.concatenate(parts).astype(np.float32)


@given(rough(), st.sampled_from(["greedy", "beam"]), st.booleans(), st.data())
@settings(max_examples=40)
def test_no_final_is_longer_than_the_longest_segment(
    logprobs: np.ndarray, method: Literal["greedy", "beam"], flushes: bool, data: st.DataObject
) -> None:
    """A random model, with and without flushes; no letter is lost at the borders, nor written twice."""
    decoder = make_decoder(ALPHABET, DecodingSettings(method, beam_width=4), HOP)
    segmenter, events, at = Segmenter(decoder, RULES, SPEECH), [], 0
    while at < len(logprobs):
        size, ahead = data.draw(st.integers(1, 90)), data.draw(st.integers(0, 20))
        events += segmenter.accept(logprobs[at : at + size])
        at += size
        if flushes and data.draw(st.booleans()):
            events += segmenter.flush(logprobs[at : at + ahead])
    events += segmenter.close()
    check_timeline(finals(events), len(logprobs) * HOP)
    # a flush gives out what waits as well, 20 frames at most
    assert max((f.end_samples - f.start_samples for f in finals(events)), default=0) <= (60 + 20 * flushes) * HOP
    if method == "greedy":
        whole = GreedyDecoder(ALPHABET, HOP)
        whole.accept(logprobs)
        assert "".join(w.text for f in finals(events) for w in f.words) == "".join(w.text for w in whole.words)
