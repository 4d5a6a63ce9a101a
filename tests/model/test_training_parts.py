"""What happens in training alone: dropouts, layers left out, spans hidden, checkpointing; and exact padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wavlm_live.model import encoder, front_end
from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.sequence_classification import WavLMForSequenceClassification
from wavlm_live.model.wavlm import WavLMModel

STILL = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}


def small(**changes: Any) -> WavLMConfig:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 4),
        "conv_stride": (5, 4),
        "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 7,
    }
    return WavLMConfig(**(values | STILL | changes))


def build(kind: type, **changes: Any) -> Any:
    model = kind(small(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def sound(rows: int = 2, frames: int = 30) -> Tensor:
    return torch.randn(rows, 25 + 20 * (frames - 1))


@pytest.mark.parametrize(
    "dropout",
    ["hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout"],
)
@pytest.mark.parametrize("context", [None, StreamingContext(8, 8, 2)])
def test_each_dropout_acts_in_training_alone(seed: int, dropout: str, context: StreamingContext | None) -> None:
    model = build(WavLMForCTC, **{dropout: 0.3})
    x = sound()
    model.eval()
    still = model(x, context=context).logits
    assert torch.equal(model(x, context=context).logits, still)
    model.train()
    first, second = model(x, context=context).logits, model(x, context=context).logits
    assert (first - second).abs().max() > 1e-3


def test_without_dropouts_training_computes_the_same(seed: int) -> None:
    model = build(WavLMForCTC)
    x = sound()
    torch.testing.assert_close(model.train()(x).logits, model.eval()(x).logits, rtol=1e-4, atol=1e-5)


def test_layerdrop_leaves_out_all_layers_but_the_first_alike(seed: int) -> None:
    model = build(WavLMModel, layerdrop=0.3).train()
    ran = [0, 0, 0]
    for index, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.__setitem__(index, ran[index] + 1))
    x, passes = sound(1, 3), 300
    with torch.no_grad():
        for _ in range(passes):
            out = model(x, output_hidden_states=True)
            assert out.hidden_states is not None
            assert len(out.hidden_states) == 4  # a layer left out passes its input on
    assert ran[0] == passes
    for count in ran[1:]:
        assert abs(count / passes - 0.7) < 0.11  # more than four standard deviations
    model.eval()
    ran[:] = [0, 0, 0]
    with torch.no_grad():
        model(x)
    assert ran == [1, 1, 1]


def test_layers_left_out_get_no_gradient(seed: int) -> None:
    model = build(WavLMModel, layerdrop=1.0).train()
    model(sound()).last_hidden_state.sum().backward()
    first, *others = model.encoder.layers
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None for layer in others for p in layer.parameters())


def test_hidden_spans_are_drawn_anew_and_only_in_training(seed: int) -> None:
    model = build(WavLMModel, mask_time_prob=0.5, mask_time_length=3, mask_feature_prob=0.5, mask_feature_length=2)
    x = sound()
    model.eval()
    assert torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)
    model.train()
    assert not torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)
    torch.manual_seed(3)
    first = model(x).last_hidden_state
    torch.manual_seed(3)
    assert torch.equal(first, model(x).last_hidden_state)
    model.config = model.config.replace(apply_spec_augment=False)
    assert torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)


def test_given_masks_replace_frames_by_the_learned_vector(seed: int) -> None:
    model = build(WavLMModel, mask_time_prob=0.1).eval()
    x, other = sound(1), sound(1)
    everything = torch.ones(1, 30, dtype=torch.bool)
    with torch.no_grad():  # where all frames are hidden, the sound does not matter any more
        a = model(x, mask_time_indices=everything).last_hidden_state
        b = model(other, mask_time_indices=everything).last_hidden_state
        c = model(x, mask_time_indices=~everything).last_hidden_state
        plain = model(x).last_hidden_state
    assert torch.equal(a, b)
    assert torch.equal(c, plain)
    assert (a - plain).abs().max() > 1e-2


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("context", [None, StreamingContext(8, 8, 2)])
def test_gradient_checkpointing_equals_plain(
    seed: int, monkeypatch: pytest.MonkeyPatch, norm: str, stable: bool, context: StreamingContext | None
) -> None:
    model = build(
        WavLMForCTC,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        hidden_dropout=0.2,
        attention_dropout=0.2,
        layerdrop=0.3,
    ).train()
    x = sound()
    mask = (torch.arange(x.shape[1]) < torch.tensor([x.shape[1], 400])[:, None]).long()
    labels = torch.tensor([[1, 2, 3], [4, 5, -100]])
    calls = []
    for place in (encoder, front_end):
        original = place.checkpoint
        monkeypatch.setattr(
            place, "checkpoint", lambda *a, f=original, n=place.__name__, **k: (calls.append(n), f(*a, **k))[1]
        )

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        torch.manual_seed(seed)  # the same dropouts and layers
        loss = model(x, mask, labels, context=context).loss
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    loss, plain = gradients()
    assert not calls
    model.gradient_checkpointing_enable()
    again, checkpointed = gradients()
    assert encoder.__name__ in calls
    if (
        context is None or norm == "layer"
    ):  # the cumulative statistics of a group norm run through the front end in one piece
        assert front_end.__name__ in calls
    torch.testing.assert_close(again, loss)
    assert checkpointed.keys() == plain.keys()
    largest = max(float(g.abs().max()) for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)
    calls.clear()
    model.gradient_checkpointing_disable()
    gradients()
    assert not calls


def test_checkpointing_costs_nothing_in_inference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(WavLMModel).eval()
    model.gradient_checkpointing_enable()
    monkeypatch.setattr(encoder, "checkpoint", None)
    monkeypatch.setattr(front_end, "checkpoint", None)  # calling it would raise
    assert torch.isfinite(model(sound()).last_hidden_state).all()


@pytest.mark.parametrize("train", [False, True])
def test_masked_group_norm_makes_a_batch_equal_its_rows(seed: int, train: bool) -> None:
    x = sound(3)
    x *= torch.tensor([1.0, 3.0, 0.3])[:, None]
    lengths = torch.tensor([x.shape[1], 405, 300])
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    model = build(WavLMForSequenceClassification, masked_group_norm=True).train(train)
    batch = model(x * mask, mask.long()).logits
    alone = torch.cat([model(row[None, :n]).logits for row, n in zip(x, lengths.tolist(), strict=True)])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-4)
    model.config = model.wavlm.config = model.wavlm.feature_extractor.config = model.config.replace(
        masked_group_norm=False
    )
    compatible = model(x * mask, mask.long()).logits
    assert (compatible[1:] - alone[1:]).abs().max() > 1e-3


def test_lengths_behind_a_wide_adapter_stay_within_the_frames(seed: int) -> None:
    model = build(WavLMForCTC, add_adapter=True, adapter_kernel_size=5, num_adapter_layers=1).train()
    out = model(sound(), labels=torch.tensor([[1, 2], [3, 4]]))
    assert out.logits.shape[1] == 14  # the formula says 15
    assert out.loss.isfinite()


def test_fresh_weights_start_as_published() -> None:
    torch.manual_seed(0)
    model = WavLMForCTC(small(conv_dim=(8, 64), hidden_size=64, num_attention_heads=4, initializer_range=0.01))
    projection = model.wavlm.feature_projection.projection
    assert 0.11 < projection.weight.abs().max().item() <= 0.125  # uniform up to 64 ** -0.5
    query = model.wavlm.encoder.layers[1].attention.q_proj
    assert query.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not query.bias.any()
    position = model.wavlm.encoder.pos_conv_embed.conv
    assert position.weight.std().item() == pytest.approx(2 * (1 / (6 * 64)) ** 0.5, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(0.01, rel=0.1)
