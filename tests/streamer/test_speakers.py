"""Speakers: who speaks is told apart, labels stay, memory is bounded, enrolled speakers have names, others have not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model import ConfigurationError, WavLMConfig
from wavlm_live.model.voice_heads import SpeakerNumbers, VoiceFrames, VoiceHeads
from wavlm_live.model.voice_model import VoiceModel
from wavlm_live.streamer.events import Speaker, Word
from wavlm_live.streamer.heard_voices import Voice
from wavlm_live.streamer.speaker_memory import HEAVIEST_FRAMES, MOST_BYTES, SpeakerMemory, VoiceVector
from wavlm_live.streamer.speakers import (
    MOST_STRETCHES,
    STRETCH_FRAMES,
    UNKNOWN,
    SpeakerRules,
    SpeakerTracker,
)

HOP = 320
DIM = 6
NUMBERS = SpeakerNumbers(new_below=0.6, known_above=0.7, stay_bonus=0.05)


def plain_heads() -> VoiceHeads:
    """Heads whose vector is the mean of what comes in (which is positive), delayed by two frames in both directions."""
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, tdnn_dim=(DIM, DIM),
        tdnn_kernel=(5, 1), tdnn_dilation=(1, 1), xvector_output_dim=DIM,
    )  # fmt: skip
    heads = VoiceHeads(config, numbers=NUMBERS)
    speaker = heads.speaker
    assert speaker is not None
    with torch.no_grad():
        for layer in speaker.layers:
            layer.kernel.weight.zero_()
            layer.kernel.bias.zero_()
            middle = layer.taps // 2 * DIM
            layer.kernel.weight[:, middle : middle + DIM] = torch.eye(DIM)
        speaker.feature_extractor.weight.zero_()
        speaker.feature_extractor.bias.zero_()
        speaker.feature_extractor.weight[:, :DIM] = torch.eye(DIM)
    return heads.eval().requires_grad_(False)


HEADS = plain_heads()


@pytest.fixture(autouse=True, scope="module", params=["by cosine", "by odds"])
def way(request: pytest.FixtureRequest) -> str:
    """All tests, once where heads know nothing of voices but numbers, and once with a model of them."""
    rng = np.random.default_rng(5)
    vectors = rng.uniform(0, 0.3, (DIM * 12, DIM)) + np.eye(DIM)[np.arange(DIM * 12) % DIM]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = VoiceModel.of(vectors, [str(n % DIM) for n in range(DIM * 12)])
    HEADS.voices = model if request.param == "by odds" else None
    return request.param


def frames_of(*parts: tuple[int | None, int], seed: int = 0) -> VoiceFrames:
    """Frames of voices: (number of a voice, or None for silence; frames)."""
    rng = np.random.default_rng(seed)
    activity, speaker = [], []
    for voice, count in parts:
        activity.append(np.full(count, 0.02 if voice is None else 0.97, np.float32))
        values = rng.uniform(0, 0.15, (count, DIM))
        if voice is not None:
            values[:, voice] += 1.0
        speaker.append(values.astype(np.float32))
    return VoiceFrames(np.concatenate(activity), np.concatenate(speaker))


def tracker(**rules: object) -> SpeakerTracker:
    return SpeakerTracker(HEADS, SpeakerRules(enabled=True, **rules), HOP)  # type: ignore[arg-type]


def heard(track: SpeakerTracker, frames: VoiceFrames, chunk: int = 32) -> list[Speaker]:
    """All events of a stream."""
    events: list[Speaker] = []
    assert frames.activity is not None
    for first in range(0, len(frames.activity), chunk):
        events += track.accept(frames[first : first + chunk])
    return events + track.close()


def turns(events: list[Speaker]) -> list[tuple[str, int, int]]:
    """Neighbouring stretches of one speaker joined: label, first frame, one past the last."""
    found: list[tuple[str, int, int]] = []
    for event in events:
        start, end = event.start_samples // HOP, event.end_samples // HOP
        if found and found[-1][0] == event.speaker and start - found[-1][2] < 20:
            found[-1] = (event.speaker, found[-1][1], end)
        else:
            found.append((event.speaker, start, end))
    return found


def test_two_people_are_told_apart_and_known_again():
    events = heard(tracker(), frames_of((None, 50), (0, 150), (None, 40), (1, 100), (None, 30), (0, 90), (None, 60)))
    assert turns(events) == [("speaker 1", 50, 200), ("speaker 2", 240, 340), ("speaker 1", 370, 460)]
    assert all(not e.known and 0.5 < e.confidence <= 1 for e in events)
    assert next(e.score for e in events if e.start_samples == 370 * HOP) > 0.9


def test_a_change_without_a_pause_is_found_within_a_stretch():
    events = heard(tracker(), frames_of((0, 300), (1, 300)))
    changes = turns(events)
    assert [label for label, _, _ in changes] == ["speaker 1", "speaker 2"]
    assert abs(changes[1][1] - 300) <= STRETCH_FRAMES


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_chunks_do_not_matter(sizes: list[int], seed: int):
    frames = frames_of((0, 77), (None, 9), (0, 60), (None, 33), (2, 155), (None, 3), (1, 40), seed=seed)
    expected = heard(tracker(), frames)
    track, events, at = tracker(), [], 0
    assert frames.activity is not None
    total = len(frames.activity)
    while at < total:
        for size in sizes:
            events += track.accept(frames[at : at + size])
            at += size
    events += track.close()
    assert [(e.speaker, e.start_samples, e.end_samples) for e in events] == [
        (e.speaker, e.start_samples, e.end_samples) for e in expected
    ]
    assert [e.score for e in events] == pytest.approx([e.score for e in expected], abs=1e-5)


def test_every_frame_of_speech_lies_in_one_stretch():
    rng = np.random.default_rng(4)
    parts = [(None if rng.random() < 0.3 else int(rng.integers(4)), int(rng.integers(3, 120))) for _ in range(60)]
    frames = frames_of(*parts)
    events = heard(tracker(), frames)
    assert frames.activity is not None
    covered = np.zeros(len(frames.activity), int)
    for event in events:
        covered[event.start_samples // HOP : event.end_samples // HOP] += 1
    speech = frames.activity > 0.5
    assert covered.max() == 1
    assert covered[speech].min() == 1


def test_little_speech_is_whoever_spoke_before_or_unknown():
    alone = heard(tracker(), frames_of((None, 40), (0, 8), (None, 60)))
    assert [(e.speaker, e.score, e.confidence) for e in alone] == [(UNKNOWN, 0.0, 0.0)]
    behind = heard(tracker(), frames_of((0, 80), (None, 4), (0, 6), (None, 60)))
    assert {e.speaker for e in behind} == {"speaker 1"}
    strange = heard(tracker(), frames_of((0, 100), (None, 40), (1, 25), (None, 40), (1, 100)))
    assert [e.speaker for e in strange][2:4] == [UNKNOWN, "speaker 2"]  # half a second founds no new voice


def test_voices_are_bounded_and_numbers_not_used_again():
    track = tracker(most=2)
    events = heard(track, frames_of(*[p for n in (0, 1, 2, 0, 2) for p in ((n, 80), (None, 40))]))
    assert [e.speaker for e in events if e.end_samples - e.start_samples > 60 * HOP] == [
        "speaker 1", "speaker 2", "speaker 3", "speaker 4", "speaker 3",
    ]  # fmt: skip
    assert len(track.voices) == 2


def test_hours_take_no_more_memory():
    track = tracker()
    frames = frames_of(*[(n % 3, 70) for n in range(300)])
    track.accept(frames)
    early = len(pickle.dumps(_plain(track)))
    for hour in range(1, 8):
        track.accept(frames)
        track.forget(hour * 300 * 70 * HOP)
    assert len(pickle.dumps(_plain(track))) <= early + 200  # a number may take more bytes
    assert all(0 < voice.frames <= HEAVIEST_FRAMES for voice in track.voices)
    for _ in range(8):
        track.accept(frames)  # even where nobody forgets
    assert len(track._decided) == MOST_STRETCHES


def _plain(track: SpeakerTracker) -> dict[str, object]:
    return {name: value for name, value in vars(track).items() if name != "heads"}


def test_enrolled_speakers_are_called_by_name_and_others_are_not():
    known = {"anna": np.eye(DIM)[0] * 0.5, "otto": np.eye(DIM)[3]}
    track = SpeakerTracker(HEADS, SpeakerRules(enabled=True), HOP, known)
    events = heard(track, frames_of((0, 70), (None, 30), (1, 70), (None, 30), (3, 70), (None, 30), (0, 20), (None, 30)))
    assert [(e.speaker, e.known) for e in events] == [
        ("anna", True), ("speaker 1", False), ("otto", True), ("anna", True),
    ]  # fmt: skip
    assert np.allclose(track.voices[0].vector, np.eye(DIM)[0])  # what was enrolled does not drift
    strict = SpeakerTracker(HEADS, SpeakerRules(enabled=True, known_above=0.9999), HOP, known)
    assert {e.speaker for e in heard(strict, frames_of((0, 80), (None, 30)))} == {"speaker 1"}


def test_words_carry_who_spoke_most_of_them():
    track = tracker()
    heard(track, frames_of((None, 50), (0, 100), (None, 40), (1, 100), (None, 40)))
    words = tuple(
        Word("x", a * HOP, b * HOP, 0.9) for a, b in ((60, 80), (140, 160), (185, 230), (310, 320), (400, 420))
    )
    assert [w.speaker for w in track.named(words)] == ["speaker 1", "speaker 1", "speaker 2", "speaker 2", ""]


def test_somebody_who_has_to_know_now_is_told():
    track = tracker()
    frames = frames_of((0, 60))
    assert track.accept(frames) == []
    assert track.settle(0) == []
    (event,) = track.settle(50 * HOP)
    assert (event.speaker, event.start_samples) == ("speaker 1", 0)
    assert track.label_of(0, 10 * HOP) == "speaker 1"
    (later,) = track.accept(frames_of((0, 100), (None, 40)))[:1]
    assert (later.speaker, later.start_samples) == ("speaker 1", event.end_samples)


def test_silence_that_nobody_computed_keeps_the_times():
    track = tracker()
    events = track.accept(frames_of((0, 75), (None, 45)))
    events += track.skip(1000)
    events += heard(track, frames_of((None, 10), (1, 60), (None, 40)))
    assert turns(events) == [("speaker 1", 0, 75), ("speaker 2", 1130, 1190)]


def test_voices_go_on_elsewhere():
    """Labels and numbers are the same behind a break."""
    first, second = tracker(), tracker()
    heard(first, frames_of((0, 80), (None, 30), (1, 80), (None, 30)))
    assert first.remembered(220).ago_frames == 30
    second.begin_at(1000)
    second.recall(SpeakerMemory.from_bytes(first.remembered(220).to_bytes()))
    events = heard(second, frames_of((1, 70), (None, 30), (2, 70), (None, 30), (0, 70)))
    assert turns(events) == [("speaker 2", 1000, 1070), ("speaker 3", 1100, 1170), ("speaker 1", 1200, 1270)]
    for one, other in zip(first.voices, second.voices, strict=False):
        assert one.label == other.label
    assert SpeakerMemory.from_bytes(tracker().remembered(0).to_bytes()) == SpeakerMemory()


def test_the_same_goes_on_as_if_nothing_had_been(seed):
    """Any stream, cut in any pause: the labels, similarities and voices of an unbroken one, up to what a byte holds."""
    rng = np.random.default_rng(seed)
    for _ in range(5):
        parts = []
        for _ in range(24):
            parts += [(int(rng.integers(0, 5)), int(rng.integers(20, 160))), (None, int(rng.integers(30, 60)))]
        whole = tracker(most=4)
        at = 2 * int(rng.integers(2, 22)) - 1  # a pause: long enough for a decision, and no speech right at the cut
        early = int(rng.integers(20, parts[at][1] - 4))
        begun, rest = [*parts[:at], (None, early)], [(None, parts[at][1] - early), *parts[at + 1 :]]
        before = heard(whole, frames_of(*begun))
        frame = sum(count for _, count in begun)
        moved = tracker(most=4)
        moved.begin_at(frame)
        moved.recall(SpeakerMemory.from_bytes(whole.remembered(frame).to_bytes()))
        later = frames_of(*rest)
        expected, got = heard(whole, later) + whole.close(), heard(moved, later) + moved.close()
        assert before
        assert turns(got) == turns(expected)
        for one, other in zip(got, expected, strict=True):
            assert (one.score, one.confidence) == pytest.approx((other.score, other.confidence), abs=0.02)
        assert sorted(v.label for v in moved.voices) == sorted(v.label for v in whole.voices)


def test_what_is_remembered_is_bounded_and_comes_back():
    rng = np.random.default_rng(0)

    def voices(count: int, size: int) -> tuple[VoiceVector, ...]:
        found = []
        for n in range(1, count + 1):
            vector = rng.normal(size=size)
            found.append(VoiceVector(n, 1 + n * 40, 0.9 * n * 40, vector / np.linalg.norm(vector)))
        return tuple(found)

    for count, size, kept in ((8, 64, 8), (64, 64, 64), (64, 512, 11), (0, 0, 0)):
        memory = SpeakerMemory(voices(count, size), count + 3, count - 1 if count else None, 300)
        data = memory.to_bytes()
        assert len(data) <= MOST_BYTES
        back = SpeakerMemory.from_bytes(data)
        assert (len(back.voices), back.numbers, back.ago_frames) == (kept, count + 3, 255)
        assert back.last == (kept - 1 if kept else None)
        for voice, other in zip(back.voices, memory.voices[count - kept :], strict=True):
            assert (voice.number, voice.frames) == (other.number, other.frames)
            assert voice.length == pytest.approx(other.length, rel=1e-6)
            assert float(voice.vector @ other.vector) > 0.9999
    first = SpeakerMemory(voices(64, 512), 64, 0, 5)
    assert SpeakerMemory.from_bytes(first.to_bytes()).last is None, "who spoke last was left out"
    assert len(SpeakerMemory(voices(8, 64), 8).to_bytes()) < 610


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda b: b[:5], "has 5 bytes"),
        (lambda b: b[:-1], "has 41 bytes for 2 voices"),
        (lambda b: b + b"0", "has 43 bytes for 2 voices"),
        (lambda b: b"\x02" + b[1:], "is of version 2"),
        (lambda b: b[:1] + b"\x03" + b[2:], "for 3 voices"),
        (lambda b: b[:2] + b"\x02" + b[3:], "number 2 spoke last"),
        (lambda b: b[:6] + b"\xff\xff\xff\xff" + b[10:], "counts 4294967295"),
        (lambda b: b[:10] + b"\x00\x00\x00\x00" + b[14:], "names speaker 0"),
        (lambda b: b[:10] + b"\x09\x00\x00\x00" + b[14:], "names speaker 9 of 2"),
        (lambda b: b[:10] + b[26:30] + b[14:], "names a speaker twice"),
        (lambda b: b[:14] + b"\x00\x00" + b[16:], "heard for 0 frames"),
        (lambda b: b[:14] + b"\xff\xff" + b[16:], "heard for 65535 frames"),
        (lambda b: b[:16] + b"\x00\x00\xc0\x7f" + b[20:], "no possible length"),
        (lambda b: b[:16] + b"\x00\x00\x80\x7f" + b[20:], "no possible length"),
        (lambda b: b[:16] + b"\x00\x00\x00\x00" + b[20:], "no possible length"),
        (lambda b: b[:20] + bytes(6) + b[26:], "without a direction"),
    ],
)
def test_what_a_client_made_up_is_refused(change, what):
    data = SpeakerMemory(tuple(VoiceVector(n, 50, 45.0, np.eye(6)[n]) for n in (1, 2)), 2, 1, 9).to_bytes()
    assert len(data) == 42
    with pytest.raises(ConfigurationError, match=rf"resume.point.speakers .*{what}"):
        SpeakerMemory.from_bytes(change(data))


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data):
    try:
        memory = SpeakerMemory.from_bytes(data)
    except ConfigurationError:
        return
    assert SpeakerMemory.from_bytes(memory.to_bytes()).numbers == memory.numbers


def test_voices_of_another_size_are_refused():
    memory = SpeakerMemory((VoiceVector(1, 50, 45.0, np.eye(DIM + 1)[0]),), 1)
    with pytest.raises(ConfigurationError, match=f"vectors of {DIM} numbers"):
        tracker().recall(memory)


def test_a_voice_follows_and_keeps_its_weight():
    voice = Voice("speaker 1", np.eye(DIM)[0], 100)
    for _ in range(200):
        voice.learn(np.eye(DIM)[1], 75)
    assert voice.vector[1] > 0.99
    assert voice.frames == HEAVIEST_FRAMES
    assert Voice("anna", np.eye(DIM)[0], 0).known


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"enabled": 1}, "SpeakerRules.enabled is 1"),
        ({"most": 0}, "SpeakerRules.most is 0, expected a whole number from 1 to 64"),
        ({"new_below": 1.5}, "SpeakerRules.new_below is 1.5, expected a number from -1 to 1"),
        ({"known_above": "high"}, "SpeakerRules.known_above"),
        ({"known_path": 5}, "SpeakerRules.known_path"),
    ],
)
def test_rules_that_cannot_be(values, words):
    with pytest.raises(ConfigurationError, match=words):
        SpeakerRules(**values)
    with pytest.raises(ConfigurationError, match="needs both voice heads"):
        SpeakerTracker(VoiceHeads(HEADS.config, activity=False), SpeakerRules(enabled=True), HOP)


def test_a_cosine_that_a_user_sets_decides():
    frames = frames_of(*[p for n in (0, 0, 1, 0) for p in ((n, 70), (None, 40))])
    assert [e.speaker for e in heard(tracker(), frames)] == ["speaker 1", "speaker 1", "speaker 2", "speaker 1"]
    strict = [e.speaker for e in heard(tracker(new_below=1.0), frames)]
    assert strict == ["speaker 1", "speaker 2", "speaker 3", "speaker 4"]
    assert {e.speaker for e in heard(tracker(new_below=-1.0), frames)} == {"speaker 1"}
