"""Which streams wait for a step, and which come first."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from wavlm_live.streamer.batcher_group import WaitingStreams


@dataclass(eq=False)
class Stream:
    """As much of a stream as waits."""

    number: int


def test_the_first_come_first(seed):
    """Against a dictionary that is sorted every time: streams come, go, come back with other deadlines, are taken."""
    rng = random.Random(seed)
    streams = [Stream(n) for n in range(60)]
    waiting, expected = WaitingStreams(), {}
    most = 0
    for _ in range(3000):
        stream = rng.choice(streams)
        if rng.random() < 0.6:
            expected[stream] = until_s = rng.choice([1.0, 2.0, rng.random()])
            waiting.add(stream, until_s)
        elif rng.random() < 0.7:
            waiting.discard(stream)
            expected.pop(stream, None)
        else:
            count = rng.randint(0, 7)
            first = sorted(expected, key=lambda s: (expected[s], s.number))[:count]
            assert waiting.take(count) == first
            for one in first:
                del expected[one]
        assert len(waiting) == len(expected)
        assert bool(waiting) == bool(expected)
        assert waiting.earliest_s == min(expected.values(), default=math.inf)
        most = max(most, len(waiting._heap))
    assert most <= 2 * len(streams) + 65  # what has left does not stay for ever
    with pytest.raises(IndexError):
        waiting.take(len(waiting) + 1)[len(expected)]
