"""Admission, overload and the way back: nobody is dropped silently, and those who stay hear no difference."""

from __future__ import annotations

import random

import pytest

from wavlm_live.model import ConfigurationError, StreamingContext
from wavlm_live.streamer import Problem
from wavlm_live.streamer.admission import BatcherRules, LoadMeter, Overloaded, Recent
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.batcher_group import good_batch
from wavlm_live.streamer.step_cost import StepCost


def test_refused_with_a_reason_by_measured_cost(recogniser, clock, slow, settings_of):
    """Chunks of 100 ms, steps of 20 + 10 n ms: at a load of 0.8, six streams fit."""
    batcher = Batcher(recogniser, BatcherRules(most_load=0.8), clock=clock)
    batcher.calibrate()
    streams = [batcher.open(settings_of()) for _ in range(6)]
    with pytest.raises(Overloaded, match=r"6 streams are open, and one more would take 9\d%") as refused:
        batcher.open(settings_of())
    assert refused.value.retry_after_s > 0
    for stream in streams[:4]:
        stream.abort()
    batcher.settle()
    batcher.open(settings_of())
    batcher.open(settings_of(context=StreamingContext(12, 50, 0)))  # of another context, which counts too
    told = batcher.statistics()
    assert (told.refused, told.sessions) == (1, 4)
    assert 0.5 < told.load_expected <= 0.8
    batcher.stop_admitting("going home")
    with pytest.raises(Overloaded, match="going home"):
        batcher.open(settings_of())


def test_refused_by_number(recogniser, clock, settings_of):
    batcher = Batcher(recogniser, BatcherRules(most_sessions=2), clock=clock)
    keep = [batcher.open(settings_of()) for _ in range(2)]
    with pytest.raises(Overloaded, match="takes 2"):
        batcher.open(settings_of())
    keep[0].abort()
    batcher.settle()
    batcher.open(settings_of())


def test_overload_and_back(recogniser, clock, slow, crowd_of, noise, heard, same, alone, settings_of, seed):
    """Ten people speak; the machine becomes 2.5 times slower, then as fast as before.

    Provisional passes go first, then the newest streams, with a reason and their state; those who stay lose nothing,
    and results come in time again. Whoever was ended goes on later from the saved state, and nothing is missing.
    """
    rng = random.Random(seed)
    batcher = Batcher(recogniser, BatcherRules(most_load=10, late_s=1.0, calibrate=False, queue_s=60), clock=clock)
    crowd, settings = crowd_of(batcher), settings_of(partial_hop_ms=40, context=StreamingContext(12, 10, 2))
    sounds, results, streams = [noise(22, rng.randrange(10**6)) for _ in range(10)], [heard() for _ in range(10)], []
    for sound, result in zip(sounds, results, strict=True):
        streams.append(batcher.open(settings, result))
        crowd.join(streams[-1], sound)
        crowd.pass_time(0.03)
    crowd.pass_time(3)
    calm = batcher.statistics()
    assert calm.provisional > 0
    assert (calm.late_s, calm.ended_overloaded) == (0, 0)
    slow["factor"] = 2.5
    crowd.pass_time(8)
    pressed = batcher.statistics()
    ended = [stream for stream in streams if stream.ended]
    assert 2 <= len(ended) == pressed.ended_overloaded < 9
    assert {s.number for s in ended} == set(range(11 - len(ended), 11)), "the newest go first"
    passes = (pressed.provisional - calm.provisional) / 8
    assert passes < 0.5 * calm.provisional / 3
    for stream in ended:
        problem = stream.problem
        assert isinstance(problem, Problem)
        assert problem.fatal
        assert problem.code == "overloaded"
        assert "falls behind" in problem.message
        assert f"sample {stream.decided_samples}" in problem.message
        assert results[stream.number - 1].events[-1] is problem
        assert stream.saved is not None, problem
        assert stream.decided_samples <= stream.saved.samples_taken <= stream.samples_taken
    slow["factor"] = 1.0
    crowd.pass_time(5)
    back = batcher.statistics()
    assert (back.late_s, back.ended_overloaded) == (0, pressed.ended_overloaded)
    assert back.provisional > pressed.provisional
    for stream in ended:  # one after the other, from where it was
        result, n = results[stream.number - 1], stream.number - 1
        result.events.pop()  # the problem
        again = batcher.open(None, result, saved=stream.saved)
        again.feed(sounds[n][stream.saved.samples_taken :])
        again.finish()
    crowd.pass_time(10)
    batcher.settle()
    assert batcher.statistics().sessions == 0
    for n in {ended[0].number - 1, ended[-1].number - 1, 0, rng.randrange(10)}:
        same(results[n].lasting, alone(sounds[n], settings).lasting)


