"""`StaticStep`: hear and encode a chunk of some streams in one call over buffers that stay where they are.

`StreamingMixin.listen` and `step` make tensors of the shape that the moment needs. A device that is fast enough waits
longer for those decisions than it computes. Here every shape is fixed when the step is made: so many rows, a chunk of
new samples and the frames of a step each. What differs from call to call, which slots, how many samples and frames, are
numbers in a tensor, reckoned on the host, which has all the counters. So nothing in `_compute` allocates by the data or
asks the device for a value: on CUDA it is captured as a graph once and replayed; elsewhere it runs as it is, which is
how it is tested. Rows that nobody needs go to a spare slot.

The results of a greedy stream are packed into one tensor, token, probability and what is silent for each frame, and
fetched at once: that fetch is the only wait. Where a stream of a call has voice heads, they read the layers of all its
rows within the same step, and their few numbers of each frame are fetched with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import streaming_attention, streaming_bias
from .errors import StreamError
from .front_end import FrontEndCarry
from .states import StreamStates

if TYPE_CHECKING:
    from .ctc import WavLMForCTC
    from .voice_heads import VoiceHeads

NUMBERS = ("slot", "new", "kept", "waiting", "committed", "own", "seen")
"""What a call is told of each row: its slot; new samples; samples kept from before; frames that wait and that are
committed, before the call; how many it commits; how many it encodes."""


@dataclass(frozen=True)
class StaticRow:
    """One stream's part of a call."""

    slot: int
    samples: np.ndarray
    """float32 `[n]`, at most a chunk with what is kept; none too."""
    final: bool = False
    """The stream has ended: its last chunk may be short."""


