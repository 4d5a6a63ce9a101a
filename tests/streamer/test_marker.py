"""Markers: each comes back once, in order, when what was said before it has been given out, and no later than that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavlm_live.model import StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.model.errors import ConfigurationError, StreamError
from wavlm_live.streamer import (
    DecodingSettings,
    EndpointRules,
    Event,
    Final,
    Marker,
    Partial,
    Session,
    SessionSettings,
)
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.session import MOST_MARKS

ALPHABET = Alphabet(("", "", *"abcdefgh"), blank_id=0, delimiter_id=1)
CONTEXT = StreamingContext(12, 5, 2)
RULES = EndpointRules(silence_ms=200, max_segment_s=1.0, no_speech_ms=400)
SOUND_SAMPLES = 40_000


@pytest.fixture(scope="module")
def model() -> WavLMForCTC:
    """A small model with random weights that writes words, and pauses between them."""
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(ALPHABET),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = WavLMForCTC(config).eval().requires_grad_(False)
        model.lm_head.weight.normal_(std=2.0)
    logits = model(torch.from_numpy(sound_of(0))[None], context=CONTEXT).logits[0]
    model.lm_head.bias -= logits.mean(0)
    model.lm_head.bias[:2] += logits.std() * torch.tensor([1.5, 0.5])
    return model


def sound_of(seed: int) -> np.ndarray:
    """Noise in bursts, with pauses."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([0.0, 0.02, 0.3], p=[0.4, 0.2, 0.4], size=SOUND_SAMPLES // 2000)
    return (np.repeat(levels, 2000) * rng.normal(size=SOUND_SAMPLES)).astype(np.float32)


def open_session(model: WavLMForCTC, method: str = "greedy", hop: int = 0) -> Session:
    options = SessionSettings(partial_hop_ms=hop, endpoint=RULES, decoding=DecodingSettings(method, beam_width=4))
    return Session(LocalEncoder(model, CONTEXT), ALPHABET, CONTEXT, options)


def play(session: Session, sound: np.ndarray, marks: list[int], cuts: list[int], flushes: list[int]) -> list[Event]:
    """The session's events; the n-th mark is called str(n)."""
    events: list[Event] = []
    named = {str(n): at for n, at in enumerate(marks)}
    at = 0
    for place in sorted({*marks, *cuts, *flushes, len(sound)}):
        events += session.feed(sound[at:place])
        at = place
        for name in [n for n, where in named.items() if where == place]:
            events += session.mark(name)
        if place in flushes:
            events += session.flush()
        answered = {e.id for e in events if isinstance(e, Marker)}
        late = [n for n, where in named.items() if where <= at and n not in answered]
        assert all(named[n] > session.decided_samples for n in late)  # none is kept back
    return events + session.finish()


def check(events: list[Event], marks: list[int], flushed: bool) -> None:
    assert [(e.id, e.at_samples) for e in events if isinstance(e, Marker)] == [
        (str(n), at) for n, at in enumerate(marks)
    ]
    if flushed:  # a word that a flush cut goes on behind it
        return
    decided = 0
    for event in events:
        if isinstance(event, Final):
            assert event.start_samples >= decided  # all before the marker was given out before it
        if isinstance(event, Marker):
            decided = event.at_samples


places = st.lists(st.integers(0, SOUND_SAMPLES), max_size=6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    marks=places,
    cuts=places,
    flushes=st.just([]) | st.lists(st.integers(0, SOUND_SAMPLES), max_size=3),
    method=st.sampled_from(["greedy", "beam"]),
    hop=st.sampled_from([0, 60]),
)
def test_every_marker_once_in_order_and_as_soon_as_decided(
    model: WavLMForCTC, seed: int, marks: list[int], cuts: list[int], flushes: list[int], method: str, hop: int
) -> None:
    sound, marks = sound_of(seed), sorted(marks)
    events = play(open_session(model, method, hop), sound, marks, cuts, flushes)
    check(events, marks, bool(flushes))
    again = play(open_session(model, method, hop), sound, marks, [], flushes)
    lasting = [[e for e in found if not isinstance(e, Partial)] for found in (events, again)]
    assert lasting[0] == lasting[1]  # the same place among the same events, however the sound was cut


def test_the_model_of_these_tests_speaks(model: WavLMForCTC) -> None:
    """Else the others would see empty timelines."""
    for seed in range(5):
        session = open_session(model)
        found = [e for e in session.feed(sound_of(seed)) + session.finish() if isinstance(e, Final)]
        assert len(found) >= 2, seed


def test_before_the_first_sample_and_after_a_flush_at_once(model: WavLMForCTC) -> None:
    session = open_session(model)
    assert session.mark("start") == [Marker("start", 0)]
    session.feed(sound_of(1)[:9000])
    assert session.mark("a") == []  # its frames are not read yet
    *said, answer = session.flush()
    assert answer == Marker("a", 9000)
    assert all(isinstance(e, Final) for e in said)
    assert session.mark("b") == [Marker("b", 9000)]  # nobody has to send more sound to hear of it
    session.feed(sound_of(1)[9000:9100])
    assert session.mark("c") == []
    events = session.finish()
    assert [e for e in events if isinstance(e, Marker)] == [Marker("c", 9100)]
    with pytest.raises(StreamError, match="finished"):
        session.mark("d")


def test_bad_ids_and_too_many_are_refused(model: WavLMForCTC) -> None:
    session = open_session(model)
    session.feed(sound_of(2)[:100])
    for wrong in ("", "x" * 201, 5, None, b"a"):
        with pytest.raises(ConfigurationError, match="id of a mark"):
            session.mark(wrong)  # type: ignore[arg-type]
    for _ in range(MOST_MARKS):
        assert session.mark("again") == []
    with pytest.raises(StreamError, match="1000 marks wait"):
        session.mark("again")
    assert len(session.flush()) == MOST_MARKS
    assert session.mark("again") == [Marker("again", 100)]
