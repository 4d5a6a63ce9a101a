"""The checkpoints that microsoft/unilm published: `{"cfg": dict, "model": state dict}` in one `.pt` file.

Read in place of transformers' folders. The sizes come from `cfg` by value; tensors are renamed one to one
(github.com/microsoft/unilm, wavlm/WavLM.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import TRAINING_ONLY, Weights, listed, named_tensors, read_pickle
from .config import WavLMConfig
from .errors import CheckpointError, ConfigurationError

RENAMES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"mask_emb", "masked_spec_embed"),
        (r"layer_norm\.(weight|bias)", r"feature_projection.layer_norm.\1"),
        (r"post_extract_proj\.(weight|bias)", r"feature_projection.projection.\1"),
        (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)", r"feature_extractor.conv_layers.\1.conv.\2"),
        # index 2 of the sequence is a group norm, or a sequence with the layer norm between two transpositions
        (
            r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(weight|bias)",
            r"feature_extractor.conv_layers.\1.layer_norm.\2",
        ),
        (r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v)", r"encoder.pos_conv_embed.conv.\1"),
        (r"encoder\.layer_norm\.(weight|bias)", r"encoder.layer_norm.\1"),
        (
            r"(encoder\.layers\.\d+)\.self_attn\.([qkv]|out)_proj\.(weight|bias)",
            r"\1.attention.\2_proj.\3",
        ),
        (r"(encoder\.layers\.\d+)\.self_attn\.grep_linear\.(weight|bias)", r"\1.attention.gru_rel_pos_linear.\2"),
        (r"(encoder\.layers\.\d+)\.self_attn\.grep_a", r"\1.attention.gru_rel_pos_const"),
        (
            r"(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.weight",
            r"\1.attention.rel_attn_embed.weight",
        ),
        (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.(weight|bias)", r"\1.layer_norm.\2"),
        (r"(encoder\.layers\.\d+)\.final_layer_norm\.(weight|bias)", r"\1.final_layer_norm.\2"),
        (r"(encoder\.layers\.\d+)\.fc1\.(weight|bias)", r"\1.feed_forward.intermediate_dense.\2"),
        (r"(encoder\.layers\.\d+)\.fc2\.(weight|bias)", r"\1.feed_forward.output_dense.\2"),
    )
)
"""Name there -> name in transformers."""

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "tanh": "tanh", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new"}
NORMS = {"default": "group", "layer_norm": "layer"}
CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
FIELDS: dict[str, tuple[str, Any]] = {
    "hidden_size": ("encoder_embed_dim", 768),
    "num_hidden_layers": ("encoder_layers", 12),
    "num_attention_heads": ("encoder_attention_heads", 12),
    "intermediate_size": ("encoder_ffn_embed_dim", 3072),
    "do_stable_layer_norm": ("layer_norm_first", False),
    "conv_bias": ("conv_bias", False),
    "num_conv_pos_embeddings": ("conv_pos", 128),
    "num_conv_pos_embedding_groups": ("conv_pos_groups", 16),
    "num_buckets": ("num_buckets", 320),
    "max_bucket_distance": ("max_distance", 1280),
    "hidden_dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "feat_proj_dropout": ("dropout_input", 0.0),
    "layerdrop": ("encoder_layerdrop", 0.0),
    "stream_normalize": ("normalize", False),
}
"""Our field -> their key and its default."""


def read_unilm(path: Path) -> tuple[WavLMConfig, Weights]:
    """Open a `.pt` file of microsoft/unilm.

    The masking of pre-training (80% of the frames) is not taken over, since it would be used for fine-tuning.

    Raises:
        CheckpointError: another kind of file, sizes that cannot be read, or tensors with unknown names.
    """
    held = read_pickle(path)
    keys = list(held) if isinstance(held, Mapping) else []
    if not isinstance(held, Mapping) or not {"cfg", "model"} <= set(keys):
        found = f"the keys {listed(map(str, keys))}" if keys else f"a {type(held).__name__}"
        raise CheckpointError(
            f"{path} holds {found}; a checkpoint of microsoft/unilm holds 'cfg' and 'model'. One in transformers' "
            "format is given as its folder"
        )
    if not isinstance(held["cfg"], Mapping):
        raise CheckpointError(f"{path}: 'cfg' is a {type(held['cfg']).__name__}, expected a dictionary of sizes")
    try:
        config = unilm_config(held["cfg"])
    except ConfigurationError as e:
        raise CheckpointError(f"{path}: its 'cfg' describes no WavLM that this project can build: {e}") from e
    return config, unilm_weights(named_tensors(held["model"], path), config, str(path))


def unilm_config(cfg: Mapping[str, Any]) -> WavLMConfig:
    """Their `cfg` as our configuration.

    Raises:
        ConfigurationError: values that no WavLM of transformers has, such as an encoder without the gated bias.
    """
    for name in ("relative_position_embedding", "gru_rel_pos"):
        if not cfg.get(name, False):
            raise ConfigurationError(f"{name} is {cfg.get(name, False)!r}, a WavLM has it true")
    layers = _convolutions(cfg.get("conv_feature_layers", CONVOLUTIONS))
    values: dict[str, Any] = {ours: cfg.get(theirs, default) for ours, (theirs, default) in FIELDS.items()}
    for ours, theirs, known, default in (
        ("hidden_act", "activation_fn", ACTIVATIONS, "gelu"),
        ("feat_extract_norm", "extractor_mode", NORMS, "default"),
    ):
        given = cfg.get(theirs, default)
        if given not in known:
            raise ConfigurationError(f"{theirs} is {given!r}, expected one of {', '.join(known)}")
        values[ours] = known[given]
    dims, kernels, strides = zip(*layers, strict=True)
    return WavLMConfig(conv_dim=dims, conv_kernel=kernels, conv_stride=strides, **values)


def unilm_weights(tensors: Mapping[str, Callable[[], Tensor]], config: WavLMConfig, origin: str) -> Weights:
    """Their state dict under transformers' names.

    Raises:
        CheckpointError: names that the mapping does not know.
    """
    renamed: dict[str, Callable[[], Tensor]] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        for pattern, new in RENAMES:
            if match := pattern.fullmatch(name):
                renamed[match.expand(new)] = tensor
                break
        else:
            if name.startswith(TRAINING_ONLY):
                renamed[name] = tensor
            else:
                unknown.append(name)
    if unknown:
        raise CheckpointError(f"{origin} has tensors that no WavLM of microsoft/unilm has: {listed(unknown)}")
    width = config.conv_dim[-1]
    if width == config.hidden_size and "feature_projection.projection.weight" not in renamed:
        # they leave the projection out where the widths agree: here it is the identity
        renamed["feature_projection.projection.weight"] = lambda: torch.eye(width)
        renamed["feature_projection.projection.bias"] = lambda: torch.zeros(width)
    return Weights(renamed, origin)


def _convolutions(text: Any) -> list[tuple[int, int, int]]:
    """Their list of `(channels, kernel, stride)`, written as an expression of lists, `+` and `*`.

    They evaluate it as Python; here only those operations are carried out.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 100_000:
            return node.value
        if isinstance(node, ast.List):
            return [value(e) for e in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(value(e) for e in node.elts)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            if isinstance(node.op, ast.Mult) and isinstance(left, list) and type(right) is int and right < 100:
                return left * right
        raise ValueError("something other than a list of triples")

    try:
        layers = value(ast.parse(text, mode="eval").body) if isinstance(text, str) else list(text)
        if not layers or any(len(layer) != 3 for layer in layers):
            raise ValueError("something other than a list of triples")
    except (ValueError, SyntaxError, TypeError) as e:
        raise ConfigurationError(
            f'conv_feature_layers is {text!r}, expected a list of (channels, kernel, stride) like "{CONVOLUTIONS}"'
        ) from e
    return [tuple(layer) for layer in layers]
