"""A corpus of a few seconds and a model of a few thousand weights, for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavlm_live.model.training.cache import SoundCache, build_cache
from wavlm_live.model.training.manifest import Utterance, read_manifest
from wavlm_live.model.training.settings import TrainSettings

COLUMNS = ("file", "corpus", "split", "speaker", "duration_s", "text")
WORDS = ("yes", "no", "up", "down")


def write_manifest(path: Path, rows: Sequence[Sequence[object]], columns: Sequence[str] = COLUMNS) -> Path:
    """A manifest as a table with tabs."""
    lines = ["\t".join(columns), *("\t".join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tone(word: int, seconds: float, rate: int = 16000) -> np.ndarray:
    """A sound that tells the words apart: float32 [samples]."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 300 * (word + 1) * t)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of 24 train and 8 dev utterances of 0.4 to 0.9 s in two corpora, sound beside it."""
    rows = []
    for i in range(32):
        seconds, word, name = 0.4 + 0.02 * (i % 25), i % len(WORDS), "ab"[i % 2]
        file = f"{name}/{i}.flac"
        (tmp_path / name).mkdir(exist_ok=True)
        soundfile.write(tmp_path / file, tone(word, seconds), 16000)
        rows.append((file, name, "dev" if i >= 24 else "train", f"s{i % 3}", seconds, WORDS[word]))
    return write_manifest(tmp_path / "utterances.tsv", rows)


@pytest.fixture
def data(corpus: Path) -> tuple[list[Utterance], list[Utterance], SoundCache]:
    """Train and dev utterances of `corpus`, and their decoded sound."""
    utterances, _ = read_manifest(corpus)
    cache = build_cache({u.file: u.location for u in utterances}, corpus.parent / "cache", workers=0)
    train = [u for u in utterances if u.split == "train"]
    return train, [u for u in utterances if u.split == "dev"], cache


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A recipe of two short stages in steps, with dropout, SpecAugment and several contexts."""
    return {
        "seed": 3,
        "model": {
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_dim": [8] * 7,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 24,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "mask_time_length": 2,
        },
        "contexts": {"full": 1.0, "20,4,0": 1.0, "20,4,4": 1.0},
        "peak_lr": 2e-3,
        "warmup_steps": 2,
        "bf16": False,
        "log_steps": 2,
        "dev_minutes": 0,
        "dev_context": "20,8,0",
        "stages": [
            {
                "name": "one",
                "steps": 4,
                "batch_s": 4.0,
                "pools": [{"name": "words", "corpora": {"a": 1, "b": 1}}],
                "augment": {"speed": 0.1, "noise": 0.5},
            },
            {
                "name": "two",
                "steps": 4,
                "batch_s": 6.0,
                "config": {"mask_time_prob": 0.2, "layerdrop": 0.3},
                "pools": [
                    {"name": "words", "corpora": {"a": 1, "b": 0.5}, "weight": 0.5},
                    {"name": "joined", "corpora": {"a": 1, "b": 1}, "join": [2, 3], "max_s": 4.0},
                ],
            },
        ],
    }


@pytest.fixture
def settings(recipe: dict[str, Any]) -> TrainSettings:
    """The recipe as settings."""
    return TrainSettings.from_dict(recipe)
