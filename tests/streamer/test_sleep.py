"""Streams that sleep in long silence: what the encoder is spared, what it hears, and that times stay exact."""

from __future__ import annotations

import difflib
import random

import numpy as np
import pytest
import soundfile

from wavlm_live.model import ConfigurationError, StreamingContext
from wavlm_live.streamer import Final, Marker, Partial, SessionSettings, SpeechRules, SpeechStarted, stream_voice
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.saved_stream import SavedStream
from wavlm_live.streamer.sleep import PREROLL_S, Sleep

CONTEXT = StreamingContext(100, 16, 4)
CHUNK_SAMPLES = 16 * 320
STEP_SAMPLES = 19 * 320 + 400  # of the first chunk, with its right context
SLEEP_S = 2.0
ASLEEP = SessionSettings(context=CONTEXT, sleep_after_s=SLEEP_S)
AWAKE = SessionSettings(context=CONTEXT)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser.load(device="cpu")


@pytest.fixture(scope="module")
def speech(audio_folder) -> tuple[np.ndarray, np.ndarray]:
    """Two recordings in which somebody speaks."""
    names = ("sentence_rope.opus", "sentence_tureen.opus")
    first, second = (soundfile.read(audio_folder / name, dtype="float32")[0] for name in names)
    return first, second


def with_silence(speech, seconds: float, seed: int = 0) -> np.ndarray:
    """The two, with the faint noise of a room between them."""
    room = np.random.default_rng(seed).normal(scale=2e-4, size=round(seconds * 16_000)).astype(np.float32)
    return np.concatenate([speech[0], room, speech[1]])


