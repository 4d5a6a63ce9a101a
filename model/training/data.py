"""From manifests to utterances by split, their decoded sound and the noises: what every command begins with."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .cache import SoundCache, build_cache, usable
from .hub_datasets import PREFIX, import_dataset
from .manifest import SoundFinder, SoundLocation, Utterance, read_manifest, splits_of

log = logging.getLogger("wavlm_live.training")

HELD_OUT = 0.05
"""Share of the recordings that choose the best weights, where the manifests say nothing of it."""


def load_data(
    manifest: str | Path | Sequence[str],
    cache_folder: str | Path,
    *,
    splits: Sequence[str],
    characters_per_s: Any = None,
    corpora: Sequence[str] | None = None,
    workers: int = 2,
    noise: str = "noise",
    texts: bool = True,
) -> tuple[dict[str, list[Utterance]], SoundCache, list[str]]:
    """Utterances by split, their decoded sound, and the keys of the noises (`<noise>.tar` by a manifest).

    Several manifests make one set; a recording is known by its name, so they may not name two alike. "hf:NAME" is
    a dataset of the Hugging Face hub or a folder of parquet files. Without `texts` nobody looks at what is said.
    Where no manifest names the split `dev`, one recording in twenty is held out as such, the same ones each time.
    """
    named = [manifest] if isinstance(manifest, (str, Path)) else manifest
    manifests = [
        import_dataset(str(m), Path(cache_folder) / f"dataset-{re.sub(r'[^A-Za-z0-9]+', '-', str(m)[3:])}")
        if str(m).startswith(PREFIX)
        else m
        for m in named
    ]
    held_out = HELD_OUT if "dev" in splits and not any("dev" in splits_of(path) for path in manifests) else 0.0
    if held_out:
        log.info("no recording has the split dev: %.0f %% of those for training are held out", 100 * held_out)
    rates = characters_per_s or {}
    read = [
        read_manifest(path, splits=splits, corpora=corpora, characters_per_s=rates, texts=texts, held_out=held_out)
        for path in manifests
    ]
    sounds: dict[str, SoundLocation] = {}
    for found, outcome in read:
        for u in found:
            if sounds.setdefault(u.file, u.location) != u.location:
                raise ConfigurationError(f"{outcome.path}: {u.file} is in another manifest too; give it another name")
    if not sounds:
        reports = "\n".join(str(outcome) for _, outcome in read)
        raise ConfigurationError(f"{reports}\nno usable utterance of the split {', '.join(splits)}")
    noises: dict[str, SoundLocation] = {}
    for path in manifests:
        noises |= SoundFinder(Path(path).parent).members(noise)
    cache = build_cache(sounds | noises, cache_folder, workers=workers)
    utterances: list[Utterance] = []
    for found, outcome in read:
        utterances += usable(found, cache, outcome, texts=texts)
        log.info("%s", outcome)
    by_split = {split: [u for u in utterances if u.split == split] for split in splits}
    return by_split, cache, [key for key in noises if key in cache]
