"""Weights of a checkpoint: found, opened whatever their format, renamed, checked tensor by tensor, copied in.

Formats: `model.safetensors`, several safetensors files with an index, `pytorch_model.bin`, several of those with an
index. Pickles are opened with `weights_only=True` alone.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .folders import Source, read_json

logger = logging.getLogger(__name__)

BASE_PREFIX = "wavlm."
"""What the names of the encoder's tensors begin with where a head is beside it."""
TRAINING_ONLY = ("quantizer.", "project_q.", "project_hid.", "final_proj.", "label_embs_concat")
"""Tensors of pre-training, which no model here has."""
OPTIONAL = "masked_spec_embed"
"""Used in training alone, and present only where the configuration masks: free to be missing or extra."""
WAVLM_MARK = ".attention.gru_rel_pos_"
"""Part of the names of the gated relative position bias, which WavLM alone has."""
SPELLINGS = (
    (".pos_conv_embed.conv.weight_g", ".pos_conv_embed.conv.parametrizations.weight.original0"),
    (".pos_conv_embed.conv.weight_v", ".pos_conv_embed.conv.parametrizations.weight.original1"),
)
"""Names of the weight norm before and since torch 2.1."""
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint under transformers' names, read from the file when asked for.

    Args:
        tensors: name -> function that reads the tensor; names are brought to the present spelling.
        origin: where they come from, for messages.
    """

    def __init__(self, tensors: Mapping[str, Callable[[], Tensor]], origin: str):
        self._tensors = {present_name(k): v for k, v in tensors.items()}
        self.origin = origin

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """The tensors named by the keys of `names`, under the names that are its values."""
        return Weights({new: self._tensors[old] for old, new in names.items()}, self.origin)


def present_name(name: str) -> str:
    """A tensor's name in the present spelling of weight norm."""
    for old, new in SPELLINGS:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def open_weights(source: Source) -> Weights:
    """Find and open the weights of a folder or hub repository, safetensors first.

    Raises:
        CheckpointError: no weights, a missing part, a damaged file, or a pickle that holds more than tensors.
    """
    for name in WEIGHT_FILES:
        path = source.find(name)
        if path is not None:
            break
    else:
        source.fail("weights (model.safetensors or pytorch_model.bin)")
    if not path.name.endswith(".index.json"):
        return Weights(open_file(path), str(path))
    tensors: dict[str, Callable[[], Tensor]] = {}
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path} has no weight_map; it cannot say which file holds which tensor")
    for part in dict.fromkeys(places.values()):
        if not isinstance(part, str) or Path(part).name != part:
            raise CheckpointError(f"{path} names the file {part!r}, expected a plain file name beside it")
        opened = open_file(source.need(part))
        absent = [k for k, v in places.items() if v == part and k not in opened]
        if absent:
            raise CheckpointError(f"{part} lacks tensors that {path.name} promises: {listed(absent)}")
        tensors |= {k: opened[k] for k, v in places.items() if v == part}
    return Weights(tensors, str(path))


def open_file(path: Path) -> dict[str, Callable[[], Tensor]]:
    """Name -> reader for the tensors of one file, safetensors or a pickled state dict.

    Raises:
        CheckpointError: damaged, or no such file.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            opened: Any = safe_open(str(path), framework="pt", device="cpu")
            return {k: lambda k=k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError) as e:
            raise CheckpointError(f"{path} is no readable safetensors file ({e}); fetch it again") from e
    return named_tensors(read_pickle(path), path)


def read_pickle(path: Path) -> Any:
    """Whatever a torch file holds, with tensors on the CPU, mapped from the file where its format allows it.

    Raises:
        CheckpointError: damaged, or it holds objects other than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path} is no torch file of tensors and plain values alone; it is damaged or would run code when "
            f"opened, and is refused ({_first_line(e)})"
        ) from e
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as e:
        raise CheckpointError(f"{path} is no readable torch file ({_first_line(e)}); fetch it again") from e


def _first_line(error: Exception) -> str:
    """torch explains at length; the first line says what is wrong."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def named_tensors(values: Any, where: Path) -> dict[str, Callable[[], Tensor]]:
    """Readers of a state dict that is in memory.

    Raises:
        CheckpointError: `values` is no dictionary of tensors; the message says what it is.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} holds a {type(values).__name__}, expected a dictionary of tensors")
    other = [k for k, v in values.items() if not isinstance(v, Tensor)]
    if other or not values:
        raise CheckpointError(
            f"{where} is no plain state dict: {listed(map(str, other)) or 'it is empty'} "
            f"{'are no tensors' if other else ''}; save the state dict itself"
        )
    return {str(k): lambda v=v: v for k, v in values.items()}