class Spy(LocalEncoder):
    """Counts the steps that commit, and keeps the sound."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__(recogniser.model, CONTEXT)
        self.commits, self.sound = 0, []

    def listen(self, samples: np.ndarray) -> None:
        self.sound.append(samples)
        super().listen(samples)

    def step(self, *, commit: bool = True, final: bool = False):
        self.commits += commit
        return super().step(commit=commit, final=final)


def run(recogniser, sound, settings, block=4000, encoder=None):
    """All events but the partial ones, and the encoder."""
    encoder = encoder or Spy(recogniser)
    session = recogniser.open(settings, encoder)
    events = []
    for start in range(0, len(sound), block):
        events += session.feed(sound[start : start + block])
    events += session.finish()
    return [e for e in events if not isinstance(e, Partial)], encoder


def words_of(events):
    return [(w.text, w.start_samples, w.end_samples) for e in events if isinstance(e, Final) for w in e.words]


def test_the_encoder_hears_the_sound_without_the_chunks_that_were_slept_through(recogniser, speech, seed):
    """Text and confidences are those of a stream that was given the sound with the silence cut out; times are those
    of the whole sound; one step is spared for each chunk."""
    sound = with_silence(speech, 12, seed)
    events, spy = run(recogniser, sound, ASLEEP)
    heard = np.concatenate(spy.sound)
    whole, awake = run(recogniser, sound, AWAKE)
    cut = sum(map(len, awake.sound)) - len(heard)
    assert cut % CHUNK_SAMPLES == 0
    assert cut > (12 - SLEEP_S - PREROLL_S - 2 * CHUNK_SAMPLES / 16_000) * 16_000
    assert awake.commits - spy.commits == cut // CHUNK_SAMPLES
    place = next(n for n in range(len(heard)) if heard[n] != sound[n])  # where the silence was cut
    np.testing.assert_array_equal(heard[place : len(sound) - cut], sound[place + cut :])
    expected, _ = run(recogniser, np.concatenate([sound[:place], sound[place + cut :]]), AWAKE)
    later = [
        (text, start + cut * (start >= place), end + cut * (start >= place)) for text, start, end in words_of(expected)
    ]
    assert words_of(events) == later
    confidences, wanted = (
        [w.confidence for e in each if isinstance(e, Final) for w in e.words] for each in (events, expected)
    )
    assert confidences == pytest.approx(wanted, abs=1e-4)
    assert len(later) > 6
    # speech is where the voice detector hears it, which hears everything
    assert [e for e in events if not isinstance(e, Final)] == [e for e in whole if not isinstance(e, Final)]
    started = [e.at_samples for e in events if isinstance(e, SpeechStarted)]
    first_late = next(at for at in started if at > place + cut)
    assert place + cut <= first_late - (PREROLL_S - 0.1) * 16_000


def alike(words, others) -> bool:
    """Nearly the same letters: the context that the encoder has seen differs."""
    a, b = (" ".join(text for text, _, _ in each) for each in (words, others))
    return len(a) > 20 and difflib.SequenceMatcher(None, a, b).ratio() > 0.7


def begins_in_time(words, others) -> bool:
    """Before the other's first word of three letters is over: a stream that heard the silence may hear the breath
    before a word as a letter, which moves where its own first word begins."""
    known_end = next(end for text, _, end in others if len(text) >= 3)
    return words[0][1] <= known_end


def test_a_lost_word_would_be_seen():
    breath, first, second = ("h", 400, 720), ("shemmer", 6770, 10_610), ("formineter", 11_890, 20_850)
    assert begins_in_time([first, second], [breath, first, second])
    assert not begins_in_time([second], [first, second])
    assert not begins_in_time([second], [breath, first, second])


def test_no_first_word_is_lost(recogniser, speech, seed):
    """A stream that heard the silence says nearly the same, and its first word lies where this one lies."""
    rng = random.Random(seed)
    seconds = rng.uniform(5, 7)
    sound = with_silence(speech, seconds, seed)
    slept, _ = run(recogniser, sound, ASLEEP)
    whole, _ = run(recogniser, sound, AWAKE)
    assert alike(words_of(slept), words_of(whole))
    middle = len(speech[0]) + seconds * 8000
    after, others = ([word for word in words_of(e) if word[1] > middle] for e in (slept, whole))
    assert begins_in_time(after, others)


def test_any_blocks_give_the_same(recogniser, speech, seed):
    sound = with_silence(speech, 8, seed)
    expected, spy = run(recogniser, sound, ASLEEP)
    for block in (333, len(sound)):
        got, other = run(recogniser, sound, ASLEEP, block)
        assert got == expected
        assert other.commits == spy.commits


def test_it_is_off_by_default_and_short_silence_is_heard(recogniser, speech):
    assert SessionSettings().sleep_after_s == 0
    sound = with_silence(speech, 1.2)
    events, spy = run(recogniser, sound, ASLEEP)
    whole, awake = run(recogniser, sound, AWAKE)
    assert spy.commits == awake.commits
    assert events == whole


def test_flush_marks_and_the_end_while_asleep(recogniser, speech):
    session = recogniser.open(ASLEEP, spy := Spy(recogniser))
    silence = np.zeros(16_000, np.float32)
    events = session.feed(speech[0])
    for _ in range(8):
        events += session.feed(silence)
    steps = spy.commits
    assert session.mark("quiet") == []  # half a second before it is only kept
    flushed = session.flush()
    assert flushed == [Marker("quiet", session.samples_taken)]
    assert session.feed(silence) == []
    session.mark("later")
    assert Marker("later", len(speech[0]) + 9 * 16_000) in session.feed(np.zeros(40_000, np.float32))
    assert spy.commits == steps
    taken = session.samples_taken
    events += session.finish()
    assert session.decided_samples == taken
    assert words_of(events) == words_of(run(recogniser, speech[0], AWAKE)[0])
    assert spy.commits - steps <= -(-PREROLL_S * 16_000 // CHUNK_SAMPLES) + 3


def test_a_flush_as_the_voice_returns_loses_nothing(recogniser, speech):
    sound = with_silence(speech, 8)
    onset = len(speech[0]) + 8 * 16_000
    session = recogniser.open(ASLEEP, Spy(recogniser))
    events = session.feed(sound[: onset + 1000]) + session.flush() + session.feed(sound[onset + 1000 :])
    events += session.finish()
    unbroken, _ = run(recogniser, sound, ASLEEP)
    assert [w[0] for w in words_of(events)] == [w[0] for w in words_of(unbroken)]


def test_a_sleeping_stream_is_saved_and_goes_on(recogniser, speech):
    """In the batcher, which counts what it was spared; as bytes, in another batcher."""
    sound = with_silence(speech, 8)
    expected, _ = run(recogniser, sound, ASLEEP)
    now_s, got = [0.0], []
    rules = BatcherRules(calibrate=False)
    batcher, other = (Batcher(recogniser, rules, clock=lambda: now_s[0]) for _ in range(2))
    stream = batcher.open(ASLEEP, got.extend)
    half = len(speech[0]) + 6 * 16_000
    stream.feed(sound[:half])
    batcher.settle()
    assert batcher.statistics().skipped > 4
    saved = SavedStream.from_bytes(stream.save().to_bytes())
    stream.abort()
    batcher.settle()
    again = other.open(None, got.extend, saved=saved)
    again.feed(sound[half:])
    again.finish()
    other.settle()
    assert again.problem is None
    got = [e for e in got if not isinstance(e, Partial)]
    assert [type(e) for e in got] == [type(e) for e in expected]
    assert words_of(got) == words_of(expected)


def test_the_rules_of_the_detector_stay_as_they_are(recogniser, speech, monkeypatch):
    """A stream whose speech the model decides listens to the detector for its sleep alone."""
    model = SpeechRules(detector="model", words_need_voice=False)
    sound = with_silence(speech, 8)
    settings = SessionSettings(context=CONTEXT, speech=model, sleep_after_s=SLEEP_S)
    events, spy = run(recogniser, sound, settings)
    whole, awake = run(recogniser, sound, SessionSettings(context=CONTEXT, speech=model))
    assert spy.commits < awake.commits - 8
    assert alike(words_of(events), words_of(whole))
    monkeypatch.setattr(stream_voice, "SIGN_PROBABILITY", -1.0)  # a voice everywhere: nobody sleeps
    events, spy = run(recogniser, sound, settings)
    assert events == whole
    assert spy.commits == awake.commits


def test_sleep_keeps_whole_chunks_and_changes_are_refused(recogniser):
    assert Sleep(2.0, 51_200)._most_chunks == 1
    assert Sleep(2.0, 1600)._most_chunks == 10
    with pytest.raises(ConfigurationError, match="sleep_after_s"):
        SessionSettings(sleep_after_s=0.5)
    with pytest.raises(ConfigurationError, match="sleep_after_s of a stream is fixed"):
        recogniser.open(AWAKE).change(ASLEEP)
