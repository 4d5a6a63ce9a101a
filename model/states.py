"""`StreamStates`: all that a model remembers of its streams, one tensor a cached thing, slots on dimension 0.

Only `listen`, a committing `step`, `reset`, `copy` and `load` write to it. Its size does not grow with the age
of a stream. Counters live on the host, so that a step can be planned without waiting for a device.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..kernels import new_ring, ring_room
from .config import WavLMConfig
from .context import StreamingContext
from .errors import StreamError


class StreamStates:
    """State of `slots` streams of one model under one context.

    Args:
        config: of the model.
        slots: streams that fit.
        context: what a step sees.
        device, dtype: of the cached tensors; the dtype of the model gives exact streams.
        ring_dtype: of cached keys and values; None: as `dtype`. torch.int8 keeps a scale for each frame and head.

    Raises:
        StreamError: fewer than one slot.
    """

    def __init__(
        self,
        config: WavLMConfig,
        slots: int,
        context: StreamingContext,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        ring_dtype: torch.dtype | None = None,
    ):
        if slots < 1:
            raise StreamError(f"{slots} slots asked for, expected at least 1")
        self.config, self.slots, self.context = config, slots, context
        self.layers = config.num_hidden_layers
        self.dtype, self.device = dtype, torch.device(device)
        self.position_frames = min(config.num_conv_pos_embeddings // 2, context.left_frames)
        self.waiting_capacity = context.step_frames + max(context.chunk_frames, 50)
        hidden = config.hidden_size

        def new(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(slots, *shape, dtype=kind, device=device)

        self.remainder = new(max(config.receptive_samples, config.hop_samples), kind=torch.float32)
        """Samples that do not make a frame yet, from index 0 on."""
        channels = (1, *config.conv_dim[:-1])
        self.tails = [
            new(max(0, kernel - stride), width)
            for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, channels, strict=True)
        ]
        """Inputs each convolution still needs."""
        self.norm = new(3, config.conv_dim[0], kind=torch.float64) if config.feat_extract_norm == "group" else None
        self.wave = new(3, 1, kind=torch.float64) if config.stream_normalize else None
        self.waiting_frames = new(self.waiting_capacity, hidden)
        """Frames behind the front end that no committing step has taken, from index 0 on."""
        self.position = new(self.position_frames, hidden)
        """The last committed frames before the position was added, right-aligned."""
        self.ring_dtype = ring_dtype or dtype
        ring = (self.layers, context.left_frames)
        self.ring_room = ring_room(context.step_frames, dtype, self.ring_dtype, self.device)
        """Frames behind each ring that a step may use for itself; part of no tensor."""
        self.keys, self.values = (
            new_ring(
                slots, *ring, config.num_attention_heads, config.head_size, room=self.ring_room,
                dtype=self.ring_dtype, device=self.device,
            )
            for _ in range(2)
        )  # fmt: skip
        """Rings `[slots, layers, left, heads, size]`: the key of frame t stands at index t modulo left_frames."""
        scaled = self.ring_dtype == torch.int8
        self.key_scales = new(*ring, config.num_attention_heads, kind=torch.float32) if scaled else None
        """What int8 keys are multiplied with, for each frame and head."""
        self.value_scales = new(*ring, config.num_attention_heads, kind=torch.float32) if scaled else None

        self.heard_samples = torch.zeros(slots, dtype=torch.int64)
        self.remaining_samples = torch.zeros(slots, dtype=torch.int64)
        self.waiting_count = torch.zeros(slots, dtype=torch.int64)
        self.committed_frames = torch.zeros(slots, dtype=torch.int64)

    # What a caller plans with --------------------------------------------------------------------------

    def waiting(self, slot: int) -> int:
        """Frames that wait for a committing step."""
        return int(self.waiting_count[slot])

    def committed(self, slot: int) -> int:
        """Frames committed since the stream began."""
        return int(self.committed_frames[slot])

    def samples(self, slot: int) -> int:
        """Samples heard since the stream began."""
        return int(self.heard_samples[slot])

    def frames(self, slot: int) -> int:
        """Frames made of the samples heard: committed and waiting ones."""
        return self.committed(slot) + self.waiting(slot)

    def room_samples(self, slot: int) -> int:
        """Samples that `listen` takes now without overfilling the waiting frames."""
        room = self.waiting_capacity - self.waiting(slot)
        hop = self.config.hop_samples
        start = self.config.receptive_samples - hop if self.frames(slot) == 0 else 0
        return start + hop * (room + 1) - 1 - int(self.remaining_samples[slot])

    def check(self, slots: list[int]) -> None:
        """Refuse slots that do not exist or come twice.

        Raises:
            StreamError: naming them.
        """
        wrong = [s for s in slots if not 0 <= s < self.slots]
        if wrong:
            raise StreamError(f"slots {wrong} do not exist, the state has slots 0 to {self.slots - 1}")
        if len(set(slots)) != len(slots):
            raise StreamError(f"slots {slots} hold one slot twice; a step works on each stream once")

    # Slots -----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, slots on dimension 0."""
        named = {f"tail_{i}": tail for i, tail in enumerate(self.tails)}
        for name in (
            "remainder", "norm", "wave", "waiting_frames", "position", "keys", "values", "key_scales", "value_scales",
            "heard_samples", "remaining_samples", "waiting_count", "committed_frames",
        ):  # fmt: skip
            tensor = getattr(self, name)
            if tensor is not None:
                named[name] = tensor
        return named

    def reset(self, slot: int) -> None:
        """Make the slot a stream that has heard nothing.

        What the former stream left in the tensors is not erased, it is never read: counters say what is valid.
        """
        self.check([slot])
        for counter in (self.heard_samples, self.remaining_samples, self.waiting_count, self.committed_frames):
            counter[slot] = 0

    def copy(self, source: int, target: int) -> None:
        """Make slot `target` an exact copy of slot `source`."""
        self.check([source, target])
        for tensor in self.tensors().values():
            tensor[target] = tensor[source]

    def _description(self) -> dict[str, str]:
        described = {"context": str(self.context), "layers": str(self.layers), "hidden": str(self.config.hidden_size)}
        return {**described, "ring": "int8"} if self.ring_dtype == torch.int8 else described

    def save(self, slot: int, path: str | Path) -> None:
        """Write one slot to a safetensors file, from which `load` continues the stream exactly."""
        from safetensors.torch import save_file

        self.check([slot])
        save_file({n: t[slot].cpu().contiguous() for n, t in self.tensors().items()}, str(path), self._description())

    def load(self, slot: int, path: str | Path) -> None:
        """Continue in `slot` the stream that `save` wrote.

        Raises:
            StreamError: no such file, or a state of another model or context.
        """
        from safetensors import SafetensorError, safe_open

        self.check([slot])
        try:
            with safe_open(str(path), framework="pt") as file:
                described = file.metadata() or {}
                loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as e:
            raise StreamError(f"cannot read a stream's state from {path}: {e}") from e
        if described != self._description():
            raise StreamError(f"the state in {path} belongs to {described}, this one is {self._description()}")
        own = self.tensors()
        for name in own.keys() | loaded.keys():
            if name not in own or name not in loaded or own[name].shape[1:] != loaded[name].shape:
                raise StreamError(f"the state in {path} does not fit this model: tensor {name!r} differs")
        for name, tensor in own.items():
            tensor[slot] = loaded[name].to(tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, and of the room behind the rings."""
        return sum(t.untyped_storage().nbytes() for t in self.tensors().values())
