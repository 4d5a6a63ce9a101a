"""`from_pretrained` and `save_pretrained` of every class, against transformers in both directions; new heads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wavlm_live.model.audio_frame_classification import WavLMForAudioFrameClassification
from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError, ConfigurationError, DeviceError
from wavlm_live.model.pretrained import PretrainedMixin
from wavlm_live.model.processor import WavLMProcessor
from wavlm_live.model.sequence_classification import WavLMForSequenceClassification
from wavlm_live.model.wavlm import WavLMModel
from wavlm_live.model.xvector import WavLMForXVector

CLASSES: dict[str, Any] = {
    "WavLMModel": WavLMModel,
    "WavLMForCTC": WavLMForCTC,
    "WavLMForSequenceClassification": WavLMForSequenceClassification,
    "WavLMForAudioFrameClassification": WavLMForAudioFrameClassification,
    "WavLMForXVector": WavLMForXVector,
}
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12,
    "tdnn_dim": [8] * 5, "xvector_output_dim": 6, "classifier_proj_size": 10,
}  # fmt: skip
GATE = "encoder.layers.1.attention.gru_rel_pos_const"


def shake(model: nn.Module) -> None:
    """Move every parameter, so that none that is lost or mixed up goes unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def theirs(name: str = "WavLMForCTC", **changes: Any) -> Any:
    model = getattr(transformers, name)(transformers.WavLMConfig(**{**TINY, **changes}))
    shake(model)
    return model.eval()


def ours(name: str = "WavLMForCTC", **changes: Any) -> Any:
    model = CLASSES[name](WavLMConfig(**{**TINY, **changes}))
    shake(model)
    return model.eval()


def weighted(options: dict[str, Any]) -> bool:
    """Whether heads may read all layers: before 5.16 the last one of a stable encoder was another one."""
    recent = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 16)
    return recent or not options.get("do_stable_layer_norm", False)


def answer(model: Any, samples: int = 6000) -> Tensor:
    """What a model says to a fixed noise."""
    x = torch.randn(2, samples, generator=torch.Generator().manual_seed(1)) * 0.1
    with torch.no_grad():
        out = model(x)
    return out.logits if getattr(out, "logits", None) is not None else out.last_hidden_state


