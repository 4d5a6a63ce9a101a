"""Checkpoints of microsoft/unilm: the same weights in their format and in transformers' give the same model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.unilm import unilm_config
from wavlm_live.model.wavlm import WavLMModel

# `cfg` of the published files; what is left out takes the defaults of their class.
BASE: dict[str, Any] = {
    "extractor_mode": "default", "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12, "activation_fn": "gelu", "layer_norm_first": False,
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", "conv_bias": False,
    "feature_grad_mult": 0.1, "normalize": False, "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05, "dropout_input": 0.1, "dropout_features": 0.1, "mask_length": 10, "mask_prob": 0.8,
    "conv_pos": 128, "conv_pos_groups": 16, "relative_position_embedding": True, "num_buckets": 320,
    "max_distance": 800, "gru_rel_pos": True,
}  # fmt: skip
LARGE: dict[str, Any] = {
    **BASE, "extractor_mode": "layer_norm", "encoder_layers": 24, "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16, "layer_norm_first": True, "normalize": True,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4,
    "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", "conv_pos": 16, "conv_pos_groups": 4,
}  # fmt: skip
CFGS = {"base": {**BASE, **SMALL}, "large": {**LARGE, **SMALL}}

LAYER = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.out_proj",
    "self_attn.grep_linear": "attention.gru_rel_pos_linear",
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}


def their_state(model: WavLMModel) -> dict[str, Tensor]:
    """Our weights under the names of microsoft/unilm, written down one by one."""
    state = model.state_dict()
    large = model.config.feat_extract_norm == "layer"
    names = {
        "mask_emb": "masked_spec_embed",
        "encoder.pos_conv.0.bias": "encoder.pos_conv_embed.conv.bias",
        "encoder.pos_conv.0.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "encoder.pos_conv.0.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "encoder.layers.0.self_attn.relative_attention_bias.weight": "encoder.layers.0.attention.rel_attn_embed.weight",
    }
    both = {
        "post_extract_proj": "feature_projection.projection",
        "layer_norm": "feature_projection.layer_norm",
        "encoder.layer_norm": "encoder.layer_norm",
    }
    for i in range(len(model.config.conv_dim)):
        names[f"feature_extractor.conv_layers.{i}.0.weight"] = f"feature_extractor.conv_layers.{i}.conv.weight"
        if model.config.conv_bias:
            names[f"feature_extractor.conv_layers.{i}.0.bias"] = f"feature_extractor.conv_layers.{i}.conv.bias"
        if large or i == 0:
            inside = "2.1" if large else "2"
            both[f"feature_extractor.conv_layers.{i}.{inside}"] = f"feature_extractor.conv_layers.{i}.layer_norm"
    for n in range(model.config.num_hidden_layers):
        names[f"encoder.layers.{n}.self_attn.grep_a"] = f"encoder.layers.{n}.attention.gru_rel_pos_const"
        both |= {f"encoder.layers.{n}.{a}": f"encoder.layers.{n}.{b}" for a, b in LAYER.items()}
    for a, b in both.items():
        names |= {f"{a}.{part}": f"{b}.{part}" for part in ("weight", "bias")}
    if model.config.conv_dim[-1] == model.config.hidden_size:
        names = {a: b for a, b in names.items() if not a.startswith("post_extract_proj")}
    return {a: state[b] for a, b in names.items()}


def shaken(config: WavLMConfig) -> WavLMModel:
    model = WavLMModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def assert_same_tensors(a: nn.Module, b: nn.Module) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys()
    for k in x:
        assert torch.equal(x[k], y[k]), k


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", CFGS)
def test_both_formats_give_the_same_model(tmp_path: Path, seed: int, size: str, bias: bool) -> None:
    cfg = {**CFGS[size], "conv_bias": bias}
    model = shaken(unilm_config(cfg))
    state = their_state(model)
    assert len(state) == len(model.state_dict())
    torch.save({"cfg": cfg, "model": state}, tmp_path / "WavLM.pt")
    model.save_pretrained(tmp_path / "folder")
    a, b = WavLMModel.from_pretrained(tmp_path / "WavLM.pt"), WavLMModel.from_pretrained(tmp_path / "folder")
    assert_same_tensors(a, b)
    assert a.config == b.config.replace(extra={})
    assert a.config.stream_normalize is (size == "large")
    assert not a.training
    x = torch.randn(2, 6000) * 0.1
    with torch.no_grad():
        found, expected = a(x), b(x)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert found.last_hidden_state.shape == (2, 18, 32)


@pytest.mark.parametrize(("cfg", "published"), [(BASE, "base"), (LARGE, "large")], ids=["base", "large"])
def test_sizes_of_the_published_files(cfg: dict[str, Any], published: str) -> None:
    config = unilm_config(cfg)
    large = published == "large"
    assert (config.hidden_size, config.num_hidden_layers) == ((1024, 24) if large else (768, 12))
    assert (config.num_attention_heads, config.intermediate_size) == ((16, 4096) if large else (12, 3072))
    assert (config.feat_extract_norm, config.do_stable_layer_norm) == (("layer", True) if large else ("group", False))
    assert config.conv_dim == (512,) * 7
    assert config.conv_kernel == (10, 3, 3, 3, 3, 2, 2)
    assert config.conv_stride == (5, 2, 2, 2, 2, 2, 2)
    assert (config.num_buckets, config.max_bucket_distance, config.layerdrop) == (320, 800, 0.05)
    assert config.mask_time_prob == WavLMConfig().mask_time_prob  # not the 80% of pre-training


def test_a_head_on_top(tmp_path: Path, seed: int) -> None:
    model = shaken(unilm_config(CFGS["base"]))
    path = tmp_path / "WavLM.pt"
    extra = {"final_proj.weight": torch.zeros(2, 2), "label_embs_concat": torch.zeros(3)}
    torch.save({"cfg": CFGS["base"], "model": their_state(model) | extra}, path)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight, lm_head\.bias.*new_head=True"):
        WavLMForCTC.from_pretrained(path)
    made = WavLMForCTC.from_pretrained(path, new_head=True, vocab_size=29, dtype="bfloat16")
    assert made.lm_head.weight.shape == (29, 32)
    for k, v in made.wavlm.state_dict().items():
        assert torch.equal(v, model.state_dict()[k].bfloat16()), k


def test_tensors_of_pretraining_are_dropped_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "WavLM.pt"
    state = their_state(shaken(unilm_config(CFGS["base"]))) | {"final_proj.weight": torch.zeros(2, 2)}
    torch.save({"cfg": CFGS["base"], "model": state}, path)
    with caplog.at_level(logging.INFO):
        WavLMModel.from_pretrained(path)
    assert "final_proj.weight" in caplog.text


def test_no_projection_where_the_widths_agree(tmp_path: Path, seed: int) -> None:
    cfg = {**CFGS["base"], "conv_feature_layers": "[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2"}
    model = shaken(unilm_config(cfg))
    state = their_state(model)
    assert not any("post_extract_proj" in k for k in state)
    torch.save({"cfg": cfg, "model": state}, tmp_path / "WavLM.pt")
    loaded = WavLMModel.from_pretrained(tmp_path / "WavLM.pt")
    x = torch.randn(3, 5, 32)
    projected, normed = loaded.feature_projection(x)
    assert torch.equal(projected, normed)
    assert torch.equal(normed, model.feature_projection(x)[1])


def test_other_files_are_refused(tmp_path: Path) -> None:
    cfg = CFGS["base"]
    state = their_state(shaken(unilm_config(cfg)))
    cases: list[tuple[Any, str]] = [
        (state, r"holds the keys mask_emb, .* and \d+ more; .*holds 'cfg' and 'model'.*given as its folder"),
        ({"args": None, "model_weight": state, "cfg": cfg}, "holds the keys args, model_weight, cfg; "),
        ([1, 2], "holds a list; "),
        ({"cfg": "tiny", "model": state}, "'cfg' is a str, expected a dictionary"),
        ({"cfg": cfg, "model": {"weights": state}}, "weights are no tensors"),
        ({"cfg": cfg, "model": state | {"decoder.x": torch.zeros(1)}}, "no WavLM of microsoft/unilm has: decoder.x"),
        ({"cfg": {**cfg, "gru_rel_pos": False}, "model": state}, "no WavLM that this project .* gru_rel_pos is False"),
        ({"cfg": {**cfg, "encoder_layers": 3}, "model": state}, r"missing: encoder\.layers\.2\."),
        ({"cfg": {**cfg, "encoder_embed_dim": 64}, "model": state}, r"of another shape: .*is \[32\], .* \[64\]"),
    ]
    path = tmp_path / "WavLM.pt"
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            WavLMModel.from_pretrained(path)
    path.write_bytes(b"<html>Sign in</html>")
    with pytest.raises(CheckpointError, match="no torch file of tensors and plain values alone"):
        WavLMModel.from_pretrained(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "glu"}, "activation_fn is 'glu'"),
        ({"extractor_mode": "batch"}, "extractor_mode is 'batch'"),
        ({"conv_feature_layers": "__import__('os').system('true')"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(512, 10)]"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(512, 10, 5)] * 10 ** 9"}, "conv_feature_layers"),
        ({"conv_feature_layers": "512"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(512,"}, "conv_feature_layers"),
        ({"relative_position_embedding": None}, "relative_position_embedding is None"),
        ({"encoder_attention_heads": 7}, "num_attention_heads"),
    ],
)
def test_sizes_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        unilm_config({**BASE, **change})


@pytest.mark.slow
@pytest.mark.parametrize(("cfg", "size"), [(BASE, "base"), (LARGE, "large")], ids=["base", "large"])
def test_true_sizes(tmp_path: Path, seed: int, cfg: dict[str, Any], size: str) -> None:
    model = WavLMModel(unilm_config(cfg)).eval()
    state = their_state(model)
    assert len(state) == {"base": 248, "large": 488}[size]
    torch.save({"cfg": cfg, "model": state}, tmp_path / "WavLM.pt")
    x = torch.randn(1, 8000) * 0.1
    with torch.no_grad():
        expected = model(x).last_hidden_state
        del model, state
        assert torch.equal(WavLMModel.from_pretrained(tmp_path / "WavLM.pt")(x).last_hidden_state, expected)
