"""`ChosenFrames`: what beams look at in their frames, found for all streams of a step at once.

Of a beam search, choosing the outputs of each frame that are not cut off is the part that arrays are made for. The
search itself is no work for them, see `prefix_search`: each stream walks its own few outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .greedy_frames import GreedyFrames


@dataclass(frozen=True)
class Reading:
    """Which outputs of a frame a beam looks at."""

    token_cutoff: float
    """Those so much less likely than the frame's best are cut off; natural logarithm."""
    blank_skip: float
    """All are, where the natural log-probability of the blank is above this."""


@dataclass(frozen=True)
class Chosen:
    """The outputs of some frames that are not cut off. Arrays, of which lists are made only for who reads them."""

    blanks: np.ndarray
    """float32 `[frames]`: natural log-probability of the blank."""
    ends: np.ndarray
    """int64 `[frames]`: one past the last output of each frame."""
    outputs: np.ndarray
    """int64 `[outputs]`: frame by frame."""
    values: np.ndarray
    """float32 `[outputs]`: their natural log-probabilities."""

    def __getitem__(self, part: slice) -> Chosen:
        ends = self.ends[part]
        begin = int(self.ends[part.start - 1]) if part.start else 0
        own = slice(begin, int(ends[-1]) if len(ends) else begin)
        return Chosen(self.blanks[part], ends - begin, self.outputs[own], self.values[own])

    def __iter__(self) -> Iterator[tuple[float, list[int], list[float]]]:
        """Of each frame: log-probability of its blank; the outputs that are not cut off, and theirs."""
        outputs, values = self.outputs.tolist(), self.values.tolist()
        first = 0
        for blank, end in zip(self.blanks.tolist(), self.ends.tolist(), strict=True):
            yield blank, outputs[first:end], values[first:end]
            first = end


@dataclass(slots=True)
class ChosenFrames(GreedyFrames):
    """Frames for a beam, and for all who may be given `GreedyFrames`."""

    chosen: Chosen
    reading: Reading
    """By which they were chosen."""

    def __getitem__(self, part: slice) -> ChosenFrames:
        """From a frame, none of them counted from the end."""
        tokens, best, silent = self.tokens[part], self.best[part], self.silent[part]
        return ChosenFrames(tokens, best, silent, self.labels, self.chosen[part], self.reading)


def choose(
    logprobs: np.ndarray,
    best: np.ndarray,
    blank_id: int,
    token_cutoff: float | np.ndarray,
    blank_skip: float | np.ndarray,
) -> Chosen:
    """The outputs that beams look at.

    Args:
        logprobs: natural log-probabilities `[frames, labels]`.
        best: the highest of each frame.
        blank_id: output of the blank.
        token_cutoff: as `Reading` has it, for all frames or for each.
        blank_skip: the same.
    """
    # Whole arrays are only compared: how they are cut must not show in the last bit of a result.
    blanks = logprobs[:, blank_id]
    chosen = logprobs >= (best - token_cutoff)[:, None]
    chosen[:, blank_id] = True
    chosen[blanks > blank_skip] = False
    rows, outputs = np.nonzero(chosen)
    return Chosen(blanks, np.cumsum(chosen.sum(axis=1)), outputs, logprobs[rows, outputs])


def read_rows(
    logprobs: np.ndarray, frames: Sequence[int], readings: Sequence[Reading | None], silent: Sequence[int]
) -> list[np.ndarray | GreedyFrames]:
    """What each stream of a step is told of its frames: to the last bit what it would find in them alone.

    Args:
        logprobs: natural log-probabilities `[streams, frames, labels]`.
        frames: of each stream; what lies behind them is not looked at.
        readings: of each stream that has a beam; the others, and one beam alone, are told a copy of their
            log-probabilities, which costs them less.
        silent: outputs that stand for silence, the blank first.
    """
    beams = [(n, reading) for n, reading in enumerate(readings) if reading is not None]
    if len(beams) < 2:
        beams = []
    told: dict[int, np.ndarray | GreedyFrames] = {}
    if beams:
        counts = [frames[n] for n, _ in beams]
        flat = np.concatenate([logprobs[n, : frames[n]] for n, _ in beams])
        tokens, best = flat.argmax(axis=1), flat.max(axis=1)
        silence = np.exp(flat[:, silent[0]])
        for output in silent[1:]:
            silence = silence + np.exp(flat[:, output])
        cutoffs = np.repeat(np.array([reading.token_cutoff for _, reading in beams], flat.dtype), counts)
        skips = np.repeat(np.array([reading.blank_skip for _, reading in beams], flat.dtype), counts)
        chosen = choose(flat, best, silent[0], cutoffs, skips)
        end = 0
        for n, reading in beams:
            part = slice(end, end := end + frames[n])
            told[n] = ChosenFrames(tokens[part], best[part], silence[part], flat.shape[1], chosen[part], reading)
    for n, count in enumerate(frames):
        if n not in told:
            told[n] = logprobs[n, :count].copy()  # a row that is kept must not keep the whole batch
    return [told[n] for n in range(len(frames))]
