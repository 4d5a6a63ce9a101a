"""`WavLMConfig`: every field of a WavLM, under the names of transformers' `config.json`, checked on creation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigurationError

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh")


@dataclass(frozen=True)
class WavLMConfig:
    """The shape and the training options of a WavLM (Chen et al. 2021, section IV; names of transformers).

    Fields after `output_hidden_size` are this project's own. Unknown keys of a file are kept in `extra` and
    written back, since published configurations carry many that are not WavLM's.

    Raises:
        ConfigurationError: a value that cannot make a working network; the message names the field.
    """

    vocab_size: int = 32
    """Outputs of the CTC head."""
    hidden_size: int = 768
    """Width of the encoder."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    """Inner width of the feed-forward part of a layer."""
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    """Dropout before the CTC head."""
    layerdrop: float = 0.1
    """Probability that a layer other than the first is skipped in a training step."""
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    """"group": group norm after the first convolution alone; "layer": layer norm after each."""
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[int, ...] = (512,) * 7
    """Channels of each convolution of the front end."""
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    """Kernel of the convolutional position, in frames."""
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    """Rows of the table of the relative position bias, both directions together."""
    max_bucket_distance: int = 800
    """Distance in frames from which all positions share a bucket."""
    do_stable_layer_norm: bool = False
    """True: layer norm before attention and feed-forward (large); False: after them (base)."""
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    """Frames of one time mask."""
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    """Channels of one feature mask."""
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    """Heads read a learned softmax average of all layers instead of the last."""
    classifier_proj_size: int = 256
    tdnn_dim: tuple[int, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: tuple[int, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: tuple[int, ...] = (1, 2, 3, 1, 1)
    xvector_output_dim: int = 512
    num_ctc_classes: int = 80
    pad_token_id: int = 0
    """Token of padding, and the blank of CTC."""
    bos_token_id: int = 1
    eos_token_id: int = 2
    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None
    """Width after the adapter; None means `hidden_size`."""
    num_labels: int = 2
    """Classes of the classification heads (written as `id2label`, as transformers does)."""
    id2label: dict[int, str] = field(default_factory=dict)
    """Names of the classes; empty means LABEL_0, LABEL_1, ..."""

    masked_group_norm: bool = False
    """True: group norm statistics leave out padding, so that a batch equals its utterances alone.
    False: they include it, as in transformers."""
    stream_normalize: bool = False
    """The checkpoint was trained on waveforms of zero mean and unit variance (`do_normalize` of its
    preprocessor): a stream normalises with cumulative statistics."""
    stream_prior_frames: int = 100
    """Weight of the prior in cumulative statistics, in frames of 20 ms (100: two seconds)."""
    stream_prior_rms: float = 0.05
    """Level of the speech-like signal that the prior stands for, in full scale."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of the file that are no field here, kept for the round trip."""

    def __post_init__(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise ConfigurationError(f"WavLMConfig.{name} is {getattr(self, name)!r}, expected {expected}")

        for name in ("conv_dim", "conv_kernel", "conv_stride", "tdnn_dim", "tdnn_kernel", "tdnn_dilation"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not value or any(type(v) is not int or v < 1 for v in value):
                refuse(name, "a list of positive integers")
            object.__setattr__(self, name, tuple(value))
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "num_buckets", "max_bucket_distance",
            "mask_time_length", "mask_feature_length", "classifier_proj_size", "xvector_output_dim",
            "adapter_kernel_size", "adapter_stride", "num_adapter_layers", "num_labels", "stream_prior_frames",
        ):  # fmt: skip
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                refuse(name, "a positive integer")
        for name in (
            "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout",
            "layerdrop", "mask_time_prob", "mask_feature_prob",
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                refuse(name, "a probability between 0 and 1")
        if self.feat_extract_norm not in ("group", "layer"):
            refuse("feat_extract_norm", '"group" or "layer"')
        for name in ("hidden_act", "feat_extract_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                refuse(name, f"one of {', '.join(ACTIVATIONS)}")
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ConfigurationError(
                "WavLMConfig.conv_dim, conv_kernel and conv_stride describe the same layers, but have "
                f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)} entries"
            )
        if not len(self.tdnn_dim) == len(self.tdnn_kernel) == len(self.tdnn_dilation):
            raise ConfigurationError(
                "WavLMConfig.tdnn_dim, tdnn_kernel and tdnn_dilation describe the same layers, but have "
                f"{len(self.tdnn_dim)}, {len(self.tdnn_kernel)} and {len(self.tdnn_dilation)} entries"
            )
        if self.hidden_size % self.num_attention_heads:
            refuse("hidden_size", f"a multiple of num_attention_heads ({self.num_attention_heads})")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            refuse("hidden_size", f"a multiple of num_conv_pos_embedding_groups ({self.num_conv_pos_embedding_groups})")
        if self.num_buckets % 4:
            refuse("num_buckets", "a multiple of 4 (two directions, half exact and half logarithmic)")
        if self.max_bucket_distance <= self.num_buckets // 4:
            refuse("max_bucket_distance", f"more than num_buckets / 4 ({self.num_buckets // 4})")
        if self.ctc_loss_reduction not in ("mean", "sum", "none"):
            refuse("ctc_loss_reduction", '"mean", "sum" or "none"')
        if self.layer_norm_eps <= 0:
            refuse("layer_norm_eps", "a positive number")
        if self.stream_prior_rms <= 0:
            refuse("stream_prior_rms", "a positive number")
        if self.output_hidden_size is None:
            object.__setattr__(self, "output_hidden_size", self.hidden_size)
        if self.output_hidden_size != self.hidden_size and not self.add_adapter:
            refuse("output_hidden_size", f"hidden_size ({self.hidden_size}) where add_adapter is false")
        labels = {int(k): str(v) for k, v in self.id2label.items()}
        if labels and len(labels) != self.num_labels:
            object.__setattr__(self, "num_labels", len(labels))
        object.__setattr__(self, "id2label", labels or {i: f"LABEL_{i}" for i in range(self.num_labels)})

    # Sizes that follow from the fields ------------------------------------------------------------------

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next (320 for the published models)."""
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

    @property
    def receptive_samples(self) -> int:
        """Samples that the first frame needs (400 for the published models)."""
        need = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            need = (need - 1) * stride + kernel
        return need

    def frames_of(self, samples: int) -> int:
        """Frames that `samples` give: 0 below the receptive field, then one a hop."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    # Files ----------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WavLMConfig:
        """Read the dictionary of a `config.json`; keys that are no field are kept in `extra`."""
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        derived = {"model_type", "label2id"}
        given = {k: v for k, v in values.items() if k in known and v is not None}
        if "id2label" in given and "num_labels" not in given:
            given["num_labels"] = max(1, len(given["id2label"]))
        extra = {k: v for k, v in values.items() if k not in known | derived}
        return cls(**given, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of a `config.json` that transformers reads as a WavLM."""
        values = dict(self.extra)
        for f in dataclasses.fields(self):
            if f.name not in ("extra", "num_labels"):
                value = getattr(self, f.name)
                values[f.name] = list(value) if isinstance(value, tuple) else value
        values["id2label"] = {str(k): v for k, v in self.id2label.items()}
        values["label2id"] = {v: k for k, v in self.id2label.items()}
        values["model_type"] = "wavlm"
        return values

    @classmethod
    def from_file(cls, path: str | Path) -> WavLMConfig:
        """Read a `config.json`.

        Raises:
            CheckpointError: no such file, not JSON, or the configuration of another kind of model.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise CheckpointError(f"cannot read {path}: {e.strerror}; a checkpoint folder holds a config.json") from e
        except ValueError as e:
            raise CheckpointError(f"{path} is not valid JSON ({e})") from e
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a JSON object")
        kind = values.get("model_type", "wavlm")
        if kind != "wavlm":
            raise CheckpointError(f"{path} describes a model of type {kind!r}, expected 'wavlm'")
        return cls.from_dict(values)

    def replace(self, **changes: Any) -> WavLMConfig:
        """A copy with some fields changed; a new `num_labels` alone drops the old names of the classes."""
        if "num_labels" in changes:
            changes.setdefault("id2label", {})
        return dataclasses.replace(self, **changes)
