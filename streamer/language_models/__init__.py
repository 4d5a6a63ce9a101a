"""The language models that come with the package: one file each, packed n-grams, described in README.md."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
SUFFIX = ".ngrams"


def bundled_language_models() -> list[str]:
    """Names of the language models in the package."""
    return sorted(path.stem for path in _HERE.glob(f"*{SUFFIX}"))


def language_model_path(name: str) -> Path | None:
    """The file of a bundled language model.

    Args:
        name: as `--lm` takes it.

    Returns:
        None where no bundled one has this name: then it is the path of a file.
    """
    return _HERE / f"{name}{SUFFIX}" if name in bundled_language_models() else None
