"""Reading a manifest: which recordings there are, where their sound lies and what is said in them.

A manifest is a table with tabs (columns `file`, `corpus`, `split`, `speaker`, `duration_s`, `text`, and `label` for
classes) or JSON lines with the same keys. Sound lies beside it, as plain files (`<folder>/<file>`) or in one tar a
corpus (`<corpus>.tar`, member `<file>`). Only `file` and `text` have to be there: without `corpus` it is the first
folder of the file's name, or the manifest's name; without `split` the row is for training. A row that cannot be used
is counted with its reason and named in the report; it never stops the run.
"""

from __future__ import annotations

import csv
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AudioError, ConfigurationError, TextError
from .letters import encode, frames_needed, normalise_text

REQUIRED = ("file", "text")
WINDOW, HOP = 400, 320
"""Samples of the first frame, and from one frame to the next."""


@dataclass(frozen=True)
class SoundLocation:
    """Bytes of one recording: a whole file, or a stretch of a tar."""

    path: str
    offset: int = 0
    size: int = -1
    """Bytes from `offset`; -1 means up to the end of the file."""

    def read(self) -> bytes:
        """The encoded sound.

        Raises:
            OSError: the file cannot be read.
        """
        with open(self.path, "rb") as f:
            f.seek(self.offset)
            return f.read(self.size)


@dataclass(frozen=True)
class Utterance:
    """One usable row of a manifest."""

    file: str
    """Name within the manifest's folder, and the key in a cache."""
    text: str
    """Normalised: a-z, apostrophe, single spaces."""
    corpus: str
    split: str
    speaker: str
    duration_s: float
    location: SoundLocation
    label: str = ""
    """Class, for heads that classify recordings."""


@dataclass
class ManifestReport:
    """How many rows were read, kept and refused, with the reasons and a few names each."""

    path: str
    rows: int = 0
    kept: int = 0
    other: int = 0
    """Rows of a split or corpus that was not asked for."""
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, reason: str, example: str) -> None:
        """Count one refused row; the first three of a reason are named."""
        self.refused[reason] += 1
        names = self.examples.setdefault(reason, [])
        if len(names) < 3:
            names.append(example)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kept} of {self.rows - self.other} rows usable"]
        for reason, count in self.refused.most_common():
            lines.append(f"  {count} refused: {reason} (such as {', '.join(self.examples[reason])})")
        return "\n".join(lines)


def _rows(path: Path, required: Sequence[str] = REQUIRED) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line number and columns of each row; None for a line that is no row."""
    with open(path, encoding="utf-8", newline="") as f:
        first = f.readline()
        f.seek(0)
        if first.lstrip().startswith("{"):
            for number, line in enumerate(f, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError:
                        row = None
                    yield number, row if isinstance(row, dict) else None
        else:
            columns = first.rstrip("\r\n").split("\t")
            missing = [name for name in required if name not in columns]
            if missing:
                raise ConfigurationError(
                    f"{path} has the columns {', '.join(columns)[:200]!r}, expected a table with tabs or JSON "
                    f"lines with at least {', '.join(required)}"
                )
            for number, row in enumerate(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
                yield number, row


class SoundFinder:
    """Finds the sound of a row in the folder of its manifest: a plain file, else a member of a tar."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._tars: dict[str, dict[str, SoundLocation]] = {}

    def find(self, file: str, corpus: str = "") -> SoundLocation | None:
        """Where the sound lies, or None. Names that lead out of the folder are not found."""
        parts = Path(file).parts
        if not parts or Path(file).is_absolute() or ".." in parts:
            return None
        plain = self.folder / file
        if plain.is_file():
            return SoundLocation(str(plain))
        for name in dict.fromkeys((corpus, parts[0])):
            if name and (found := self._members(name).get(file)):
                return found
        return None

    def members(self, tar_name: str) -> Mapping[str, SoundLocation]:
        """Every regular member of `<tar_name>.tar`, by name; empty where there is no such tar."""
        return self._members(tar_name)

    def _members(self, name: str) -> dict[str, SoundLocation]:
        if name not in self._tars:
            path = self.folder / f"{name}.tar"
            found: dict[str, SoundLocation] = {}
            if path.is_file():
                try:
                    with tarfile.open(path, "r:") as tar:
                        for member in tar:
                            if member.isfile():
                                found[member.name] = SoundLocation(str(path), member.offset_data, member.size)
                except tarfile.TarError as e:
                    raise AudioError(f"{path} is no readable uncompressed tar ({e}); make it again") from e
            self._tars[name] = found
        return self._tars[name]


