"""How `attention.py` measures: sides in turn within limits, device memory, the roofs of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Measure:
    """How rows are measured."""

    device: str
    rounds: int
    most_seconds: float
    clock: Callable[[], float]
    flex: bool
    roof: dict[str, float]

    def timed(self, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median milliseconds of each side, run in turn."""
        for side in sides.values():
            side()
        start = time.perf_counter()
        for side in sides.values():
            side()
        if self.device == "cuda":
            torch.cuda.synchronize()
        once = time.perf_counter() - start
        rounds = min(self.rounds, int(self.most_seconds / once))
        if rounds < 3:
            raise TooMuch(f"a round of all sides takes {once:.1f} s")
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                if self.device == "cpu":
                    start = self.clock()
                    side()
                    times[name].append(1e3 * (self.clock() - start))
                    continue
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                side()
                last.record()
                last.synchronize()
                times[name].append(first.elapsed_time(last))
        return {name: round(statistics.median(t), 4) for name, t in times.items()}


class TooMuch(Exception):
    """A row beyond the limits of time or memory."""


def peak_mb(side: Callable[[], object], device: str) -> float | None:
    """Device memory that a call adds at most."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    side()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 2)


def roofs(device: str, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Measured here: bytes a second of a copy, FLOP a second of a large product."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    n = 1 << (28 if device == "cuda" else 24)
    source = torch.empty(n, dtype=torch.int32, device=device).zero_()
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = {"bytes_s": 0.0, "flop_s": 0.0}
    for _ in range(8):
        for name, work, amount in (
            ("bytes_s", lambda: target.copy_(source), 8 * n),
            ("flop_s", lambda: a @ b, 2 * side**3),
        ):
            sync()
            start = clock()
            work()
            sync()
            best[name] = max(best[name], amount / (clock() - start))
    return best
