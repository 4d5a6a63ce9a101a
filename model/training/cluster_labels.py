"""Labels for pre-training: every frame's cluster by k-means, over MFCC or over the features of a layer.

HuBERT and WavLM learn in rounds: the first on clusters of MFCC, the next on clusters of a middle layer of the model
that the round before gave (Hsu et al. 2021, section II-B; Chen et al. 2021, section IV-B).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError
from .batches import by_length
from .cache import RATE, SoundCache
from .frame_labels import FrameLabels
from .mfcc import mfcc

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


def make_labels(
    keys: Sequence[str], features: Features, clusters: int, *, seed: int = 0, fit_frames: int = 200_000
) -> FrameLabels:
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
    return FrameLabels(clusters, {key: labels[key] for key in keys})
