"""Several models on one device that falls behind: the newest streams go, whichever model they are of."""

from __future__ import annotations

import random
import time

import pytest

from wavlm_live.streamer import Problem
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.shared_device import OpenStream, Share, SharedDevice
from wavlm_live.streamer.stream_slots import StreamSlots


@pytest.fixture
def other(recogniser) -> Recogniser:
    return Recogniser(recogniser.model, recogniser.tokenizer, "other", recogniser.contexts)


def share_of(*streams: OpenStream) -> Share:
    nothing = lambda *_: 0.0  # noqa: E731
    return Share(lambda: 0, nothing, nothing, lambda now_s: (0.0, 0.0), nothing, lambda: streams)


def test_as_many_as_take_the_share():
    """Streams of a dear model and a cheap one."""
    device = SharedDevice()

    def stream(number: int, load: float) -> OpenStream:
        return OpenStream(number, load, lambda reason: None)

    device.join(share_of(stream(1, 0.2), stream(3, 0.2), stream(6, 0.2)))
    device.join(share_of(*(stream(n, 0.05) for n in (2, 4, 5, 7))))
    assert [s.number for s in device.newest(0.0)] == [7]
    assert [s.number for s in device.newest(0.1)] == [7]
    assert [s.number for s in device.newest(0.3)] == [7, 6]
    assert [s.number for s in device.newest(0.5)] == [7, 6, 5, 4]
    assert [s.number for s in device.newest(1.0)] == [7, 6, 5, 4, 3, 2, 1]
    device.join(share_of(stream(8, 0.0)))  # of which nothing is known: all count the same
    assert [s.number for s in device.newest(0.5)] == [8, 7, 6, 5]
    assert SharedDevice().newest(0.5) == []


@pytest.mark.parametrize("newest_first", [True, False], ids=["the_newest_are_the_others", "all_mixed"])
def test_the_newest_over_all(
    recogniser, other, clock, slow, crowd_of, noise, heard, same, alone, settings_of, newest_first, seed
):
    """Ten people speak to two models; the machine becomes slower. Those who stay lose
    nothing, the others go on later."""
    rng, device = random.Random(seed), SharedDevice()
    rules = BatcherRules(most_load=10, late_s=1.0, calibrate=False, queue_s=60)
    batchers = [Batcher(each, rules, clock=clock, device=device) for each in (recogniser, other)]
    crowd, settings = crowd_of(*batchers), settings_of()
    sounds, results, streams, gone = [noise(14, rng.randrange(10**6)) for _ in range(10)], [], [], []
    for n, sound in enumerate(sounds):
        batcher = batchers[n >= 5 if newest_first else n % 2]
        results.append(heard())
        streams.append(batcher.open(settings, results[-1], on_end=gone.append))
        crowd.join(streams[-1], sound)
        crowd.pass_time(0.02)
    slow["factor"] = 1.3
    crowd.pass_time(8)
    pushed_out = gone[:]
    ended = [stream.number for stream in pushed_out]
    assert 2 <= len(ended) < 10
    assert ended == list(range(10, 10 - len(ended), -1))
    by_batcher = [batcher.statistics().ended_overloaded for batcher in batchers]
    if newest_first:
        assert by_batcher == [max(0, len(ended) - 5), min(5, len(ended))]
    else:
        assert min(by_batcher) >= 1
    assert sum(by_batcher) == Batcher.statistics_of(batchers).ended_overloaded == len(ended)
    slow["factor"] = 0.05
    crowd.pass_time(6)
    for stream in pushed_out:
        result = results[stream.number - 1]
        problem = result.events.pop()
        assert isinstance(problem, Problem)
        assert (problem.code, problem.fatal) == ("overloaded", True)
        again = stream._batcher.open(None, result, saved=stream.saved)
        again.feed(sounds[stream.number - 1][stream.saved.samples_taken :])
        again.finish()
    crowd.pass_time(14)
    for batcher in batchers:
        batcher.settle()
        assert batcher.statistics().sessions == 0
    for n in {0, 9}:
        same(results[n].lasting, alone(sounds[n], settings).lasting)


def test_with_threads(recogniser, other, monkeypatch, noise, heard, same, alone, settings_of):
    """One model's thread ends the other's streams, while callers go on feeding them: each is told once, and last."""
    compute = StreamSlots.compute

    def slowly(slots, rows, *, commit=True):
        time.sleep(0.03 * len(rows))
        return compute(slots, rows, commit=commit)

    monkeypatch.setattr(StreamSlots, "compute", slowly)
    device = SharedDevice()
    rules = BatcherRules(most_load=10, late_s=0.5, calibrate=False, queue_s=60)
    settings, sounds = settings_of(), [noise(20, n) for n in range(8)]
    results = [heard() for _ in sounds]
    with Batcher(recogniser, rules, device=device) as first, Batcher(other, rules, device=device) as second:
        streams = [(first if n < 4 else second).open(settings, results[n]) for n in range(8)]
        began_s = time.monotonic()
        while time.monotonic() < began_s + 4 and not streams[-2].ended:
            upto = int((time.monotonic() - began_s) * 20) * 800
            for stream, sound in zip(streams, sounds, strict=True):
                while not stream.ended and stream.samples_taken < upto:
                    try:
                        stream.feed(sound[stream.samples_taken :][:800])
                    except Exception:
                        assert stream.ended, "ended between the question and the block"
            time.sleep(0.01)
        ended = [stream.number for stream in streams if stream.ended]
        monkeypatch.setattr(StreamSlots, "compute", compute)
        assert ended
        assert ended == list(range(9 - len(ended), 9))
        for stream, sound in zip(streams, sounds, strict=True):
            if not stream.ended:
                stream.feed(sound[stream.samples_taken :])
                stream.finish()
        assert all(stream.wait(60) for stream in streams)
        n = ended[0] - 1
        assert [type(e) for e in results[n].events].count(Problem) == 1
        results[n].events.pop()
        batcher = second if n >= 4 else first
        again = batcher.open(None, results[n], saved=streams[n].saved)
        again.feed(sounds[n][streams[n].saved.samples_taken :])
        again.finish()
        assert again.wait(60)
    for n in {0, ended[0] - 1}:
        same(results[n].lasting, alone(sounds[n], settings).lasting)
