"""`Plan`: what one stream needs of the encoder next, as a value; whoever has the encoder computes it and gives it back.

A session alone is driven by its own encoder (`Session.feed`). The batcher drives many plans at once: it asks each for
its need, computes the needs of many streams in one step of the model, and gives each its part. A plan does not know
who drives it, holds no thread and no clock, and can be put away between any two calls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from .chunker import Chunker, Piece
from .encoder import EncoderStep, EncoderStream
from .events import Event
from .segmenter import Segmenter
from .sleep import Sleep

TAIL_SAMPLES = 4800
"""Silence put behind the last sample: 0.3 s, for the last frame to be whole and the last letter to come out."""


@dataclass(frozen=True)
class StepRequest:
    """A step of the encoder that a stream waits for."""

    commit: bool
    """Commit one chunk; else only look at what waits."""
    final: bool = False
    """The stream has ended: the chunk may be short."""
    droppable: bool = False
    """Only a partial result hangs on it: it may be left out."""


COMMIT = StepRequest(commit=True)
LAST = StepRequest(commit=True, final=True)
LOOK = StepRequest(commit=False)
PROVISIONAL = StepRequest(commit=False, droppable=True)


class Plan:
    """The order in which a stream's sound is heard, stepped and read.

    Args:
        encoder: hears the sound; its steps are taken by whoever drives the plan.
        chunker: cuts the sound.
        segmenter: reads the frames.
        sleep: in long silence; None: never.
    """

    def __init__(
        self, encoder: EncoderStream, chunker: Chunker, segmenter: Segmenter, sleep: Sleep | None = None
    ) -> None:
        self.encoder = encoder
        self.over = False
        """The stream has ended and everything was read."""
        self._chunker = chunker
        self._segmenter = segmenter
        self._sleep = sleep
        self._pieces: deque[Piece] = deque()
        self._slept: deque[Piece] = deque()  # kept while the stream slept: only the encoder has not heard them
        self._need: StepRequest | None = None
        self._due = False  # a provisional pass is wanted
        self._flush_samples: int | None = None  # what was taken when a flush was asked for
        self._ending = False
        self._events: list[Event] = []

    def push(self, samples: np.ndarray) -> None:
        """Take sound; a provisional pass that was not computed yet is made with it instead.

        Args:
            samples: float32 `[samples]`.
        """
        self._pieces.extend(self._chunker.push(samples))
        if self._need == PROVISIONAL:
            self._need = None

    @property
    def unheard(self) -> list[np.ndarray]:
        """Sound pushed that not even the voice detector has heard."""
        return [piece.samples for piece in self._pieces] + self._chunker.waiting

    def flush(self, taken_samples: int) -> None:
        """End the segment with the sound pushed so far, `taken_samples` from the start of the stream.

        Not while a committing step is needed; a provisional pass that was not computed yet is left out.
        """
        if self.need() == PROVISIONAL:
            self.give(None)
        assert self.need() is None
        self._push_rest()
        self._flush_samples = taken_samples

    def finish(self, tail: bool) -> None:
        """No more sound comes. With a tail, silence is put behind it for the last letters to come out."""
        if self._need == PROVISIONAL:
            self._need = None
        if tail:
            self._pieces.extend(self._chunker.push(np.zeros(TAIL_SAMPLES, np.float32)))
            self._push_rest()
        self._ending = True

    def need(self) -> StepRequest | None:
        """The step that the stream waits for, the same until it is given; None: it waits for its caller."""
        if self._need is None and not self.over:
            self._need = self._next_need()
        return self._need

    def give(self, step: EncoderStep | None) -> None:
        """Read the step that was needed.

        Args:
            step: None where a droppable one was left out.
        """
        need, self._need = self._need, None
        assert need is not None
        if step is None:
            assert need.droppable
            self._due = False
        elif need.commit:
            segmenter = self._segmenter
            self._events += segmenter.accept(step.logprobs[: step.own_frames], step.voices)
            if self._dozes():
                self._due = False
                self._events += segmenter.partial()
            elif not self._ending and not any(piece.commit for piece in (*self._slept, *self._pieces)):
                # The right context was encoded with the chunk: it is a provisional pass that costs nothing.
                while self._slept or self._pieces:
                    self._hear_next()
                self._due = False
                self._events += segmenter.partial(step.logprobs[step.own_frames :])
        elif need.droppable:
            self._due = False
            self._events += self._segmenter.partial(step.logprobs)
        else:
            self._flushed(step.logprobs)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def take_skipped(self) -> int:
        """Chunks since the last call that the encoder was spared, because the stream slept."""
        if self._sleep is None:
            return 0
        skipped, self._sleep.skipped_chunks = self._sleep.skipped_chunks, 0
        return skipped

    def _next_need(self) -> StepRequest | None:
        while True:
            if self._ending and not self._pieces and (sleep := self._asleep) is not None:
                self._slept = sleep.wake()
            if not self._slept and not self._pieces:
                break
            piece = self._hear_next()
            if piece is not None:
                self._due |= piece.provisional
                if piece.commit:
                    return COMMIT
        waiting = self.encoder.waiting_frames > 0
        if self._ending:
            if waiting:
                return LAST
            self._events += self._segmenter.close()
            self.encoder.close()
            self.over = True
            return None
        if self._flush_samples is not None:
            if waiting and self._asleep is None:
                return LOOK
            self._flushed(None)
            return None
        self._due &= waiting
        return PROVISIONAL if self._due else None

    def _dozes(self) -> bool:
        """Whether the stream falls asleep now; what it knows of the voice ends where the chunk was complete."""
        if self._sleep is None or self._ending or self._slept:
            return False
        return self._sleep.doze(self._segmenter.silent_samples, self._segmenter.calm)

    @property
    def _asleep(self) -> Sleep | None:
        return self._sleep if self._sleep is not None and self._sleep.asleep else None

    def _hear_next(self) -> Piece | None:
        """Hear the next piece; None where the stream sleeps, and only the voice detector has heard it."""
        if self._slept:
            piece = self._slept.popleft()
        else:
            piece = self._pieces.popleft()
            # here, not when the sound is pushed: what is known of the voice at a commit must not depend on the blocks
            self._events += self._segmenter.listen(piece.samples)
            if (sleep := self._asleep) is not None:
                if sleep.keep(piece):
                    self._events += self._segmenter.skip(self._chunker.chunk_frames)
                if sleep.wakes(self._segmenter.silent_samples):
                    self._slept = sleep.wake()
                return None
        self.encoder.listen(piece.samples)
        return piece

    def _flushed(self, logprobs: np.ndarray | None) -> None:
        assert self._flush_samples is not None
        self._events += self._segmenter.flush(logprobs, self._flush_samples)
        self._flush_samples = None
        self._due = False

    def _push_rest(self) -> None:
        rest = self._chunker.rest()
        if len(rest):
            self._pieces.append(Piece(rest, commit=False, provisional=False))
