"""What is shown of partial results: two looks must agree, stable text is always there, and no look is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.streamer.events import Word
from wavlm_live.streamer.steady import NEAR_FRAMES, SteadyText


def words_of(text: str) -> tuple[Word, ...]:
    return tuple(Word(part, 100 * n, 100 * n + 50, 0.5) for n, part in enumerate(text.split()))


def shown(looks: list[str], stable: int = 0, apart: int = 5) -> list[str]:
    steady = SteadyText(2)
    return [" ".join(w.text for w in steady.look(words_of(look), stable, apart * n)) for n, look in enumerate(looks)]


def test_a_look_that_nothing_confirms_is_not_shown() -> None:
    assert shown(["one", "one", "one too", "one two", "one two"]) == ["", "one", "one", "one", "one two"]
    assert shown(["one two", "one two", "won too", "one two", "one two"])[1:] == ["one two"] * 4


def test_a_change_that_is_confirmed_is_shown() -> None:
    assert shown(["one two", "one two", "one too", "one too"])[-2:] == ["one two", "one too"]
    assert shown(["one two", "one two", "one", "one"])[-2:] == ["one two", "one"]
    assert shown(["one two", "one two", "", ""])[-2:] == ["one two", ""]


def test_a_word_that_grows_is_shown_as_far_as_both_looks_have_it() -> None:
    assert shown(["s", "sev", "seven", "seven"]) == ["", "s", "sev", "seven"]


def test_looks_that_are_far_apart_need_not_agree() -> None:
    looks = ["a", "b c", "d"]
    assert shown(looks, apart=NEAR_FRAMES + 1)[1:] == looks[1:]
    steady = SteadyText()
    assert [steady.look(words_of(look), 0, n) for n, look in enumerate(looks)] == [words_of(look) for look in looks]


def test_a_segment_begins_with_nothing_shown() -> None:
    steady = SteadyText(2)
    steady.look(words_of("a b"), 0, 0)
    assert steady.look(words_of("a b"), 0, 5) == words_of("a b")
    steady.reset(6)
    assert steady.look(words_of("c"), 0, 8) == ()
    assert steady.look(words_of("c"), 0, 10) == words_of("c")


texts = st.lists(st.sampled_from(["a", "ab", "b"]), max_size=5)


@given(looks=st.lists(texts, min_size=1, max_size=12), grow=st.integers(0, 3), last=texts)
def test_stable_words_are_shown_and_in_the_end_everything_is(
    looks: list[list[str]], grow: int, last: list[str]
) -> None:
    steady, stable = SteadyText(2), last[:grow]
    for n, look in enumerate(looks):
        found = [w.text for w in steady.look(words_of(" ".join([*stable, *look])), len(stable), 5 * n)]
        assert found[: len(stable)] == stable
    for n in range(2):
        now = steady.look(words_of(" ".join([*stable, *last])), len(stable), 5 * (len(looks) + n))
    assert [w.text for w in now] == [*stable, *last]
