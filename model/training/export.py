"""From a training checkpoint to a folder that `from_pretrained` reads: float16 weights and their companions."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..processor import WavLMProcessor
from ..tokenizer import CTCTokenizer
from .frame_targets import without_frame_head
from .letters import TOKENS, VOCABULARY
from .run_folder import DECODING, load_checkpoint, write_atomically
from .settings import TrainSettings, parse_context

DTYPES = ("float16", "float32", "bfloat16")


def weights_of(state: Mapping[str, Any], *, averaged: bool = True) -> dict[str, Tensor]:
    """The weights in a checkpoint of the trainer: their running average (default), or the last ones."""
    weights = dict(state["model"])
    if averaged:
        weights.update(state["average"])
    return weights


def load_model(checkpoint: str | Path, *, averaged: bool = True) -> Any:
    """The model of a training checkpoint of any task, ready to measure: float32, evaluation mode.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    return load_trained(checkpoint, averaged=averaged)[0]


def load_trained(checkpoint: str | Path, *, averaged: bool = True) -> tuple[Any, TrainSettings, str]:
    """Model, settings and task of a training checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    from ..ctc import WavLMForCTC
    from .heads import HEADS, HeadSettings
    from .masked_prediction import WavLMForMaskedPrediction
    from .pretrain import PretrainSettings

    state = load_checkpoint(checkpoint)
    task = state.get("task", "ctc")
    model: Any
    settings: TrainSettings
    if task == "pretrain":
        found: Any = PretrainSettings.from_dict(state["settings"])
        settings = found
        config = found.config(found.stages[-1])
        model = WavLMForMaskedPrediction(config, found.clusters, found.projection, found.temperature)
    elif task in HEADS:
        settings = HeadSettings.from_dict(state["settings"])
        model = HEADS[task](settings.config(settings.stages[-1]))
    else:
        settings = TrainSettings.from_dict(state["settings"])
        model = WavLMForCTC(settings.config(settings.stages[-1]))
    weights = weights_of(state, averaged=averaged)
    model.load_state_dict(weights if settings.frames is None else without_frame_head(weights))
    return model.eval(), settings, task


def read_model(source: str | Path) -> Any:
    """A model to start or to learn from: a checkpoint of the trainer (a file), the name of a bundled model, or what
    `from_pretrained` reads.

    That is a `WavLMForCTC`, an encoder alone with a random head, except for checkpoints of the trainer's other tasks.

    Raises:
        CheckpointError: missing or damaged.
    """
    from ..bundled import named
    from ..ctc import WavLMForCTC

    source = named(source)
    if Path(source).is_file() and zipfile.is_zipfile(source) and "format" in _keys(source):
        return load_model(source)
    try:
        return WavLMForCTC.from_pretrained(source, dtype=torch.float32)
    except CheckpointError:
        return WavLMForCTC.from_pretrained(source, dtype=torch.float32, new_head=True)


def _keys(path: str | Path) -> set[str]:
    """Names at the top of a pickled checkpoint; empty where it is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return set()
    return set(state) if isinstance(state, dict) else set()


def export(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    contexts: Mapping[str, str],
    dtype: str = "float16",
    averaged: bool = True,
) -> Path:
    """Write the model of a training checkpoint in transformers' format.

    Args:
        checkpoint: `best.pt` or `last.pt` of a run.
        folder: made if missing; files of the same names are replaced.
        contexts: streaming contexts to recommend by name; "default" must be one of them.
        dtype: "float16", "bfloat16" or "float32".
        averaged: write the running average of the weights.

    Returns:
        The folder.

    Raises:
        CheckpointError: the checkpoint cannot be read, a weight does not fit float16, or the folder cannot be
            written.
        ConfigurationError: a context that cannot be understood.
    """
    if "default" not in contexts or dtype not in DTYPES:
        raise CheckpointError(
            f"export was given the contexts {', '.join(contexts) or '(none)'} and the type {dtype!r}; expected a "
            f"context named 'default' and one of {', '.join(DTYPES)}"
        )
    for text in contexts.values():
        parse_context(text)
    state = load_checkpoint(checkpoint)
    model, _, task = load_trained(checkpoint, averaged=averaged)
    if task == "ctc" and model.config.vocab_size != len(TOKENS):
        raise CheckpointError(f"the model has {model.config.vocab_size} outputs, the vocabulary {len(TOKENS)} tokens")
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{checkpoint}: the tensor {name} is not finite; take an earlier checkpoint")
    # of a pre-trained model the encoder is what others go on with
    target: Path = (model.wavlm if task == "pretrain" else model).save_pretrained(folder, dtype=dtype)
    tokenizer = CTCTokenizer(VOCABULARY, unk_token=None, bos_token=None, eos_token=None) if task == "ctc" else None
    WavLMProcessor(do_normalize=False, return_attention_mask=True, tokenizer=tokenizer).save_pretrained(target)
    files: dict[str, Any] = {
        "streaming.json": {"contexts": dict(contexts)},
        "training.json": {
            "task": task,
            "recipe": state["settings"],
            "progress": state["progress"],
            "averaged": averaged,
        },
    }
    for name, content in files.items():
        text = (json.dumps(content, indent=2) + "\n").encode()
        write_atomically(target / name, lambda f, text=text: f.write(text))
    numbers = Path(checkpoint).parent / DECODING
    if task == "ctc" and numbers.is_file():
        write_atomically(target / DECODING, lambda f: f.write(numbers.read_bytes()))
    return target
