"""The whole network against transformers: small ones drawn over every option, and the true sizes.

transformers makes the weights, every one of them is moved by random values (its own start leaves gates,
biases and norms where mistakes cancel), and our model loads them. Then outputs, losses and the gradients of
all parameters must agree, relative to the largest value of each tensor: within 1e-4 for the true sizes in
float32. The small networks run in float64, since a layer norm over four channels may magnify rounding a
thousandfold, and must agree within 1e-5: transformers takes some logarithms in float32 all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wavlm_live.model import spec_augment
from wavlm_live.model.audio_frame_classification import WavLMForAudioFrameClassification
from wavlm_live.model.config import ACTIVATIONS, WavLMConfig
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.sequence_classification import WavLMForSequenceClassification
from wavlm_live.model.wavlm import WavLMModel
from wavlm_live.model.xvector import WavLMForXVector

transformers = pytest.importorskip("transformers")

OURS: dict[str, type[nn.Module]] = {
    "WavLMModel": WavLMModel,
    "WavLMForCTC": WavLMForCTC,
    "WavLMForSequenceClassification": WavLMForSequenceClassification,
    "WavLMForAudioFrameClassification": WavLMForAudioFrameClassification,
    "WavLMForXVector": WavLMForXVector,
}
LAST_STATE_IS_NORMED = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 16)
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Drawing networks and inputs ---------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn, adapters: bool = True) -> WavLMConfig:
    """A small network; every field that changes what it computes is drawn."""
    convolutions = draw(st.integers(1, 3))

    def each(values: st.SearchStrategy[int], count: int = convolutions) -> list[int]:
        return draw(st.lists(values, min_size=count, max_size=count))

    heads, head_size = draw(st.integers(1, 3)), draw(st.sampled_from([4, 6, 8]))
    hidden = heads * head_size
    buckets = 4 * draw(st.integers(1, 5))
    with_adapter = adapters and draw(st.booleans())
    layers = draw(st.integers(1, 3))
    tdnn = draw(st.integers(1, 3))
    return WavLMConfig(
        vocab_size=draw(st.integers(3, 9)),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=draw(st.sampled_from([5, 16])),
        hidden_act=draw(st.sampled_from(ACTIVATIONS)),
        layer_norm_eps=draw(st.sampled_from([1e-5, 1e-3])),
        feat_extract_norm=draw(st.sampled_from(["group", "layer"])),
        feat_extract_activation=draw(st.sampled_from(ACTIVATIONS)),
        conv_dim=tuple(each(st.sampled_from([4, 6]))),
        conv_kernel=tuple(each(st.integers(1, 5))),
        conv_stride=tuple(each(st.integers(1, 3))),
        conv_bias=draw(st.booleans()),
        num_conv_pos_embeddings=draw(st.integers(1, 9)),
        num_conv_pos_embedding_groups=draw(st.sampled_from([g for g in (1, 2, 3, 4) if hidden % g == 0])),
        num_buckets=buckets,
        max_bucket_distance=draw(st.integers(buckets // 4 + 1, 60)),
        do_stable_layer_norm=draw(st.booleans()),
        apply_spec_augment=draw(st.booleans()),
        mask_time_prob=draw(st.sampled_from([0.0, 0.02, 0.3])),
        mask_time_length=draw(st.integers(1, 4)),
        mask_time_min_masks=draw(st.integers(0, 2)),
        mask_feature_prob=draw(st.sampled_from([0.0, 0.3])),
        mask_feature_length=draw(st.integers(1, 3)),
        ctc_loss_reduction=draw(st.sampled_from(["mean", "sum", "none"])),
        ctc_zero_infinity=draw(st.booleans()),
        pad_token_id=draw(st.integers(0, 2)),
        use_weighted_layer_sum=draw(st.booleans()),
        classifier_proj_size=draw(st.integers(1, 6)),
        tdnn_dim=tuple(each(st.integers(2, 6), tdnn)),
        tdnn_kernel=tuple(each(st.integers(1, 3), tdnn)),
        tdnn_dilation=tuple(each(st.integers(1, 2), tdnn)),
        xvector_output_dim=draw(st.integers(2, 6)),
        num_labels=draw(st.integers(1, 4)),
        add_adapter=with_adapter,
        adapter_kernel_size=draw(st.integers(1, 4)) if with_adapter else 3,
        adapter_stride=draw(st.integers(1, 3)) if with_adapter else 2,
        num_adapter_layers=draw(st.integers(1, 2)) if with_adapter else 3,
        output_hidden_size=draw(st.sampled_from([hidden, 6])) if with_adapter else None,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
    )


def pair(name: str, config: WavLMConfig, seed: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """transformers' model of random weights, and ours with the same ones."""
    values = config.to_dict() | {"mask_feature_min_masks": 0, "attn_implementation": "eager"}
    torch.manual_seed(seed)
    reference = getattr(transformers, name)(transformers.WavLMConfig(**values))
    with torch.no_grad():
        for parameter in reference.parameters():
            noise = torch.randn_like(parameter)
            spread = 0.1 if parameter.dim() == 1 else 1 / parameter[0].numel() ** 0.5
            parameter.add_(spread * noise)
    ours = OURS[name](config)
    ours.load_state_dict(reference.state_dict())
    return reference.to(dtype), ours.to(dtype)


