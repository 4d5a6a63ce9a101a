"""`Sleep`: a stream in long silence costs no step of the encoder until somebody speaks. An option, off by default.

Who sleeps is decided by the independent voice detector, which goes on hearing everything. After a chunk was committed,
if it has heard no voice for so long and no word is open, the sound that follows is only kept. When more than
`PREROLL_S` of it is kept, the oldest chunk is left out: the encoder never hears it, and the decoder reads silence in
its place, so that words, endpoints and marks have their times in the stream as ever. With the first sign of a voice
the encoder hears what is kept, and goes on.

So the encoder is told what it would be told if the chunks that were left out had been cut out of the sound: its
context goes on with what it heard before the silence. That changes what it has seen, and may change what it makes of
the next words; it is why the option is off by default. What is left out lies in silence, `PREROLL_S` before a voice.
"""

from __future__ import annotations

from collections import deque

from .chunker import Piece
from .events import SAMPLE_RATE

PREROLL_S = 1.0
"""So much sound before the first sign of a voice is heard by the encoder all the same, in whole chunks."""
SIGN_PROBABILITY = 0.2
"""A window of the voice detector above this is a sign of a voice: less than what speech begins with, so that nobody is
slept through."""


class Sleep:
    """Whether one stream sleeps, and the sound that is kept meanwhile.

    Args:
        after_s: without a voice for so long, it falls asleep.
        chunk_samples: samples of a chunk.
    """

    def __init__(self, after_s: float, chunk_samples: int) -> None:
        self.asleep = False
        self.skipped_chunks = 0
        """Chunks left out that nobody has asked for yet."""
        self._after_samples = round(after_s * SAMPLE_RATE)
        self._most_chunks = -(-round(PREROLL_S * SAMPLE_RATE) // chunk_samples)
        self._kept: deque[Piece] = deque()
        self._chunks = 0  # that end among the kept pieces

    def doze(self, silent_samples: int, calm: bool) -> bool:
        """Right after a chunk was committed: whether the stream falls asleep.

        Args:
            silent_samples: sound without a sign of a voice, up to the newest.
            calm: no word is open.
        """
        self.asleep = calm and silent_samples >= self._after_samples
        return self.asleep

    def keep(self, piece: Piece) -> bool:
        """Keep a piece; True where a chunk is left out for it, the oldest."""
        self._kept.append(piece)
        self._chunks += piece.commit
        if self._chunks <= self._most_chunks:
            return False
        while not self._kept.popleft().commit:
            pass
        self._chunks -= 1
        self.skipped_chunks += 1
        return True

    def wakes(self, silent_samples: int) -> bool:
        """Whether there was a sign of a voice."""
        return silent_samples < self._after_samples

    def wake(self) -> deque[Piece]:
        """The stream sleeps no more: what was kept, for the encoder."""
        kept, self._kept = self._kept, deque()
        self.asleep, self._chunks = False, 0
        return kept
