"""Several recordings at full speed, computed together: a folder of short files fills the device as one long file does.

Recordings are read ahead of their turn, as many as make a stretch of sound, and encoded in one pass, those of about the
same length together. Then each takes its turn as ever: the same session reads its frames, which are all there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..model.errors import AudioError
from .ahead_encoder import FIRST_STRETCH_S, LONGEST_STRETCH_S
from .alone import Listener
from .events import SAMPLE_RATE
from .recogniser import Recogniser
from .session_settings import SessionSettings
from .sources import AudioSource, open_source

LONGEST_S = 60.0
"""Longer recordings fill the device by themselves."""
MOST = 64
"""Recordings that are open at once."""


class ReadSource(AudioSource):
    """A source whose sound was read already.

    Args:
        source: read to its end; closed with this one.
        blocks: what it gave.
    """

    def __init__(self, source: AudioSource, blocks: list[np.ndarray]) -> None:
        self.name = source.name
        self.blocks = blocks
        self._source = source

    @property
    def duration_s(self) -> float | None:
        """See `AudioSource`."""
        return self._source.duration_s

    @property
    def problems(self) -> tuple[str, ...]:
        """See `AudioSource`."""
        return self._source.problems

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.blocks)

    def close(self) -> None:
        """See `AudioSource`."""
        self._source.close()


@dataclass
class Read:
    """A recording whose turn is to come."""

    source: ReadSource
    session: Listener


class ReadAhead:
    """Reads recordings ahead of their turn and computes them together.

    Args:
        recordings: in the order of their turns.
        channel: to keep; None: the mean.
        block_samples: samples in a block.
    """

    def __init__(self, recordings: Sequence[str], channel: int | None, block_samples: int) -> None:
        self._recordings = list(recordings)
        self._channel, self._block_samples = channel, block_samples
        self._read: dict[int, Read] = {}
        self._next = 0  # the first recording that was not looked at
        self._stretch_s = FIRST_STRETCH_S

    def take(self, number: int, recogniser: Recogniser, settings: SessionSettings) -> Read | None:
        """The recording of this number, read and computed; None where it has to be heard as it is read: it is long, or
        cannot be read, which its turn will tell.

        Its source is the caller's to close.
        """
        if number >= self._next:
            self._next = number
            self._fill(recogniser, settings)
        return self._read.pop(number, None)

    def close(self) -> None:
        """Release what was read and not taken."""
        for read in self._read.values():
            read.source.close()
        self._read.clear()

    def _fill(self, recogniser: Recogniser, settings: SessionSettings) -> None:
        """Read on until there is enough for a stretch, and compute it; little at first, so that there is text soon."""
        sources: dict[int, ReadSource] = {}
        seconds, self._next = 0.0, self._next + 1
        for number in range(self._next - 1, len(self._recordings)):
            self._next = number + 1
            source = self._whole(self._recordings[number])
            if source is not None:
                sources[number] = source
                seconds += sum(map(len, source.blocks)) / SAMPLE_RATE
            if seconds >= self._stretch_s or len(sources) == MOST:
                break
        self._stretch_s = min(2 * self._stretch_s, LONGEST_STRETCH_S)
        if len(sources) < 2:  # nobody to share with: its first text comes sooner in the usual way, but it was read
            for number, source in sources.items():
                self._read[number] = Read(source, recogniser.offline(settings))
            return
        sessions = recogniser.together([np.concatenate(source.blocks) for source in sources.values()], settings)
        for (number, source), session in zip(sources.items(), sessions, strict=True):
            self._read[number] = Read(source, session)

    def _whole(self, recording: str) -> ReadSource | None:
        """All sound of a recording; None for a pipe, a long one, and what cannot be read."""
        if not Path(recording).is_file():  # what comes through a pipe can be read once
            return None
        try:
            source = open_source(recording, channel=self._channel, block_samples=self._block_samples)
        except AudioError:
            return None
        try:
            if source.duration_s is not None and source.duration_s <= LONGEST_S:
                blocks = list(source)
                if any(map(len, blocks)):
                    return ReadSource(source, blocks)
        except AudioError:
            pass
        source.close()
        return None
