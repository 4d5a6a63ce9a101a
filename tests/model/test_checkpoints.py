"""Weights of a checkpoint: every format and spelling, tensors that do not fit, damaged and malicious files."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12,
}  # fmt: skip
GATE = "encoder.layers.1.attention.gru_rel_pos_const"


def theirs() -> Any:
    """A CTC model of transformers in which every parameter was moved, so that none that is lost goes unnoticed."""
    model = transformers.WavLMForCTC(transformers.WavLMConfig(**TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


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


# Formats --------------------------------------------------------------------------------------------------


def test_all_formats_hold_the_same(tmp_path: Path, seed: int) -> None:
    reference = theirs()
    state = reference.state_dict()
    whole = tmp_path / "whole"
    reference.save_pretrained(whole)
    expected = WavLMForCTC.from_pretrained(whole)

    shards = tmp_path / "shards"
    reference.save_pretrained(shards, max_shard_size="30KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 2
    assert not (shards / "model.safetensors").exists()

    pickled, old_pickle, pickled_shards = (tmp_path / n for n in ("pickled", "old_pickle", "pickled_shards"))
    for folder in (pickled, old_pickle, pickled_shards):
        reference.config.save_pretrained(folder)
    torch.save(state, pickled / "pytorch_model.bin")
    torch.save(state, old_pickle / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    places = {k: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, k in enumerate(state)}
    for part in set(places.values()):
        torch.save({k: v for k, v in state.items() if places[k] == part}, pickled_shards / part)
    (pickled_shards / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    for folder in (shards, pickled, old_pickle, pickled_shards):
        assert_same_tensors(WavLMForCTC.from_pretrained(folder), expected)
    x = torch.randn(2, 6000) * 0.1
    with torch.no_grad():
        found, wanted = expected(x).logits, reference(x).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("spelling", ["weight_g", "original0"])
def test_both_spellings_of_weight_norm(tmp_path: Path, seed: int, spelling: str) -> None:
    theirs().save_pretrained(tmp_path)
    model = WavLMForCTC.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)

    def respell(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        if spelling == "weight_g":
            for new, old in names.items():
                tensors = {k.replace(new, old): v for k, v in tensors.items()}
        return tensors

    rewrite(tmp_path, respell)
    assert any(spelling in k for k in load_file(tmp_path / "model.safetensors"))
    assert_same_tensors(WavLMForCTC.from_pretrained(tmp_path), model)


# Tensors that do not fit -----------------------------------------------------------------------------------


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (
        lambda t: {k: v for k, v in t.items() if k != f"wavlm.{GATE}"},
        rf"1 missing: wavlm\.{GATE}; .*belong together",
    ),
    "extra": (
        lambda t: t | {"wavlm.encoder.layers.9.x": torch.zeros(1)},
        r"1 extra: wavlm\.encoder\.layers\.9\.x",
    ),
    "extra in the head": (lambda t: t | {"lm_head.scale": torch.zeros(1)}, r"1 extra: lm_head\.scale"),
    "shape": (
        lambda t: t | {f"wavlm.{GATE}": torch.zeros(1, 9, 1, 1)},
        rf"1 of another shape: wavlm\.{GATE} is \[1, 9, 1, 1\], the model has \[1, 4, 1, 1\]",
    ),
    "many": (
        lambda t: {k: v for k, v in t.items() if "layers.1." not in k},
        r"\d\d missing: (wavlm\S+, ){7}wavlm\S+ and \d+ more",
    ),
    "another model": (
        lambda t: {k.replace("wavlm.", "hubert."): v for k, v in t.items() if "gru_rel" not in k},
        r"no WavLM: .*hubert\.",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_tensors_that_do_not_fit(checkpoint: Path, misfit: str) -> None:
    change, message = MISFITS[misfit]
    rewrite(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        WavLMForCTC.from_pretrained(checkpoint)


def test_a_configuration_of_another_size(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing: wavlm\.encoder\.layers\.2\..*belong together"):
        WavLMForCTC.from_pretrained(checkpoint, num_hidden_layers=3)


def test_another_kind_of_model(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "hubert"}))
    with pytest.raises(CheckpointError, match="of type 'hubert', expected 'wavlm'"):
        WavLMForCTC.from_pretrained(checkpoint)


class Trap:
    """Runs when unpickled without care."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (checkpoint / "model.safetensors").unlink()
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"a": Trap()}, checkpoint / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="would run code when opened"):
            WavLMForCTC.from_pretrained(checkpoint)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", "no readable safetensors file"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{", "no readable safetensors file"),
        ("pytorch_model.bin", b"", "no (readable )?torch file"),
        ("pytorch_model.bin", b"PK\x03\x04 cut off", "no (readable )?torch file"),
        ("model.safetensors.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}', "plain file name"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "m-1.safetensors"}}', "no m-1.safetensors"),
        ("README.md", b"", "no weights .*it holds README.md, config.json"),
    ],
)  # fmt: skip
def test_damaged_or_missing_files(checkpoint: Path, name: str, content: bytes, message: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        WavLMForCTC.from_pretrained(checkpoint)


def test_a_file_cut_off_and_a_shard_that_lacks_a_tensor(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        WavLMForCTC.from_pretrained(checkpoint)
    file.write_bytes(whole)
    names = list(load_file(file))
    file.rename(checkpoint / "m-1.safetensors")
    places = dict.fromkeys([*names, "wavlm.absent"], "m-1.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"m-1\.safetensors lacks tensors .*wavlm\.absent"):
        WavLMForCTC.from_pretrained(checkpoint)


def test_a_pickle_of_something_else(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    for value, message in (
        ([1], "holds a list"),
        ({"state_dict": {}, "epoch": 3}, "state_dict, epoch are no tensors"),
        ({}, "empty"),
    ):
        torch.save(value, checkpoint / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=message):
            WavLMForCTC.from_pretrained(checkpoint)
