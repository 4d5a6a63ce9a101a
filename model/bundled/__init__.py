"""The models that come with the package: one folder each, in transformers' format, with a model card."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

_HERE = Path(__file__).resolve().parent
DEFAULT = "english"
"""The model that is used where none is named."""


def bundled_names() -> list[str]:
    """Names of the models in the package, the default one first."""
    names = [folder.name for folder in _HERE.iterdir() if (folder / "model.safetensors").is_file()]
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def bundled_path(name: str | None = None) -> Path:
    """The folder of a bundled model: config.json, model.safetensors, vocab.json, streaming.json, README.md.

    Args:
        name: one of `bundled_names`; None: the default.

    Raises:
        CheckpointError: no such model in this installation.
    """
    wanted = DEFAULT if name is None else name
    names = bundled_names()
    if wanted not in names:
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise CheckpointError(
            f"this installation bundles no model {wanted!r}, {has}; give --model a folder or a hub id of a WavLM "
            "checkpoint with a CTC head"
        )
    return _HERE / wanted


def named(source: str | Path) -> str | Path:
    """What a user means by a name: the folder of the bundled model of this name, unless something lies at that path;
    anything else as it came.
    """
    return bundled_path(str(source)) if str(source) in bundled_names() and not Path(source).exists() else source
