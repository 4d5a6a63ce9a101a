"""`LanguageModel`: what a decoder asks of a language model, and `load_language_model`, which opens n-gram files.

`KenLanguageModel` scores with KenLM (Heafield 2011; the package `kenlm`, extra `lm`). Where it is not installed, an
ARPA file is scored by `ngrams.NgramModel` of this project, which gives the same scores and takes longer to load. It
also scores packed files, those of the package among them.
"""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from ..model.errors import ConfigurationError
from .language_models import bundled_language_models, language_model_path

logger = logging.getLogger(__name__)

Unit = Literal["word", "character"]
"""What a model's tokens are."""
LN_10 = math.log(10.0)
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
BORDERS = ("|", "<space>", "▁", "_", "<sp>")
"""Tokens that stand for the border of two words in character models, in the order of preference."""


class LanguageModel(Protocol):
    """Scores a text token by token. States are values: they are kept, shared and never changed."""

    @property
    def unit(self) -> Unit:
        """What the tokens are."""
        ...

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens that the model knows, markers such as `<s>` not among them; empty where it cannot tell."""
        ...

    def knows(self, token: str) -> bool:
        """Whether this token is more than unknown to the model."""
        ...

    def start(self, sentence: bool = True) -> Any:
        """The state at the beginning of a sentence; else of a text that nothing is known about."""
        ...

    def score(self, state: Any, token: str) -> tuple[float, Any]:
        """Natural logarithm of the token's probability after this state, and the state after it."""
        ...


class KenLanguageModel:
    """An n-gram of KenLM.

    Args:
        path: ARPA, plain or compressed, or KenLM's binary format.

    Raises:
        ConfigurationError: `kenlm` is not installed, no such file, or not a model that it reads.
    """

    def __init__(self, path: Path) -> None:
        try:
            import kenlm  # pyright: ignore[reportMissingImports]  (an extra)
        except ImportError as e:
            raise ConfigurationError("the package kenlm is not installed; pip install 'wavlm-live[lm]'") from e
        _check_file(path)
        config = kenlm.Config()
        config.show_progress = False
        config.arpa_complain = kenlm.ARPALoadComplain.NONE
        try:
            self._model = kenlm.Model(str(path), config)
        except (OSError, RuntimeError) as e:
            raise ConfigurationError(f"{path} cannot be read as a language model: {e}") from e
        self._new_state: Any = kenlm.State
        self.tokens = _tokens_of(path)
        self.unit: Unit = unit_of(self.tokens)

    def knows(self, token: str) -> bool:
        """See `LanguageModel`."""
        return token in self._model

    def start(self, sentence: bool = True) -> Any:
        """See `LanguageModel`."""
        state = self._new_state()
        if sentence:
            self._model.BeginSentenceWrite(state)
        else:
            self._model.NullContextWrite(state)
        return state

    def score(self, state: Any, token: str) -> tuple[float, Any]:
        """See `LanguageModel`."""
        after = self._new_state()
        return self._model.BaseScore(state, token, after) * LN_10, after


@lru_cache(maxsize=4)
def load_language_model(path: str) -> LanguageModel:
    """Open an n-gram file; the same path gives the same model, which sessions share.

    Args:
        path: ARPA (`.arpa`, `.arpa.gz`), packed (`.ngrams`) or a binary file of KenLM; or the name of a model that
            comes with the package, such as `english`.

    Raises:
        ConfigurationError: no such file, not a language model, or a binary file without the package `kenlm`.
    """
    from importlib.util import find_spec

    from .packed_ngrams import is_packed, read_packed

    file = language_model_path(path) or Path(path)
    _check_file(file)
    if is_packed(file):
        return read_packed(file)
    if find_spec("kenlm") is not None:
        return KenLanguageModel(file)
    if not is_arpa(file):
        raise ConfigurationError(
            f"{path} is no ARPA file, and binary models need the package kenlm: pip install 'wavlm-live[lm]'"
        )
    from .ngrams import NgramModel

    logger.warning("kenlm is not installed: %s is read by Python alone, which takes longer", path)
    return NgramModel.read(file)


def unit_of(tokens: Iterable[str]) -> Unit:
    """Characters, where no token but markers such as `<space>` is longer than one; else words."""
    longest = max((len(t) for t in tokens if not (t.startswith("<") and t.endswith(">"))), default=2)
    return "character" if longest == 1 else "word"


def border_token(model: LanguageModel) -> str | None:
    """The token of a character model that stands between words; None where it has none."""
    return next((token for token in BORDERS if model.knows(token)), None)


def is_arpa(path: Path) -> bool:
    """Whether a file, which may be gzipped, begins like an ARPA file."""
    from .ngrams import open_text

    try:
        with open_text(path) as lines:
            return any(line.strip() == "\\data\\" for line, _ in zip(lines, range(100), strict=False))
    except (OSError, EOFError, UnicodeDecodeError):
        return False


def _check_file(path: Path) -> None:
    if not path.is_file():
        bundled = ", ".join(bundled_language_models())
        raise ConfigurationError(
            f"there is no language model at {path}; expected an ARPA file, a binary of KenLM, a packed file or the "
            f"name of one that comes with the package ({bundled})"
        )


def _tokens_of(path: Path) -> tuple[str, ...]:
    """The vocabulary of a model's file; empty where it holds none."""
    from .ngrams import read_vocabulary

    if is_arpa(path):
        found = read_vocabulary(path)
    else:
        # KenLM puts the words behind everything else, each ended by a zero byte, the unknown word first and straight
        # after the last number of its tables, whose bytes are any. A file may be of many gigabytes, so it is looked
        # through without being read into memory.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.rfind(UNKNOWN.encode() + b"\0")
            words = data[at:] if at >= 0 else b""
        found = words.decode("utf-8", errors="replace").rstrip("\0").split("\0") if words else []
    return tuple(token for token in found if token not in (UNKNOWN, BEGIN, END))
