"""Carries sound from a source into a session, in one thread, and measures how well that goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..model.errors import DeviceError
from .events import SAMPLE_RATE, Event, Final, Partial
from .interrupts import Interrupted, Interruption
from .sources import AudioSource, MicrophoneSource

if TYPE_CHECKING:
    from .alone import Listener  # imports torch, which whoever mistyped a name should not wait for

QUIETEST_DB = -120.0
FALL_DB_S = 40.0
"""How fast a level meter falls after a loud block, in dB a second; it rises at once."""
MEMORY_S = 10.0
"""Sound over which the real-time factor is averaged, with older sound counting ever less."""


@dataclass
class Gauges:
    """What a status line shows; the hearing writes it, the screen reads it."""

    heard_samples: int = 0
    level_db: float = QUIETEST_DB
    """Root mean square of a block in dB of full scale, falling slowly enough for the eye."""
    latency_s: float | None = None
    """From the arrival of the last sample to its text; None before the first text, or for a file at full speed."""
    realtime_factor: float | None = None
    """Seconds of computing for a second of sound."""
    dropped_blocks: int = 0
    """Blocks of the microphone that came while the program was too slow."""
    speaking: bool | None = None
    """Somebody speaks now; None until that was decided for the first time."""
    speaker: str = ""
    """Who spoke last, where speakers are told apart."""
    _busy_s: float = field(default=0.0, repr=False)
    _sound_s: float = field(default=0.0, repr=False)

    @property
    def heard_s(self) -> float:
        """Sound heard so far."""
        return self.heard_samples / SAMPLE_RATE

    def count(self, block: np.ndarray, busy_s: float) -> None:
        """Take note of a block of samples and the time that it took."""
        sound_s = len(block) / SAMPLE_RATE
        self.heard_samples += len(block)
        power = float(np.square(block, dtype=np.float64).mean()) if len(block) else 0.0
        level_db = 10 * math.log10(power) if power else QUIETEST_DB
        self.level_db = max(QUIETEST_DB, level_db, self.level_db - FALL_DB_S * sound_s)
        kept = math.exp(-sound_s / MEMORY_S)
        self._busy_s = self._busy_s * kept + busy_s
        self._sound_s = self._sound_s * kept + sound_s
        if self._sound_s:
            self.realtime_factor = self._busy_s / self._sound_s


class Hearing:
    """One source heard by one listener, a session or a stream alone.

    A signal ends it in order: no more sound is taken in, what a microphone has recorded until then is still heard,
    and the session is finished, so that the last words come out.

    Args:
        source: where the sound comes from.
        session: that hears it; it is finished at the end.
        interruption: entered by the caller.
        paced: take the sound in as fast as it would be spoken, as if it came from a microphone.
    """

    def __init__(
        self, source: AudioSource, session: Listener, interruption: Interruption, *, paced: bool = False
    ) -> None:
        self.gauges = Gauges()
        self._source, self._session, self._interruption = source, session, interruption
        self._microphone = source if isinstance(source, MicrophoneSource) else None
        self._paced = paced
        self._blocks = iter(source)
        self._origin_s: float | None = None  # when the first sample was spoken, for paced sound
        self.on_block: Callable[[np.ndarray], None] | None = None
        """Is shown every block before it is heard."""

    def run(self, take: Callable[[list[Event]], None]) -> None:
        """Hear everything, to the end or the first signal.

        Args:
            take: is given the events of every block, often none, and of the end.

        Raises:
            AudioError: the source cannot be read; the session is left as it is.
            DeviceError: the microphone went away; what it gave before is heard to the last word.
        """
        try:
            while (arrived := self._next()) is not None:
                self._hear(*arrived, take)
        except DeviceError:
            self._finish(take)
            raise
        self._finish(take)

    def _next(self) -> tuple[np.ndarray, float] | None:
        """The next block and the time at which its last sample was there; None at the end."""
        try:
            with self._interruption.waiting():
                block = next(self._blocks, None)
                return None if block is None else (block, self._arrival(block))
        except Interrupted:
            if self._microphone is None:
                return None
            self._microphone.stop()
            block = next(self._microphone, None)
            return None if block is None else (block, time.perf_counter())

    def _arrival(self, block: np.ndarray) -> float:
        now = time.perf_counter()
        if self._microphone is not None:
            # what waits behind the block came after it
            return now - self._microphone.waiting_samples / SAMPLE_RATE
        if not self._paced:
            return now
        if self._origin_s is None:
            self._origin_s = now - len(block) / SAMPLE_RATE
        due_s = self._origin_s + (self.gauges.heard_samples + len(block)) / SAMPLE_RATE
        if due_s > now:
            time.sleep(due_s - now)
        return due_s

    def _hear(self, block: np.ndarray, arrival_s: float, take: Callable[[list[Event]], None]) -> None:
        if self.on_block is not None:
            self.on_block(block)
        started_s = time.perf_counter()
        events = self._session.feed(block)
        self.gauges.count(block, time.perf_counter() - started_s)
        if self._microphone is not None:
            self.gauges.dropped_blocks = self._microphone.dropped_blocks
        take(events)
        live = self._paced or self._microphone is not None
        if live and any(isinstance(event, (Partial, Final)) for event in events):
            self.gauges.latency_s = time.perf_counter() - arrival_s

    def _finish(self, take: Callable[[list[Event]], None]) -> None:
        take(self._session.finish())