def read_manifest(
    path: str | Path,
    *,
    splits: Collection[str] | None = None,
    corpora: Collection[str] | None = None,
    max_s: float = 30.0,
    characters_per_s: Mapping[str, tuple[float, float]] | None = None,
    texts: bool = True,
    held_out: float = 0.0,
) -> tuple[list[Utterance], ManifestReport]:
    """Read the usable rows of a manifest.

    Args:
        path: a table with tabs, or JSON lines.
        splits: keep only these; None keeps all.
        corpora: keep only these; None keeps all.
        max_s: longest recording, in seconds.
        characters_per_s: for a corpus, the fewest and most characters a second that are believed. Texts that
            belong to another recording stand out by their rate.
        texts: False for training that does not read them: rows without a usable one are kept, with "".
        held_out: share of the rows for training that count as the split `dev` instead, chosen by their names.

    Returns:
        The utterances in the order of the file, and the report.

    Raises:
        ConfigurationError: the manifest cannot be read, or lacks the columns.
        AudioError: a tar beside it is damaged.
    """
    path = Path(path)
    report = ManifestReport(str(path))
    finder = SoundFinder(path.parent)
    kept: list[Utterance] = []
    seen: set[str] = set()
    try:
        for number, row in _rows(path, REQUIRED if texts else REQUIRED[:1]):
            report.rows += 1
            at = f"line {number}"
            if row is None or not row.get("file"):
                report.refuse("not a row with a file", at)
                continue
            file = str(row["file"])
            folders = Path(file).parts[:-1]
            corpus = str(row.get("corpus") or (folders[0] if folders else path.stem))
            split = str(row.get("split") or "train")
            if split == "train" and zlib.crc32(file.encode()) < held_out * 2**32:
                split = "dev"
            if (splits is not None and split not in splits) or (corpora is not None and corpus not in corpora):
                report.other += 1
                continue
            reason, text, duration_s = _check(row, seen, max_s, (characters_per_s or {}).get(corpus), texts)
            location = finder.find(file, corpus) if not reason else None
            if not reason and location is None:
                reason = "its sound is missing"
            if reason or location is None:
                report.refuse(reason, f"{at}: {file}")
                continue
            seen.add(file)
            speaker = str(row.get("speaker") or "")
            label = str(row.get("label") or "")
            kept.append(Utterance(file, text, corpus, split, speaker, duration_s, location, label))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"cannot read the manifest {path}: {e}; expected a UTF-8 table or JSON lines") from e
    report.kept = len(kept)
    return kept, report


def splits_of(path: str | Path) -> set[str]:
    """The splits that a manifest names.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return {str(row.get("split") or "train") for _, row in _rows(Path(path), ()) if row is not None}
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"cannot read the manifest {path}: {e}; expected a UTF-8 table or JSON lines") from e


def _check(
    row: Mapping[str, Any], seen: Collection[str], max_s: float, rates: tuple[float, float] | None, texts: bool
) -> tuple[str, str, float]:
    """Reason to refuse a row ("" if none), its normalised text and its length in seconds (0: not stated)."""
    if str(row["file"]) in seen:
        return "listed before", "", 0.0
    try:
        text = normalise_text(str(row.get("text") or ""))
    except TextError:
        if texts:
            return "characters that the vocabulary cannot write", "", 0.0
        text = ""
    if not text and texts:
        return "empty text", "", 0.0
    stated = row.get("duration_s")
    try:
        duration_s = float(stated) if stated not in (None, "") else 0.0
    except (TypeError, ValueError):
        return "a duration that is no number", "", 0.0
    if stated not in (None, "") and not duration_s > 0:
        return "no sound (zero length)", "", 0.0
    if duration_s > max_s:
        return f"longer than {max_s:g} s", "", 0.0
    if duration_s and texts:
        if not fits(text, round(duration_s * 16000)):
            return "more text than the frames can hold", "", 0.0
        if rates and not rates[0] <= len(text) / duration_s <= rates[1]:
            return f"a rate outside {rates[0]:g} to {rates[1]:g} characters a second", "", 0.0
    return "", text, duration_s


def frames_of(samples: int) -> int:
    """Frames of the encoder for so many samples."""
    return max(0, (samples - WINDOW) // HOP + 1)


def fits(text: str, samples: int) -> bool:
    """Whether CTC can write a normalised `text` in the frames (20 ms each) that `samples` at 16 kHz give."""
    return frames_needed(encode(text)) <= frames_of(samples)