def test_a_recording_sent_at_once_is_nobodys_delay(recogniser, clock, slow, crowd_of, noise, heard, settings_of):
    """Deadlines are at the pace of speech, so a client with a file makes nobody late and is not late itself."""
    batcher = Batcher(recogniser, BatcherRules(calibrate=False, late_s=0.5, queue_s=60), clock=clock)
    crowd, result = crowd_of(batcher), heard()
    file = batcher.open(settings_of())
    file.feed(noise(30, 1))
    live = batcher.open(settings_of(), result)
    crowd.join(live, noise(3, 2))
    crowd.pass_time(3.2)
    assert file.queued_samples > 0
    told = batcher.statistics()
    assert (told.late_s, told.ended_overloaded) == (0, 0)
    assert result.finals


def test_step_costs():
    cost = StepCost()
    assert not cost.known
    assert cost.seconds(5) == 0
    for _ in range(50):
        for batch in (1, 2, 4, 8):
            cost.learn(batch, 0.02 + 0.01 * batch)
    assert cost.seconds(1) == pytest.approx(0.03)
    assert cost.seconds(6) == pytest.approx(0.08)
    assert cost.seconds(16) == pytest.approx(0.2), "what was never measured is counted as from nothing"
    cost.learn(4, 100.0)  # one step that was disturbed
    assert cost.seconds(4) < 0.1
    assert cost.load(StreamingContext(1, 5, 0), 8, 4) == pytest.approx(2 * cost.seconds(4) / 0.1)
    assert good_batch(cost, 64) == 16  # the largest measured is the best so far: more is tried
    for _ in range(50):
        cost.learn(16, 1.0)
    assert good_batch(cost, 64) == 8
    assert good_batch(StepCost(), 64) == 64


def test_costs_measured_while_other_work_ran_recover():
    """Steps of 20 + 10 n ms; at the start everything took three times as long, the largest sizes even longer."""
    cost = StepCost()

    def true_s(batch):
        return 0.02 + 0.01 * batch

    for batch in (1, 2, 4, 8, 16, 32, 64):
        cost.learn(batch, (3 if batch < 16 else 6) * true_s(batch))
    assert cost.seconds(64) > 2.5 * true_s(64)
    rng, now_s = random.Random(0), 100.0
    for _ in range(300):  # later only some streams speak
        now_s += 0.1
        batch = rng.randint(3, 9)
        cost.learn(batch, rng.choice([1.0, 1.0, 1.0, 1.6]) * true_s(batch), now_s)
    for batch in (1, 4, 8, 16, 48, 64):
        assert 0.7 * true_s(batch) < cost.seconds(batch) < 2.1 * true_s(batch), batch
    for _ in range(300):  # and when the machine is slow for good, that is known for all sizes too
        now_s += 0.1
        cost.learn(batch, 4 * true_s(batch), now_s)
    assert cost.seconds(64) > 2.5 * true_s(64)


def test_a_server_that_started_on_a_busy_machine_lets_people_in_later(
    recogniser, clock, slow, crowd_of, noise, settings_of
):
    """Chunks of 100 ms, steps of 20 + 10 n ms, but four times as long while it started."""
    batcher = Batcher(recogniser, BatcherRules(most_load=0.8), clock=clock)
    slow["factor"] = 4.0
    batcher.calibrate()
    slow["factor"] = 1.0
    crowd = crowd_of(batcher)

    def fill():
        for number in range(20):
            try:
                crowd.join(batcher.open(settings_of()), noise(30, number))
            except Overloaded:
                break
        return batcher.statistics().sessions

    early = fill()
    crowd.pass_time(3)
    assert early == 1
    assert fill() >= 5  # 6 fit by what steps really take
    crowd.pass_time(3)
    assert batcher.statistics().ended_overloaded == 0


def test_meters():
    meter = LoadMeter(memory_s=2.0)
    now_s = 0.0
    for _ in range(200):
        now_s += 0.1
        meter.add(now_s, 0.05)
    assert meter.share(now_s) == pytest.approx(0.5, abs=0.03)
    assert meter.share(now_s + 20) < 0.001
    recent = Recent(100)
    assert recent.percentiles((0.5,)) == (0.0,)
    for value in range(1000):
        recent.add(value)
    assert recent.percentiles((0.0, 0.5, 0.99)) == (900, 950, 999)


@pytest.mark.parametrize("wrong", [{"most_sessions": 0}, {"late_s": -1}, {"queue_s": 0.5}, {"most_load": True}])
def test_rules_that_cannot_work(wrong):
    with pytest.raises(ConfigurationError, match=f"BatcherRules.{next(iter(wrong))}"):
        BatcherRules(**wrong)
