"""What a model is called: where a program was told to find it is one thing, what clients call it another.

Bundled models and those of the hub are called as they are. A folder is called by its last part, never by its path,
which is nobody's business but the operator's. `NAME=WHERE` gives any other name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..model.bundled import bundled_names, bundled_path
from ..model.errors import ConfigurationError
from ..model.folders import Source

CHOSEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What may stand before the equals sign."""


def name_of(name_or_path: str | os.PathLike[str] | None = None) -> str:
    """What a model is called that was named so: a folder's last part, else as it was named; the default's for None.

    Raises:
        CheckpointError: neither a bundled name nor a folder nor the shape of a hub name.
    """
    if name_or_path is None or name_or_path in bundled_names():
        return bundled_path(None if name_or_path is None else str(name_or_path)).name
    source = Source(name_or_path)
    return source.name if source.folder is None else os.path.basename(os.path.abspath(source.folder))


@dataclass(frozen=True)
class ServedModel:
    """A model of a server."""

    name: str
    """What clients call it."""
    where: str | None
    """A bundled name, a folder or a hub name; None: the default model."""

    @classmethod
    def parse(cls, text: str | None) -> ServedModel:
        """A model as `serve --model` and `--also` name it: `WHERE`, or `NAME=WHERE`.

        Raises:
            CheckpointError: there is no such model.
            ConfigurationError: a name that cannot be one.
        """
        if text is None:
            return cls(name_of(), None)
        name, equals, where = text.partition("=")
        if equals and not Path(text).is_dir():  # a folder may have an equals sign in its name
            if not CHOSEN_NAME.fullmatch(name) or not where:
                raise ConfigurationError(
                    f"the model {text!r}: expected NAME=WHERE with a name of at most 80 letters, digits, dots, dashes "
                    "and underscores"
                )
            name_of(where)
            return cls(name, where)
        name = name_of(text)
        if not name:
            raise ConfigurationError(f"the folder {text!r} has no name; give one: NAME={text}")
        return cls(name, text)


def all_different(models: list[ServedModel]) -> None:
    """Refuse two models of one name.

    Raises:
        ConfigurationError: the message says how to name them.
    """
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"the model {', '.join(twice)} is named twice; give each once, by --model or --also, and folders with the "
            "same last part as NAME=FOLDER"
        )
