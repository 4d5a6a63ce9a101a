"""Endpoint rules and speech starts on hand-made and random frames."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alphabet import BLANK, BORDER, LETTER
from wavlm_live.streamer.endpointing import Endpointer, EndpointRules

RULES = EndpointRules(silence_ms=200, max_segment_s=2.0, no_speech_ms=600)  # 10, 100 and 30 frames
KINDS = {".": BLANK, "|": BORDER, "a": LETTER}


def ends(kinds: list[int], rules: EndpointRules = RULES, cuts: list[int] = [], **options: Any) -> list[tuple[int, str]]:  # noqa: B006
    """All endpoints as (frames before them, reason)."""
    endpointer, found, at = Endpointer(rules, **options), [], 0
    borders = [0, *sorted(min(c, len(kinds)) for c in cuts), len(kinds)]
    for start, end in itertools.pairwise(borders):
        rest = kinds[start:end]
        while rest:
            seen, reason = endpointer.scan(rest)
            at, rest = at + seen, rest[seen:]
            if reason:
                found.append((at, reason))
    return found


def frames(text: str) -> list[int]:
    return [KINDS[c] for c in text]


def test_silence_after_speech() -> None:
    assert ends(frames("aa" + "." * 9)) == []
    assert ends(frames("aa" + "." * 10)) == [(12, "silence")]
    assert ends(frames("a" + "." * 9 + "a" + "." * 10 + "a" + "|" + "." * 9)) == [(21, "silence"), (32, "silence")]


def test_long_silence_without_speech_begins_anew_without_end() -> None:
    assert ends(frames("." * 95)) == [(30, "nothing"), (60, "nothing"), (90, "nothing")]
    assert ends(frames("a" + "." * 45)) == [(11, "silence"), (41, "nothing")]


def test_a_short_segment_waits() -> None:
    rules = EndpointRules(silence_ms=200, max_segment_s=2.0, no_speech_ms=600, min_segment_s=0.5)
    assert ends(frames("a" + "." * 40), rules) == [(25, "silence")]
    assert ends(frames("a" * 30 + "." * 40), rules)[0] == (40, "silence")


def test_near_the_limit_a_short_pause_between_words_is_enough() -> None:
    # 69 frames in, half of the time between a half and 7/8 of the limit is over, and so is half of the silence
    assert ends(frames("a" * 64 + "." * 5 + "a" * 9)) == []  # no delimiter: inside a word
    assert ends(frames("a" * 64 + "|" + "." * 4 + "a" * 9)) == [(69, "length")]
    assert ends(frames("a" * 40 + "|" + "." * 8 + "a" * 9)) == []  # not yet half


def test_in_the_last_eighth_the_next_border_of_words_will_do() -> None:
    assert ends(frames("a" * 84 + "." + "a" * 2 + "|" + "a" * 9)) == [(88, "length")]
    assert ends(frames("a" * 80 + "|" + "a" * 15 + "|aaa")) == [(97, "length")]


def test_without_any_border_a_word_is_cut_at_the_limit() -> None:
    assert ends(frames("aa." * 80)) == [(100, "length"), (200, "length")]
    assert ends(frames("aa." * 80), borders=False)[0][0] < 90  # a model without delimiter: any pause


def test_words_that_began_before_the_first_letter_count() -> None:
    endpointer, kinds = Endpointer(RULES), frames("..a" + "a" * 120)
    assert endpointer.scan(kinds) == (3, None)
    assert endpointer.fresh
    endpointer.began(3)  # a beam has a letter in the first frame
    assert endpointer.scan(kinds[3:]) == (97, "length")


sequences = st.lists(
    st.tuples(st.sampled_from("a.|"), st.integers(1, 30)).map(lambda run: run[0] * run[1]), max_size=40
).map(lambda runs: frames("".join(runs)))


@given(sequences, st.lists(st.integers(0, 1000), max_size=5))
def test_splits_do_not_matter(kinds: list[int], cuts: list[int]) -> None:
    assert ends(kinds, cuts=cuts) == ends(kinds)


@given(sequences)
def test_no_end_inside_a_word_nor_much_too_late(kinds: list[int]) -> None:
    start = 0
    for at, reason in ends(kinds):
        segment = kinds[start:at]
        if reason == "nothing":
            assert LETTER not in segment
        else:
            spoken = segment[segment.index(LETTER) :]
            pause = list(itertools.takewhile(lambda kind: kind != LETTER, reversed(spoken)))
            assert len(spoken) <= 100
            if reason == "silence":
                assert len(pause) >= 10
            elif len(spoken) < 100:
                assert BORDER in pause
        start = at


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("silence_ms", 0), ("silence_ms", -1), ("silence_ms", True), ("silence_ms", "800"), ("max_segment_s", 1.0),
        ("max_segment_s", float("nan")), ("max_segment_s", float("inf")), ("min_segment_s", 11),
        ("no_speech_ms", 1), ("frame_ms", 0),
    ],
)  # fmt: skip
def test_bad_rules_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"EndpointRules\.{field} is "):
        EndpointRules(**{field: value})