def assert_same_answer(a: Any, b: Any) -> None:
    expected = answer(b)
    torch.testing.assert_close(answer(a), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def assert_same_tensors(a: nn.Module, b: nn.Module) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys()
    for k in x:
        assert torch.equal(x[k], y[k]), k


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Put other tensors into the safetensors file of a folder."""
    file = folder / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(file).items()}
    save_file(change(tensors), str(file), metadata={"format": "pt"})


@pytest.fixture
def checkpoint(tmp_path: Path, seed: int) -> Path:
    """A CTC model as transformers writes it."""
    theirs().save_pretrained(tmp_path / "ctc")
    return tmp_path / "ctc"


# Both directions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}], ids=["base", "large"]
)
@pytest.mark.parametrize("name", CLASSES)
def test_reads_what_transformers_wrote(tmp_path: Path, seed: int, name: str, options: dict[str, Any]) -> None:
    if name not in ("WavLMModel", "WavLMForCTC"):
        options = {**options, "use_weighted_layer_sum": weighted(options), "num_labels": 3}
    reference = theirs(name, **options)
    reference.save_pretrained(tmp_path)
    model = CLASSES[name].from_pretrained(tmp_path)
    assert not model.training
    assert_same_answer(model, reference)


@pytest.mark.parametrize(
    "options", [{}, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}], ids=["base", "large"]
)
@pytest.mark.parametrize("name", CLASSES)
def test_writes_what_transformers_reads(tmp_path: Path, seed: int, name: str, options: dict[str, Any]) -> None:
    if name not in ("WavLMModel", "WavLMForCTC"):
        options = {
            **options,
            "use_weighted_layer_sum": weighted(options),
            "id2label": {0: "yes", 1: "no", 2: "perhaps"},
        }
    model = ours(name, **options)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    reference, told = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    assert reference.config.architectures == [name]
    assert reference.config.id2label == model.config.id2label
    assert_same_answer(model, reference.eval())
    assert_same_tensors(CLASSES[name].from_pretrained(tmp_path), model)


def test_a_class_of_the_user_is_written_under_the_name_transformers_knows(tmp_path: Path) -> None:
    class Mine(WavLMForCTC):
        pass

    Mine(WavLMConfig(**TINY)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["WavLMForCTC"]


def test_unknown_keys_of_the_configuration_survive(tmp_path: Path, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "freeze_feat_extract_train": True}))
    WavLMForCTC.from_pretrained(checkpoint).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["freeze_feat_extract_train"] is True


# Types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_stored_and_requested_types(tmp_path: Path, seed: int, stored: torch.dtype) -> None:
    model = ours("WavLMModel")
    model.save_pretrained(tmp_path, dtype=stored)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(stored).removeprefix("torch.")
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values()} == {stored}
    loaded = WavLMModel.from_pretrained(tmp_path)
    for k, v in loaded.state_dict().items():
        assert v.dtype == torch.float32
        assert torch.equal(v, model.state_dict()[k].to(stored).float()), k
    for wanted in ("bfloat16", torch.bfloat16):
        assert {p.dtype for p in WavLMModel.from_pretrained(tmp_path, dtype=wanted).parameters()} == {torch.bfloat16}


def test_a_weight_too_large_for_float16_is_named(tmp_path: Path) -> None:
    model = ours("WavLMForCTC")
    model.lm_head.bias.data[3] = 1e6
    with pytest.raises(CheckpointError, match=r"lm_head\.bias has values too large"):
        model.save_pretrained(tmp_path / "x", dtype="float16")
    assert not (tmp_path / "x").exists()


# Heads ----------------------------------------------------------------------------------------------------


def test_a_head_needs_its_tensors_or_permission(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    base = ours("WavLMModel")
    base.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"2 missing: lm_head\.weight, lm_head\.bias; .*new_head=True"):
        WavLMForCTC.from_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        model = WavLMForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=29)
    assert "stays as initialised in WavLMForCTC: lm_head.weight, lm_head.bias" in caplog.text
    assert_same_tensors(model.wavlm, base)
    assert model.lm_head.weight.shape == (29, 32)
    assert 0.01 < model.lm_head.weight.std().item() < 0.03


def test_a_new_head_in_place_of_another(checkpoint: Path) -> None:
    trained = WavLMForCTC.from_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"missing: .*projector.*2 extra: lm_head\.\w+, lm_head\.\w+;"):
        WavLMForSequenceClassification.from_pretrained(checkpoint)
    model = WavLMForSequenceClassification.from_pretrained(checkpoint, new_head=True, num_labels=5)
    assert model.classifier.weight.shape[0] == len(model.config.id2label) == 5
    assert_same_tensors(model.wavlm, trained.wavlm)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \[12, 32\], the model has \[9, 32\].*new_head=True"):
        WavLMForCTC.from_pretrained(checkpoint, vocab_size=9)
    again = WavLMForCTC.from_pretrained(checkpoint, new_head=True)
    assert not torch.equal(again.lm_head.weight, trained.lm_head.weight)


def test_the_encoder_of_a_checkpoint_with_a_head(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        base = WavLMModel.from_pretrained(checkpoint)
    assert "not needed by WavLMModel: lm_head.bias, lm_head.weight" in caplog.text
    assert_same_tensors(base, WavLMForCTC.from_pretrained(checkpoint).wavlm)


def test_tensors_of_pretraining_are_dropped_aloud(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {
        "quantizer.codevectors": torch.zeros(3),
        "project_q.bias": torch.zeros(2),
        "project_hid.bias": torch.zeros(2),
    }
    expected = WavLMForCTC.from_pretrained(checkpoint)
    rewrite(checkpoint, lambda tensors: tensors | extra)
    with caplog.at_level(logging.INFO):
        assert_same_tensors(WavLMForCTC.from_pretrained(checkpoint), expected)
    for name in extra:
        assert name in caplog.text


def test_the_mask_vector_may_be_missing_or_extra(tmp_path: Path, seed: int) -> None:
    ours("WavLMModel").save_pretrained(tmp_path / "with")
    ours("WavLMModel", mask_time_prob=0.0).save_pretrained(tmp_path / "without")
    assert not hasattr(WavLMModel.from_pretrained(tmp_path / "with", mask_time_prob=0.0), "masked_spec_embed")
    model = WavLMModel.from_pretrained(tmp_path / "without", mask_time_prob=0.1)
    assert 0.1 < model.masked_spec_embed.std().item() < 0.5  # drawn between 0 and 1
    assert 0 <= model.masked_spec_embed.min() <= model.masked_spec_embed.max() <= 1
    assert WavLMForCTC.from_pretrained(
        tmp_path / "without", mask_time_prob=0.1, new_head=True
    ).wavlm.masked_spec_embed.any()


def test_an_adapter_is_new_only_where_the_checkpoint_has_none(tmp_path: Path, seed: int) -> None:
    ours("WavLMModel").save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"missing: adapter\."):
        WavLMModel.from_pretrained(tmp_path / "plain", add_adapter=True)
    WavLMForCTC.from_pretrained(tmp_path / "plain", add_adapter=True, new_head=True)
    adapted = ours("WavLMModel", add_adapter=True)
    adapted.save_pretrained(tmp_path / "adapted")
    assert_same_tensors(WavLMForCTC.from_pretrained(tmp_path / "adapted", new_head=True).wavlm, adapted)
    rewrite(tmp_path / "adapted", lambda t: {k: v for k, v in t.items() if k != "adapter.layers.0.conv.bias"})
    with pytest.raises(CheckpointError, match=r"1 missing: wavlm\.adapter\.layers\.0\.conv\.bias"):
        WavLMForCTC.from_pretrained(tmp_path / "adapted", new_head=True)


# Arguments --------------------------------------------------------------------------------------------------


def test_arguments_that_cannot_be(checkpoint: Path) -> None:
    for options, error, message in (
        ({"hidden_sise": 3}, ConfigurationError, "no field hidden_sise; its fields are .*hidden_size"),
        ({"num_attention_heads": 5}, ConfigurationError, "multiple of num_attention_heads"),
        ({"dtype": "int8"}, ConfigurationError, "dtype is 'int8', expected one of float32"),
        ({"dtype": torch.int64}, ConfigurationError, r"dtype is torch\.int64"),
        ({"device": "gpu"}, DeviceError, "no device 'gpu'"),
        ({"device": "cuda:99"}, DeviceError, "cannot put WavLMForCTC on cuda:99"),
    ):
        with pytest.raises(error, match=message):
            WavLMForCTC.from_pretrained(checkpoint, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", [True, False])
def test_the_preprocessor_decides_whether_streams_normalise(checkpoint: Path, tmp_path: Path, normalize: bool) -> None:
    assert WavLMForCTC.from_pretrained(checkpoint).config.stream_normalize is False  # nothing is said
    WavLMProcessor(do_normalize=normalize).save_pretrained(checkpoint)
    model = WavLMForCTC.from_pretrained(checkpoint)
    assert model.config.stream_normalize is normalize
    assert (
        WavLMForCTC.from_pretrained(checkpoint, stream_normalize=not normalize).config.stream_normalize is not normalize
    )
    # what config.json says goes first
    model.save_pretrained(tmp_path / "saved")
    WavLMProcessor(do_normalize=not normalize).save_pretrained(tmp_path / "saved")
    assert WavLMForCTC.from_pretrained(tmp_path / "saved").config.stream_normalize is normalize


# True sizes -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", ["base", "large"])
def test_true_sizes(tmp_path: Path, seed: int, size: str) -> None:
    large = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    }  # fmt: skip
    reference = transformers.WavLMForCTC(transformers.WavLMConfig(**(large if size == "large" else {}))).eval()
    shake(reference)
    expected = answer(reference)
    reference.save_pretrained(tmp_path)
    del reference
    model = WavLMForCTC.from_pretrained(tmp_path)
    assert sum(p.numel() for p in model.wavlm.parameters()) == {"base": 94_381_936, "large": 315_453_120}[size]
    assert len(model.wavlm.state_dict()) == {"base": 248, "large": 488}[size]
    torch.testing.assert_close(answer(model), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_every_model_can_be_read_and_written() -> None:
    assert all(issubclass(kind, PretrainedMixin) for kind in CLASSES.values())
