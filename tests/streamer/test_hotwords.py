"""Hotwords: credit letter by letter, taken back, kept for whole phrases, and nobody else's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.fusion import Fusion
from wavlm_live.streamer.hotwords import DEFAULT_BOOST, Hotwords, parse_hotword

ALPHABET = Alphabet(("", "", *"abcdefghijklmnopqrstuvwxyz"), blank_id=0, delimiter_id=1)
words_of = st.lists(st.text("ab", min_size=1, max_size=3), max_size=12)


def credits(hotwords: Hotwords, text: str) -> list[float]:
    """The sum of all bonuses after each character."""
    node, total, totals = hotwords.root, 0.0, []
    for character in text:
        bonus, node = hotwords.step(node, character)
        total += bonus
        totals.append(round(total, 9))
    return totals


def frames(text: str, others: str = "", p: float = 0.6) -> np.ndarray:
    """Two frames a character, `p` for it and the rest for the letter of `others` in its place; then silence."""
    rows = []
    for at, character in enumerate(text):
        row = np.full(len(ALPHABET), 1e-6)
        row[1 if character == " " else ALPHABET.labels.index(character)] += p
        other = others[at] if others else character
        row[1 if other == " " else ALPHABET.labels.index(other)] += 1 - p
        rows += [row, np.eye(len(ALPHABET))[0] + 1e-6]
    rows += [np.eye(len(ALPHABET))[0] + 1e-6] * 16
    return np.log(np.array(rows) / np.sum(rows, axis=1, keepdims=True)).astype(np.float32)


def text_of(decoder: BeamDecoder) -> str:
    return " ".join(word.text for word in decoder.words)


def test_credit_grows_by_letters_and_is_taken_back() -> None:
    hotwords = Hotwords([("ann", 2.0)])
    assert credits(hotwords, "ann ") == [2, 4, 6, 6]
    assert credits(hotwords, "ann bob ann ")[-1] == 12
    assert credits(hotwords, "an ") == [2, 4, 0]
    assert credits(hotwords, "anb ") == [2, 4, 0, 0]
    assert credits(hotwords, "annual ") == [2, 4, 6, 0, 0, 0, 0]  # a longer word is another one
    assert credits(hotwords, "joann ") == [0] * 6  # and so is its ending


def test_phrases_of_several_words_and_what_they_share() -> None:
    hotwords = Hotwords([("new york", 1.0), ("york minster", 2.0), ("new york city", 1.0)])
    assert credits(hotwords, "new york ") == [1, 2, 3, 3, 4, 5, 6, 7, 7]
    assert credits(hotwords, "new town ")[2:] == [3, 3, 0, 0, 0, 0, 0]
    # seven letters are kept, then "york" turns out to begin the other phrase
    assert credits(hotwords, "new york minster ")[8:] == [7, *range(17, 30, 2), 29]
    assert credits(hotwords, "new york city ")[-1] == 11
    assert credits(hotwords, "new york cite ")[-2:] == [7, 7]


def test_the_higher_boost_counts_where_phrases_begin_alike() -> None:
    assert credits(Hotwords([("ab", 1.0), ("ac", 3.0)]), "ab ") == [3, 4, 4]


@given(phrases=st.lists(st.tuples(words_of.filter(bool), st.floats(0.1, 5)), min_size=1, max_size=4), words=words_of)
def test_every_phrase_counts_wherever_it_stands(phrases: list[tuple[list[str], float]], words: list[str]) -> None:
    """Against a search for the phrases in the text; of phrases that begin alike, the longer adds what is new."""
    given_phrases = {" ".join(phrase[:3]): boost for phrase, boost in phrases}
    boosts = {
        phrase[:end]: max(b for other, b in given_phrases.items() if other.startswith(phrase[:end]))
        for phrase in given_phrases
        for end in range(1, len(phrase) + 1)
    }

    def credit(phrase: str) -> float:
        return sum(boosts[phrase[:end]] for end in range(1, len(phrase) + 1) if phrase[end - 1] != " ")

    expected = 0.0
    for phrase in given_phrases:
        size = len(phrase.split())
        times = sum(words[at : at + size] == phrase.split() for at in range(len(words)))
        shorter = [other for other in given_phrases if phrase.startswith(other + " ")]
        expected += times * (credit(phrase) - (credit(max(shorter, key=len)) if shorter else 0.0))
    totals = credits(Hotwords(given_phrases.items()), " ".join([*words, "z", ""]))
    assert totals[-1] == pytest.approx(expected, abs=1e-6)
    assert min(totals) > -1e-6


def test_a_phrase_wins_over_what_sounds_more_likely() -> None:
    logprobs = frames("bat cat", others="bad cat")
    plain, hot = BeamDecoder(ALPHABET), BeamDecoder(ALPHABET, fusion=Fusion(hotwords=Hotwords([("bad", 1.0)])))
    for decoder in (plain, hot):
        decoder.accept(logprobs)
    assert text_of(plain) == "bat cat"
    assert text_of(hot) == "bad cat"
    best, second = hot.nbest(2)
    assert best.score > second.score
    assert best.acoustic < second.acoustic  # what the sound says is told apart from the bonus
    assert best.acoustic == pytest.approx(best.score - 3.0, abs=1e-6)


def test_a_beginning_alone_wins_nothing() -> None:
    decoder = BeamDecoder(ALPHABET, fusion=Fusion(hotwords=Hotwords([("badger", 2.0)])))
    decoder.accept(frames("bat ", others="bad "))
    assert text_of(decoder) == "bat"


def test_hotwords_change_while_the_stream_runs_and_count_for_unstable_words() -> None:
    decoder = BeamDecoder(ALPHABET)
    logprobs = frames("bat", others="bad")
    decoder.accept(logprobs[:7])
    assert text_of(decoder) == "bat"
    decoder.set_hotwords(Hotwords([("bad", 1.0)]))
    assert text_of(decoder) == "bad"
    fresh = BeamDecoder(ALPHABET, fusion=Fusion(hotwords=Hotwords([("bad", 1.0)])))
    fresh.accept(logprobs[:7])
    decoder.accept(logprobs[7:])
    fresh.accept(logprobs[7:])
    assert [a.text for a in decoder.nbest(3)] == [a.text for a in fresh.nbest(3)]
    assert decoder.nbest(1)[0].score == pytest.approx(fresh.nbest(1)[0].score, abs=1e-9)
    decoder.set_hotwords(Hotwords())
    assert text_of(decoder) == "bat"
    assert decoder.nbest(1)[0].score == pytest.approx(decoder.nbest(1)[0].acoustic, abs=1e-9)


def test_hotwords_of_one_session_do_nothing_to_another() -> None:
    logprobs = frames("bat cat hat", others="bad car ham")
    settings = [DecodingSettings(method="beam", hotwords=h) for h in ((), (("bad", 2.0),), (("ham", 2.0),))]
    alone = []
    for setting in settings:
        decoder = make_decoder(ALPHABET, setting)
        decoder.accept(logprobs)
        alone.append(decoder.words)
    together = [make_decoder(ALPHABET, setting) for setting in settings]
    for frame in logprobs:
        for decoder in together:
            decoder.accept(frame[None])
    assert [decoder.words for decoder in together] == alone
    assert [" ".join(w.text for w in words) for words in alone] == ["bat cat hat", "bad cat hat", "bat cat ham"]


def test_case_does_not_matter() -> None:
    upper = Alphabet(tuple(label.upper() for label in ALPHABET.labels), blank_id=0, delimiter_id=1)
    decoder = make_decoder(upper, DecodingSettings(method="beam", hotwords=(("Bad", 2.0),)))
    decoder.accept(frames("bat", others="bad"))
    assert [w.text for w in decoder.words] == ["BAD"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wavlm", ("wavlm", DEFAULT_BOOST)),
        ("New  York:2", ("new york", 2.0)),
        ("a:b:0.5", ("a:b", 0.5)),
    ],
)
def test_hotwords_of_the_command_line(text: str, expected: tuple[str, float]) -> None:
    assert parse_hotword(text) == expected


@pytest.mark.parametrize("text", ["", "  ", ":2", "ann:", "ann:x", "ann:0", "ann:-1", "ann:nan", "ann:21"])
def test_what_cannot_work_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="hotword"):
        parse_hotword(text)
