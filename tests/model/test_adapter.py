"""The adapter: equal to transformers', lengths, and layers left out in training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wavlm_live.model.adapter import WavLMAdapter
from wavlm_live.model.config import WavLMConfig


def small(**changes: object) -> WavLMConfig:
    values = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_conv_pos_embedding_groups": 2,
        "num_conv_pos_embeddings": 4,
        "add_adapter": True,
    }
    return WavLMConfig.from_dict(values | changes)


@settings(max_examples=25, deadline=None)
@given(
    width=st.sampled_from([6, 8]),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    layers=st.integers(1, 3),
    frames=st.integers(20, 40),
    seed=st.integers(0, 1000),
)
def test_equals_transformers(width: int, kernel: int, stride: int, layers: int, frames: int, seed: int) -> None:
    length = frames
    for _ in range(layers):  # what is shorter than the kernel has no output, here as there
        assume(length + 2 >= kernel)
        length = (length + 2 - kernel) // stride + 1
    transformers = pytest.importorskip("transformers")
    reference_file = pytest.importorskip("transformers.models.wavlm.modeling_wavlm")
    config = small(
        output_hidden_size=width,
        adapter_kernel_size=kernel,
        adapter_stride=stride,
        num_adapter_layers=layers,
    )
    torch.manual_seed(seed)
    reference = reference_file.WavLMAdapter(transformers.WavLMConfig(**config.to_dict())).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = WavLMAdapter(config).eval()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, frames, 8)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = reference(a), ours(b)
    torch.testing.assert_close(got, expected)
    expected.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    if kernel == 3:
        assert got.shape[1] == ours.output_lengths(torch.tensor(frames))


def test_lengths_of_a_batch() -> None:
    adapter = WavLMAdapter(small()).eval()
    assert adapter.output_lengths(torch.tensor([49, 1, 17, 0])).tolist() == [
        7,
        1,
        3,
        0,
    ]  # 49 -> 25 -> 13 -> 7
    assert adapter(torch.zeros(1, 49, 8)).shape == (1, 7, 8)


def test_same_width_needs_no_projection() -> None:
    names = set(WavLMAdapter(small(num_adapter_layers=1)).state_dict())
    assert names == {"layers.0.conv.weight", "layers.0.conv.bias"}


def test_layerdrop_leaves_layers_out_in_training_alone() -> None:
    adapter = WavLMAdapter(small(layerdrop=0.3, num_adapter_layers=2))
    x = torch.zeros(1, 64, 8)
    torch.manual_seed(0)
    lengths = [adapter(x).shape[1] for _ in range(300)]
    assert set(lengths) == {64, 32, 16}
    kept = sum({64: 0, 32: 1, 16: 2}[n] for n in lengths) / 600
    assert abs(kept - 0.7) < 0.06  # three standard deviations
    adapter.eval()
    assert {adapter(x).shape[1] for _ in range(20)} == {16}
    adapter.train()
    adapter.layerdrop = 0.0
    assert {adapter(x).shape[1] for _ in range(50)} == {16}
    adapter.layerdrop = 1.0
    assert {adapter(x).shape[1] for _ in range(50)} == {64}
