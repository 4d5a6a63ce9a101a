"""`StepCost`: what a committing step costs by its number of streams, learnt from the steps as they happen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..model.context import FRAME_MS, StreamingContext

STALE_S = 10.0
"""A size of batch that was not measured for so long says less than what is measured now."""
SUBLINEAR = 1.35
"""A stream costs at most so much more in a batch of twice the size: larger batches may leave the cache, but else only
share what a step costs anyhow."""


@dataclass
class _Level:
    """Batches of about one size."""

    batch: float
    """Their mean size."""
    seconds: float
    """What a step of them takes."""
    at_s: float
    """When one was last met; before all time where it was only tried out."""


class StepCost:
    """Costs of steps, by the power of two of the batch size.

    Each cost follows the steps of its size: it falls soon and rises slowly, since whatever else runs on the machine
    only makes a step longer. What was measured while other work ran does not stay:

    - a size that was not met for `STALE_S`, or was only tried out before there were streams, moves with the next
      smaller one that is met: a machine that became twice as fast did so for all sizes;
    - and never is a stream in a batch counted as much dearer than in a smaller batch (`SUBLINEAR`).

    The cost of a number of streams is read between the two sizes beside it; beyond the largest one measured it grows as
    from nothing to there, which is too much rather than too little.
    """

    FALL, RISE = 0.2, 0.05
    """Weight of the newest step in the average, where it was shorter and where it was longer."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._levels)

    @property
    def sizes(self) -> list[float]:
        """The mean sizes of the batches that were measured, ascending."""
        return [self._levels[level].batch for level in sorted(self._levels)]

    def learn(self, batch: int, seconds: float, now_s: float = -math.inf) -> None:
        """Take note of a step of `batch` streams that took so long and has ended now; by default only a trial."""
        number = batch.bit_length()
        level = self._levels.get(number)
        if level is None:
            self._levels[number] = _Level(float(batch), seconds, now_s)
            return
        before_s = level.seconds / level.batch
        seconds = min(seconds, 4 * level.seconds)  # a single slow step, while something else ran, says little
        share = self.FALL if seconds < level.seconds else self.RISE
        level.batch += share * (batch - level.batch)
        level.seconds += share * (seconds - level.seconds)
        level.at_s = now_s
        for other in sorted(self._levels):
            if other > number and before_s > 0:
                if now_s - self._levels[other].at_s <= STALE_S:
                    break
                self._levels[other].seconds *= level.seconds / level.batch / before_s

    def seconds(self, batch: float) -> float:
        """Expected time of a step of so many streams; 0 where nothing is known yet."""
        points = self._points()
        if not points or batch <= 0:
            return 0.0
        low, low_s = points[0]
        if batch <= low:
            return low_s
        for high, high_s in points[1:]:
            if batch <= high:
                return low_s + (high_s - low_s) * (batch - low) / max(high - low, 1e-9)
            low, low_s = high, high_s
        return low_s * batch / low

    def _points(self) -> list[tuple[float, float]]:
        """Sizes and costs, ascending; a larger batch takes no less time, nor so much more as `SUBLINEAR` forbids."""
        levels = [self._levels[number] for number in sorted(self._levels)]
        points: list[tuple[float, float]] = []
        for n, level in enumerate(levels):
            later = (other.seconds for other in levels[n + 1 :] if other.at_s > level.at_s)
            batch, seconds = level.batch, min(level.seconds, *later, level.seconds)
            if points:
                low, low_s = points[-1]
                seconds = max(low_s, min(seconds, low_s * batch / low * SUBLINEAR ** math.log2(max(1.0, batch / low))))
            points.append((batch, seconds))
        return points

    def load(self, context: StreamingContext, streams: int, largest_batch: int) -> float:
        """Share of the time that the committing steps of so many streams take.

        They come together at best, in batches of at most `largest_batch`, once a chunk.
        """
        if not streams:
            return 0.0
        steps = math.ceil(streams / largest_batch)
        return steps * self.seconds(streams / steps) / (context.chunk_frames * FRAME_MS / 1000)
