"""The model with the kernels of front end, position and head forced on: the law of streaming, and torch's numbers."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import ConfigurationError

CONTEXT = StreamingContext(11, 5, 3)
KINDS = {
    "layer": {"feat_extract_norm": "layer", "conv_bias": True},
    "group": {"do_stable_layer_norm": False, "stream_normalize": True},
    "other": {
        "conv_dim": (8, 12, 16), "conv_kernel": (12, 3, 2), "conv_stride": (10, 8, 4), "num_conv_pos_embeddings": 9,
        "feat_extract_activation": "silu",
    },
}  # fmt: skip
OPERATIONS = ("strided_convolution", "position_convolution", "ctc_greedy")


def build(**changes) -> WavLMForCTC:
    values = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
        "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12,
    } | changes  # fmt: skip
    model = WavLMForCTC(WavLMConfig(**values)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def counted(interpreter, monkeypatch):
    """Our operations alone on their kernels, and how often each was launched."""
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "torch")
    calls = dict.fromkeys(OPERATIONS, 0)
    for op in OPERATIONS:
        monkeypatch.setenv(f"WAVLM_LIVE_KERNEL_{op.upper()}", "triton")
        module = __import__(f"wavlm_live.kernels.{op}_triton", fromlist=["launch"])

        def launch(*arguments, original=module.launch, op=op):
            calls[op] += 1
            return original(*arguments)

        monkeypatch.setattr(module, "launch", launch)
    return calls


@torch.no_grad()
def stream(model: WavLMForCTC, waves: list[Tensor], rng: random.Random, greedy: bool) -> list[list]:
    """Two streams side by side in three slots, blocks of random sizes, NaN in padding and in unused state."""
    states = model.new_states(3, CONTEXT)
    for tensor in states.tensors().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    slots = rng.sample(range(3), 2)
    fed, results = [0, 0], [[], []]
    while True:
        counts = [
            min(rng.choice([1, 700, 4000]), len(w) - f, states.room_samples(s))
            for w, f, s in zip(waves, fed, slots, strict=True)
        ]
        block = torch.full((2, max(counts)), float("nan"))
        for row, count in enumerate(counts):
            block[row, :count] = waves[row][fed[row] : fed[row] + count]
            fed[row] += count
        model.listen(states, slots, block, counts)
        ended = [f == len(w) for f, w in zip(fed, waves, strict=True)]
        least = [1 if end else CONTEXT.step_frames for end in ended]
        ready = [r for r in range(2) if states.waiting(slots[r]) >= least[r]]
        if ready:
            out = model.step(states, [slots[r] for r in ready], final=[ended[r] for r in ready], greedy=greedy)
            for row, r in enumerate(ready):
                own = out.own_frames[row]
                results[r].append([t[row, :own] for t in out.greedy] if greedy else out.logits[row, :own])
        elif all(ended):
            return results


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_of_streaming(counted, seed, kind):
    model, rng = build(**KINDS[kind]), random.Random(seed)
    waves = [torch.randn(rng.randint(400, 3000)) * 0.3, torch.randn(rng.randint(4000, 7000)) * 0.3]
    for wave, got in zip(waves, stream(model, waves, rng, False), strict=True):
        expected = model(wave[None], context=CONTEXT).logits[0]
        assert float((torch.cat(got) - expected).norm() / expected.norm()) < 1e-4
    assert counted["strided_convolution"] > 0
    assert counted["position_convolution"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_torch(counted, monkeypatch, seed, kind):
    """Whole utterances, with and without a context: the kernels say what torch's formulas say."""
    model, wave = build(**KINDS[kind]), torch.randn(2, 6000) * 0.3
    mask = (torch.arange(6000) < torch.tensor([6000, 3500])[:, None]).long()

    def outputs() -> list[Tensor]:
        with torch.no_grad():
            return [model(wave, mask, context=c).logits for c in (None, CONTEXT)]

    ours = outputs()
    assert counted["strided_convolution"] > 0
    for op in OPERATIONS:
        monkeypatch.setenv(f"WAVLM_LIVE_KERNEL_{op.upper()}", "torch")
    for got, expected in zip(ours, outputs(), strict=True):
        assert float((got - expected).norm() / expected.norm()) < 1e-5


def test_training_takes_the_formulas(counted, seed):
    """Gradients are those of torch although kernels are asked for; nothing is launched."""
    model = build().requires_grad_(True).train()
    model(torch.randn(1, 3000), labels=torch.tensor([[1, 2]])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.wavlm.feature_extractor.parameters())
    assert set(counted.values()) == {0}


@pytest.mark.parametrize("path", ["triton", "torch"])
def test_steps_without_logits(counted, monkeypatch, seed, path):
    for op in OPERATIONS[:2]:
        monkeypatch.setenv(f"WAVLM_LIVE_KERNEL_{op.upper()}", "torch")
    monkeypatch.setenv("WAVLM_LIVE_KERNEL_CTC_GREEDY", path)
    model = build()
    waves = [torch.randn(5000) * 0.3, torch.randn(9000) * 0.3]
    logits = stream(model, waves, random.Random(seed), False)
    greedy = stream(model, waves, random.Random(seed), True)
    for with_logits, without in zip(logits, greedy, strict=True):
        exact = torch.cat(with_logits).double().log_softmax(-1)
        index, best, blank = (torch.cat(parts) for parts in zip(*without, strict=True))
        assert torch.equal(index, exact.argmax(-1))
        torch.testing.assert_close(best, exact.amax(-1).float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(blank[:, 0], exact[:, model.config.pad_token_id].exp().float(), rtol=1e-4, atol=1e-4)
    assert (counted["ctc_greedy"] > 0) == (path == "triton")


def test_greedy_of_outputs_that_do_not_exist(seed):
    model = build()
    found = model.greedy(torch.randn(2, 3, 32), [0, 4])
    assert found.silent.shape == (2, 3, 2)
    with pytest.raises(ConfigurationError, match=r"silent is \[12\], expected 1 to 2 outputs from 0 to 11"):
        model.greedy(torch.randn(2, 3, 32), [12])
