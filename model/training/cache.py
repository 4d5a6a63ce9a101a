"""A cache of decoded sound: all of it as int16 at 16 kHz mono in one flat file, which training reads at no cost.

The folder holds `audio.int16` (the samples, recording after recording) and `index.json` (where each lies).
Ten hours take 1.15 GB. The index is written last, so a cache that was interrupted is simply made again.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import AudioError
from .manifest import ManifestReport, SoundLocation, Utterance, fits

log = logging.getLogger(__name__)

RATE = 16000
AUDIO_FILE = "audio.int16"
INDEX_FILE = "index.json"
_T = TypeVar("_T")


def decode_sound(location: SoundLocation) -> np.ndarray:
    """Decode one recording to int16 [samples] at 16 kHz, channels averaged.

    Raises:
        AudioError: the bytes are no sound that libsndfile reads, or hold no sample.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(location.read()), dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as e:
        raise AudioError(f"cannot decode {location.path} at byte {location.offset}: {e}") from e
    mono = samples.mean(axis=1)
    if not len(mono):
        raise AudioError(f"{location.path} at byte {location.offset} holds no samples")
    if not np.isfinite(mono).all():
        raise AudioError(f"{location.path} at byte {location.offset} holds values that are not finite")
    if rate != RATE:
        import soxr

        mono = soxr.resample(mono, rate, RATE)
    return np.clip(np.rint(mono * 32767), -32768, 32767).astype(np.int16)


def _decode_many(locations: list[SoundLocation]) -> list[np.ndarray | str]:
    """Decode a batch in a worker; an error comes back as its message."""
    results: list[np.ndarray | str] = []
    for location in locations:
        try:
            results.append(decode_sound(location))
        except AudioError as e:
            results.append(str(e))
    return results


class SoundCache:
    """Decoded recordings by key, memory-mapped: `cache[key]` is int16 [samples] without a copy.

    Raises:
        AudioError: the folder holds no complete cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
            self._places: dict[str, tuple[int, int]] = {k: (v[0], v[1]) for k, v in index["places"].items()}
            self.refused: dict[str, str] = index["refused"]
            size = (self.folder / AUDIO_FILE).stat().st_size
            if size != 2 * index["samples"]:
                raise ValueError(f"{AUDIO_FILE} has {size} bytes, the index says {2 * index['samples']}")
            self._samples = (
                np.memmap(self.folder / AUDIO_FILE, dtype=np.int16, mode="r") if size else np.zeros(0, np.int16)
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise AudioError(f"{self.folder} holds no complete cache of sound ({e}); delete it to make it again") from e

    def __reduce__(self) -> tuple[type[SoundCache], tuple[Path]]:
        return SoundCache, (self.folder,)  # another process opens the file itself

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> np.ndarray:
        start, length = self._places[key]
        return self._samples[start : start + length]

    def samples(self, key: str) -> int:
        """Length of a recording, in samples."""
        return self._places[key][1]

    def keys(self) -> list[str]:
        """Every key, in the order in which the sound lies in the file."""
        return list(self._places)

    def wave(self, key: str) -> np.ndarray:
        """A recording as float32 in [-1, 1], a fresh array."""
        return self[key].astype(np.float32) / 32768.0


def build_cache(sounds: Mapping[str, SoundLocation], folder: str | Path, *, workers: int = 2) -> SoundCache:
    """Open the cache in `folder`, making it first unless it already covers every one of `sounds`.

    Args:
        sounds: where each key's encoded sound lies.
        folder: made if missing.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        AudioError: nothing could be decoded, or the folder cannot be written.
    """
    folder = Path(folder)
    if (folder / INDEX_FILE).exists():
        cache = SoundCache(folder)
        if all(key in cache or key in cache.refused for key in sounds):
            return cache
        log.info("the cache in %s lacks some recordings: making it again", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(sounds, folder, workers)
    except OSError as e:
        hint = "; free some space and start again" if e.errno == errno.ENOSPC else ""
        raise AudioError(f"cannot write the cache of sound in {folder}: {e}{hint}") from e
    finally:
        for part in folder.glob(f"*.{os.getpid()}.part"):  # what a full disk or Ctrl+C left
            part.unlink(missing_ok=True)
    return SoundCache(folder)


def _write(sounds: Mapping[str, SoundLocation], folder: Path, workers: int) -> None:
    keys = sorted(sounds, key=lambda key: (sounds[key].path, sounds[key].offset))
    groups = [keys[i : i + 64] for i in range(0, len(keys), 64)]
    places: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    position = 0
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context) if workers else None
    try:
        jobs = ([sounds[key] for key in group] for group in groups)
        decoded = pool.map(_decode_many, jobs) if pool else map(_decode_many, jobs)
        temporary = folder / f"{AUDIO_FILE}.{os.getpid()}.part"
        with open(temporary, "wb") as f:
            for number, (group, results) in enumerate(zip(groups, decoded, strict=True), 1):
                for key, result in zip(group, results, strict=True):
                    if isinstance(result, str):
                        refused[key] = result
                        continue
                    f.write(result.tobytes())
                    places[key] = (position, len(result))
                    position += len(result)
                if number % 32 == 0:
                    log.info("decoded %d of %d recordings", number * 64, len(keys))
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    if keys and not places:
        raise AudioError(f"none of {len(keys)} recordings could be decoded; the first: {next(iter(refused.values()))}")
    (folder / INDEX_FILE).unlink(missing_ok=True)
    os.replace(temporary, folder / AUDIO_FILE)
    index = {"rate": RATE, "samples": position, "places": places, "refused": refused}
    part = folder / f"{INDEX_FILE}.{os.getpid()}.part"
    part.write_text(json.dumps(index), encoding="utf-8")
    os.replace(part, folder / INDEX_FILE)
    for key, message in list(refused.items())[:5]:
        log.warning("%s was not decoded: %s", key, message)


def usable(
    utterances: list[Utterance], cache: SoundCache, report: ManifestReport, *, texts: bool = True
) -> list[Utterance]:
    """The utterances whose decoded sound is there and long enough for the text; the rest goes into the report."""
    kept = []
    for utterance in utterances:
        if utterance.file not in cache:
            report.refuse("its sound cannot be decoded", utterance.file)
        elif texts and not fits(utterance.text, cache.samples(utterance.file)):
            report.refuse("more text than the frames can hold", utterance.file)
        elif not texts and cache.samples(utterance.file) < 400:
            report.refuse("too short for one frame", utterance.file)
        else:
            kept.append(utterance)
    report.kept = len(kept)
    return kept
