"""Pooling, losses and the heads, by their definitions; their equality with transformers is in test_model_parity."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from wavlm_live.model.audio_frame_classification import WavLMForAudioFrameClassification, frame_loss
from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import AudioError, ConfigurationError
from wavlm_live.model.pooling import masked_mean, statistics_pooling, weighted_layer_sum
from wavlm_live.model.sequence_classification import WavLMForSequenceClassification
from wavlm_live.model.xvector import AMSoftmaxLoss, TDNNLayer, WavLMForXVector

HEADS = (WavLMForSequenceClassification, WavLMForAudioFrameClassification, WavLMForXVector)
FRAME = 20
"""Samples from frame to frame of the small front end below."""


def small(**changes: Any) -> WavLMConfig:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 4),
        "conv_stride": (5, 4),
        "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "tdnn_dim": (8, 8, 12),
        "tdnn_kernel": (5, 3, 1),
        "tdnn_dilation": (1, 2, 1),
        "xvector_output_dim": 10,
        "classifier_proj_size": 6,
        "num_labels": 3,
    }
    return WavLMConfig(**(values | changes))


def build(kind: type, **changes: Any) -> Any:
    """A model whose weights all matter."""
    model = kind(small(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def samples(frames: int) -> int:
    return 25 + FRAME * (frames - 1)


# Pooling -----------------------------------------------------------------------------------------------


def test_weighted_sum_of_layers(seed: int) -> None:
    states = [torch.randn(2, 5, 3) for _ in range(4)]
    weights = torch.tensor([0.0, 1.0, -1.0, 0.5])
    shares = weights.exp() / weights.exp().sum()
    expected = (torch.stack(states) * shares.view(4, 1, 1, 1)).sum(0)
    torch.testing.assert_close(weighted_layer_sum(states, weights), expected)
    with pytest.raises(ValueError, match="4 hidden states came with 3 weights"):
        weighted_layer_sum(states, weights[:3])


def test_mean_leaves_padding_out(seed: int) -> None:
    x = torch.randn(2, 6, 3)
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    x[1, 4:] = math.nan
    expected = torch.stack([x[0].mean(0), x[1, :4].mean(0)])
    torch.testing.assert_close(masked_mean(x, mask), expected)
    torch.testing.assert_close(masked_mean(x[:1], None), expected[:1])


def test_statistics_leave_padding_out(seed: int) -> None:
    x = torch.randn(2, 6, 3)
    x[1, 4:] = math.nan
    pooled = statistics_pooling(x, torch.tensor([9, 4]))  # beyond the frames there are: cut
    for row, count in enumerate([6, 4]):
        mean = x[row, :count].mean(0)
        deviation = ((x[row, :count] - mean).square().sum(0) / (count - 1)).sqrt()
        torch.testing.assert_close(pooled[row], torch.cat([mean, deviation]))
    torch.testing.assert_close(statistics_pooling(x[:1], None), pooled[:1])


@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 7])])
def test_a_channel_that_does_not_vary_has_no_gradient(lengths: Tensor | None) -> None:
    x = torch.full((2, 7, 3), 0.1, requires_grad=True)
    pooled = statistics_pooling(x, lengths)
    pooled[:, 3:].sum().backward()
    assert x.grad is not None
    assert torch.equal(pooled[:, 3:], torch.zeros(2, 3))
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("count", [1, 0, -3])
def test_one_frame_has_no_deviation(count: int) -> None:
    with pytest.raises(AudioError, match=rf"row 1 of the batch has {max(0, count)} frames"):
        statistics_pooling(torch.zeros(2, 5, 3), torch.tensor([5, count]))


# Losses and layers -------------------------------------------------------------------------------------


def test_margin_softmax_is_its_formula(seed: int) -> None:
    loss = AMSoftmaxLoss(4, 3, scale=5.0, margin=0.2)
    vectors, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    total = 0.0
    for vector, label in zip(vectors, labels.tolist(), strict=True):
        cosines = [float(vector @ w / (vector.norm() * w.norm())) for w in loss.weight.detach().unbind(1)]
        own = math.exp(5.0 * (cosines[label] - 0.2))
        others = sum(math.exp(5.0 * c) for i, c in enumerate(cosines) if i != label)
        total -= math.log(own / (own + others))
    assert loss(vectors, labels).item() == pytest.approx(total / 6, rel=1e-5)


def test_time_delay_layer_is_a_linear_map_of_frames_apart(seed: int) -> None:
    layer = TDNNLayer(4, 5, kernel=3, dilation=2)
    x = torch.randn(2, 9, 4)
    out = layer(x)
    assert out.shape == (2, 5, 5)
    seen = torch.cat([x[:, 1], x[:, 3], x[:, 5]], dim=-1)  # what the output at frame 1 reads
    torch.testing.assert_close(out[:, 1], layer.kernel(seen).relu())


def test_frame_loss_of_both_kinds_of_labels(seed: int) -> None:
    logits = torch.randn(2, 5, 3)
    classes = torch.randint(0, 3, (2, 5))
    one_hot = torch.nn.functional.one_hot(classes, 3)
    expected = -logits.log_softmax(-1).gather(-1, classes[..., None]).mean()
    torch.testing.assert_close(frame_loss(logits, one_hot), expected)
    torch.testing.assert_close(frame_loss(logits, one_hot.float()), expected)
    torch.testing.assert_close(frame_loss(logits, classes), expected)
    classes[1, 3:] = -100
    torch.testing.assert_close(
        frame_loss(logits, classes),
        torch.nn.functional.cross_entropy(torch.cat([logits[0], logits[1, :3]]), classes[classes >= 0]),
    )
    with pytest.raises(ValueError, match=r"shape \[2, 4\], expected \[2, 5, 3\] .* or \[2, 5\]"):
        frame_loss(logits, classes[:, :4])


# Heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("weighted", [False, True])
def test_context_reaches_the_encoder(seed: int, kind: type, weighted: bool) -> None:
    model = build(kind, use_weighted_layer_sum=weighted)
    x = torch.randn(2, samples(24))
    with torch.no_grad():
        whole = model(x).logits
        wide = model(x, context=StreamingContext(0, 24)).logits
        narrow = model(x, context=StreamingContext(4, 4)).logits
    torch.testing.assert_close(wide, whole, rtol=1e-4, atol=1e-5)
    assert (narrow - whole).abs().max() > 1e-3


def test_frames_of_a_context_do_not_see_beyond_it(seed: int) -> None:
    model = build(WavLMForAudioFrameClassification)
    x = torch.randn(1, samples(24))
    changed = x.clone()
    changed[:, samples(8) :] += 1.0
    context = StreamingContext(8, 4)
    with torch.no_grad():
        before, after = model(x, context=context).logits, model(changed, context=context).logits
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", HEADS)
def test_outputs_come_when_asked_for(seed: int, kind: type) -> None:
    model = build(kind, use_weighted_layer_sum=True)
    x = torch.randn(1, samples(20))
    plain = model(x)
    assert (plain.loss, plain.hidden_states, plain.attentions) == (None, None, None)
    full = model(x, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in full.hidden_states] == [(1, 20, 16)] * 3
    assert [tuple(a.shape) for a in full.attentions] == [(1, 2, 20, 20)] * 2
    torch.testing.assert_close(full.logits, plain.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [WavLMForSequenceClassification, WavLMForXVector])
def test_padding_does_not_change_a_class(seed: int, kind: type) -> None:
    # One time step a layer: the delays of an x-vector are otherwise counted as transformers does, see below.
    model = build(kind, tdnn_kernel=(1, 1, 1))
    x = torch.randn(2, samples(30))
    lengths = torch.tensor([samples(30), samples(21)])
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    with torch.no_grad():
        batch = model(x * mask, mask.long()).logits
        alone = torch.cat([model(row[None, :n]).logits for row, n in zip(x, lengths.tolist(), strict=True)])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-4)


def test_pooled_frames_are_those_of_transformers() -> None:
    model = build(WavLMForXVector)  # kernels 5, 3, 1: four and two taps more than one, the second two apart
    assert model.pooled_frames(torch.tensor([samples(30), samples(21)])).tolist() == [24, 15]
    assert model.needed_frames == 2 + 4 + 4


@pytest.mark.parametrize("frames", [5, 9])
def test_a_recording_too_short_for_an_x_vector(frames: int) -> None:
    model = build(WavLMForXVector)
    with pytest.raises(AudioError, match=rf"{frames} frames, expected at least 10"):
        model(torch.randn(1, samples(frames)))
    assert model(torch.randn(1, samples(10))).embeddings.isfinite().all()


@pytest.mark.parametrize("kind", [WavLMForSequenceClassification, WavLMForAudioFrameClassification])
def test_adapters_are_refused(kind: type) -> None:
    with pytest.raises(ConfigurationError, match="add_adapter is True"):
        kind(small(add_adapter=True))


def test_an_x_vector_needs_the_width_of_the_encoder() -> None:
    WavLMForXVector(small(add_adapter=True))
    with pytest.raises(ConfigurationError, match=r"output_hidden_size is 8, expected hidden_size \(16\)"):
        WavLMForXVector(small(add_adapter=True, output_hidden_size=8))


@pytest.mark.parametrize("kind", [*HEADS, WavLMForCTC])
def test_freezing(kind: type) -> None:
    model = kind(small())

    def learning() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    everything = learning()
    model.freeze_feature_encoder()
    front_end = {name for name in everything if name.startswith("wavlm.feature_extractor.")}
    assert front_end
    assert learning() == everything - front_end
    model.freeze_base_model()
    assert learning() == {name for name in everything if not name.startswith("wavlm.")} != set()


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (WavLMForSequenceClassification, torch.tensor([0, 1, 2, 0])),
        (WavLMForAudioFrameClassification, torch.tensor([0, 1, 2, 0])[:, None].expand(4, 20)),
        (WavLMForXVector, torch.tensor([0, 1, 2, 0])),
    ],
)
def test_a_head_on_a_frozen_encoder_learns(seed: int, kind: type, labels: Tensor) -> None:
    model = build(kind, apply_spec_augment=False, layerdrop=0.0, use_weighted_layer_sum=True).train()
    model.freeze_base_model()
    pitch = torch.tensor([0.2, 0.7, 1.5, 0.2])[:, None]
    x = torch.sin(pitch * torch.arange(samples(20))) + 0.1 * torch.randn(4, samples(20))
    before = {name: p.clone() for name, p in model.wavlm.named_parameters()}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(100):
        loss = model(x, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(before[name], p) for name, p in model.wavlm.named_parameters())


def test_a_new_number_of_labels_replaces_the_old_names() -> None:
    config = small(num_labels=2, id2label={0: "no", 1: "yes"})
    assert config.replace(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.replace(hidden_act="relu").id2label == {0: "no", 1: "yes"}
    assert WavLMForSequenceClassification(config.replace(num_labels=3)).classifier.out_features == 3
