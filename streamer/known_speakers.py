"""Speakers who were enrolled by name: a local JSON file with a vector each, and no sound.

    {"format": 1, "model": "1f2e3d4c-64", "speakers": {"anna": {"vector": [...], "speech_s": 21.4}}}

`model` tells which speaker head the vectors come from (`VoiceHeads.identity`); those of another mean nothing to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from ..model.errors import ConfigurationError
from .output_file import write_atomically
from .speakers import UNKNOWN

MOST_KNOWN = 1000
"""Speakers of one file."""
_OURS = re.compile(r"speaker \d+", re.IGNORECASE)


class KnownSpeaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One enrolled speaker."""

    vector: tuple[float, ...]
    """Of length 1."""
    speech_s: float
    """Speech that it is the mean of."""


class KnownFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a file."""

    model: str
    """Identity of the speaker head."""
    speakers: Annotated[dict[str, KnownSpeaker], msgspec.Meta(max_length=MOST_KNOWN)]
    format: int = 1


def check_name(name: str) -> str:
    """A name that can be enrolled.

    Raises:
        ConfigurationError: none, or one that the program gives to others.
    """
    if not 1 <= len(name) <= 100 or name != " ".join(name.split()) or not name.isprintable():
        raise ConfigurationError(f"the name {name!r:.120} cannot be used; give 1 to 100 printable characters")
    if _OURS.fullmatch(name) or name.lower() == UNKNOWN:
        raise ConfigurationError(f"the name {name!r} is what speakers without a name are called; choose another")
    return name


def load_file(path: str | Path) -> KnownFile:
    """Read a file of enrolled speakers.

    Raises:
        ConfigurationError: no such file, or no such content.
    """
    try:
        found = msgspec.json.decode(Path(path).read_bytes(), type=KnownFile)
    except OSError as error:
        raise ConfigurationError(
            f"the known speakers in {str(path)!r} cannot be read ({error.strerror or error}); enrol somebody with "
            "`wavlm-live enroll NAME FILE... --known-speakers FILE`"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{str(path)!r} is no file of known speakers: {error}") from error
    if found.format != 1:
        raise ConfigurationError(f"{str(path)!r} has format {found.format}, this program reads 1")
    for name, speaker in found.speakers.items():
        check_name(name)
        norm = float(np.linalg.norm(speaker.vector))
        if not np.isfinite(norm) or abs(norm - 1.0) > 0.01:
            raise ConfigurationError(f"{str(path)!r}: the vector of {name!r} has length {norm:g}, expected 1")
    return found


def read_known(path: str | Path, identity: str) -> dict[str, np.ndarray]:
    """Vectors of the enrolled speakers by name, float64 `[dim]` of length 1.

    Args:
        path: of the file.
        identity: of the speaker head that will compare them.

    Raises:
        ConfigurationError: no such file, or vectors of another model.
    """
    found = load_file(path)
    _check_model(found, path, identity)
    return {name: np.array(speaker.vector) for name, speaker in found.speakers.items()}


def enrolled(path: str | Path, identity: str, name: str, vector: np.ndarray, speech_s: float) -> KnownFile:
    """Add a speaker to a file, which is made if it is not there, or replace him; the file is whole at any time.

    Raises:
        ConfigurationError: a name that cannot be used, vectors of another model in the file, or no room.
        OutputError: the file cannot be written.
    """
    check_name(name)
    before = load_file(path) if Path(path).exists() else KnownFile(identity, {})
    _check_model(before, path, identity)
    direction = vector / max(float(np.linalg.norm(vector)), 1e-9)
    added = KnownSpeaker(tuple(round(float(v), 6) for v in direction), round(speech_s, 2))
    if name not in before.speakers and len(before.speakers) >= MOST_KNOWN:
        raise ConfigurationError(f"{str(path)!r} holds {MOST_KNOWN} speakers already; take some out")
    return _save(path, KnownFile(identity, {**before.speakers, name: added}))


def without(path: str | Path, name: str) -> KnownFile:
    """Take a speaker out of a file.

    Raises:
        ConfigurationError: he is not in it.
        OutputError: the file cannot be written.
    """
    before = load_file(path)
    if name not in before.speakers:
        raise ConfigurationError(f"{name!r} is not in {str(path)!r}; there are {', '.join(before.speakers) or 'none'}")
    return _save(path, KnownFile(before.model, {n: s for n, s in before.speakers.items() if n != name}))


def _check_model(found: KnownFile, path: str | Path, identity: str) -> None:
    if found.model != identity:
        raise ConfigurationError(
            f"the speakers in {str(path)!r} were enrolled with the speaker head {found.model}, this model's is "
            f"{identity}: their vectors mean nothing to it; enrol them again, into another file"
        )


def _save(path: str | Path, content: KnownFile) -> KnownFile:
    text = msgspec.json.format(msgspec.json.encode(content), indent=1).decode()
    with write_atomically(path) as stream:
        stream.write(text + "\n")
    return content