def audio(config: WavLMConfig, rows: int, frames: int, shortest: int | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """Noise for so many frames and, where `shortest` says how few samples a row may have, a mask."""
    generator = torch.Generator().manual_seed(seed)
    samples = config.receptive_samples + (frames - 1) * config.hop_samples
    samples += int(torch.randint(config.hop_samples, (), generator=generator))
    x = torch.randn(rows, samples, generator=generator)
    if shortest is None:
        return x, None
    lengths = torch.randint(min(shortest, samples), samples + 1, (rows,), generator=generator)
    mask = (torch.arange(samples) < lengths[:, None]).long()
    return x * mask, mask


# Comparing ---------------------------------------------------------------------------------------------


def assert_near(name: str, got: Tensor | None, expected: Tensor | None, floor: float = 1e-6) -> None:
    """Equal but for rounding; `floor` is how large the largest value is taken to be at least."""
    if expected is None:
        assert got is None, name
        return
    assert got is not None, name
    assert got.shape == expected.shape, name
    tolerance = 1e-5 if expected.dtype == torch.float64 else 1e-4
    error = float((got - expected).detach().abs().max())
    assert error <= tolerance * max(float(expected.abs().max()), floor), f"{name} is off by {error:.3g}"


def assert_same_outputs(got: Any, expected: Any, config: WavLMConfig) -> None:
    for field in ("last_hidden_state", "extract_features", "logits", "embeddings", "loss"):
        if field in expected:
            assert_near(field, getattr(got, field), expected[field])
    states, reference_states = got.hidden_states, expected.get("hidden_states")
    assert (states is None) == (reference_states is None)
    for i, (a, b) in enumerate(zip(states or (), reference_states or (), strict=True)):
        last = i == config.num_hidden_layers
        if not (last and config.do_stable_layer_norm and LAST_STATE_IS_NORMED):
            assert_near(f"hidden_states[{i}]", a, b)
    weights, reference_weights = got.attentions, expected.get("attentions")
    assert (weights is None) == (reference_weights is None)
    for i, (a, b) in enumerate(zip(weights or (), reference_weights or (), strict=True)):
        # transformers gives every head the mean of all heads
        assert a.shape == b.shape
        assert_near(f"attentions[{i}]", a.mean(1), b[:, 0])


def assert_same_gradients(ours: nn.Module, reference: nn.Module) -> None:
    """The gradients of all parameters; that of a key's bias is rounding alone, so tiny ones do not count."""
    expected = {name: p.grad for name, p in reference.named_parameters()}
    got = {name: p.grad for name, p in ours.named_parameters()}
    assert got.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        ours_or_zero = got[name] if got[name] is not None or gradient is None else torch.zeros_like(gradient)
        if gradient is None and ours_or_zero is not None:
            gradient = torch.zeros_like(ours_or_zero)
        assert_near(f"gradient of {name}", ours_or_zero, gradient, floor=0.01 * largest)


def scalar(output: Any, config: WavLMConfig) -> Tensor:
    """Every value of the output times a number of its own, summed: its gradient tells all parameters."""
    values = output if isinstance(output, dict) else vars(output)
    states = list(values.get("hidden_states") or ())
    if config.do_stable_layer_norm and LAST_STATE_IS_NORMED:
        states = states[:-1]
    names = ("last_hidden_state", "extract_features", "logits", "embeddings", "loss")
    parts = [values[name] for name in names if values.get(name) is not None] + states
    return torch.stack([(p * torch.arange(p.numel(), dtype=p.dtype).cos().view(p.shape)).sum() for p in parts]).sum()


def compare(
    name: str,
    config: WavLMConfig,
    x: Tensor,
    mask: Tensor | None,
    seed: int,
    train: bool = False,
    dtype: torch.dtype = torch.float64,
    **inputs: Any,
) -> None:
    """Outputs and gradients of both models for the same arguments."""
    x = x.to(dtype)
    reference, ours = pair(name, config, seed, dtype)
    reference.train(train)
    ours.train(train)
    # With and without weights are different ways through our attention.
    inputs |= {"attention_mask": mask, "output_hidden_states": seed % 3 > 0, "output_attentions": seed % 2 > 0}
    np.random.seed(seed)
    expected = reference(x.clone(), **inputs)
    np.random.seed(seed)
    got = ours(x.clone(), **inputs)
    loss = expected.get("loss")
    if loss is not None and not loss.isfinite().all():  # labels that do not fit into the frames
        assert torch.equal(got.loss.isfinite(), loss.isfinite())
        return
    assert_same_outputs(got, expected, config)
    scalar(expected, config).backward()
    scalar(got, config).backward()
    assert_same_gradients(ours, reference)


@pytest.fixture(autouse=True)
def numpy_state() -> Iterator[None]:
    """transformers draws from numpy's global state; leave it as it was."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


# Small networks ----------------------------------------------------------------------------------------

rows, frames, seeds = st.integers(1, 3), st.integers(12, 30), st.integers(0, 10_000)


@QUICK
@given(config=networks(), rows=rows, frames=frames, seed=seeds, data=st.data())
def test_base_model(config: WavLMConfig, rows: int, frames: int, seed: int, data: st.DataObject) -> None:
    # A row shorter than a frame needs is part of it: transformers then takes all its frames for valid.
    shortest = data.draw(st.sampled_from([None, 1, config.receptive_samples]))
    x, mask = audio(config, rows, frames, shortest, seed)
    inputs: dict[str, Any] = {}
    if (config.mask_time_prob or config.mask_feature_prob) and data.draw(st.booleans()):
        inputs["mask_time_indices"] = torch.rand(rows, frames) < 0.3
    compare("WavLMModel", config, x, mask, seed, **inputs)


@QUICK
@given(config=networks(), rows=rows, frames=frames, masked=st.booleans(), seed=seeds)
def test_base_model_in_training(config: WavLMConfig, rows: int, frames: int, masked: bool, seed: int) -> None:
    config = config.replace(apply_spec_augment=True)
    x, mask = audio(config, rows, frames, config.receptive_samples if masked else None, seed)
    inputs: dict[str, Any] = {}
    if seed % 5 == 0 and (config.mask_time_prob or config.mask_feature_prob):
        inputs["mask_time_indices"] = torch.rand(rows, frames) < 0.3
    with pytest.MonkeyPatch.context() as patch:  # the masks of both from numpy's global state
        patch.setattr(spec_augment, "_random_state", lambda _: np.random.mtrand._rand)
        compare("WavLMModel", config, x, mask, seed, train=True, **inputs)


@QUICK
@given(config=networks(), rows=rows, frames=frames, masked=st.booleans(), train=st.booleans(), seed=seeds)
def test_ctc(config: WavLMConfig, rows: int, frames: int, masked: bool, train: bool, seed: int) -> None:
    # transformers fails for wider kernels: its lengths are those of a kernel of 3.
    config = config.replace(adapter_kernel_size=min(3, config.adapter_kernel_size), apply_spec_augment=False)
    x, mask = audio(config, rows, frames, config.receptive_samples if masked else None, seed)
    labels = torch.randint(0, config.vocab_size, (rows, 4), generator=torch.Generator().manual_seed(seed))
    labels[0, 2:] = -100
    compare("WavLMForCTC", config, x, mask, seed, train=train, labels=labels)


@QUICK
@given(config=networks(adapters=False), rows=rows, frames=frames, shortest=st.sampled_from([None, 1]), seed=seeds)
def test_sequence_classification(config: WavLMConfig, rows: int, frames: int, shortest: int | None, seed: int) -> None:
    x, mask = audio(config, rows, frames, shortest, seed)
    labels = torch.randint(0, config.num_labels, (rows,), generator=torch.Generator().manual_seed(seed))
    compare("WavLMForSequenceClassification", config, x, mask, seed, labels=labels)


@QUICK
@given(config=networks(adapters=False), rows=rows, frames=frames, masked=st.booleans(), seed=seeds)
def test_audio_frame_classification(config: WavLMConfig, rows: int, frames: int, masked: bool, seed: int) -> None:
    x, mask = audio(config, rows, frames, config.receptive_samples if masked else None, seed)
    labels = torch.rand(rows, frames, config.num_labels, generator=torch.Generator().manual_seed(seed))
    compare("WavLMForAudioFrameClassification", config, x, mask, seed, labels=labels)


@QUICK
@given(config=networks(), rows=rows, masked=st.booleans(), seed=seeds)
def test_x_vector(config: WavLMConfig, rows: int, masked: bool, seed: int) -> None:
    config = config.replace(output_hidden_size=config.hidden_size)
    frames = 150 if config.add_adapter else 20  # behind the adapter the delays still need up to 14
    x, mask = audio(config, rows, frames, samples_of(config, frames - 5) if masked else None, seed)
    labels = torch.randint(0, config.num_labels, (rows,), generator=torch.Generator().manual_seed(seed))
    compare("WavLMForXVector", config, x, mask, seed, labels=labels)


def samples_of(config: WavLMConfig, frames: int) -> int:
    return config.receptive_samples + (frames - 1) * config.hop_samples


# True sizes --------------------------------------------------------------------------------------------

STILL = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
}
BASE = WavLMConfig(**STILL)
LARGE = WavLMConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    **STILL,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name"),
    [
        pytest.param(BASE, "WavLMForCTC", id="base-ctc"),
        pytest.param(BASE.replace(use_weighted_layer_sum=True), "WavLMForXVector", id="base-xvector"),
        pytest.param(BASE, "WavLMForSequenceClassification", id="base-sequence"),
        pytest.param(BASE.replace(num_labels=3), "WavLMForAudioFrameClassification", id="base-frames"),
        pytest.param(LARGE, "WavLMForCTC", id="large-ctc"),
    ],
)
def test_true_sizes(config: WavLMConfig, name: str) -> None:
    x, mask = audio(config, 2, 60, samples_of(config, 45), seed=1)
    labels = {
        "WavLMForCTC": torch.tensor([[5, 6, 6, 7, 9], [8, 9, 3, -100, -100]]),
        "WavLMForAudioFrameClassification": torch.rand(2, 60, 3),
    }.get(name, torch.tensor([0, 1]))
    compare(name, config, x, mask, seed=0, dtype=torch.float32, labels=labels)
