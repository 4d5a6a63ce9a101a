"""Batches: decided by seed and step alone, every recording once an epoch, little padding, errors carried over."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from wavlm_live.model.errors import ConfigurationError, WavLMLiveError
from wavlm_live.model.training.batches import Batch, BatchPlan, by_length, collate
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.letters import decode
from wavlm_live.model.training.manifest import Utterance, fits
from wavlm_live.model.training.prefetch import Prefetcher, WorkerPrefetcher
from wavlm_live.model.training.settings import Pool, TrainSettings
from wavlm_live.model.training.trainer import OwnRows

Data = tuple[list[Utterance], list[Utterance], SoundCache]
NOISE = [np.random.default_rng(0).standard_normal(5000).astype(np.float32)]


def equal(one: Batch, other: Batch) -> bool:
    return one.keys == other.keys and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("input_values", "attention_mask", "labels")
    )


def whole(plan: BatchPlan, step: int) -> Batch:
    batch = plan.batch(step)
    assert batch is not None
    return batch


@pytest.mark.parametrize("stage", [0, 1])
def test_a_step_depends_on_seed_and_step_alone(data: Data, settings: TrainSettings, stage: int) -> None:
    def plan(seed: int) -> BatchPlan:
        return BatchPlan(data[0], data[2], settings.stages[stage], seed=seed, number=stage, noises=NOISE)

    in_order = plan(1)
    batches = [whole(in_order, step) for step in range(12)]
    assert equal(whole(plan(1), 11), batches[11])
    assert equal(whole(in_order, 2), batches[2])
    assert not all(equal(whole(plan(2), step), batches[step]) for step in range(3))


def test_parts_for_several_processes_make_up_the_batch(data: Data, settings: TrainSettings) -> None:
    plan = BatchPlan(data[0], data[2], settings.stages[0], seed=1, noises=NOISE)
    step = next(step for step in range(50) if len(plan.items(step)[1]) > 3)
    batch = whole(plan, step)
    parts = [plan.batch(step, part, 3) for part in range(3)]
    for i, part in enumerate(parts):
        assert part is not None
        assert part.keys == batch.keys[i::3]
        assert part.characters == batch.characters == int(batch.label_lengths.sum())
        for row, length in enumerate(part.sample_lengths.tolist()):
            assert torch.equal(part.input_values[row, :length], batch.input_values[i + 3 * row, :length])
    assert plan.batch(step, len(batch.keys), 100) is None


def test_an_epoch_has_every_recording_once(data: Data, settings: TrainSettings) -> None:
    plan = BatchPlan(data[0], data[2], settings.stages[0], seed=5)
    heard: Counter[str] = Counter()
    step = 0
    while sum(heard.values()) < 2 * len(data[0]):
        heard.update(key for keys in whole(plan, step).keys for key in keys)
        step += 1
    assert heard == {u.file: 2 for u in data[0]}


def test_shares_and_weights_of_pools(data: Data, settings: TrainSettings) -> None:
    pools = (
        Pool("often", {"a": 2}, weight=3.0),
        Pool("seldom", {"b": 0.5}, weight=1.0),
    )
    stage = dataclasses.replace(settings.stages[0], pools=pools, batch_s=2.0)
    plan = BatchPlan(data[0], data[2], stage, seed=5)
    drawn = Counter(plan.items(step)[0] for step in range(400))
    assert drawn[0] / 400 == pytest.approx(0.75, abs=0.08)
    heard = Counter(i for batch in plan._epoch(0, 0) for item in batch for i in item)
    assert set(heard.values()) == {2}
    assert sum(len(batch) for batch in plan._epoch(1, 0)) == 6


def test_joined_utterances_say_all_their_texts(data: Data, settings: TrainSettings) -> None:
    plan = BatchPlan(data[0], data[2], settings.stages[1], seed=2)
    texts = {u.file: u.text for u in data[0]}
    sizes = set()
    for step in range(10):
        batch = whole(plan, step)
        for row, keys in enumerate(batch.keys):
            expected = " ".join(texts[key] for key in keys)
            ids = batch.labels[row, : batch.label_lengths[row]]
            assert len(ids) == len(expected)
            # blanks between the letters: otherwise doubled ones would collapse
            assert decode(torch.stack([ids, torch.zeros_like(ids)], 1).flatten().numpy()) == expected
            assert fits(expected, int(batch.sample_lengths[row]))
            sizes.add(len(keys))
        assert (batch.attention_mask.sum(1) == batch.sample_lengths).all()
        assert not batch.input_values[batch.attention_mask == 0].any()
        assert (batch.labels[torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]] == -100).all()
    assert sizes == {1, 2, 3}


def test_batches_of_similar_length_stay_below_the_limit() -> None:
    seconds = np.random.default_rng(0).uniform(0.5, 15.0, 300)
    cut = by_length(seconds, 40.0, 16)
    assert sorted(np.concatenate(cut).tolist()) == list(range(300))
    assert all(len(b) <= 16 and seconds[b].max() * len(b) <= 40.0 for b in cut)
    padded = sum(seconds[b].max() * len(b) for b in cut)
    assert seconds.sum() / padded > 0.95
    assert [len(b) for b in by_length(np.array([90.0, 1.0]), 40.0, 16)] == [1, 1]


def test_speed_never_makes_a_text_too_long(data: Data, settings: TrainSettings) -> None:
    """A recording with just enough frames for its text is not played faster."""
    utterances = [dataclasses.replace(u, text="abcdefghijklmnopqr") for u in data[0][:4]]
    assert fits(utterances[0].text, data[2].samples(utterances[0].file))
    plan = BatchPlan(utterances, data[2], settings.stages[0], seed=0)
    for step in range(20):
        batch = whole(plan, step)
        for row in range(len(batch.keys)):
            assert fits(utterances[0].text, int(batch.sample_lengths[row]))


def test_a_pool_that_nothing_fits_is_named(data: Data, settings: TrainSettings) -> None:
    stage = dataclasses.replace(settings.stages[0], pools=(Pool("long ones", {"a": 1}, min_s=10.0),))
    with pytest.raises(ConfigurationError, match="'long ones'"):
        BatchPlan(data[0], data[2], stage, seed=0)


def test_prefetcher_keeps_order_hands_errors_on_and_stops() -> None:
    def make(step: int) -> int:
        if step == 7:
            raise ValueError("step seven")
        return step

    ahead: Prefetcher[Any] = Prefetcher(make, 3, 2)
    assert [next(ahead) for _ in range(4)] == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="step seven"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)
    endless: Prefetcher[int] = Prefetcher(lambda step: step, 0, 2)
    assert next(endless) == 0
    endless.close()
    assert not endless._thread.is_alive()


def test_collate_pads_and_masks() -> None:
    batch = collate([np.ones(500, np.float32), np.ones(300, np.float32)], ["ab", "c"], [("x",), ("y",)])
    assert batch.input_values.shape == (2, 500)
    assert batch.input_values[1, 300:].abs().sum() == 0
    assert batch.labels.tolist()[1][1] == -100
    assert batch.seconds == pytest.approx(800 / 16000)


def test_batches_padded_to_few_lengths_hold_the_same(data: Data, settings: TrainSettings) -> None:
    stage = settings.stages[1]
    exact, padded = (
        BatchPlan(data[0], data[2], s, seed=1, noises=NOISE) for s in (stage, dataclasses.replace(stage, pad_s=0.25))
    )
    for step in range(8):
        one, other = whole(exact, step), whole(padded, step)
        width = one.input_values.shape[1]
        assert other.input_values.shape[1] == -(-width // 4000) * 4000
        assert not other.input_values[:, width:].any()
        assert not other.attention_mask[:, width:].any()
        assert torch.equal(other.input_values[:, :width], one.input_values)
        assert torch.equal(other.sample_lengths, one.sample_lengths)
        assert torch.equal(other.labels, one.labels)
    with pytest.raises(ConfigurationError, match="pad_s is -1"):
        dataclasses.replace(stage, pad_s=-1)


def test_processes_make_the_batches_of_a_thread(data: Data, settings: TrainSettings) -> None:
    plan = BatchPlan(data[0], data[2], settings.stages[0], seed=1, noises=NOISE)
    ahead: WorkerPrefetcher[Batch] = WorkerPrefetcher(OwnRows(plan, 0, 1), 2, 3, 2)
    for step in range(2, 8):
        assert equal(next(ahead), whole(plan, step))
    ahead.close()
    filler = OwnRows(plan, 200, 300)(0)  # no row is left for this process
    assert filler.weight == 0.0
    assert filler.seconds == 0.0
    assert len(filler.keys) == 1


def test_a_process_that_fails_or_ends_is_told() -> None:
    failing: WorkerPrefetcher[Any] = WorkerPrefetcher(functools.partial(operator.truediv, 1), 0, 1, 1)
    with pytest.raises(ZeroDivisionError):
        next(failing)
    ending: WorkerPrefetcher[Any] = WorkerPrefetcher(os._exit, 1, 1, 1)
    with pytest.raises(WavLMLiveError, match="has ended"):
        next(ending)
