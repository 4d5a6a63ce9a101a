"""Sound is due when it came at the pace of speech: stalls are forgotten, recordings are in no hurry."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.pace import WINDOW_S, Pace
from wavlm_live.streamer.stream_slots import StreamSlots

BLOCK = 800  # 50 ms
FREE = BatcherRules(calibrate=False, most_load=10, late_s=3600, queue_s=60)


def test_a_stall_is_forgotten_whatever_the_network_does(seed):
    """Blocks of 50 ms are spoken in time and come in order, some late by a little, and in a stall by seconds."""
    rng = random.Random(seed)
    spoken_s, came_s, calm_s, early = 0.0, 0.0, 0.0, []
    pace = Pace(0.0)
    while spoken_s < 120:
        spoken_s += 0.05
        jitter_s = rng.choice([0.0, 0.0, 0.02, 0.1])
        if rng.random() < 0.002:
            came_s = max(came_s, spoken_s + rng.uniform(0.5, 8))
            calm_s = came_s  # then all of the stall comes at once
        came_s = max(came_s, spoken_s + jitter_s)
        due_s = pace.came(came_s, BLOCK, False)
        assert due_s >= came_s
        if came_s > calm_s + 2 * WINDOW_S + 0.2:
            early.append(due_s - spoken_s)
    assert len(early) > 100
    assert max(early) <= 0.1 + 1e-6, "due at the latest that a block of late came after it was spoken"


def test_one_stall_is_forgotten_after_the_window():
    pace, due = Pace(0.0), []
    for n in range(1, 401):
        came_s = 10.0 if 5.0 < n * 0.05 <= 10.0 else n * 0.05  # what was spoken from 5 s to 10 s comes at 10 s
        due.append(pace.came(came_s, BLOCK, False) - came_s)
    assert due[:100] == pytest.approx([0] * 100)
    assert due[199] == pytest.approx(4.95), "what catches up is spread over the time it was spoken in"
    assert max(due[int((10 + 2 * WINDOW_S + 0.2) * 20) :]) == pytest.approx(0), "and then it is as if nothing had been"


def test_a_recording_is_not_hurried_by_how_fast_it_is_computed():
    """It comes at once as far as there is room, then as fast as it is computed: five times as fast as speech."""
    pace, now_s = Pace(0.0), 0.0
    for n in range(1, 2000):
        if n * 0.05 > 10:
            now_s = (n * 0.05 - 10) / 5
        assert pace.came(now_s, BLOCK, n > 1) == pytest.approx(n * 0.05)
    for _ in range(100):  # a client who pauses and then sends a recording has saved up nothing
        now_s += 60
        due_s = pace.came(now_s, BLOCK, False)
        assert due_s == max(now_s, due_s)
        for n in range(1, 200):
            assert pace.came(now_s, BLOCK, False) == pytest.approx(due_s + n * 0.05)


@pytest.fixture
def timed(monkeypatch, clock):
    """Every step takes `s["step"]` seconds on the test's clock, and the order of the streams is written down."""
    compute, s = StreamSlots.compute, {"step": 0.01, "rows": []}

    def run(slots, rows, *, commit=True):
        clock.now_s += s["step"]
        s["rows"] += [row.encoder for row in rows]
        return compute(slots, rows, commit=commit)

    monkeypatch.setattr(StreamSlots, "compute", run)
    return s


def spoken(stream, batcher, clock, sound, seconds, began_s):
    """Feed what was spoken, at the pace of speech."""
    end_s = clock.now_s + seconds
    while clock.now_s < end_s:
        upto = min(len(sound), int((clock.now_s - began_s) * 20) * BLOCK)
        while stream.samples_taken < upto:
            stream.feed(sound[stream.samples_taken :][:BLOCK])
        if not batcher.tick():
            clock.now_s += 0.01


def test_latency_and_lateness_are_true_after_a_stall(recogniser, clock, timed, noise, settings_of):
    """A line stalls for five seconds; later a step takes 1.2 s, and that is what is told, by stream and by server."""
    batcher = Batcher(recogniser, FREE, clock=clock)
    sound, began_s = noise(25, 1), clock.now_s
    stream = batcher.open(settings_of())
    spoken(stream, batcher, clock, sound, 4, began_s)
    assert stream.latency_s == pytest.approx(0.01, abs=0.03)
    clock.now_s += 5
    spoken(stream, batcher, clock, sound, 5, began_s)
    assert stream.latency_s == pytest.approx(0.01, abs=0.05)
    timed["step"] = 1.2
    before = stream.samples_taken
    while stream.samples_taken < before + 3 * BLOCK:  # one chunk of 100 ms
        spoken(stream, batcher, clock, sound, 0.06, began_s)
    assert stream.latency_s >= 1.15
    assert batcher.statistics().late_s >= 1.05
    batcher.close()


def test_a_stalled_line_takes_its_turn_again(recogniser, clock, timed, noise, settings_of):
    """Long after a stall, a stream's chunk is computed before one that was complete later."""
    batcher = Batcher(
        recogniser, BatcherRules(calibrate=False, most_load=10, late_s=3600, largest_batch=1), clock=clock
    )
    sound, began_s = noise(20, 2), clock.now_s
    stalled, other = batcher.open(settings_of()), batcher.open(settings_of())
    clock.now_s += 4
    spoken(stalled, batcher, clock, sound, 6, began_s)
    while stalled.group.due or not stalled.samples_taken >= int((clock.now_s - began_s) * 20) * BLOCK:
        spoken(stalled, batcher, clock, sound, 0.01, began_s)
    stalled.feed(sound[stalled.samples_taken :][: 4 * BLOCK])
    clock.now_s += 0.3
    other.feed(sound[: 16 * BLOCK])
    timed["rows"].clear()
    batcher.settle()
    assert timed["rows"][0] is stalled.encoder
    batcher.close()


def test_a_large_block_is_not_late_before_it_came(recogniser, clock, timed, noise, settings_of):
    """Who hands over five seconds at a time, at the pace of speech, is told no lateness that is not ours."""
    batcher = Batcher(recogniser, FREE, clock=clock)
    stream, sound = batcher.open(settings_of()), noise(15, 3)
    for block in np.split(sound, 3):
        clock.now_s += 5
        stream.feed(block)
        batcher.settle()
        assert batcher.statistics().late_s < 0.7  # 50 steps of 10 ms
    batcher.close()
