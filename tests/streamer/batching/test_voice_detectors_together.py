"""Voice detectors of many streams that hear in one batch, as on CUDA: what a stream alone is told, and none is lost."""

from __future__ import annotations

import random

import pytest

from wavlm_live.streamer import Activity, SpeechRules
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher

FREE = BatcherRules(calibrate=False, most_load=10, late_s=3600)


@pytest.mark.parametrize("detector", ["silero", "both"])
def test_voices_that_are_heard_together(
    recogniser, clock, decided, heard, alone, settings_of, monkeypatch, seed, detector
):
    """As on CUDA, where the voice detectors of many streams hear in one batch: the events of a stream alone."""
    monkeypatch.setattr("wavlm_live.streamer.stream_slots.wants_static", lambda device: True)
    batcher = Batcher(recogniser, FREE, clock=clock)
    windows, hear = [], batcher.voices.hear
    monkeypatch.setattr(batcher.voices, "hear", lambda some: windows.append(len(some)) or hear(some))
    rng, count = random.Random(seed), 14
    settings = settings_of(activity=True, partial_hop_ms=0, speech=SpeechRules(detector=detector))
    sounds = [decided(rng.uniform(2, 4), settings, seed + n) for n in range(count)]
    results = [heard() for _ in range(count)]
    streams = [batcher.open(settings, result) for result in results]
    while not all(stream.ended for stream in streams):
        clock.now_s += 0.1
        for stream, sound in zip(streams, sounds, strict=True):
            if stream.samples_taken < len(sound):
                stream.feed(sound[stream.samples_taken :][: rng.choice([1600, 1600, 20_000])])
                if stream.samples_taken == len(sound):
                    stream.finish()
        batcher.settle()
    assert max(windows) > count / 2
    for result, sound in zip(results, sounds, strict=True):
        expected = alone(sound, settings)
        rest = [[e for e in h.lasting if not isinstance(e, Activity)] for h in (result, expected)]
        assert [type(e) for e in rest[0]] == [type(e) for e in rest[1]]
        told = [[p for e in h.events if isinstance(e, Activity) for p in e.probabilities] for h in (result, expected)]
        assert told[0] == pytest.approx(told[1], abs=1e-4)


def test_voices_that_cannot_be_heard_together_are_heard_one_by_one(
    recogniser, clock, noise, heard, settings_of, monkeypatch, caplog
):
    """No stream is lost where the device fails in the voice detectors' batch."""
    monkeypatch.setattr("wavlm_live.streamer.stream_slots.wants_static", lambda device: True)
    batcher = Batcher(recogniser, FREE, clock=clock)

    def fails(streams):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batcher.voices, "hear", fails)
    sound, settings = noise(2, 3), settings_of(activity=True, partial_hop_ms=0, speech=SpeechRules(detector="silero"))
    results = [heard() for _ in range(9)]
    streams = [batcher.open(settings, result) for result in results]
    for stream in streams:
        stream.feed(sound)
        stream.finish()
    batcher.settle()
    assert batcher.voices is None
    assert "each is heard for itself" in caplog.text
    for stream, result in zip(streams, results, strict=True):
        assert stream.problem is None
        told = sum(len(e.probabilities) for e in result.events if isinstance(e, Activity))
        assert told == -(-len(sound) // 512)
