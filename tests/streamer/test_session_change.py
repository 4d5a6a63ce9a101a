"""Settings that change while a stream runs: from the next frame on, in this stream alone, and all or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer import Recogniser, SessionSettings
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Activity, Final


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return Recogniser.load(tiny_model, "cpu")


def noise(seconds: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1).astype(np.float32)


def test_rules_and_activity_change_from_the_next_frame_on(tiny, seed):
    settings = SessionSettings(partial_hop_ms=0, endpoint=EndpointRules(silence_ms=500, max_segment_s=30))
    session, other = tiny.open(settings), tiny.open(settings)
    sound = noise(6, seed)
    before, same = session.feed(sound), other.feed(sound)
    assert not any(isinstance(e, Activity | Final) for e in before + same)
    session.change(replace(settings, activity=True, endpoint=EndpointRules(silence_ms=40, max_segment_s=1)))
    after, same = session.feed(sound), other.feed(sound)
    assert sum(isinstance(e, Final) for e in after) >= 3
    assert any(isinstance(e, Activity) for e in after)
    assert not any(isinstance(e, Activity | Final) for e in same)


def test_what_is_fixed_changes_nothing(tiny):
    session = tiny.open(SessionSettings())
    before = session.settings
    for wrong in (
        SessionSettings(context=tiny.context("low")),
        SessionSettings(decoding=DecodingSettings(method="beam")),
        SessionSettings(activity=True, decoding=DecodingSettings(blank_skip=0.5)),
    ):
        with pytest.raises(ConfigurationError, match="open a new"):
            session.change(wrong)
    assert session.settings == before


def test_hotwords_change_where_there_is_a_beam(tiny):
    settings = SessionSettings(decoding=DecodingSettings(method="beam"))
    session = tiny.open(settings)
    session.change(replace(settings, decoding=DecodingSettings(method="beam", hotwords=(("yes", 2.0),))))
    assert session.settings.decoding.hotwords == (("yes", 2.0),)
    with pytest.raises(ConfigurationError, match="never writes"):
        session.change(replace(settings, decoding=DecodingSettings(method="beam", hotwords=(("9", 2.0),))))
    assert session.settings.decoding.hotwords == (("yes", 2.0),)
