"""Threads are chosen by measured steps: the shortest step for one stream, what is worth it for many."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from wavlm_live.streamer import doctor, thread_choice
from wavlm_live.streamer import recogniser as recogniser_module
from wavlm_live.streamer.admission import ALONE, BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.stream_slots import StreamSlots
from wavlm_live.streamer.thread_choice import BUDGET_S, MANY, ROUNDS, ThreadChoice, candidates, choose_threads, sums_s


@pytest.fixture
def threads(monkeypatch):
    """torch's number of threads, as a list of those that were set; nothing is really changed."""
    own, told = threading.local(), []

    def set_number(number: int) -> None:
        own.number = number
        told.append(number)

    monkeypatch.setattr(torch, "set_num_threads", set_number)
    monkeypatch.setattr(torch, "get_num_threads", lambda: getattr(own, "number", 4))
    return told


@pytest.fixture
def machine(monkeypatch, threads, clock):
    """A step takes what a table says, by streams and threads, on the test's clock; and is counted."""
    compute, table, steps = StreamSlots._compute_now, {}, []

    def timed(slots, rows, commit, voiced):
        steps.append((len(rows), torch.get_num_threads()))
        clock.now_s += table.get(steps[-1], 0.0)
        return compute(slots, rows, commit, voiced)

    monkeypatch.setattr(StreamSlots, "_compute_now", timed)
    monkeypatch.setattr(thread_choice, "sums_s", lambda threads: 1.0)
    return table, steps


@pytest.mark.parametrize(
    ("one", "many", "chosen"),
    [
        ((0.020, 0.012, 0.010), (0.08, 0.05, 0.03), (4, 4)),
        ((0.010, 0.012, 0.020), (0.03, 0.05, 0.08), (1, 1)),
        ((0.020, 0.0104, 0.010), (0.06, 0.05, 0.049), (2, 1)),
        ((0.0104, 0.0102, 0.010), (0.08, 0.05, 0.049), (1, 2)),
    ],
)
def test_what_is_chosen(recogniser, machine, clock, threads, one, many, chosen):
    table, steps = machine
    for number, *times in zip((1, 2, 4), one, many, strict=True):
        table[1, number], table[MANY, number] = times
    found = choose_threads(recogniser.model, recogniser.contexts["default"], clock=clock)
    assert (found.one, found.many) == chosen
    assert [found.of(n) for n in (1, 2, 3, 100)] == [chosen[0], chosen[0], chosen[1], chosen[1]]
    assert set(steps) == set(table), "full steps of one and of many, with every number"
    assert found.times_ms == pytest.approx({key: 1000 * s for key, s in table.items()})
    assert f"{chosen[0]} for one stream ({1000 * one[chosen[0] // 2]:.1f} ms a step, " in str(found)
    assert f"{chosen[1]} for 8 streams ({1000 * many[chosen[1] // 2]:.1f} ms a step, " in str(found)
    assert torch.get_num_threads() == 4, "as before"
    alone = choose_threads(recogniser.model, recogniser.contexts["default"], clock=clock, many=False)
    assert (alone.one, alone.many) == (chosen[0], chosen[0])
    assert "8 streams" not in str(alone)


def test_it_takes_little_time(recogniser, machine, clock, monkeypatch):
    """One round of a slow model; no more rounds of a fast one than there are; what cannot be faster is not tried."""
    table, steps = machine
    context = recogniser.contexts["default"]
    table.update({(streams, number): 1.0 for streams in (1, MANY) for number in (1, 2, 4)})
    choose_threads(recogniser.model, context, clock=clock)
    assert len(steps) == 2 * (1 + 3), "one to prepare, then one with each"
    steps.clear()
    table.update(dict.fromkeys(table, BUDGET_S / 9))
    choose_threads(recogniser.model, context, clock=clock)
    assert len(steps) == 2 * (1 + 3 * 3)
    steps.clear()
    table.clear()
    choose_threads(recogniser.model, context, clock=clock)
    assert len(steps) == 2 * (1 + 3 * ROUNDS)
    steps.clear()
    monkeypatch.setattr(thread_choice, "sums_s", {1: 0.01, 2: 0.029, 4: 0.031}.__getitem__)
    found = choose_threads(recogniser.model, context, clock=clock)
    assert {threads for _, threads in steps} == {1, 2}, "four threads wait for a processor that another process has"
    assert set(found.times_ms) == {(1, 1), (1, 2), (MANY, 1), (MANY, 2)}
    steps.clear()
    monkeypatch.setattr(thread_choice, "sums_s", {1: 0.01, 2: 0.5, 4: 0.5}.__getitem__)
    assert choose_threads(recogniser.model, context, clock=clock) == ThreadChoice(1, 1)
    assert choose_threads(recogniser.model, context, most=1) == ThreadChoice(1, 1)
    assert not steps
    assert torch.get_num_threads() == 4, "as before"
    assert str(ThreadChoice(1, 1)) == "1"
    assert [candidates(n) for n in (1, 2, 3, 6)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 6]]
    assert candidates(16) == [1, 2, 4, 8, 16]


