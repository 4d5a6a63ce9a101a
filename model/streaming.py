"""`listen` and `step`: the streaming half of `WavLMModel`, with all state in an explicit `StreamStates`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .context import StreamingContext
from .errors import ConfigurationError, StreamError
from .front_end import FrontEndCarry
from .layouts import StepLayout
from .outputs import StepOutput
from .states import StreamStates

if TYPE_CHECKING:
    from .wavlm import WavLMModel


class StreamingMixin:
    """Streaming methods of `WavLMModel`."""

    def new_states(
        self: WavLMModel,  # type: ignore[misc]
        slots: int,
        context: StreamingContext,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        ring_dtype: torch.dtype | None = None,
    ) -> StreamStates:
        """State for `slots` streams, on the model's device and in its dtype unless told otherwise.

        `ring_dtype` is that of cached keys and values: torch.bfloat16 halves them, torch.int8 quarters them.

        Raises:
            ConfigurationError: the model has an adapter.
        """
        if self.adapter is not None:
            raise ConfigurationError(
                "a model with an adapter cannot stream: its strided convolutions look beyond the chunk; "
                "load the checkpoint with add_adapter=False"
            )
        weight = self.feature_projection.projection.weight
        return StreamStates(
            self.config, slots, context, device=device or weight.device, dtype=dtype or weight.dtype,
            ring_dtype=ring_dtype,
        )  # fmt: skip

    @torch.no_grad()
    def listen(
        self: WavLMModel,  # type: ignore[misc]
        states: StreamStates,
        slots: Sequence[int],
        samples: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Convolve new samples of some streams; their frames wait in the state for a step.

        Every sample is convolved once; any sizes of blocks give the same frames.

        Args:
            states: of `new_states`.
            slots: rows of `samples` belong to these slots.
            samples: `[rows, n]`, raw waveform at 16 kHz.
            lengths: valid samples of each row; None: n each.

        Raises:
            StreamError: a slot that does not exist or has no room for so many samples (`room_samples`).
        """
        slots = list(slots)
        states.check(slots)
        counts = torch.tensor([samples.shape[1]] * len(slots) if lengths is None else list(lengths), dtype=torch.int64)
        if samples.dim() != 2 or samples.shape[0] != len(slots) or len(counts) != len(slots):
            raise StreamError(
                f"samples have shape {tuple(samples.shape)} with {len(counts)} lengths, expected one row for "
                f"each of the {len(slots)} slots"
            )
        for slot, count in zip(slots, counts.tolist(), strict=True):
            if not 0 <= count <= min(samples.shape[1], states.room_samples(slot)):
                raise StreamError(
                    f"slot {slot} was given {count} samples of a row of {samples.shape[1]}, but has room for "
                    f"{states.room_samples(slot)}; commit steps first or hand over smaller blocks"
                )
        if samples.shape[1] == 0 or not slots:
            return
        slot = torch.tensor(slots, dtype=torch.int64)
        config = self.config
        hop, receptive = config.hop_samples, config.receptive_samples
        kept = states.remaining_samples[slot]
        total = kept + counts
        fresh = states.committed_frames[slot] + states.waiting_count[slot] == 0
        frames = torch.where(fresh, torch.where(total >= receptive, (total - receptive) // hop + 1, 0), total // hop)
        used = torch.where(frames > 0, frames * hop + torch.where(fresh, receptive - hop, 0), 0)

        # samples kept from before, then the new ones, each row packed to the left
        device = states.device
        width, capacity = int(total.max()), states.remainder.shape[1]
        column = torch.arange(width)
        old = (column < kept[:, None]).to(device)
        on_device = slot.to(device)
        remainder = F.pad(states.remainder[on_device], (0, max(0, width - capacity)))[:, :width]
        source = (column - kept[:, None]).clamp(0, samples.shape[1] - 1).to(device)
        new = samples.to(device, torch.float32).gather(1, source)
        packed = torch.where(old, remainder, new)

        for group_is_fresh in (True, False):
            rows = ((frames > 0) & (fresh == group_is_fresh)).nonzero().flatten()
            if len(rows):
                self._convolve(states, slot[rows], packed[rows.to(device)], frames[rows], group_is_fresh)

        left = total - used
        if width:
            behind = (used[:, None] + torch.arange(capacity)).clamp(max=width - 1).to(device)
            valid = (torch.arange(capacity) < left[:, None]).to(device)
            states.remainder[on_device] = packed.gather(1, behind).masked_fill(~valid, 0)
        states.heard_samples[slot] += counts
        states.remaining_samples[slot] = left

    def _convolve(
        self: WavLMModel,  # type: ignore[misc]
        states: StreamStates,
        slot: Tensor,
        packed: Tensor,
        frames: Tensor,
        fresh: bool,
    ) -> None:
        """Frames of rows that are all at their start or all past it, written behind the waiting ones."""
        config, device = self.config, states.device
        most = int(frames.max())
        need = config.hop_samples * most + (config.receptive_samples - config.hop_samples if fresh else 0)
        on_device = slot.to(device)
        if fresh:
            carry = self.feature_extractor.start(len(slot), cumulative=True, device=device)
        else:
            carry = FrontEndCarry(
                states.tails,
                None if states.norm is None else states.norm[on_device],
                None if states.wave is None else states.wave[on_device],
                on_device,
            )
        ragged = bool((frames != most).any())
        packed = F.pad(packed, (0, max(0, need - packed.shape[1])))[:, :need]
        features, carry = self.feature_extractor.run(packed, carry, frames.to(device) if ragged else None)
        projected, _ = self.feature_projection(features)  # [rows, most, hidden]
        for kept, tail in zip(states.tails, carry.tails, strict=True):
            kept[on_device] = tail.to(kept.dtype)
        if states.norm is not None and carry.norm is not None:
            states.norm[on_device] = carry.norm
        if states.wave is not None and carry.wave is not None:
            states.wave[on_device] = carry.wave
        row, offset = (torch.arange(most) < frames[:, None]).nonzero(as_tuple=True)
        target = (states.waiting_count[slot][row] + offset).to(device)
        states.waiting_frames[on_device[row.to(device)], target] = projected[row.to(device), offset.to(device)].to(
            states.dtype
        )
        states.waiting_count[slot] += frames

    @torch.no_grad()
    def encode_frames(
        self: WavLMModel,  # type: ignore[misc]
        frames: Tensor,
        context: StreamingContext,
        lengths: Tensor | None = None,
        *,
        layers: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """The encoder alone, all chunks in one pass: what a stream under this context gives.

        Args:
            frames: `[batch, frames, hidden]` behind the front end, from the start of a chunk on.
            context: what a step sees.
            lengths: int64 `[batch]`, valid frames of each row, zeros behind them; None: all.
            layers: also give the hidden states of all layers.

        Returns:
            `[batch, frames, hidden]`, and where asked for the input of the first layer and the output of each, of
            the same shape; what lies behind a row's end has no meaning.
        """
        mask = None
        if lengths is not None:
            mask = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        out, hidden, _ = self._encode_chunks(frames, mask, context, layers)
        return out, hidden

    @torch.no_grad()
    def step(
        self: WavLMModel,  # type: ignore[misc]
        states: StreamStates,
        slots: Sequence[int],
        *,
        commit: bool = True,
        final: bool | Sequence[bool] = False,
        layers: bool = False,
    ) -> StepOutput:
        """Encode the waiting frames of some streams.

        A committing step takes one chunk a slot: C own frames with R frames of right context, which must be
        waiting. With `final` the stream has ended: a last chunk may be shorter and see less to the right; call
        again until nothing waits. Without `commit` the waiting frames, however few, are encoded as they are and
        the state stays as it was.

        Args:
            states: of `new_states`.
            slots: rows of the output.
            commit: write keys, values and positions of the own frames, and take them out of the waiting ones.
            final: the stream has ended, for all or for each row.
            layers: also give the hidden states of all layers, as `forward(output_hidden_states=True)`.

        Raises:
            StreamError: a slot that does not exist, or too few waiting frames for a committing step.
        """
        slots = list(slots)
        states.check(slots)
        ends = [final] * len(slots) if isinstance(final, bool) else list(final)
        chunk, right = states.context.chunk_frames, states.context.right_frames
        for slot, end in zip(slots, ends, strict=True):
            if commit and not end and states.waiting(slot) < chunk + right:
                raise StreamError(
                    f"slot {slot} has {states.waiting(slot)} waiting frames, a chunk needs {chunk} + {right}; "
                    "listen to more samples, or say final=True at the end of the stream"
                )
        slot = torch.tensor(slots, dtype=torch.int64)
        on_device = slot.to(states.device)
        frames = states.waiting_count[slot].clamp(max=chunk + right)
        own = frames.clamp(max=chunk)
        width = int(frames.max()) if len(slots) else 0
        first = states.committed_frames[slot].tolist()
        if width == 0:
            empty = states.waiting_frames.new_zeros(len(slots), 0, self.config.hidden_size)
            none = (empty,) * (self.config.num_hidden_layers + 1) if layers else None
            return StepOutput(empty, first, own.tolist(), frames.tolist(), hidden_states=none)

        x = states.waiting_frames[on_device, :width]
        if not bool((frames == width).all()):
            missing = (torch.arange(width) >= frames[:, None]).to(states.device)
            x = x.masked_fill(missing[..., None], 0)
        position = self._step_position(states, slot, x)
        rel = self.encoder.relative_vector(states.context.left_frames + chunk + right)
        layout = StepLayout(rel, states, slots, frames, own if commit else None)
        out, hidden, _ = self.encoder(x, position, layout, layers)
        if commit:
            self._commit(states, slot, x, own)
        return StepOutput(out, first, own.tolist(), frames.tolist(), hidden_states=tuple(hidden) if layers else None)

    def _step_position(self: WavLMModel, states: StreamStates, slot: Tensor, x: Tensor) -> Tensor:  # type: ignore[misc]
        """The convolutional position of new frames `[rows, width, hidden]` behind the kept ones."""
        known = None
        if bool((states.committed_frames[slot] < states.position_frames).any()):
            known = states.committed_frames[slot].to(states.device)
        kept = states.position if states.position.dtype == x.dtype else states.position.to(x.dtype)
        return self.encoder.pos_conv_embed(x, kept, slot.to(states.device), known)

    def _commit(self: WavLMModel, states: StreamStates, slot: Tensor, x: Tensor, own: Tensor) -> None:  # type: ignore[misc]
        """Take the own frames out of the waiting ones and keep the last of them for the position."""
        device = states.device
        on_device = slot.to(device)
        held = states.position_frames
        if held:
            history = torch.cat([states.position[on_device], x.to(states.dtype)], 1)
            newest = (own[:, None] + torch.arange(held)).to(device)  # the last `held` of P + own
            states.position[on_device] = history.gather(1, newest[..., None].expand(-1, -1, history.shape[2]))
        capacity = states.waiting_capacity
        shifted = (own[:, None] + torch.arange(capacity)).clamp(max=capacity - 1).to(device)
        waiting = states.waiting_frames[on_device]
        states.waiting_frames[on_device] = waiting.gather(1, shifted[..., None].expand(-1, -1, waiting.shape[2]))
        states.waiting_count[slot] -= own
        states.committed_frames[slot] += own
