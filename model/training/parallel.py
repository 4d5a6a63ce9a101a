"""Several processes on this machine that train one model.

On a CPU, processes of one thread each beat one process of several threads: they meet once a step instead of at
every operation. On several GPUs each process owns one. Over several machines use `torchrun` or `accelerate launch`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from ..errors import ConfigurationError


@contextlib.contextmanager
def _taking_part(rank: int, size: int, port: int) -> Iterator[None]:
    """The environment in which an `Engine` finds the others; left in order, and as it was before."""
    here = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # else accelerate chooses the threads
    }
    before = {name: os.environ.get(name) for name in here}
    _forget()
    os.environ.update(here)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        _forget()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _forget() -> None:
    """Let accelerate read the environment anew; it remembers who takes part for as long as the process lives."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def _follow(work: Callable[[Any], Any], argument: Any, rank: int, size: int, port: int) -> None:
    with _taking_part(rank, size, port):
        work(argument)


def run_together(work: Callable[[Any], Any], argument: Any, processes: int) -> Any:
    """Call `work(argument)` in this process, which leads, and in `processes - 1` fresh ones.

    Args:
        work: a function at the top of a module (it is imported again in the other processes); an `Engine` that it
            makes finds the others.
        argument: handed to each; it must pickle.
        processes: 1 calls `work` and starts nothing.

    Returns:
        What `work` returned in this process.

    Raises:
        ConfigurationError: fewer than one process, or several where a launcher has started this one among others.
    """
    if processes < 1:
        raise ConfigurationError(f"training was asked for with {processes} processes, expected at least 1")
    if processes == 1:
        return work(argument)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError(
            f"a launcher started this process as one of {os.environ['WORLD_SIZE']}, and {processes} processes were "
            "asked for besides; leave out --processes under torchrun or accelerate launch"
        )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_follow, args=(work, argument, rank, processes, port), daemon=True)
        for rank in range(1, processes)
    ]
    for process in others:
        process.start()
    try:
        with _taking_part(0, processes, port):
            result = work(argument)
        for process in others:
            process.join(timeout=60)
        return result
    finally:
        for process in others:
            if process.is_alive():
                process.terminate()
                process.join()
