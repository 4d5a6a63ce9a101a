"""In what time the cost of a step is measured: `cost_clock_of`, and `Stretch`, how much longer steps last than that.

Admission asks what this machine can carry. On a CPU the clock on the wall gives another answer whenever something else
runs: a step that is put aside for a compiler lasts longer, but costs no more. The clock of the thread that runs the
steps tells what they cost. With one thread that is all of it. With several, it is the time that the step would last on
an idle machine, as nearly as can be told from within a busy one: the thread runs all that is serial, and of each
parallel part an equal share, like the others (torch divides evenly); where it waits for them at the end of a part it
mostly spins, which counts as work, too. The sum over all threads would count the parallel parts as often as there are
threads, and the whole process' time the server's sockets as well. What comes short is made up for by `Stretch`.

What else runs may stay, though, and then it takes part of what the machine could carry; the server's own sockets and
decoders' callers, which share Python's lock with the steps, are always there. So the ratio of a step's duration to its
cost is watched, from the steps of calibration on, and its median, which a burst of other work does not move, counts in
admission. What was last known holds until other steps tell otherwise: after a pause many may come at once. That streams
come late is judged by the wall alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from .admission import Recent

UNFELT = 1.05
"""Steps that last so little longer than they compute tell of nothing else that runs."""


def cost_clock_of(device: torch.device, clock: Callable[[], float]) -> Callable[[], float]:
    """The clock for the costs of steps.

    Args:
        device: that computes them; a GPU's thread only waits, which takes the wall's time.
        clock: the batcher's; a simulated one measures costs as well.
    """
    return time.thread_time if device.type == "cpu" and clock is time.monotonic else clock


class Stretch:
    """How many times as long steps last as they compute.

    Args:
        count: steps that are looked at.
    """

    def __init__(self, count: int = 64) -> None:
        self._ratios = Recent(count)

    def add(self, seconds: float, cost_s: float) -> None:
        """A step has ended that lasted so long and cost so much."""
        if cost_s > 0:
            self._ratios.add(seconds / cost_s)

    def factor(self) -> float:
        """1 where nothing else runs or nothing is known."""
        (ratio,) = self._ratios.percentiles((0.5,))
        return ratio if ratio > UNFELT else 1.0
