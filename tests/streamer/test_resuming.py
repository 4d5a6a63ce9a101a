"""A fresh stream goes on where another broke off: the same finals, whatever came before."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_live.model import StreamingContext
from wavlm_live.streamer import Recogniser, SessionSettings
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Activity, Final, Marker, Partial, SpeechStarted, SpeechStopped, Word
from wavlm_live.streamer.resuming import Reach, shifted
from wavlm_live.streamer.sources import FileSource
from wavlm_live.streamer.voice_activity import SpeechRules
from wavlm_live.streamer.voice_memory import VoiceMemory


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return Recogniser.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def bundled():
    return Recogniser.load(device="cpu")


def run(session, samples, rng, flushes=()):
    """Finals, and what was settled whenever a block was over: (fed, settled)."""
    finals, settled, at = [], [], 0
    while at < len(samples):
        ends = [f for f in flushes if f > at]
        end = min(at + int(rng.integers(100, 9000)), *ends, len(samples))
        finals += [e for e in session.feed(samples[at:end]) if isinstance(e, Final)]
        if end in flushes:
            finals += [e for e in session.flush() if isinstance(e, Final)]
        settled.append((end, session.settled_samples))
        at = end
    return finals + [e for e in session.finish() if isinstance(e, Final)], settled


def test_a_fresh_stream_gives_the_same_finals(tiny, seed):
    rng = np.random.default_rng(seed)
    samples = (rng.standard_normal(16_000 * 30) * np.repeat(rng.random(60), 8_000) * 0.3).astype(np.float32)
    samples[::3] = 0
    context = StreamingContext(40, 8, 3)
    settings = SessionSettings(
        context=context,
        partial_hop_ms=0,
        endpoint=EndpointRules(silence_ms=100, max_segment_s=2),
    )
    flushes = tuple(sorted(rng.integers(1, len(samples), 6).tolist()))
    whole, settled = run(tiny.open(settings), samples, rng, flushes)
    assert len(whole) > 4  # enough to compare; how many there are is up to the random model
    reach = Reach.of(tiny.model.config, context)
    places = sorted({place for _, place in settled if place})
    assert len(places) >= 3
    for segment in rng.choice(places, 3, replace=False).tolist():
        origin = reach.origin(segment)
        session = tiny.open(settings)
        session.deafen(segment - origin)
        later = tuple(f - origin for f in flushes if f > origin)
        again, _ = run(session, samples[origin:], rng, later)
        expected = [f for f in whole if f.end_samples > segment]
        assert [said(shifted(f, origin)) for f in again] == [said(f) for f in expected], (segment, origin)


def said(final: Final):
    return final.text, final.start_samples, final.end_samples, final.reason


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_bundled_model_goes_on(bundled, audio_folder, method, seed):
    rng = np.random.default_rng(seed)
    one = np.concatenate(list(FileSource(audio_folder / "digits_and_commands.flac")))
    samples = np.concatenate([one, one[::-1], one, one])
    settings = SessionSettings(
        context=StreamingContext(100, 32, 8), partial_hop_ms=0, decoding=DecodingSettings(method=method)
    )
    whole, settled = run(bundled.open(settings), samples, rng)
    segment = [place for _, place in settled if place][-1]
    origin = Reach.of(bundled.model.config, settings.context).origin(segment)
    assert origin > 0
    session = bundled.open(settings)
    session.deafen(segment - origin)
    again, _ = run(session, samples[origin:], rng)
    assert [said(shifted(f, origin)) for f in again] == [said(f) for f in whole if f.end_samples > segment]


@pytest.mark.parametrize("detector", ["silero", "model", "both"])
def test_the_voice_detection_goes_on_exactly(bundled, audio_folder, detector, seed):
    """After half a minute of loud noise the detector's network is far from a fresh one, and nothing resets it."""
    rng = np.random.default_rng(seed)
    speech = np.concatenate(list(FileSource(audio_folder / "digits_and_commands.flac")))
    noise = rng.normal(0, 0.3, 16_000 * 25).astype(np.float32)
    samples = np.concatenate([noise, speech, rng.normal(0, 0.05, len(speech)).astype(np.float32) + speech])
    context = StreamingContext(20, 16, 4)
    speech_rules = SpeechRules(detector=detector, words_need_voice=True, min_speech_ms=0, min_silence_ms=200)
    settings = SessionSettings(context=context, partial_hop_ms=0, speech=speech_rules, activity=True)
    reach = Reach.of(bundled.model.config, context, 16 * speech_rules.word_padding_ms)
    session = bundled.open(settings)
    session.remember_voice(reach.grid_samples)
    whole, kept, given, at = [], {}, {}, 0
    while at < len(samples):
        end = min(at + int(rng.integers(100, 40_000)), len(samples))
        whole += session.feed(samples[at:end])
        at, segment = end, session.settled_samples
        if segment and segment not in kept:
            kept[segment] = session.voice_memory(reach.origin(segment)).to_bytes()
            given[segment] = {kind: len(of(kind, whole)) for kind in KINDS}
    whole += session.finish()
    assert any(isinstance(e, SpeechStarted) for e in whole)
    late = [segment for segment in kept if reach.origin(segment) > 0]
    for segment in rng.choice(late, 3, replace=False).tolist():
        origin = reach.origin(segment)
        session = bundled.open(settings)
        session.deafen(segment - origin)
        session.remember_voice(reach.grid_samples, VoiceMemory.from_bytes(kept[segment]))
        again = session.feed(samples[origin : origin + int(rng.integers(1, 40_000))])
        again += session.feed(samples[origin + session.samples_taken :]) + session.finish()
        again = [shifted(e, origin) for e in again]
        for kind in KINDS:  # what was given when the place was known, and what comes now, is everything, once
            assert of(kind, again) == of(kind, whole)[given[segment][kind] :], (segment, origin)


KINDS = (Final, SpeechStarted, SpeechStopped, Activity)


def of(kind, events):
    """Those of a kind, without what the last bits of the encoder change; activity frame by frame."""
    found = []
    for event in events:
        if isinstance(event, kind):
            if isinstance(event, Activity):
                for n, probability in enumerate(event.probabilities):
                    found.append((event.start_samples + n * event.hop_samples, pytest.approx(probability, abs=0.02)))
            else:
                found.append(said(event) if isinstance(event, Final) else event)
    return found


def test_origin_lies_on_both_grids_and_far_enough_back():
    reach = Reach(10_000, 640)
    for segment in (0, 9_999, 10_000, 123_456):
        origin = reach.origin(segment, 160)
        assert origin % 640 == 0
        assert origin % 160 == 0
        assert origin == 0 or segment - origin >= 10_000


def test_deafness_is_for_fresh_streams(tiny):
    session = tiny.open()
    with pytest.raises(ValueError, match="deaf before sample 100"):
        session.deafen(100)
    session.feed(np.zeros(32_000, np.float32))
    with pytest.raises(ValueError, match="deaf"):
        session.deafen(3200)


def test_shifted_moves_every_time():
    word = Word("a", 10, 20, 0.5)
    assert shifted(Final("a", (word,), 10, 20, "end"), 5) == Final("a", (Word("a", 15, 25, 0.5),), 15, 25, "end")
    assert shifted(Partial("a", "", (word,)), 5).words[0].start_samples == 15
    assert shifted(SpeechStarted(3), 5) == SpeechStarted(8)
    assert shifted(Marker("x", 3), 5) == Marker("x", 8)
    assert shifted(Activity(320, 320, (0.5,)), 640) == Activity(960, 320, (0.5,))
