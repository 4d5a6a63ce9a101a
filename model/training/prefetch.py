"""Batches made ahead of the step that needs them: by a thread, or by processes where a GPU is faster than that."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from ..errors import WavLMLiveError

_T = TypeVar("_T")


class Prefetcher(Generic[_T]):
    """Calls `make(step)` for step, step + 1, ... in a thread, a few ahead; iterate to get the results in order."""

    def __init__(self, make: Callable[[int], _T], start: int, depth: int) -> None:
        self._make = make
        self._queue: queue.Queue[_T | Exception] = queue.Queue(maxsize=max(1, depth))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), name="batches", daemon=True)
        self._thread.start()

    def _work(self, step: int) -> None:
        while not self._stopped.is_set():
            try:
                result: _T | Exception = self._make(step)
            except Exception as e:
                result = e
            while not self._stopped.is_set():
                try:
                    self._queue.put(result, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(result, Exception):
                return
            step += 1

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        if self._stopped.is_set():
            raise StopIteration
        result = self._queue.get()
        if isinstance(result, Exception):
            self.close()
            raise result
        return result

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stopped.set()
        self._thread.join()


_make: Callable[[int], Any] | None = None


def _start_worker(make: Callable[[int], Any]) -> None:
    """Runs once in each worker: what it calls for a step; one thread for torch, since workers share the cores."""
    import torch

    global _make
    _make = make
    torch.set_num_threads(1)


def _work(step: int) -> Any:
    assert _make is not None  # set when the worker started
    return _make(step)


class WorkerPrefetcher(Generic[_T]):
    """As `Prefetcher`, with processes; results come in order, and are the same for any number of processes.

    Args:
        make: pickled once for each process.
        start: first step.
        depth: how many steps are made ahead.
        workers: processes.

    Raises:
        WavLMLiveError: from the iterator, when a process was killed (memory ran out, say).
    """

    def __init__(self, make: Callable[[int], _T], start: int, depth: int, workers: int) -> None:
        self._pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(make,)
        )
        self._coming: deque[Future[_T]] = deque()
        self._next = start
        self._depth = max(depth, workers)

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        try:
            while len(self._coming) < self._depth:
                self._coming.append(self._pool.submit(_work, self._next))
                self._next += 1
            return self._coming.popleft().result()
        except BrokenProcessPool as e:
            self.close()
            raise WavLMLiveError(
                f"a process that makes batches has ended ({e}); give the machine more memory or the recipe fewer "
                "`workers`, then resume"
            ) from e
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
