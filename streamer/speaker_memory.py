"""What a stream knows of its speakers, as bytes that a client can keep and bring back to any server with the model.

A stream that begins anew in the middle of the sound would count its voices from 1 again. `SpeakerMemory` is what it has
to know not to: the voices without a name, as vectors of a byte a number, and how far they are counted. Who is enrolled
is the server's to know. The bytes come back from a client: whatever they hold, the worst is that the speakers of that
client's own sound are confused.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from ..model.errors import ConfigurationError

VERSION = 1
MOST_BYTES = 6000
"""Voices that were not heard for the longest time are left out beyond it: as text in a message it is 8 kB."""
MOST_VOICES = 64
HEAVIEST_FRAMES = 3000
"""A voice's vector is the mean over about so much speech, so that it goes on following the voice."""
HIGHEST_NUMBER = 10**9
NOBODY = 255
_HEAD = struct.Struct("<BBBBHI")
"""Version, voices, who spoke last, frames since then, numbers of a vector, voices so far."""
_VOICE = struct.Struct("<IHf")
"""Number, frames, length."""


@dataclass(frozen=True)
class VoiceVector:
    """A voice without a name."""

    number: int
    """It is called `speaker N`."""
    frames: int
    """Speech that it was learnt from, 1 to `HEAVIEST_FRAMES`."""
    length: float
    """Of the sum of the vectors of that speech."""
    vector: np.ndarray
    """Its direction, float64 `[dim]` of length 1."""


@dataclass(frozen=True)
class SpeakerMemory:
    """What there is to remember."""

    voices: tuple[VoiceVector, ...] = ()
    """The one not heard for the longest time first."""
    numbers: int = 0
    """Voices that were given a number so far."""
    last: int | None = None
    """Place in `voices` of who spoke last; None: nobody of them."""
    ago_frames: int = 0
    """How long ago that ended, at most 255."""

    def to_bytes(self) -> bytes:
        """At most `MOST_BYTES`; nothing where no voice was heard."""
        if not self.numbers:
            return b""
        size = len(self.voices[0].vector) if self.voices else 0
        most = min(MOST_VOICES, (MOST_BYTES - _HEAD.size) // (_VOICE.size + size))
        left_out = max(0, len(self.voices) - most)
        last = NOBODY if self.last is None or self.last < left_out else self.last - left_out
        kept = self.voices[left_out:]
        parts = [_HEAD.pack(VERSION, len(kept), last, min(255, self.ago_frames), size, self.numbers)]
        for voice in kept:
            values = np.round(voice.vector * (127 / max(float(np.abs(voice.vector).max()), 1e-9))).astype(np.int8)
            parts += [_VOICE.pack(voice.number, voice.frames, voice.length), values.tobytes()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> SpeakerMemory:
        """Read what `to_bytes` wrote.

        Raises:
            ConfigurationError: not that; the message says in which way.
        """
        if not data:
            return cls()
        if not _HEAD.size <= len(data) <= MOST_BYTES:
            raise _refused(f"has {len(data)} bytes")
        version, count, last, ago, size, numbers = _HEAD.unpack_from(data)
        if version != VERSION:
            raise _refused(f"is of version {version}")
        row = _VOICE.size + size
        if len(data) != _HEAD.size + count * row or (count and not size) or count > MOST_VOICES:
            raise _refused(f"has {len(data)} bytes for {count} voices of {size} numbers")
        if numbers > HIGHEST_NUMBER or (last != NOBODY and last >= count):
            raise _refused(f"counts {numbers} voices, of which number {last} spoke last")
        voices = []
        for at in range(_HEAD.size, len(data), row):
            number, frames, length = _VOICE.unpack_from(data, at)
            values = np.frombuffer(data[at + _VOICE.size : at + row], np.int8).astype(np.float64)
            if not 1 <= number <= numbers or not 1 <= frames <= HEAVIEST_FRAMES:
                raise _refused(f"names speaker {number} of {numbers}, heard for {frames} frames")
            if not values.any() or not (math.isfinite(length) and 0 < length <= 1.01 * frames):
                raise _refused("holds a voice without a direction, or of no possible length")
            voices.append(VoiceVector(number, frames, length, values / float(np.linalg.norm(values))))
        if len({voice.number for voice in voices}) < count:
            raise _refused("names a speaker twice")
        return cls(tuple(voices), numbers, None if last == NOBODY else last, ago)


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"resume.point.speakers {what}; send it back as `acknowledged` brought it, or leave it out"
    )
