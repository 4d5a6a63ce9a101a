"""`Pace`: when the sound of a stream is there at the pace of speech, told from when it came. Deadlines hang on it.

A recording that comes all at once is in no hurry: its sound is due as if it was spoken from the moment on at which it
began to come. A voice is in a hurry: a result is due one chunk after the sound. Both come in blocks, and networks
stall. Whatever comes late is due when it comes, and what follows it at the pace of speech, so after a stall of five
seconds the sound that catches up, and all behind it, is due five seconds after it came. That does not last: sound
cannot come before it was spoken, so a voice was not early by what every block of the last seconds was early by, and
the pace goes back by that much.

It says nothing of whoever waits for us: as long as more than a chunk of a stream waits to be computed, its blocks come
when there is room for them, and the pace stays as it is. So a recording is never pulled into a hurry by how fast it is
computed.
"""

from __future__ import annotations

from .events import SAMPLE_RATE

WINDOW_S = 2.0
"""The pace goes back by what all blocks of so long a time were early; a stall is forgotten after twice as long at most.
Longer than a network and its clients usually take to send what they have gathered."""


class Pace:
    """The pace of one stream.

    Args:
        now_s: when it begins.
    """

    def __init__(self, now_s: float) -> None:
        self.due_s = now_s
        """When the newest sample is there at the pace of speech."""
        self._begin_window(now_s)

    def came(self, now_s: float, samples: int, waiting: bool) -> float:
        """A block came.

        Args:
            now_s: when; never before the one before it.
            samples: in it.
            waiting: more than a chunk of what came before waits to be computed.

        Returns:
            When its last sample is due to be there: never before it came.
        """
        self.due_s = max(now_s, self.due_s + samples / SAMPLE_RATE)
        if waiting:
            self._begin_window(now_s)
            return self.due_s
        self._early_s = min(self._early_s, self.due_s - now_s)
        if now_s - self._since_s >= WINDOW_S:
            self.due_s -= self._early_s
            self._begin_window(now_s)
        return self.due_s

    def _begin_window(self, now_s: float) -> None:
        self._since_s, self._early_s = now_s, self.due_s - now_s