class StaticStep:
    """Calls of one size.

    Args:
        model: in evaluation mode, on its device.
        states: of `new_states`; the last slot is the spare one and no stream's.
        rows: streams in a call.
        commit: commit a chunk of each; else look at what waits.
        silent: outputs whose probabilities greedy decoders want besides the best one; None: all log-probabilities.
        heads: read the layers of every row; None: no stream of the call has any.
    """

    def __init__(
        self,
        model: WavLMForCTC,
        states: StreamStates,
        rows: int,
        *,
        commit: bool,
        silent: Sequence[int] | None,
        heads: VoiceHeads | None = None,
    ) -> None:
        self.model, self.states, self.rows, self.commit, self.heads = model, states, rows, commit, heads
        self.silent = None if silent is None else list(silent)
        context, device = states.context, states.device
        self.frames = context.step_frames
        self.chunk_samples = context.chunk_frames * model.config.hop_samples
        values = model.config.vocab_size if self.silent is None else 2 + len(self.silent)
        pinned = device.type == "cuda"
        self.host_numbers = torch.zeros(len(NUMBERS), rows, dtype=torch.int64, pin_memory=pinned)
        self.host_samples = torch.zeros(rows, self.chunk_samples, pin_memory=pinned)
        self.host_results = torch.zeros(rows, self.frames, values, pin_memory=pinned)
        self.numbers = torch.zeros(len(NUMBERS), rows, dtype=torch.int64, device=device)
        self.samples = torch.zeros(rows, self.chunk_samples, device=device)
        self.results = torch.zeros(rows, self.frames, values, device=device)
        voices = 0 if heads is None else heads.values
        self.host_voices = torch.zeros(rows, context.chunk_frames, voices, pin_memory=pinned)
        """What the heads said of own frames in the last call, `[rows, chunk, values]`; the next one writes there."""
        self.voices = torch.zeros(rows, context.chunk_frames, voices, device=device)
        encoder = model.wavlm.encoder
        with torch.no_grad():
            self._rel = encoder.relative_vector(context.left_frames + self.frames)
        self._sheared: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    @cached_property
    def _host(self) -> _Host:
        return _Host(self)

    # The host's side -------------------------------------------------------------------------------------

    def fits(self, rows: Sequence[StaticRow]) -> list[bool]:
        """Of each row, whether the call can hear its samples: of a stream whose first frames are made, not beyond a
        chunk."""
        slots, new = _of_rows(rows)
        host = self._host
        total, waiting = host.remaining[slots] + new, host.waiting[slots]
        made, began = total // self.model.config.hop_samples, waiting + host.committed[slots] > 0
        room = waiting + made <= self.states.waiting_capacity
        return ((new == 0) | (began & (total <= self.chunk_samples) & room)).tolist()

    def run(self, rows: Sequence[StaticRow]) -> tuple[Tensor, list[int], list[int]]:
        """Hear and encode; at most `self.rows` rows that fit, no slot twice.

        Returns:
            The results on the host, `[rows, frames, values]`, to be read before the next call; of each row its own
            frames, and all that were encoded. Values: token, log-probability, probabilities of what is silent; or
            log-probabilities of all outputs.
        """
        own, seen = self.fill(rows)
        self.numbers.copy_(self.host_numbers, non_blocking=True)
        self.samples.copy_(self.host_samples, non_blocking=True)
        if self.states.device.type == "cuda":
            self._replay()
        else:
            self._compute()
        self.host_results.copy_(self.results, non_blocking=True)
        if self.heads is not None:
            self.host_voices.copy_(self.voices, non_blocking=True)
        if self.states.device.type == "cuda":
            torch.cuda.current_stream(self.states.device).synchronize()  # the one wait
        return self.host_results[: len(rows)], own, seen

    def fill(self, rows: Sequence[StaticRow]) -> tuple[list[int], list[int]]:
        """Write down what the call is about, and move the counters on; own and encoded frames of each row.

        Raises:
            StreamError: too few waiting frames for a chunk of a stream that goes on; nothing has changed.
        """
        context, hop = self.states.context, self.model.config.hop_samples
        host, (slots, new) = self._host, _of_rows(rows)
        kept, waiting, committed = host.remaining[slots], host.waiting[slots], host.committed[slots]
        made = (kept + new) // hop
        there = waiting + made
        if self.commit:
            short = [n for n in np.flatnonzero(there < self.frames).tolist() if not rows[n].final]
            if short:
                raise StreamError(
                    f"slot {rows[short[0]].slot} has {there[short[0]]} waiting frames, a chunk needs "
                    f"{context.chunk_frames} + {context.right_frames}; listen to more samples, or say final=True at "
                    "the end of the stream"
                )
        seen = np.minimum(there, self.frames)
        own = np.minimum(seen, context.chunk_frames)
        commits = own if self.commit else np.zeros_like(own)
        host.numbers[:] = 0
        host.numbers[0] = self.states.slots - 1  # the spare one
        host.numbers[:, : len(rows)] = slots, new, kept, waiting, committed, commits, seen
        for line, row in zip(host.samples, rows, strict=False):
            line[: len(row.samples)] = row.samples
        host.heard[slots] += new
        host.remaining[slots] = kept + new - made * hop
        host.waiting[slots] += made - commits
        host.committed[slots] += commits
        return own.tolist(), seen.tolist()

    # The device's side -----------------------------------------------------------------------------------

    def _replay(self) -> None:
        """The call as a graph, captured when it is first needed, with every row in the spare slot."""
        if self._graph is None:
            wanted = self.numbers.clone()
            self.numbers.zero_()
            self.numbers[0] = self.states.slots - 1
            stream = torch.cuda.Stream(self.states.device)
            stream.wait_stream(torch.cuda.current_stream(self.states.device))
            with torch.cuda.stream(stream):  # libraries choose and allocate in their first calls
                for _ in range(3):
                    self._compute()
            torch.cuda.current_stream(self.states.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._compute()
            self._graph = graph
            self.numbers.copy_(wanted)
        self._graph.replay()

    @torch.no_grad()
    def _compute(self) -> None:
        """All of the call: shapes depend on nothing in the tensors, and nothing is asked of the device."""
        states, base = self.states, self.model.wavlm
        slot, new, kept, waiting, committed, own, seen = self.numbers.unbind(0)
        frames = self._hear(slot, new, kept)  # [rows, chunk, hidden]
        made = (kept + new) // self.model.config.hop_samples
        place = torch.arange(states.waiting_capacity, device=states.device)  # [capacity]
        source = (place - waiting[:, None]).clamp(0, frames.shape[1] - 1)
        fresh = (place >= waiting[:, None]) & (place < (waiting + made)[:, None])
        held = torch.where(fresh[..., None], _along(frames, source), states.waiting_frames[slot])

        x = held[:, : self.frames]
        x = x.masked_fill((torch.arange(self.frames, device=x.device) >= seen[:, None])[..., None], 0)
        kept_position = states.position if states.position.dtype == x.dtype else states.position.to(x.dtype)
        position = base.encoder.pos_conv_embed(x, kept_position, slot, committed)
        layout = _StaticLayout(self, *(number.to(torch.int32) for number in (slot, committed, seen, own)))
        hidden, layers, _ = base.encoder(x, position, layout, self.heads is not None)
        if self.heads is not None:
            self.voices.copy_(self.heads.measure([layer[:, : self.voices.shape[1]] for layer in layers]))

        if states.position_frames:
            history = torch.cat([states.position[slot], x.to(states.dtype)], 1)
            newest = own[:, None] + torch.arange(states.position_frames, device=x.device)
            states.position.index_copy_(0, slot, _along(history, newest))
        shifted = (own[:, None] + place).clamp(max=states.waiting_capacity - 1)
        states.waiting_frames.index_copy_(0, slot, _along(held, shifted))
        self._read(hidden)

    def _hear(self, slot: Tensor, new: Tensor, kept: Tensor) -> Tensor:
        """Convolve what is kept and what is new: the frames that it makes, `[rows, chunk, hidden]`."""
        states, base, hop = self.states, self.model.wavlm, self.model.config.hop_samples
        width, capacity = self.chunk_samples, states.remainder.shape[1]
        column = torch.arange(width, device=states.device)
        remainder = F.pad(states.remainder[slot], (0, max(0, width - capacity)))[:, :width]
        packed = self.samples.gather(1, (column - kept[:, None]).clamp(0, width - 1))
        packed = torch.where(column < kept[:, None], remainder, packed)
        total = kept + new
        packed = packed.masked_fill(column >= total[:, None], 0)
        made = total // hop
        norm, wave = (None if kind is None else kind[slot] for kind in (states.norm, states.wave))
        carry = FrontEndCarry(states.tails, norm, wave, slot)
        features, after = base.feature_extractor.run(packed, carry, made)
        heard = (made > 0)[:, None, None]
        for tails, tail in zip(states.tails, after.tails, strict=True):
            tails.index_copy_(0, slot, torch.where(heard, tail.to(tails.dtype), tails[slot]))
        for kind, before, later in ((states.norm, norm, after.norm), (states.wave, wave, after.wave)):
            if kind is not None and before is not None and later is not None:
                kind.index_copy_(0, slot, torch.where(heard, later, before))
        used = made * hop
        behind = (used[:, None] + torch.arange(capacity, device=states.device)).clamp(max=width - 1)
        left = torch.arange(capacity, device=states.device) < (total - used)[:, None]
        states.remainder.index_copy_(0, slot, packed.gather(1, behind).masked_fill(~left, 0))
        return base.feature_projection(features)[0].to(states.dtype)

    def _read(self, hidden: Tensor) -> None:
        """The head's results into their buffer."""
        if self.silent is None:
            self.results.copy_(self.model.lm_head(hidden).float().log_softmax(-1))
            return
        token, best, silent = self.model.greedy(hidden, self.silent)
        # a token is a small whole number: exact in float32
        self.results.copy_(torch.cat([token.unsqueeze(-1).float(), best.unsqueeze(-1), silent], -1))


class _Host:
    """What the host writes of a call and counts of its streams, as numpy sees the same memory: torch takes longer for a
    number than the device may take for a stream."""

    def __init__(self, step: StaticStep) -> None:
        states = step.states
        self.numbers, self.samples = step.host_numbers.numpy(), step.host_samples.numpy()
        self.remaining, self.waiting = states.remaining_samples.numpy(), states.waiting_count.numpy()
        self.committed, self.heard = states.committed_frames.numpy(), states.heard_samples.numpy()


def _of_rows(rows: Sequence[StaticRow]) -> tuple[np.ndarray, np.ndarray]:
    """Slots and numbers of new samples, int64 `[rows]` each."""
    slots, new = [row.slot for row in rows], [len(row.samples) for row in rows]
    return np.array(slots, np.int64), np.array(new, np.int64)


class _StaticLayout:
    """The rings of a call's streams; a `Layout`."""

    def __init__(self, step: StaticStep, slots: Tensor, committed: Tensor, frames: Tensor, own: Tensor) -> None:
        self._step, self._slots, self._committed, self._frames = step, slots, committed, frames
        self._own = own if step.commit else None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        """See `Layout`."""
        step, states = self._step, self._step.states
        if step._sheared is None:  # for all calls: it depends on the shapes alone
            step._sheared = streaming_bias(step._rel, q, states.context.left_frames)
        out = streaming_attention(
            q, k, v, gate, step._rel, states.keys, states.values, layer, self._slots, self._committed, self._frames,
            self._own, key_scales=states.key_scales, value_scales=states.value_scales, sheared=step._sheared,
            room=states.ring_room,
        )  # fmt: skip
        return out, None


def _along(x: Tensor, index: Tensor) -> Tensor:
    """`[rows, n, width]` at `[rows, m]` -> `[rows, m, width]`."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


class StepLadder:
    """Static steps of 1, 2, 4, ... rows: a batch is computed in the smallest that holds it.

    Args:
        model: in evaluation mode, on its device.
        states: with a spare slot, the last.
        silent: see `StaticStep`.
        largest: rows of the largest step.
    """

    def __init__(self, model: WavLMForCTC, states: StreamStates, silent: Sequence[int], largest: int) -> None:
        self.model, self.states, self.silent = model, states, list(silent)
        self.largest = max(1, min(largest, states.slots - 1))
        self._steps: dict[tuple[int, bool, bool, VoiceHeads | None], StaticStep] = {}

    @property
    def sizes(self) -> list[int]:
        """Rows of the steps: powers of two, and the largest."""
        sizes = [1 << n for n in range(self.largest.bit_length()) if 1 << n < self.largest]
        return [*sizes, self.largest]

    def at(self, rows: int, *, commit: bool, greedy: bool, heads: VoiceHeads | None = None) -> StaticStep:
        """The smallest step that holds so many rows, made when first asked for."""
        size = next(size for size in self.sizes if size >= rows)
        key = (size, commit, greedy, heads)
        if key not in self._steps:
            silent = self.silent if greedy else None
            self._steps[key] = StaticStep(self.model, self.states, size, commit=commit, silent=silent, heads=heads)
        return self._steps[key]
