"""N-grams in a small file: what the package ships, read in a fraction of the time that an ARPA file takes.

A file is an xz container around numpy's `.npz`, nothing that executes. Logarithms are rounded, as in KenLM's quantised
tries (Heafield 2011, section 3.2): to 256 levels, those of single words to 65536. N-grams of one history are stored as
the distances of their last words. That takes 2.2 bytes an n-gram, where a gzipped ARPA file takes 8.
"""

from __future__ import annotations

import io
import lzma
import zipfile
from pathlib import Path

import numpy as np

from ..model.errors import ConfigurationError
from .kneser_ney import LEAST_LOGPROB
from .ngrams import NgramModel, Table

SUFFIX = ".ngrams"
LEVELS, LEVELS_OF_WORDS = 256, 65536
_XZ = b"\xfd7zXZ\x00"
_LAYOUT = 1  # of the arrays in a file; a reader refuses others


def is_packed(path: Path) -> bool:
    """Whether a file begins like one of these.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        if file.read(len(_XZ)) != _XZ:
            return False
    try:
        with lzma.open(path) as file:
            return file.read(2) == b"PK"
    except (lzma.LZMAError, EOFError):
        return False


def write_packed(model: NgramModel, path: Path) -> None:
    """Write a model. Its n-grams stay exact, its logarithms are rounded.

    Args:
        model: of fewer than 2**24 words.
        path: to write; the same model gives the same bytes.
    """
    arrays: dict[str, np.ndarray] = {
        "layout": np.array([_LAYOUT, model.order]),
        "vocabulary": np.frombuffer("\n".join(model.vocabulary).encode(), np.uint8),
    }
    size = len(model.vocabulary)
    for order, table in enumerate(model.tables, start=1):
        if order > 1:
            history, word = np.divmod(table.keys, size)
            first = np.concatenate(([True], history[1:] != history[:-1])) if len(word) else np.zeros(0, bool)
            steps = np.where(first, word, np.diff(word, prepend=0))
            arrays[f"followers_{order}"] = np.bincount(history, minlength=len(model.tables[order - 2].keys)).astype(
                "<u4"
            )
            arrays[f"words_{order}"] = _planes(steps)
        levels = LEVELS if order > 1 else LEVELS_OF_WORDS
        arrays[f"logprobs_{order}"], arrays[f"logprob_levels_{order}"] = quantised(table.logprobs, levels)
        if order < model.order:
            arrays[f"backoffs_{order}"], arrays[f"backoff_levels_{order}"] = quantised(table.backoffs, levels)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # np.savez would write the time of day into it
        for name, array in arrays.items():
            part = io.BytesIO()
            np.save(part, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    path.write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def read_packed(path: Path) -> NgramModel:
    """Read what `write_packed` wrote.

    Raises:
        ConfigurationError: another file, or one that is damaged.
    """
    try:
        # The file is ours or the user's own; its arrays hold numbers only, objects are refused.
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False) as arrays:
            return _model({name: arrays[name] for name in arrays.files})
    except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, KeyError, ValueError, IndexError) as e:
        raise ConfigurationError(f"{path} cannot be read as packed n-grams: {e}; build it anew") from e


def _model(arrays: dict[str, np.ndarray]) -> NgramModel:
    layout, orders = arrays["layout"].tolist()
    if layout != _LAYOUT:
        raise ValueError(f"its layout is {layout}, this version reads {_LAYOUT}")
    vocabulary = arrays["vocabulary"].tobytes().decode().split("\n")
    size = len(vocabulary)
    tables: list[Table] = []
    for order in range(1, orders + 1):
        if order == 1:
            keys = np.arange(size)
        else:
            followers = arrays[f"followers_{order}"].astype(np.int64)
            if len(followers) != len(tables[-1].keys):
                raise ValueError(f"{len(followers)} histories of order {order}, expected {len(tables[-1].keys)}")
            steps = np.cumsum(_whole(arrays[f"words_{order}"]))
            starts = np.cumsum(followers) - followers
            before = np.where(starts > 0, steps[np.maximum(starts, 1) - 1], 0) if len(steps) else starts
            keys = np.repeat(np.arange(len(followers)) * size - before, followers) + steps
        logprobs = arrays[f"logprob_levels_{order}"][arrays[f"logprobs_{order}"]]
        backoffs = np.zeros(len(keys))
        if order < orders:
            backoffs = arrays[f"backoff_levels_{order}"][arrays[f"backoffs_{order}"]]
        if not len(keys) == len(logprobs) == len(backoffs):
            raise ValueError(f"{len(keys)} n-grams of order {order}, but {len(logprobs)} logarithms")
        tables.append(Table(keys, logprobs, backoffs))
    return NgramModel(vocabulary, tables)


def quantised(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced levels from the least to the greatest value: no logarithm moves by more than half a step.

    Levels of equally many n-grams would be finer on the whole, but put the most frequent words, which matter most,
    into one level with hundreds of others.

    Args:
        values: float64 `[n-grams]`.
        levels: 256 or 65536; the first one stands for "never".

    Returns:
        The level of each value, uint8 or uint16 `[n-grams]`, and what the levels stand for, float32 `[levels]`.
    """
    possible = values > LEAST_LOGPROB + 1
    low, high = (values[possible].min(), values[possible].max()) if possible.any() else (0.0, 0.0)
    step = (high - low) / (levels - 2) or 1.0
    codes = np.where(possible, 1 + np.rint((values - low) / step), 0)
    meanings = np.concatenate(([LEAST_LOGPROB], low + step * np.arange(levels - 1)))
    return codes.astype(np.uint8 if levels == LEVELS else np.dtype("<u2")), meanings.astype("<f4")


def _planes(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers below 2**24 as bytes `[3, numbers]`, the lowest first: like beside like packs better."""
    return np.stack([(numbers >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)])


def _whole(planes: np.ndarray) -> np.ndarray:
    low, middle, high = planes.astype(np.int64)
    return low + (middle << 8) + (high << 16)
