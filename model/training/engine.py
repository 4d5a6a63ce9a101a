"""The engine under training: accelerate, so that one command runs on a CPU, a GPU, several of them, or many machines.

Who takes part is read from the environment that `torchrun` or `accelerate launch` set (`RANK`, `WORLD_SIZE`,
`LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`), or that `parallel.run_together` sets on one machine. Each process computes
some rows of every batch. Gradients are averaged by DistributedDataParallel, or, where weights and optimiser are
sharded, by FSDP (`fully_shard`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigurationError, DeviceError, WavLMLiveError

_PATIENCE = timedelta(minutes=60)


def _device(name: str) -> torch.device:
    """The device of a name, "auto" being a GPU where there is one.

    Raises:
        DeviceError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise DeviceError(f"cannot train on the device {name!r}: {e}") from e
    return device


class Engine:
    """This process's place among those that train together, and how they work as one; alone by default.

    Args:
        device: "cpu", "cuda", "cuda:n" or "auto". With several processes a machine, each takes the GPU of its
            local rank.
        shard: keep a part of the weights and of the optimiser in each process (FSDP) instead of all in all.

    Raises:
        DeviceError: there is no such device.
        ConfigurationError: sharding asked of one process alone.
    """

    def __init__(self, device: str = "cpu", *, shard: bool = False) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        wanted = _device(device)
        self.accelerator = Accelerator(
            cpu=wanted.type == "cpu",
            mixed_precision="no",  # autocast is the trainer's, a stage may change it
            kwargs_handlers=[
                # layer drop and SpecAugment leave weights out of some steps
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
        self.rank: int = self.accelerator.process_index
        self.size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device if self.size > 1 else wanted
        self.shard = shard
        if shard and self.size == 1:
            raise ConfigurationError("one process has nobody to share weights with; sharding expects several processes")

    @property
    def leads(self) -> bool:
        """Whether this process keeps the clock, measures and writes the files."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The module whose forward trains `model` together with the other processes.

        Sharded, `model` itself is changed: its parameters become DTensors. Call it before making the optimiser.
        """
        model.to(self.device)
        if self.size == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        if self.shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.size,))
            layers = next((m for n, m in model.named_modules() if n.endswith("encoder.layers")), None)
            # the first layer owns the position bias of all of them, so it stays with the rest of the model
            for layer in list(layers.children())[1:] if layers is not None else ():
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            return model
        self.accelerator.free_memory()
        return self.accelerator.prepare_model(model)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the sum over the processes of their losses.

        Raises:
            WavLMLiveError: another process has ended.
        """
        with self._together():
            # gradients are averaged on their way between the processes
            self.accelerator.backward(loss * self.size)

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        """Scale gradients down to a norm of at most `most`; the norm before, the same in every process."""
        with self._together():
            return float(whole(nn.utils.clip_grad_norm_(parameters, most)))

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes; every process gets the same bits.

        Raises:
            WavLMLiveError: another process has ended.
        """
        if self.size == 1:
            return tensor
        with self._together():
            dist.all_reduce(tensor)
        return tensor

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            if self.size == 1:
                raise
            raise WavLMLiveError(
                f"process {self.rank} of {self.size} lost touch with the others ({e}); one of them has failed: "
                "see its message, then resume"
            ) from e


def whole(tensor: Any) -> Any:
    """A sharded tensor put together (every process must call it); anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor placed as `pattern`: on its device, and in shards where it is sharded."""
    value = value.to(pattern.device)
    if not hasattr(pattern, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, pattern.device_mesh, pattern.placements)  # type: ignore[attr-defined]
