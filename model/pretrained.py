"""`PretrainedMixin`: `from_pretrained` and `save_pretrained` for every model here, in transformers' format."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checkpoints import Weights, load_into, open_weights
from .config import WavLMConfig
from .errors import CheckpointError, ConfigurationError, DeviceError
from .folders import Source, read_json, staged, write_json
from .processor import feature_settings
from .unilm import read_unilm

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class PretrainedMixin:
    """Reading and writing of checkpoints, for a `torch.nn.Module` that is made from a `WavLMConfig` alone."""

    base_model_prefix: ClassVar[str] = "wavlm"
    config: WavLMConfig

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        new_head: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """Build the model of a checkpoint, in evaluation mode.

        A checkpoint whose preprocessor normalises waveforms sets `config.stream_normalize`, unless its
        `config.json` or an override has a word on that.

        Args:
            name_or_path: a folder in transformers' format, the name of one on the Hugging Face hub, or a `.pt`
                file of microsoft/unilm.
            dtype: of the parameters, torch's or its name; None means float32, whatever the file holds.
            device: None means the CPU.
            revision: branch, tag or commit on the hub.
            new_head: start with a new head on the checkpoint's encoder, for fine-tuning. Without it a checkpoint
                that lacks this class's head is refused.
            config_overrides: fields of `WavLMConfig` to change.

        Raises:
            CheckpointError: not found, unreadable, no WavLM, or its tensors do not fit.
            ConfigurationError: an override or a dtype that cannot be.
            DeviceError: a device that is not there.
        """
        number = _dtype(dtype)
        place = _device(device)
        config, weights = _open(name_or_path, revision, config_overrides)
        with nullcontext() if new_head else _WithoutRandomValues():
            model = cast(Any, cls)(config)
        try:
            model.to(device=place, dtype=number)
        except (RuntimeError, AssertionError) as e:
            raise DeviceError(f"cannot put {cls.__name__} on {place}: {str(e).splitlines()[0]}") from e
        load_into(model, weights, new_head=new_head)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | str | None = None) -> Path:
        """Write `config.json` and `model.safetensors`, which `from_pretrained` here and in transformers reads.

        Args:
            folder: made if missing; files of the same names are replaced, others stay.
            dtype: of the stored tensors; None keeps the model's.

        Returns:
            The folder.

        Raises:
            CheckpointError: the folder cannot be written (then nothing in it has changed), or a weight is too
                large for `dtype`.
            ConfigurationError: an unknown dtype.
        """
        from safetensors.torch import save_file

        model = cast(nn.Module, self)
        number = None if dtype is None else _dtype(dtype)
        tensors: dict[str, Tensor] = {}
        for name, value in model.state_dict().items():
            stored = value.detach().to("cpu", number or value.dtype)
            if stored.dtype != value.dtype and bool((stored.isinf() & ~value.detach().cpu().isinf()).any()):
                raise CheckpointError(f"{name} has values too large for {stored.dtype}; save in float32 or bfloat16")
            tensors[name] = stored.contiguous()
        values = self.config.to_dict()
        values.pop("torch_dtype", None)  # the older name of `dtype`
        values["architectures"] = [_architecture(type(self))]
        values["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        with staged(folder) as stage:
            write_json(stage / "config.json", values)
            save_file(tensors, str(stage / "model.safetensors"), metadata={"format": "pt"})
        return Path(folder).expanduser()


class _WithoutRandomValues(TorchFunctionMode):
    """Leaves out the drawing of initial weights, which takes seconds and which the checkpoint overwrites."""

    DRAWS = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"})

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _open(
    name_or_path: str | os.PathLike[str], revision: str | None, overrides: dict[str, Any]
) -> tuple[WavLMConfig, Weights]:
    """Configuration, with the overrides, and weights of a checkpoint of either format."""
    known = {f.name for f in dataclasses.fields(WavLMConfig)} - {"extra"}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ConfigurationError(
            f"WavLMConfig has no field {', '.join(unknown)}; its fields are {', '.join(sorted(known))}"
        )
    changes = dict(overrides)
    if "num_labels" in changes:
        changes.setdefault("id2label", {})  # names of other classes than those asked for
    path = Path(name_or_path).expanduser()
    if path.suffix == ".pt" and not path.exists():
        raise CheckpointError(f"there is no file {str(path)!r}; a checkpoint of microsoft/unilm is one .pt file")
    if path.is_file() and path.suffix != ".safetensors":
        config, weights = read_unilm(path)
        return config.replace(**changes), weights
    source = Source(name_or_path, revision)
    file = source.need("config.json")
    config = WavLMConfig.from_file(file)
    if "stream_normalize" not in read_json(file) and "stream_normalize" not in changes:
        settings = feature_settings(source)
        if settings is not None:  # transformers' default for a preprocessor that does not say is to normalise
            changes["stream_normalize"] = bool(settings.get("do_normalize", True))
    return config.replace(**changes), open_weights(source)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    found = torch.float32 if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigurationError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    return found


def _device(device: torch.device | str | None) -> torch.device:
    try:
        return torch.device("cpu" if device is None else device)
    except RuntimeError as e:
        raise DeviceError(f"there is no device {device!r}; known kinds are cpu, cuda, cuda:1, mps") from e


def _architecture(kind: type) -> str:
    """The class of this package behind `kind`; it bears transformers' name."""
    own = __name__.rpartition(".")[0]
    return next(c.__name__ for c in kind.__mro__ if c.__module__.rpartition(".")[0] == own)