def load_into(model: nn.Module, weights: Weights, *, new_head: bool = False) -> list[str]:
    """Copy a checkpoint into a model, all of it or nothing.

    The encoder's tensors must all be there, and no others. A model without a head takes the encoder of a
    checkpoint with one. A model with a head needs that head's tensors, unless `new_head`.

    Args:
        model: on its device and in its dtype; values are cast. A new head must be initialised already.
        new_head: leave the head as it was initialised, whatever the checkpoint has; and an adapter too, where
            the checkpoint has none.

    Returns:
        Names of the tensors that stay as they were initialised.

    Raises:
        CheckpointError: no WavLM, or tensors that are missing, extra or of another shape; the message names them.
    """
    targets = model.state_dict()
    with_head = any(k.startswith(BASE_PREFIX) for k in targets)
    from_head = any(k.startswith(BASE_PREFIX) for k in weights)
    if not any(WAVLM_MARK in k for k in weights):
        raise CheckpointError(
            f"{weights.origin} is no WavLM: it has no gated relative position bias; its tensors are {listed(weights)}"
        )
    dropped = [k for k in weights if k.startswith(TRAINING_ONLY)]
    names: dict[str, str] = {}  # name in the checkpoint -> name in the model
    for k in weights:
        in_base = k.startswith(BASE_PREFIX) or not from_head
        if k in dropped:
            continue
        if not in_base and (not with_head or new_head):
            dropped.append(k)
        else:
            names[k] = (BASE_PREFIX if in_base and with_head else "") + (k.removeprefix(BASE_PREFIX) if in_base else k)
    given = set(names.values())
    fresh = [k for k in targets if k not in given and _may_be_fresh(k, with_head, new_head, given)]
    for k in [k for k, v in names.items() if v not in targets and v.endswith(OPTIONAL)]:
        dropped.append(k)
        del names[k]
    weights = weights.renamed(names)
    missing = [k for k in targets if k not in weights and k not in fresh]
    extra = [k for k in weights if k not in targets]
    loaded = {k: weights[k] for k in weights if k in targets}
    misshapen = [
        f"{k} is {list(v.shape)}, the model has {list(targets[k].shape)}"
        for k, v in loaded.items()
        if v.shape != targets[k].shape
    ]
    if missing or extra or misshapen:
        raise CheckpointError(_mismatch(weights.origin, type(model).__name__, missing, extra, misshapen, with_head))
    with torch.no_grad():
        for k, value in loaded.items():
            targets[k].copy_(value)
        for k in fresh:
            if k.endswith(OPTIONAL):
                targets[k].uniform_()
    if dropped:
        logger.info("%s: not needed by %s: %s", weights.origin, type(model).__name__, listed(dropped))
    if fresh:
        logger.info("%s: stays as initialised in %s: %s", weights.origin, type(model).__name__, listed(fresh))
    return fresh


def _may_be_fresh(name: str, with_head: bool, new_head: bool, given: Iterable[str]) -> bool:
    """Whether a tensor that the checkpoint lacks may keep its initial values."""
    if name.endswith(OPTIONAL):
        return True
    if not new_head:
        return False
    base = BASE_PREFIX if with_head else ""
    if with_head and not name.startswith(BASE_PREFIX):
        return True
    return name.startswith(f"{base}adapter.") and not any(k.startswith(f"{base}adapter.") for k in given)


def _mismatch(
    origin: str, model: str, missing: list[str], extra: list[str], misshapen: list[str], with_head: bool
) -> str:
    parts = [f"{origin} does not fit {model}"]
    if missing:
        parts.append(f"{len(missing)} missing: {listed(missing)}")
    if extra:
        parts.append(f"{len(extra)} extra: {listed(extra)}")
    if misshapen:
        parts.append(f"{len(misshapen)} of another shape: {listed(misshapen)}")
    head_alone = with_head and not any(
        k.startswith(BASE_PREFIX) for k in [*missing, *extra, *(m.split(" ", 1)[0] for m in misshapen)]
    )
    if head_alone:
        parts.append("only the head differs: pass new_head=True to start training a new one on this encoder")
    else:
        parts.append("the weights and the config.json do not belong together")
    return "; ".join(parts)


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
