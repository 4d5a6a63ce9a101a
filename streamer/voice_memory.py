"""What a stream's voice detection remembers at one place of its sound, as bytes that a client can keep and bring back.

The detector's network forgets nothing for good, so a stream that begins anew in the middle of the sound can only judge
as the broken one did if it is told. `VoiceMemory` is that: the network's state, about a kilobyte, and whether somebody
was speaking. The bytes come back from a client: whatever they hold, the worst is a voice detector that is wrong on that
client's own sound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from ..model.errors import ConfigurationError
from .silero import SileroState

VERSION = 1
MOST_SAMPLES = 1 << 53
_HEAD = struct.Struct("<BBBH3q3q")  # version, flags, quiet windows, windows since a place to reset, watch, given
_DETECTOR, _WATCH, _TOLD, _SPEAKING = 1, 2, 4, 8


@dataclass(frozen=True)
class DetectorMemory:
    """Of the independent detector, between two windows."""

    state: SileroState
    quiet: int
    """Windows since somebody may have spoken, as far as that counts: 0 to 255."""
    since: int
    """Windows since the last place where the network may be reset."""


@dataclass(frozen=True)
class WatchMemory:
    """Of the watch on starts and stops; all places from where it stands, earlier ones negative."""

    told: bool
    """Speech has started, and the event was given."""
    first: int | None
    """Where the speech that goes on, or may, begins; None: nobody speaks."""
    end: int
    """One past the last sample that kept it going."""
    free: int
    """Before this sample everything was given."""


@dataclass(frozen=True)
class VoiceMemory:
    """What there is to remember; None: there is no such thing in the stream."""

    detector: DetectorMemory | None = None
    """At the place where the sound begins anew."""
    watch: WatchMemory | None = None
    """At the same place where the independent detector alone decides, else where the segment begins."""
    given: tuple[int, int, int] = (0, 0, 0)
    """Places up to which starts of speech, its stops, and activity were given already; from where the sound begins
    anew, earlier ones negative."""

    def to_bytes(self) -> bytes:
        """At most 1.1 kB; nothing where there is nothing to remember."""
        detector, watch = self.detector, self.watch
        if detector is None and watch is None:
            return b""
        flags, quiet, since, first, end, free = 0, 0, 0, 0, 0, 0
        tail = b""
        if detector is not None:
            flags, quiet, since = flags | _DETECTOR, detector.quiet, detector.since
            tail = np.concatenate([detector.state.hidden, detector.state.cell]).astype("<f4").tobytes()
        if watch is not None:
            flags |= _WATCH | _TOLD * watch.told | _SPEAKING * (watch.first is not None)
            first, end, free = watch.first or 0, watch.end, watch.free
        return _HEAD.pack(VERSION, flags, quiet, since, first, end, free, *self.given) + tail

    @classmethod
    def from_bytes(cls, data: bytes) -> VoiceMemory:
        """Read what `to_bytes` wrote.

        Raises:
            ConfigurationError: not that; the message says in which way.
        """
        if not data:
            return cls()
        if len(data) < _HEAD.size:
            raise _refused(f"has {len(data)} bytes")
        version, flags, quiet, since, first, end, free, *given = _HEAD.unpack_from(data)
        if version != VERSION or flags >= 16:
            raise _refused(f"is of version {version} with flags {flags}")
        if any(abs(at) > MOST_SAMPLES for at in (first, end, free, *given)):
            raise _refused("names places beyond any stream")
        tail = np.frombuffer(data[_HEAD.size :], np.uint8)
        detector = None
        size = SileroState.fresh().hidden.size
        if len(tail) != (8 * size if flags & _DETECTOR else 0):
            raise _refused(f"has {len(data)} bytes")
        if flags & _DETECTOR:
            values = tail.view("<f4").astype(np.float32)
            if not np.isfinite(values).all():
                raise _refused("holds numbers that are not finite")
            detector = DetectorMemory(SileroState(values[:size], values[size:]), quiet, since)
        watch = None
        if flags & _WATCH:
            watch = WatchMemory(bool(flags & _TOLD), first if flags & _SPEAKING else None, end, free)
        return cls(detector, watch, (given[0], given[1], given[2]))


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(f"resume.point.voice {what}; send it back as `acknowledged` brought it, or leave it out")
