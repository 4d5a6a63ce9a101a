"""Several processes that train one model: each computes some rows of every batch, the gradients are summed.

On a CPU, processes of one thread each beat one process of several threads: they meet once a step instead of at
every operation. On several GPUs each process owns one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigurationError, WavLMLiveError

_PATIENCE = timedelta(minutes=60)


@dataclass(frozen=True)
class Group:
    """One process's place among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process keeps the clock, measures and writes the files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place; every process gets the same bits.

        Raises:
            WavLMLiveError: another process has ended.
        """
        if self.size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as e:
                raise WavLMLiveError(
                    f"process {self.rank} of {self.size} lost touch with the others ({e}); one of them has failed: "
                    "see its message, then resume"
                ) from e
        return tensor


@contextlib.contextmanager
def joined(rank: int, size: int, port: int, device: str) -> Iterator[Group]:
    """Meet the other processes on this machine; leave them at the end."""
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def _follow(work: Callable[[Group, Any], Any], argument: Any, rank: int, size: int, port: int, device: str) -> None:
    with joined(rank, size, port, device) as group:
        work(group, argument)


def run_together(work: Callable[[Group, Any], Any], argument: Any, processes: int, device: str = "cpu") -> Any:
    """Call `work(group, argument)` in this process, which leads, and in `processes - 1` fresh ones.

    Args:
        work: a function at the top of a module (it is imported again in the other processes).
        argument: handed to each; it must pickle.
        processes: 1 calls `work` and starts nothing.
        device: decides how gradients travel: gloo for a CPU, NCCL for GPUs.

    Returns:
        What `work` returned in this process.

    Raises:
        ConfigurationError: fewer than one process.
    """
    if processes < 1:
        raise ConfigurationError(f"training was asked for with {processes} processes, expected at least 1")
    if processes == 1:
        return work(Group(), argument)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_follow, args=(work, argument, rank, processes, port, device), daemon=True)
        for rank in range(1, processes)
    ]
    for process in others:
        process.start()
    try:
        with joined(0, processes, port, device) as group:
            result = work(group, argument)
        for process in others:
            process.join(timeout=60)
        return result
    finally:
        for process in others:
            if process.is_alive():
                process.terminate()
                process.join()
