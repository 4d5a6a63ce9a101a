"""Labels of frames: a cluster or a phone for each, kept in one file and followed through augmentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from .manifest import HOP, WINDOW, frames_of
from .run_folder import write_atomically

NO_LABEL = -100
"""Of a frame about which nothing is known; it counts in no loss."""


class FrameLabels:
    """Labels by key: `labels[key]` is int64 [frames].

    Args:
        classes: labels are below this number.
        labels: uint16 [frames] of each recording that has labels.
    """

    def __init__(self, classes: int, labels: dict[str, np.ndarray]) -> None:
        self.classes = classes
        self._labels = labels

    def __contains__(self, key: str) -> bool:
        return key in self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def frames(self, key: str) -> int:
        """How many frames of a recording have labels: all of it, or none."""
        return len(self._labels[key]) if key in self._labels else 0

    def __getitem__(self, key: str) -> np.ndarray:
        return self._labels[key].astype(np.int64)

    def save(self, path: str | Path) -> None:
        """Write them as one npz file.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        keys = list(self._labels)
        values = [self._labels[key] for key in keys]
        names = np.frombuffer(json.dumps(keys).encode(), np.uint8)
        flat = np.concatenate(values) if values else np.zeros(0, np.uint16)
        lengths = np.array([len(v) for v in values], np.int64)
        write_atomically(
            Path(path), lambda f: np.savez(f, names=names, labels=flat, lengths=lengths, clusters=self.classes)
        )

    @classmethod
    def load(cls, path: str | Path) -> FrameLabels:
        """Read what `save` wrote.

        Raises:
            CheckpointError: missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                keys = json.loads(held["names"].tobytes().decode())
                pieces = np.split(held["labels"], np.cumsum(held["lengths"])[:-1]) if keys else []
                return cls(int(held["clusters"]), dict(zip(keys, pieces, strict=True)))
        except (OSError, ValueError, KeyError) as e:
            raise CheckpointError(f"{path} holds no labels of frames ({e}); delete it to make it again") from e


def follow(
    labels: Sequence[np.ndarray | None], placed: Sequence[tuple[int, float]], lengths: Sequence[int], samples: int
) -> np.ndarray:
    """Labels of the frames of an utterance that was made of several recordings, each played at its own speed.

    Args:
        labels: int64 [frames] of each recording at its own speed; None where there are none.
        placed: where each recording begins in the utterance, in samples, and how fast it plays (`augment`).
        lengths: samples of each recording at its own speed.
        samples: of the utterance.

    Returns:
        int64 [frames]; a frame takes the label of the moment that its middle shows. `NO_LABEL` between recordings and
        where there are no labels.
    """
    middles = np.arange(frames_of(samples)) * HOP + WINDOW // 2
    result = np.full(len(middles), NO_LABEL, np.int64)
    for known, (start, speed), length in zip(labels, placed, lengths, strict=True):
        if known is None or not len(known):
            continue
        moments = (middles - start) * speed
        inside = (moments >= 0) & (moments < length)
        frames = np.rint((moments[inside] - WINDOW // 2) / HOP).astype(np.int64)
        result[inside] = known[frames.clip(0, len(known) - 1)]
    return result
