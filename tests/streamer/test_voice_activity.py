"""Where speech starts and stops: thresholds, shortest durations, padding; the same whatever the splits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer import SpeechRules
from wavlm_live.streamer.voice_activity import SpeechWatch, VoiceLog

STEP = 320  # 20 ms


def plain(**options: Any) -> SpeechRules:
    """Rules without padding and shortest speech."""
    return SpeechRules(**{"stay_probability": 0.2, "min_speech_ms": 0, "padding_ms": 0, **options})


def watch(rules: SpeechRules) -> SpeechWatch:
    return SpeechWatch(rules, STEP)


def test_two_thresholds_and_a_waiting_time() -> None:
    seen = watch(plain(min_silence_ms=100))
    assert seen.scan([0.3, 0.4, 0.6, 0.0, 0.0]) == [(True, 2 * STEP)]
    assert seen.speaking
    assert seen.scan([0.3, 0.1, 0.1, 0.1, 0.1]) == []  # 0.3 keeps it going
    assert seen.scan([0.1, 0.3, 0.7]) == [(False, 6 * STEP), (True, 12 * STEP)]
    assert seen.stop() == [(False, 13 * STEP)]
    assert seen.stop() == []


def test_short_noises_are_no_speech() -> None:
    seen = watch(plain(min_speech_ms=60, min_silence_ms=100))
    click = [0.0, 0.9, 0.9, *[0.0] * 6]
    assert seen.scan(click * 3) == []
    assert seen.scan([0.9, 0.9]) == []
    assert seen.scan([0.3]) == [(True, 27 * STEP)]  # told when it was long enough, with its true beginning
    # two clicks with less than the shortest silence between them are one sound
    assert watch(plain(min_speech_ms=60, min_silence_ms=100)).scan([0.9, 0, 0, 0.9]) == [(True, 0)]
    assert watch(plain(min_speech_ms=0, min_silence_ms=100)).scan(click) == [(True, STEP), (False, 3 * STEP)]


def test_padding_stays_within_the_sound_and_apart() -> None:
    rules = plain(padding_ms=60, min_silence_ms=60)
    one = [0.0, 0.9, 0.0, 0.0, 0.0]
    assert watch(rules).scan(one) == [(True, 0), (False, 5 * STEP)]
    # the padding of the second does not reach into that of the first
    assert watch(rules).scan([*one, 0.9]) == [(True, 0), (False, 5 * STEP), (True, 5 * STEP)]
    ending = watch(rules)
    ending.scan([0.0, 0.9])
    assert ending.stop() == [(False, 2 * STEP)]  # the sound ended there


rules_of_all_kinds = st.builds(
    plain,
    min_speech_ms=st.sampled_from([0, 40, 100]),
    min_silence_ms=st.sampled_from([60, 100, 200]),
    padding_ms=st.sampled_from([0, 20, 60]),
)


@given(
    rules_of_all_kinds,
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7]), max_size=200),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_starts_and_stops_alternate_whatever_the_splits(
    rules: SpeechRules, values: list[float], cuts: list[int]
) -> None:
    whole, parts = watch(rules), watch(rules)
    expected = whole.scan(values) + whole.stop()
    borders = [0, *sorted(min(c, len(values)) for c in cuts), len(values)]
    changes = [c for a, b in itertools.pairwise(borders) for c in parts.scan(values[a:b])] + parts.stop()
    assert changes == expected
    assert [started for started, _ in changes] == [True, False] * (len(changes) // 2)
    ats = [at for _, at in changes]
    assert ats == sorted(ats)
    assert all(0 <= at <= len(values) * STEP for at in ats)
    for start, end in zip(ats[::2], ats[1::2], strict=True):
        assert end - start >= 16 * rules.min_speech_ms
        inside = values[start // STEP : end // STEP]
        assert max(inside) > 0.5
        if rules.padding_ms == 0:
            assert inside[0] > 0.5
            assert inside[-1] > 0.2
    # nothing loud outside, but for what was too short
    outside = set(range(len(values))) - {
        n for a, b in zip(ats[::2], ats[1::2], strict=True) for n in range(a // STEP, b // STEP)
    }
    if rules.min_speech_ms == 0:
        assert all(values[n] <= 0.5 for n in outside)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("detector", "ears"), ("start_probability", 0), ("start_probability", 1.0), ("stay_probability", True),
        ("stay_probability", 0.6), ("stay_probability", "0.3"), ("min_speech_ms", -1), ("min_speech_ms", 1.5),
        ("min_silence_ms", 0), ("padding_ms", 401), ("word_padding_ms", -5), ("words_need_voice", "yes"),
        ("words_need_voice", 1), ("min_silence_ms", float("nan")),
    ],
)  # fmt: skip
def test_bad_rules_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"SpeechRules\.{field} is "):
        SpeechRules(**{field: value})


def test_the_log_remembers_what_is_asked_for() -> None:
    log = VoiceLog()
    log.append([0.1, 0.9, 0.2])
    assert log.known_samples == 3 * 512
    assert log.loudest(0, 512) == 0.1
    assert log.loudest(511, 513) == 0.9  # touches the second window
    assert log.loudest(-4000, 100_000) == 0.9
    assert log.loudest(1024, 1024) == 0.0
    assert log.loudest(5000, 9000) == 0.0  # not known yet
    log.append([0.0] * 2000)
    log.forget(600 * 512)
    assert log.known_samples == 2003 * 512
    assert log.loudest(0, 700 * 512) == 0.0
    log.append([0.7])
    assert log.loudest(2003 * 512, 2004 * 512) == 0.7
