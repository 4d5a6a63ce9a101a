"""Sessions that listen for voices: the timeline is covered, blocks do not matter, noise is silent, no word is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavlm_live.model import ConfigurationError, StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.streamer import (
    Activity,
    DecodingSettings,
    EndpointRules,
    Event,
    Final,
    Partial,
    Recogniser,
    Session,
    SessionSettings,
    SpeechRules,
    SpeechStarted,
    SpeechStopped,
)
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.greedy import GreedyDecoder
from wavlm_live.streamer.voice_detector import VoiceDetector

ALPHABET = Alphabet(("", "", *"abcdefgh"), blank_id=0, delimiter_id=1)
CONTEXTS = [StreamingContext(12, 5, 2), StreamingContext(10, 16, 0)]
RULES = EndpointRules(silence_ms=200, max_segment_s=1.0, no_speech_ms=400)


@pytest.fixture(scope="module")
def speech(audio_folder: Path) -> np.ndarray:
    """Words between pauses and noises, 12 s."""
    rng = np.random.default_rng(5)
    parts = []
    for name in ("command_yes", "digit_seven", "sentence_waited"):
        sound = soundfile.read(audio_folder / f"{name}.opus", dtype="float32")[0]
        parts += [sound[:48_000], rng.normal(scale=0.01, size=16_000), np.zeros(9000)]
    return np.concatenate(parts).astype(np.float32)[: 12 * 16_000]


@pytest.fixture(scope="module")
def babbler() -> WavLMForCTC:
    """A small model with random weights that writes words into speech and noise alike."""
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(ALPHABET),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = WavLMForCTC(config).eval().requires_grad_(False)
        model.lm_head.weight.normal_(std=2.0)
        noise = torch.randn(1, 64_000) * 0.05
    logits = model(noise, context=CONTEXTS[0]).logits[0]
    model.lm_head.bias -= logits.mean(0)
    model.lm_head.bias[:2] += logits.std() * torch.tensor([1.0, 0.3])
    return model


def open_session(model: WavLMForCTC, speech: SpeechRules, context: StreamingContext, method: str = "greedy") -> Session:
    options = SessionSettings(
        partial_hop_ms=100, endpoint=RULES, speech=speech, activity=True, decoding=DecodingSettings(method, 4)
    )
    return Session(LocalEncoder(model, context), ALPHABET, context, options)


def play(session: Session, sound: np.ndarray, cuts: list[int]) -> list[Event]:
    """All events; what is decided never goes back, and no final covers what was decided as silence."""
    events: list[Event] = []
    decided = 0
    for a, b in pairwise([0, *sorted(min(c, len(sound)) for c in cuts), len(sound)]):
        found = session.feed(sound[a:b])
        assert all(e.start_samples >= decided for e in found if isinstance(e, Final))
        assert session.decided_samples >= decided
        decided = session.decided_samples
        events += found
    found = session.finish()
    assert all(e.start_samples >= decided for e in found if isinstance(e, Final))
    return events + found


def check_order(events: list[Event], samples: int) -> None:
    """Everything in the order of time: finals apart, speech by turns, activity without a hole, stable text growing."""
    ends = [0]
    for final in (e for e in events if isinstance(e, Final)):
        assert ends[-1] <= final.start_samples < final.end_samples <= samples
        assert (final.start_samples, final.end_samples) == (final.words[0].start_samples, final.words[-1].end_samples)
        ends.append(final.end_samples)
    turns = [e for e in events if isinstance(e, SpeechStarted | SpeechStopped)]
    assert [isinstance(e, SpeechStarted) for e in turns] == [True, False] * (len(turns) // 2)
    assert [e.at_samples for e in turns] == sorted(e.at_samples for e in turns)
    assert all(0 <= e.at_samples <= samples for e in turns)
    at = 0
    for activity in (e for e in events if isinstance(e, Activity)):
        assert activity.start_samples == at
        assert all(0 <= p <= 1 for p in activity.probabilities)
        at += activity.hop_samples * len(activity.probabilities)
    assert 0 <= samples - at < 512 or at - samples < 512  # all whole windows or frames of the sound
    stable = ""
    for event in events:
        if isinstance(event, Partial | Final):
            text = event.stable if isinstance(event, Partial) else event.text
            assert f"{text} ".startswith(f"{stable} ") or not stable
            stable = event.stable if isinstance(event, Partial) else ""


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 100_000), max_size=8),
    start=st.integers(0, 90_000),
    detector=st.sampled_from(["silero", "model", "both"]),
    needed=st.booleans(),
    context=st.sampled_from(CONTEXTS),
    method=st.sampled_from(["greedy", "beam"]),
)
def test_the_timeline_is_covered_whatever_the_blocks(
    babbler: WavLMForCTC,
    speech: np.ndarray,
    cuts: list[int],
    start: int,
    detector: str,
    needed: bool,
    context: StreamingContext,
    method: str,
) -> None:
    sound = speech[start : start + 100_000]
    rules = SpeechRules(detector, words_need_voice=needed, min_silence_ms=200)
    events = play(open_session(babbler, rules, context, method), sound, cuts)
    check_order(events, len(sound))
    whole = play(open_session(babbler, rules, context, method), sound, [])
    lasting = [[e for e in found if not isinstance(e, Partial)] for found in (events, whole)]
    assert lasting[0] == lasting[1]  # to the last bit, and in the same order
    if needed:
        heard = np.array(VoiceDetector().push(sound))
        for word in (w for e in events if isinstance(e, Final) for w in e.words):
            first, last = (word.start_samples - 3200) // 512, -(-(word.end_samples + 3200) // 512)
            assert heard[max(0, first) : last].max() > rules.start_probability


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_words_without_a_voice_are_left_out_and_the_others_stay(
    babbler: WavLMForCTC, speech: np.ndarray, context: StreamingContext
) -> None:
    free, bound = (
        [w for e in play(open_session(babbler, SpeechRules(words_need_voice=needed), context), speech, []) if
         isinstance(e, Final) for w in e.words]
        for needed in (False, True)
    )  # fmt: skip
    assert set(bound) < set(free)
    assert len(bound) > 3
    # in the silence behind the last word nobody speaks
    assert not [w for w in bound if w.start_samples > len(speech) - 4000]
    heard = np.array(VoiceDetector().push(speech))
    for word in set(free) - set(bound):
        first, last = (word.start_samples - 3200) // 512, -(-(word.end_samples + 3200) // 512)
        assert heard[max(0, first) : last].max(initial=0.0) <= 0.5


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """The bundled model."""
    return Recogniser.load(device="cpu")


def test_no_word_is_lost_that_a_recording_begins_with(recogniser: Recogniser, audio_folder: Path) -> None:
    """A word of 0.2 s, cut where it begins, loud or quiet: its voice is heard, so its text is the one of the frames."""
    texts = []
    for name, gain in product(["digit_four", "digit_seven", "command_stop"], [1.0, 0.3, 0.1]):
        word = soundfile.read(audio_folder / f"{name}.opus", dtype="float32")[0] * np.float32(gain)
        loud = np.flatnonzero(np.abs(word) > 0.1 * np.abs(word).max())
        bound, free = (
            [e.text for e in play(recogniser.open(SessionSettings(partial_hop_ms=0, speech=SpeechRules(
                words_need_voice=needed))), word[loud[0] : loud[-1]], []) if isinstance(e, Final)]
            for needed in (True, False)
        )  # fmt: skip
        assert bound == free
        texts += free
    assert len(texts) > 4


def test_no_first_word_is_lost_after_an_endpoint(recogniser: Recogniser, audio_folder: Path) -> None:
    """Words after a pause that ended a segment are those that the frames say, read without any endpoint."""
    names = ["command_yes", "digit_seven", "command_stop", "digit_four", "command_left"]
    parts = [soundfile.read(audio_folder / f"{name}.opus", dtype="float32")[0] for name in names]
    gap = np.zeros(24_000, np.float32)
    sound = np.concatenate([piece for part in parts for piece in (part, gap)])
    settings = SessionSettings(partial_hop_ms=0, speech=SpeechRules(words_need_voice=False))
    session = recogniser.open(settings)
    found = [e for e in session.feed(sound) + session.finish() if isinstance(e, Final)]
    assert len(found) >= len(names) - 1  # each pause ended a segment
    encoder, decoder = LocalEncoder(recogniser.model, recogniser.context()), GreedyDecoder(recogniser.alphabet)
    step = recogniser.context()
    padded = np.concatenate([sound, np.zeros(4800, np.float32)])
    end, at = (step.step_frames - 1) * 320 + 400, 0
    while end <= len(padded):
        encoder.listen(padded[at:end])
        out = encoder.step()
        decoder.accept(out.logprobs[: out.own_frames])
        at, end = end, end + step.chunk_frames * 320
    encoder.listen(padded[at:])
    while encoder.waiting_frames:
        out = encoder.step(final=True)
        decoder.accept(out.logprobs[: out.own_frames])
    expected = [(w.text, w.start_samples) for w in decoder.words if w.start_samples < len(sound)]
    # a segment ends words that no delimiter has ended, so texts are compared joined
    said = [(w.text, w.start_samples) for e in found for w in e.words]
    assert "".join(text for text, _ in said) == "".join(text for text, _ in expected)
    assert {at for _, at in expected} <= {at for _, at in said}
    # and with words that need a voice, as this model's do, the same
    session = recogniser.open(SessionSettings(partial_hop_ms=0))
    assert session.settings.speech.words_need_voice
    kept = [w.text for e in session.feed(sound) + session.finish() if isinstance(e, Final) for w in e.words]
    assert [text for text, _ in said if text in kept] == kept
    assert len(kept) >= len(said) - 1


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_minute_of_noises_says_at_most_one_word(recogniser: Recogniser, method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = 12 * 16_000
    white = rng.normal(size=(3, samples))
    spectrum, frequency = np.fft.rfft(white[1:]), np.maximum(np.fft.rfftfreq(samples, 1 / 16_000), 20)
    pink, brown = np.fft.irfft(spectrum / frequency ** np.array([[0.5], [1.0]]))
    hum = np.sin(2 * np.pi * 50 * np.arange(samples) / 16_000) + 0.02 * rng.normal(size=samples)
    noises = [bed / bed.std() * 10 ** (rng.uniform(-45, -15) / 20) for bed in (white[0], pink, brown, hum)]
    sound = np.clip(np.concatenate([*noises, np.zeros(samples)]), -1, 1).astype(np.float32)
    session = recogniser.open(SessionSettings(partial_hop_ms=0, decoding=DecodingSettings(method)))
    words = [w for e in session.feed(sound) + session.finish() if isinstance(e, Final) for w in e.words]
    assert len(words) <= 1, words


def test_what_may_change_within_a_stream(babbler: WavLMForCTC, speech: np.ndarray) -> None:
    session = open_session(babbler, SpeechRules(words_need_voice=True), CONTEXTS[0])
    session.feed(speech[:30_000])
    later = SpeechRules(start_probability=0.9, stay_probability=0.8, min_speech_ms=500, word_padding_ms=0)
    rules = EndpointRules(silence_ms=900)
    session.change(replace(session.settings, endpoint=rules, speech=later, activity=False, partial_hop_ms=0))
    assert session.settings.speech.words_need_voice  # None leaves it as it was
    found = session.feed(speech[30_000:]) + session.finish()
    assert not [e for e in found if isinstance(e, Activity)]
    fixed = open_session(babbler, SpeechRules(words_need_voice=False), CONTEXTS[0])
    for speech_rules, name in ((SpeechRules("model"), "detector"), (SpeechRules(words_need_voice=True), "words_need")):
        with pytest.raises(ConfigurationError, match=rf"SpeechRules\.{name}.*fixed"):
            fixed.change(replace(fixed.settings, speech=speech_rules))
