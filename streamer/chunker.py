"""`Chunker`: blocks of any size in, the pieces of sound that the encoder should hear next out.

Counts samples only, in integers: chunk n may be committed when the last frame of its right context has all its
samples, and a provisional pass is due at every multiple of a hop. Pieces always end at those places, so the
encoder is given the same pieces of a stream however it was cut into blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..model.context import StreamingContext
from ..model.errors import AudioError


@dataclass(frozen=True)
class Piece:
    """Sound for the encoder, and what may be done once it was heard."""

    samples: np.ndarray
    """float32 `[samples]`, never empty; the chunker's own copy."""
    commit: bool
    """A chunk and its right context are complete: commit one chunk."""
    provisional: bool
    """A provisional pass is due."""


class Chunker:
    """Cuts one stream into pieces.

    Args:
        context: of the encoder, in frames.
        partial_hop_samples: from one provisional pass to the next; 0 for none.
        hop_samples: samples from one frame to the next.
        receptive_samples: samples of the first frame.
    """

    def __init__(
        self,
        context: StreamingContext,
        partial_hop_samples: int = 0,
        hop_samples: int = 320,
        receptive_samples: int = 400,
    ) -> None:
        self.chunk_frames = context.chunk_frames
        self._chunk_samples = context.chunk_frames * hop_samples
        self._next_commit = (context.step_frames - 1) * hop_samples + receptive_samples
        self._hop = partial_hop_samples
        self._taken = 0
        self._given = 0
        self._waiting: list[np.ndarray] = []  # blocks between _given and _taken

    @property
    def taken_samples(self) -> int:
        """Samples pushed so far."""
        return self._taken

    @property
    def waiting_samples(self) -> int:
        """Samples pushed that are in no piece yet."""
        return self._taken - self._given

    @property
    def wanted_samples(self) -> int:
        """Samples that complete the next piece, at least 1."""
        return self._next_end() - self._taken

    @property
    def waiting(self) -> list[np.ndarray]:
        """The samples pushed that are in no piece yet."""
        return self._waiting

    def push(self, block: np.ndarray) -> list[Piece]:
        """Take a block and return the pieces that it completes.

        Args:
            block: float32 `[samples]`, any number of them; it is copied.
        """
        self._waiting.append(block)
        self._taken += len(block)
        end = self._next_end()
        if self._taken < end:
            self._waiting[-1] = block.copy()
            return []
        waiting = np.concatenate(self._waiting)
        first, pieces = self._given, []
        while end <= self._taken:
            commit = end == self._next_commit
            provisional = bool(self._hop) and end % self._hop == 0
            piece = waiting[self._given - first : end - first].copy()
            pieces.append(Piece(piece, commit, provisional))
            self._given = end
            self._next_commit += self._chunk_samples if commit else 0
            end = self._next_end()
        self._waiting = [waiting[self._given - first :].copy()]
        return pieces

    def set_partial_hop(self, samples: int) -> None:
        """Another hop from one provisional pass to the next, from now on; 0 for none."""
        self._hop = samples

    def rest(self) -> np.ndarray:
        """Hand out the samples that wait for the end of their piece, as float32 `[samples]`, maybe none.

        The places where pieces end stay where they are.
        """
        rest = np.concatenate([np.zeros(0, np.float32), *self._waiting])
        self._waiting = []
        self._given = self._taken
        return rest

    def _next_end(self) -> int:
        """Where the next piece ends, in samples from the start of the stream."""
        if not self._hop:
            return self._next_commit
        return min(self._next_commit, (self._given // self._hop + 1) * self._hop)


def check_sound(samples: np.ndarray, at_samples: int) -> None:
    """Refuse what is no sound.

    Args:
        samples: what was given.
        at_samples: where in the stream its first sample stands.

    Raises:
        AudioError: another type or shape, or values that are not finite.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1:
        what = type(samples).__name__
        if isinstance(samples, np.ndarray):
            what = f"an array of {samples.dtype} with the shape {list(samples.shape)}"
        raise AudioError(
            f"feed was given {what}, expected float32 [samples], mono at 16 kHz; divide int16 by 32768 and "
            "mix channels down first"
        )
    if math.isfinite(samples @ samples):  # one product, where isfinite and all are two passes; most sound is sound
        return
    finite = np.isfinite(samples)
    if not finite.all():
        wrong = len(samples) - int(np.count_nonzero(finite))
        raise AudioError(
            f"{wrong} of {len(samples)} samples are not finite (NaN or infinite), the first is sample "
            f"{at_samples + int(finite.argmin())} of the stream; the block was not taken"
        )
