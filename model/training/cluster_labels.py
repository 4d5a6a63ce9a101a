"""Labels for pre-training: every frame's cluster by k-means, over MFCC or over the features of a layer.

HuBERT and WavLM learn in rounds: the first on clusters of MFCC, the next on clusters of a middle layer of the model
that the round before gave (Hsu et al. 2021, section II-B; Chen et al. 2021, section IV-B).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, ConfigurationError
from .batches import by_length
from .cache import RATE, SoundCache
from .mfcc import mfcc
from .run_folder import write_atomically

log = logging.getLogger(__name__)

Features = Callable[[Sequence[str]], Iterator[tuple[str, np.ndarray]]]
"""From keys of a cache to (key, float32 [frames, dim]), in any order."""


def mfcc_features(cache: SoundCache) -> Features:
    """MFCC with differences of each recording."""

    def compute(keys: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        for key in keys:
            yield key, mfcc(cache.wave(key))

    return compute


def layer_features(cache: SoundCache, model: Any, layer: int, *, device: torch.device | str = "cpu") -> Features:
    """Output of layer `layer` (1: the first; 0: the first one's input) of a `WavLMModel`, whole utterances.

    Raises:
        ConfigurationError: the model has no such layer.
    """
    if not 0 <= layer <= model.config.num_hidden_layers:
        raise ConfigurationError(f"layer {layer} was asked for, the model has {model.config.num_hidden_layers}")

    def compute(keys: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        seconds = np.array([cache.samples(key) / RATE for key in keys])
        for members in by_length(seconds, 60.0, 32):
            waves = [cache.wave(keys[int(i)]) for i in members]
            lengths = torch.tensor([len(w) for w in waves])
            inputs = torch.zeros(len(waves), int(lengths.max()))
            for row, wave in zip(inputs, waves, strict=True):
                row[: len(wave)] = torch.from_numpy(wave)
            mask = (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long()
            with torch.inference_mode():
                out = model(inputs.to(device), mask.to(device), output_hidden_states=True).hidden_states[layer]
            frames = model.feature_lengths(lengths).clamp(min=0).tolist()
            for i, row, count in zip(members, out.float().cpu().numpy(), frames, strict=True):
                yield keys[int(i)], row[: int(count)]

    return compute


class ClusterLabels:
    """Labels by key: `labels[key]` is int64 [frames]."""

    def __init__(self, clusters: int, labels: dict[str, np.ndarray]) -> None:
        self.clusters = clusters
        self._labels = labels

    def __contains__(self, key: str) -> bool:
        return key in self._labels

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
            Path(path), lambda f: np.savez(f, names=names, labels=flat, lengths=lengths, clusters=self.clusters)
        )

    @classmethod
    def load(cls, path: str | Path) -> ClusterLabels:
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
            raise CheckpointError(f"{path} holds no labels of clusters ({e}); delete it to make it again") from e


def make_labels(
    keys: Sequence[str], features: Features, clusters: int, *, seed: int = 0, fit_frames: int = 200_000
) -> ClusterLabels:
    """Fit k-means on frames drawn from recordings at random, then label every frame of all.

    Args:
        keys: recordings.
        features: what is clustered; scaled to unit variance in each dimension.
        clusters: how many; at most 65,536.
        seed: of the draw and of k-means.
        fit_frames: about how many frames k-means sees.

    Raises:
        ConfigurationError: fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng([seed, 31])
    drawn: list[np.ndarray] = []
    total = 0
    order = [keys[int(i)] for i in rng.permutation(len(keys))]
    for start in range(0, len(order), 64):
        for _, rows in features(order[start : start + 64]):
            drawn.append(rows)
            total += len(rows)
        if total >= fit_frames:
            break
    if total < clusters or not 1 < clusters <= 1 << 16:
        raise ConfigurationError(f"{total} frames were found for {clusters} clusters; expected at least as many frames")
    sample = np.concatenate(drawn)
    scale = 1.0 / np.maximum(sample.std(axis=0), 1e-6)
    options: Any = {"n_init": 5, "max_iter": 100, "random_state": seed, "compute_labels": False}
    means = MiniBatchKMeans(clusters, batch_size=10_000, **options)
    means.fit(sample * scale)
    log.info("%d clusters from %d frames", clusters, len(sample))
    labels = {}
    for start in range(0, len(keys), 1024):
        for key, rows in features(keys[start : start + 1024]):
            found = means.predict(rows * scale) if len(rows) else np.zeros(0)
            labels[key] = np.asarray(found).astype(np.uint16)
    return ClusterLabels(clusters, {key: labels[key] for key in keys})