def test_every_step_has_its_threads_in_the_batchers_thread(recogniser, machine, noise, settings_of, heard, same, alone):
    """One stream alone, then five: the thread that computes them sets the number, whatever others have."""
    _, steps = machine
    mine = Recogniser(recogniser.model, recogniser.tokenizer, "mine", recogniser.contexts)
    mine._tries_threads, mine._threads = True, {True: ThreadChoice(3, 2)}
    results, sounds = [heard() for _ in range(5)], [noise(1.5, n) for n in range(5)]
    with Batcher(mine, BatcherRules(most_load=10, late_s=3600)) as batcher:
        assert {(n, t) for n, t in steps if n <= 2} == {(1, 3), (2, 3)}, "as they are calibrated, too"
        assert {t for n, t in steps if n > 2} == {2}
        steps.clear()
        streams = [batcher.open(settings_of(), result) for result in results]
        for start in range(0, 24_000, 1600):
            for stream, sound in zip(streams, sounds, strict=True):
                stream.feed(sound[start : start + 1600])
            time.sleep(0.002)
        for stream in streams:
            stream.finish()
            assert stream.wait(60)
    assert len(steps) >= 3
    assert all(threads == (3 if count <= 2 else 2) for count, threads in steps)
    same(results[0].lasting, alone(sounds[0], settings_of()).lasting)


def test_measured_once_when_a_stream_wants_it(recogniser, tiny_model, monkeypatch, threads):
    asked = []

    def choose(model, context, *, many):
        asked.append(many)
        return ThreadChoice(2, 1 if many else 2)

    monkeypatch.setattr(recogniser_module, "choose_threads", choose)
    plain = Recogniser.load(tiny_model, "cpu")
    assert plain.thread_choice() is None, "only where somebody asked for it"
    loaded = Recogniser.load(tiny_model, "cpu", threads="auto")
    offline = loaded.offline()
    offline.feed(np.zeros(16_000, np.float32))
    offline.finish()
    assert not asked, "a recording at full speed has no steps"
    first = loaded.alone()
    assert asked == [False], "nobody needs to know of many streams"
    assert first._batcher.rules is ALONE
    loaded.alone()
    assert asked == [False]
    batcher = Batcher(loaded)
    batcher.group_of(loaded.contexts["low"])
    assert asked == [False, True]
    assert all(group.slots.threads is loaded.thread_choice() for group in batcher.groups.values())
    assert loaded.thread_choice(many=False) == ThreadChoice(2, 1)
    assert asked == [False, True]


def test_the_option_takes_its_place(command, audio_folder, monkeypatch, tiny_model):
    """With `--threads` nothing is measured; without, it is, and `doctor` tells it."""
    asked = []

    def choose(model, context, *, many):
        asked.append(many)
        return ThreadChoice(1, 1, {(1, 1): 3.25, (1, 2): 4.5, (8, 1): 9.0, (8, 2): 8.0})

    monkeypatch.setattr(recogniser_module, "choose_threads", choose)
    before = torch.get_num_threads()
    try:
        sound = audio_folder / "command_yes.opus"
        answer = command("transcribe", "--realtime", "--plain", "--threads", "1", "--model", tiny_model, sound)
        assert answer.code == 0
        assert not asked
        answer = command("transcribe", "--realtime", "--plain", "--model", tiny_model, sound)
        assert answer.code == 0
        assert asked == [False]
    finally:
        torch.set_num_threads(before)
    told = doctor.try_model(str(tiny_model), "cpu")
    assert (
        "threads: 1 for one stream (3.2 ms a step, 4.5 with 2), 1 for 8 streams (9.0 ms a step, 8.0 with 2)"
        in told.found
    )


def test_on_real_threads(recogniser, monkeypatch):
    """Really measured, but for whether another process has a processor."""
    assert sums_s(1) > 0
    monkeypatch.setattr(thread_choice, "sums_s", lambda threads: 1.0)
    before = torch.get_num_threads()
    context = recogniser.contexts["default"]
    found = choose_threads(recogniser.model, context, most=2)
    assert torch.get_num_threads() == before
    assert set(found.times_ms) == {(1, 1), (1, 2), (MANY, 1), (MANY, 2)}
    assert all(0 < ms < 10_000 for ms in found.times_ms.values())
    assert found.one in (1, 2)
    assert thread_choice._fewest({1: 10.0, 2: 9.6}, 1.05) == 1
