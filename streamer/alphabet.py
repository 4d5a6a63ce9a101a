"""`Alphabet`: what the outputs of a CTC head stand for, as the decoders and the endpointing need it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..model.errors import ConfigurationError
from .greedy_frames import GreedyFrames

BLANK, BORDER, LETTER = 0, 1, 2
"""Kinds of a frame by its best output: nothing or a special token, the word delimiter, text."""

SURELY_NOT = -50.0
"""Log-probability of what silence that nobody computed does not say."""


@dataclass(frozen=True)
class Alphabet:
    """Labels of the outputs of a CTC head.

    Raises:
        ConfigurationError: the blank or the delimiter is no index of `labels`; a prior of another length.
    """

    labels: tuple[str, ...]
    """Text of each output, by id; empty for the blank, the delimiter and special tokens, which write nothing."""
    blank_id: int = 0
    delimiter_id: int | None = None
    """Output that stands between words; None for a model that has none."""
    prior: tuple[float, ...] = ()
    """Natural logarithm of the mean probability that the head gives each output; empty where nobody measured it."""

    def __post_init__(self) -> None:
        silent = [("blank_id", self.blank_id)]
        if self.delimiter_id is not None:
            silent.append(("delimiter_id", self.delimiter_id))
        for name, index in silent:
            if not 0 <= index < len(self.labels):
                raise ConfigurationError(
                    f"Alphabet.{name} is {index}, expected an index of the {len(self.labels)} labels"
                )
            if self.labels[index]:
                raise ConfigurationError(
                    f"label {index} is {self.labels[index]!r}, expected '' since it is the {name}, which writes nothing"
                )
        if self.prior and len(self.prior) != len(self.labels):
            raise ConfigurationError(
                f"Alphabet.prior has {len(self.prior)} numbers, expected one for each of the {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def kinds(self, ids: np.ndarray) -> np.ndarray:
        """`BLANK`, `BORDER` or `LETTER` for each id of `[frames]`."""
        return self._kind_of[ids]

    @cached_property
    def _kind_of(self) -> np.ndarray:
        table = np.array([LETTER if label else BLANK for label in self.labels], dtype=np.int8)
        if self.delimiter_id is not None:
            table[self.delimiter_id] = BORDER
        return table

    @property
    def silent_ids(self) -> list[int]:
        """The outputs that stand for silence: the blank, and the delimiter where there is one."""
        return [self.blank_id] if self.delimiter_id is None else [self.blank_id, self.delimiter_id]

    def speech_probabilities(self, logprobs: np.ndarray | GreedyFrames) -> np.ndarray:
        """Probability `[frames]` that a frame says something: what the blank and the delimiter leave over.

        Args:
            logprobs: natural log-probabilities `[frames, labels]`.
        """
        if isinstance(logprobs, GreedyFrames):
            return np.clip(1.0 - logprobs.silent, 0.0, 1.0)
        silence = np.exp(logprobs[:, self.blank_id])
        if self.delimiter_id is not None:
            silence = silence + np.exp(logprobs[:, self.delimiter_id])
        return np.clip(1.0 - silence, 0.0, 1.0)

    def silence(self, frames: int) -> np.ndarray:
        """Log-probabilities of frames that surely say nothing, float32 `[frames, labels]`."""
        logprobs = np.full((frames, len(self)), SURELY_NOT, np.float32)
        logprobs[:, self.blank_id] = 0.0
        return logprobs

    def check(self, logprobs: np.ndarray) -> None:
        """Refuse what is no `[frames, labels]` array.

        Raises:
            ValueError: another shape; the message names both.
        """
        if logprobs.ndim != 2 or logprobs.shape[1] != len(self):
            raise ValueError(f"log-probabilities have the shape {list(logprobs.shape)}, expected [frames, {len(self)}]")
