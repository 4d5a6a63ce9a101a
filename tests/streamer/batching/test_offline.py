"""Recordings at full speed: many chunks in one pass, the text of the stream."""

from __future__ import annotations

import random

import numpy as np
import pytest
import soundfile

from wavlm_live.model import StreamError, StreamingContext
from wavlm_live.streamer import Final, ahead_encoder
from wavlm_live.streamer.ahead_encoder import AheadEncoder
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.together import ReadAhead


@pytest.mark.parametrize("context", ["12,5,2", "8,4,0", "3,6,4", "0,3,1"])
def test_frames_are_those_of_the_stream(recogniser, noise, context, seed):
    """Stretches of any length, sound known before or not: every committed frame within 1e-4."""
    rng = random.Random(seed)
    context = StreamingContext.parse(context)
    sound = noise(4, seed)[: 64_000 - rng.randrange(999)]
    ahead, stream = AheadEncoder(recogniser.model, context), LocalEncoder(recogniser.model, context)
    for encoder in (ahead, stream):
        frames, position = [], 0
        while position < len(sound):
            block = sound[position : position + rng.choice([400, 3000, 20_000])]
            if encoder is ahead and rng.random() < 0.7:
                encoder.ahead(block)
            for part in np.array_split(block, 1 + len(block) // 700):
                encoder.listen(part)
                while encoder.waiting_frames >= context.step_frames:
                    step = encoder.step()
                    frames.append(step.logprobs[: step.own_frames])
            position += len(block)
        while encoder.waiting_frames:
            step = encoder.step(final=True)
            frames.append(step.logprobs[: step.own_frames])
        if encoder is ahead:
            got = np.concatenate(frames)
    np.testing.assert_allclose(got, np.concatenate(frames), atol=1e-4)
    with pytest.raises(StreamError, match="frames wait"):
        ahead.step()
    with pytest.raises(StreamError, match="provisional"):
        ahead.step(commit=False)


def test_text_is_that_of_the_stream(recogniser, noise, heard, same, alone, settings_of, monkeypatch):
    monkeypatch.setattr(ahead_encoder, "FIRST_STRETCH_S", 0.7)
    monkeypatch.setattr(ahead_encoder, "LONGEST_STRETCH_S", 5.0)
    sound, settings = noise(20, 3), settings_of(partial_hop_ms=100, activity=True)
    result, offline = heard(), recogniser.offline(settings)
    for start in range(0, len(sound), 4000):
        result.events += offline.feed(sound[start : start + 4000])
    result.events += offline.finish()
    expected = alone(sound, settings)
    assert len(expected.finals) > 5
    same(result.lasting, expected.lasting)


def test_recordings_computed_together_are_those_of_streams(recogniser, noise, heard, same, alone, settings_of, seed):
    """Of mixed lengths, next to nothing among them; activity too."""
    rng = random.Random(seed)
    lengths = [0.1, 9.0, *(rng.uniform(0.5, 6.0) for _ in range(9))]
    sounds = [noise(seconds, seed + n)[rng.randrange(300) :] for n, seconds in enumerate(lengths)]
    sounds.append(np.zeros(5, np.float32))
    for context in (None, StreamingContext(8, 2, 0), StreamingContext(0, 40, 0)):
        settings = settings_of(activity=True, context=context)
        finals = 0
        for sound, offline in zip(sounds, recogniser.together(sounds, settings), strict=True):
            result = heard()
            for start in range(0, len(sound), 4000):
                result.events += offline.feed(sound[start : start + 4000])
            result.events += offline.finish()
            same(result.lasting, alone(sound, settings).lasting)
            finals += len(result.finals)
        assert finals > 10


def test_a_folder_is_read_ahead_and_each_recording_takes_its_turn(recogniser, noise, tmp_path, heard, settings_of):
    """Short recordings are computed together, in growing stretches; the long, a pipe and the broken are not."""
    names = []
    for number in range(30):
        names.append(str(tmp_path / f"{number}.wav"))
        soundfile.write(names[-1], noise(1 + number % 3, number), 16_000)
    soundfile.write(names[7], noise(61, 7), 16_000)
    (tmp_path / "9.wav").write_bytes(b"RIFFxxxxWAVE")
    names[12], names[13] = "-", str(tmp_path / "nowhere.wav")
    sizes, together = [], recogniser.together
    recogniser.together = lambda sounds, settings: sizes.append(len(sounds)) or together(sounds, settings)
    ahead, settings = ReadAhead(names, None, 16_000), settings_of()
    try:
        for number in range(30):
            read = ahead.take(number, recogniser, settings)
            assert (read is None) == (number in (7, 9, 12, 13)), number
            if read is not None:
                with read.source as source:
                    result = heard()
                    for block in source:
                        result.events += read.session.feed(block)
                    result.events += read.session.finish()
                expected = recogniser.offline(settings)
                want = expected.feed(np.concatenate(source.blocks)) + expected.finish()
                assert [f.text for f in result.finals] == [e.text for e in want if isinstance(e, Final)]
    finally:
        del recogniser.together
    assert sum(sizes) == 26
    assert len(sizes) in (2, 3)  # 16 s, then 32 s, then the rest
    ahead.close()


def test_nothing_and_next_to_nothing(recogniser, settings_of):
    assert recogniser.offline().finish() == []
    short = recogniser.offline(settings_of())
    assert short.feed(np.zeros(100, np.float32)) == []
    assert not any(isinstance(e, Final) for e in short.finish())


def test_a_stretch_keeps_what_can_reach_it_and_no_more(recogniser, noise):
    context = StreamingContext(12, 5, 2)
    encoder = AheadEncoder(recogniser.model, context)
    for seed in range(12):
        encoder.ahead(noise(1, seed))
    reach = encoder._reach_frames
    assert len(encoder._frames) < reach + 50 + context.step_frames + 50
