"""Static steps: the results and the states of the eager steps, in shapes that depend on no value."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from wavlm_live.kernels import dispatch
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.position import ConvolutionalPosition
from wavlm_live.model.static_step import StaticRow, StaticStep, StepLadder
from wavlm_live.model.voice_heads import VoiceHeads

KINDS = {
    "layer_stable": {},
    "group_post": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "group_normalised_wave": {"feat_extract_norm": "group", "stream_normalize": True, "conv_bias": True},
}
CONTEXTS = ("12,5,2", "8,4,0", "3,6,4", "0,3,1")
SILENT = (0, 1)


def pair(law, model, context, slots, device="cpu"):
    """States for the eager and for the static way, poisoned alike; the static ones have a spare slot."""
    both = model.new_states(slots, context, device=device), model.new_states(slots + 1, context, device=device)
    for states in both:
        law.poison(states)
        for slot in range(slots):
            states.reset(slot)
    return both


def heads_of(model):
    """Voice heads with random weights, beside the model."""
    config = model.config.replace(tdnn_dim=(6, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=4)
    heads = VoiceHeads(config)
    for parameter in heads.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    device = model.lm_head.weight.device
    return heads.ready(device) if device.type == "cuda" else heads.eval().requires_grad_(False)


def eager(model, states, rows, commit):
    """The same as `StaticStep.run`."""
    for row in rows:
        if len(row.samples):
            model.listen(states, [row.slot], torch.from_numpy(row.samples)[None])
    slots, finals = [r.slot for r in rows], [r.final for r in rows]
    out = model.step(states, slots, commit=commit, final=finals, greedy=SILENT, layers=True)
    return out, model.lm_head(out.last_hidden_state).log_softmax(-1)


@torch.no_grad()
def compare(law, model, context, rng, device="cpu", tolerance=1e-4):
    """Streams of different ages, with any blocks, provisional looks and ends; in steps of any size."""
    slots, hop = 5, model.config.hop_samples
    plain, fixed = pair(law, model, context, slots, device)
    ladder, voices = StepLadder(model, fixed, SILENT, 4), heads_of(model)
    ended: set[int] = set()
    checked = 0
    for turn in range(14):
        rows = []
        commit, greedy = rng.random() < 0.7, rng.random() < 0.5
        for slot in rng.sample(range(slots), rng.randint(1, 4)):
            if slot in ended and rng.random() < 0.5:
                for states in (plain, fixed):
                    law.poison(states, slot)
                    states.reset(slot)
                ended.discard(slot)
            if slot in ended:
                continue
            if fixed.frames(slot) == 0:  # the first samples are heard in the eager way
                first = torch.randn(model.config.receptive_samples + rng.randrange(hop * context.step_frames)) * 0.3
                for states in (plain, fixed):
                    model.listen(states, [slot], first[None])
            need = context.step_frames - fixed.waiting(slot)
            kept = int(fixed.remaining_samples[slot])
            final = commit and turn > 8 and rng.random() < 0.2
            most = min(need if commit else rng.randint(0, max(0, need)), context.chunk_frames)
            count = max(0, most * hop - kept)
            row = StaticRow(slot, (torch.randn(count) * 0.3).numpy(), final)
            step = ladder.at(1, commit=commit, greedy=greedy)
            assert step.fits([row]) == [True]
            if commit and not final and fixed.waiting(slot) + (kept + count) // hop < context.step_frames:
                continue  # the right context is not there yet
            if final:
                ended.add(slot)
            rows.append(row)
        rows = [r for r in rows if fixed.waiting(r.slot) + len(r.samples) > 0]
        if not rows:
            continue
        expected, logprobs = eager(model, plain, rows, commit)
        heads = rng.choice([None, voices])
        step = ladder.at(len(rows), commit=commit, greedy=greedy, heads=heads)
        results, own, seen = step.run(rows)
        if heads is not None:
            said = heads.measure(expected.hidden_states).cpu()
            for n, frames in enumerate(own):
                torch.testing.assert_close(
                    step.host_voices[n, :frames], said[n, :frames], atol=tolerance, rtol=tolerance
                )
        assert (own, seen) == (expected.own_frames, expected.frames)
        for n, frames in enumerate(seen):
            if not frames:
                continue
            if greedy:
                torch.testing.assert_close(results[n, :frames, 0], expected.greedy.token[n, :frames].float().cpu())
                torch.testing.assert_close(
                    results[n, :frames, 1], expected.greedy.best[n, :frames].cpu(), atol=tolerance, rtol=tolerance
                )
                torch.testing.assert_close(
                    results[n, :frames, 2:], expected.greedy.silent[n, :frames].cpu(), atol=tolerance, rtol=tolerance
                )
            else:
                assert law.difference(results[n, :frames], logprobs[n, :frames].float().cpu()) < tolerance
            checked += frames
        for slot in set(range(slots)) - ended:
            for name, tensor in plain.tensors().items():
                if name in ("keys", "values", "position", "waiting_frames", "remainder") or name.startswith("tail"):
                    continue  # may hold what is never read; the next steps read the rest
                torch.testing.assert_close(
                    fixed.tensors()[name][slot], tensor[slot], atol=1e-5, rtol=1e-5, equal_nan=True
                )
    return checked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_results_are_those_of_the_eager_step(law, kind, context, seed):
    checked = sum(
        compare(law, law.model(**KINDS[kind]), StreamingContext.parse(context), random.Random(seed + n))
        for n in range(2)
    )
    assert checked > 20


def test_the_ladder_takes_the_smallest_step_that_holds_a_batch(law):
    context = StreamingContext(8, 4, 0)
    model = law.model()
    ladder = StepLadder(model, model.new_states(25, context), SILENT, 512)
    assert ladder.sizes == [1, 2, 4, 8, 16, 24]  # one slot is the spare one
    assert [ladder.at(n, commit=True, greedy=True).rows for n in (1, 2, 3, 5, 16, 17, 24)] == [1, 2, 4, 8, 16, 24, 24]
    assert ladder.at(3, commit=True, greedy=True) is ladder.at(4, commit=True, greedy=True)
    assert ladder.at(3, commit=False, greedy=True) is not ladder.at(4, commit=True, greedy=True)
    heads = heads_of(model)
    with_heads = ladder.at(3, commit=True, greedy=True, heads=heads)
    assert with_heads is ladder.at(4, commit=True, greedy=True, heads=heads)
    assert with_heads is not ladder.at(4, commit=True, greedy=True)


def test_what_does_not_fit_is_told(law):
    """A stream without its first frame, and more than a chunk."""
    context = StreamingContext(8, 4, 0)
    model = law.model()
    states = model.new_states(2, context)
    step = StaticStep(model, states, 1, commit=True, silent=SILENT)

    def fits(samples: int) -> bool:
        return step.fits([StaticRow(0, np.zeros(samples, np.float32))])[0]

    assert not fits(320)
    assert fits(0)
    model.listen(states, [0], torch.zeros(1, 500))
    assert fits(4 * 320 - 100)
    assert not fits(4 * 320 - 99)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "formulas"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_of_the_device(law, kind, kernels, monkeypatch):
    """The whole step on tensors that hold no values: whatever reads one fails, and so does a shape that depends on one.
    So nothing waits for the device, and the same graph serves every call."""
    # folding reads the address of the weights to notice when they change; it is done before a capture
    monkeypatch.setattr(ConvolutionalPosition, "weight", lambda self: self.conv.weight)
    monkeypatch.setattr(dispatch, "takes_kernel", lambda op, device: kernels)  # as operations, as on CUDA
    with FakeTensorMode(), torch.no_grad():
        model = law.model(**KINDS[kind])
        states = model.new_states(9, StreamingContext(12, 5, 2))
        for silent in (SILENT, None):
            for commit in (True, False):
                for heads in (None, heads_of(model)):
                    step = StaticStep(model, states, 4, commit=commit, silent=silent, heads=heads)
                    step._compute()
        with pytest.raises(DataDependentOutputException):  # what the guard is for
            step.numbers.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_captured_graphs(law, kind, seed):
    """On CUDA the step is captured and replayed: the results of the eager step on the same device."""
    model = law.model(**KINDS[kind]).cuda()
    for context in CONTEXTS:
        assert compare(law, model, StreamingContext.parse(context), random.Random(seed), "cuda", 1e-3) > 10
