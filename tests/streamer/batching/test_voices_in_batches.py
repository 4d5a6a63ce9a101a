"""Voice heads in sessions: the same speakers and activity alone, in a batch, at full speed and after a save."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from wavlm_live.model import ConfigurationError
from wavlm_live.model.static_step import StaticStep
from wavlm_live.model.voice_heads import SpeakerNumbers, VoiceHeads
from wavlm_live.streamer import Activity, Final, Partial, SpeechStarted
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.events import Speaker
from wavlm_live.streamer.known_speakers import enrolled
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.saved_stream import SavedStream
from wavlm_live.streamer.session_settings import SessionSettings
from wavlm_live.streamer.speakers import SpeakerRules
from wavlm_live.streamer.stream_slots import Row, StreamSlots
from wavlm_live.streamer.voice_activity import SpeechRules

FREE = BatcherRules(calibrate=False, most_load=10, late_s=3600)
WHO = SpeakerRules(enabled=True)
HEAD = SpeechRules(detector="head", words_need_voice=False)


@pytest.fixture(scope="module")
def voiced(recogniser) -> Recogniser:
    """The small model with heads whose weights are random, but so that loud sound is speech."""
    config = recogniser.model.config.replace(
        tdnn_dim=(8, 12), tdnn_kernel=(5, 1), tdnn_dilation=(2, 1), xvector_output_dim=6
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        heads = VoiceHeads(config, numbers=SpeakerNumbers(new_below=0.9, known_above=0.95))
        for parameter in heads.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        assert heads.activity is not None
        sound = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32))[None]
        hidden = recogniser.model.wavlm(sound, output_hidden_states=True).hidden_states
        probability = heads.read(hidden)[0].activity
        heads.activity.classifier.bias[1] -= float(np.log(probability / (1 - probability)).mean()) - 0.8
    heads = heads.ready(torch.device("cpu"))
    return Recogniser(recogniser.model, recogniser.tokenizer, "tiny", recogniser.contexts, heads=heads)


def run(voiced: Recogniser, sound: np.ndarray, settings: SessionSettings, block: int = 1600) -> list:
    session = voiced.open(settings)
    events = []
    for start in range(0, len(sound), block):
        events += session.feed(sound[start : start + block])
    return [e for e in events + session.finish() if not isinstance(e, Partial)]


def same(got: list, expected: list) -> None:
    assert [type(e) for e in got] == [type(e) for e in expected]
    for a, b in zip(got, expected, strict=True):
        if isinstance(a, Speaker):
            assert (a.speaker, a.start_samples, a.end_samples, a.known) == (
                b.speaker, b.start_samples, b.end_samples, b.known,
            )  # fmt: skip
            assert (a.score, a.confidence) == pytest.approx((b.score, b.confidence), abs=1e-3)
        elif isinstance(a, Final):
            assert [(w.text, w.start_samples, w.speaker) for w in a.words] == [
                (w.text, w.start_samples, w.speaker) for w in b.words
            ]
        elif isinstance(a, Activity):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
        else:
            assert a == b


@pytest.mark.parametrize("static", [False, True], ids=["eager", "static"])
def test_alone_in_a_batch_and_at_full_speed(voiced, clock, noise, heard, settings_of, monkeypatch, static):
    """Streams with and without heads stand side by side; those without notice nothing."""
    monkeypatch.setattr("wavlm_live.streamer.stream_slots.wants_static", lambda device: static)
    with_heads = settings_of(speakers=WHO, speech=HEAD, activity=True)
    plain = settings_of()
    sounds = [noise(3.0 + n / 4, n) for n in range(6)]
    batcher, results = Batcher(voiced, FREE, clock=clock), [heard() for _ in sounds]
    streams = [batcher.open(plain if n % 3 == 2 else with_heads, results[n]) for n in range(6)]
    for start in range(0, max(map(len, sounds)), 2000):
        for stream, sound in zip(streams, sounds, strict=True):
            stream.feed(sound[start : start + 2000])
        batcher.settle()
    for stream in streams:
        stream.finish()
        assert stream.wait(0)
    batcher.close()
    for n, (sound, result) in enumerate(zip(sounds, results, strict=True)):
        settings = plain if n % 3 == 2 else with_heads
        expected = run(voiced, sound, settings, block=777)
        same(result.lasting, expected)
        if static:
            continue
        whole = voiced.offline(settings)
        events = [e for start in range(0, len(sound), 1600) for e in whole.feed(sound[start : start + 1600])]
        same([e for e in events + whole.finish() if not isinstance(e, Partial)], expected)
        (joint,) = voiced.together([sound, sounds[n - 1]], settings)[:1]
        same([e for e in joint.feed(sound) + joint.finish() if not isinstance(e, Partial)], expected)
        kinds = {type(e) for e in expected}
        if n % 3 == 2:
            assert Speaker not in kinds
            assert not any(w.speaker for e in expected if isinstance(e, Final) for w in e.words)
        else:
            assert {Speaker, Final, Activity} <= kinds
            assert any(w.speaker for e in expected if isinstance(e, Final) for w in e.words)


def test_streams_with_heads_share_the_static_step(voiced, noise, monkeypatch):
    """One call for streams with heads and without, greedy ones and not; they are told what the eager step says."""
    sounds, context = [noise(1.5, n) for n in range(5)], voiced.contexts["default"]
    calls = []
    run = StaticStep.run
    monkeypatch.setattr(StaticStep, "run", lambda step, rows: calls.append((step.heads, len(rows))) or run(step, rows))

    def told(static: bool, most: int) -> list[list]:
        slots = StreamSlots(voiced.model, context, 5, static=static)
        if slots.ladder is not None:
            slots.ladder.largest = most
        encoders = [slots.open() for _ in sounds]
        for n in (1, 2, 4):
            encoders[n].heads = voiced.voice_heads()
        found: list[list] = [[] for _ in sounds]
        for number in range(6):
            for encoder, sound in zip(encoders, sounds, strict=True):
                first, chunk = 6 * 320 + 400, 5 * 320
                encoder.listen(sound[:first] if not number else sound[first + (number - 1) * chunk :][:chunk])
            order = [(n + number) % 5 for n in range(5)]
            rows = [Row(encoders[n], final=number == 5, greedy=n != 3) for n in order]
            for n, step in zip(order, slots.compute(rows), strict=True):
                found[n].append(step)
        return found

    expected = told(False, 0)
    assert not calls
    for most, batches in ((5, [5] * 6), (2, [2, 2, 1] * 6)):
        calls.clear()
        got = told(True, most)
        assert [rows for _, rows in calls] == batches
        assert {heads for heads, _ in calls} == ({voiced.voice_heads()} if most == 5 else {voiced.voice_heads(), None})
        for n, (steps, others) in enumerate(zip(got, expected, strict=True)):
            for step, other in zip(steps, others, strict=True):
                assert step.own_frames == other.own_frames
                assert (step.voices is not None) == (other.voices is not None) == (n in (1, 2, 4))
                if step.voices is not None:
                    np.testing.assert_allclose(step.voices.activity, other.voices.activity, atol=1e-5)
                    np.testing.assert_allclose(step.voices.speaker, other.voices.speaker, atol=1e-4)
                    assert len(step.voices.activity) == step.own_frames


def test_activity_of_the_head_covers_every_frame_and_starts_speech(voiced, noise, settings_of):
    sound = noise(4.0, 9)
    events = run(voiced, sound, settings_of(speech=HEAD, activity=True))
    told = [e for e in events if isinstance(e, Activity)]
    assert [e.start_samples for e in told] == [
        sum(len(x.probabilities) for x in told[:n]) * 320 for n in range(len(told))
    ]
    assert abs(sum(len(e.probabilities) for e in told) * 320 - len(sound)) <= 400
    with torch.no_grad():
        context = voiced.contexts["default"]
        padded = torch.from_numpy(np.pad(sound, (0, 4800)))[None]
        hidden = voiced.model.wavlm(padded, context=context, output_hidden_states=True).hidden_states
    expected = voiced.voice_heads().read(hidden)[0].activity
    got = np.concatenate([e.probabilities for e in told])
    assert got == pytest.approx(expected[: len(got)], abs=1e-4)
    assert any(isinstance(e, SpeechStarted) for e in events)


def test_a_speaker_comes_before_the_final_of_his_words(voiced, noise, settings_of):
    events = run(voiced, noise(6.0, 21), settings_of(speakers=WHO, speech=HEAD))
    decided: list[Speaker] = []
    words = 0
    for event in events:
        if isinstance(event, Speaker):
            decided.append(event)
        elif isinstance(event, Final):
            for word in event.words:
                if word.speaker:
                    words += 1
                    assert any(s.speaker == word.speaker and s.start_samples < word.end_samples + 8000 for s in decided)
    assert words
    assert all(a.end_samples <= b.start_samples for a, b in pairwise(decided))


def test_a_saved_stream_knows_its_speakers(voiced, clock, noise, heard, settings_of, tmp_path):
    path = tmp_path / "known.json"
    enrolled(path, voiced.voice_heads().identity, "anna", np.ones(6), 10.0)
    rules = SpeakerRules(enabled=True, known_path=str(path), known_above=0.8)
    settings, sound = settings_of(speakers=rules, speech=HEAD, activity=True), noise(5.0, 5)
    for place in (20_333, 47_001):
        here, there = (Batcher(voiced, FREE, clock=clock) for _ in range(2))
        first, second = heard(), heard()
        stream = here.open(settings, first)
        for start in range(0, place, 1000):
            stream.feed(sound[start : min(place, start + 1000)])
        saved = stream.save()
        before = len(first.events)
        moved = there.open(None, second, saved=SavedStream.from_bytes(saved.to_bytes()))
        for both in (stream, moved):
            for start in range(place, len(sound), 1000):
                both.feed(sound[start : start + 1000])
            both.finish()
            assert both.wait(0)
        assert second.lasting == [e for e in first.events[before:] if not isinstance(e, Partial)]
        assert any(isinstance(e, Speaker) for e in second.events)


def test_what_a_model_without_heads_says(recogniser, voiced, tmp_path):
    for settings in (SessionSettings(speakers=WHO), SessionSettings(speech=HEAD)):
        with pytest.raises(ConfigurationError, match=r"tiny has no voice heads.*train voices"):
            recogniser.open(settings)
    path = tmp_path / "known.json"
    enrolled(path, "0badf00d-6", "anna", np.ones(6), 10.0)
    with pytest.raises(ConfigurationError, match="enrolled with the speaker head 0badf00d-6"):
        voiced.open(SessionSettings(speakers=SpeakerRules(enabled=True, known_path=str(path))))
    with pytest.raises(ConfigurationError, match="speakers apart is fixed"):
        voiced.open(SessionSettings()).change(SessionSettings(speakers=WHO))
