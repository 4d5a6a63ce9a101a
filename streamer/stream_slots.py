"""`StreamSlots`: the streams of one model under one context, each in a slot, computed together.

Sound that a stream has heard is kept until its next step and then convolved in one call with that of the other
streams; which streams share a call changes nothing in what each is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..model import StreamingContext, StreamStates, WavLMConfig, WavLMForCTC
from ..model.errors import StreamError
from ..model.static_step import StaticRow, StepLadder
from ..model.voice_heads import VoiceFrames, VoiceHeads
from .chosen_frames import Reading, read_rows
from .encoder import EncoderStep
from .greedy_frames import greedy_rows
from .thread_choice import ThreadChoice

CPU_CALL_VALUES = 4 * 5120 * 512
"""Samples times channels that the front end convolves in one call on a CPU: what is behind the first layers of more
does not stay in the cache, and each row takes longer."""
CLOSED = "this stream was closed and its slot given back; open a new one"
LARGEST_STATIC = 512
"""Rows of the largest static step; more are computed one after the other."""
_NO_SOUND = np.zeros(0, np.float32)
ALIKE = 0.75
"""Rows are convolved together if the shortest has at least this share of the samples of the longest."""


class SlotEncoder:
    """One stream in a slot; an `EncoderStream`. `StreamSlots.open` gives it its slot.

    Args:
        config: of the model.
    """

    def __init__(self, config: WavLMConfig) -> None:
        self.slots: StreamSlots | None = None
        """Where the stream is computed; None before it is opened and after it was closed."""
        self.slot = -1
        self.heard_samples = 0
        self.committed_frames = 0
        self.unheard: list[np.ndarray] = []
        """Sound that the model has not convolved yet."""
        self.hop_samples = config.hop_samples
        self.receptive_samples = config.receptive_samples
        self.heads: VoiceHeads | None = None

    @property
    def waiting_frames(self) -> int:
        """See `EncoderStream`."""
        beyond = self.heard_samples - self.receptive_samples
        return (beyond // self.hop_samples + 1 if beyond >= 0 else 0) - self.committed_frames

    def listen(self, samples: np.ndarray) -> None:
        """See `EncoderStream`; the sound is convolved with the next step."""
        self.unheard.append(samples)
        self.heard_samples += len(samples)

    def unheard_sound(self) -> np.ndarray:
        """All of `unheard`, float32 `[samples]`."""
        return self.unheard[0] if len(self.unheard) == 1 else np.concatenate([_NO_SOUND, *self.unheard])

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        """See `EncoderStream`: a step of this stream alone."""
        if self.slots is None:
            raise StreamError(CLOSED)
        return self.slots.compute([Row(self, final)], commit=commit)[0]

    def close(self) -> None:
        """Give the slot back; once is enough."""
        if self.slots is not None:
            self.slots.release(self)


@dataclass(frozen=True)
class Row:
    """One stream's part of a step."""

    encoder: SlotEncoder
    final: bool = False
    """The stream has ended: its last chunk may be short."""
    greedy: bool = False
    """The stream decodes greedily: the best output of each frame is enough."""
    reading: Reading | None = None
    """The stream decodes with a beam, which looks at these outputs alone."""


class StreamSlots:
    """Slots for streams of one model and context. Nothing here is safe to use from two threads.

    Args:
        model: in evaluation mode, on its device.
        context: what a step sees.
        slots: streams that there is memory for at once.
        most: streams to which the memory may grow, by doubling; None: it stays as it is.
        silent: outputs that stand for silence, the blank first; None: the blank. Of static steps whose streams all
            decode greedily their probabilities are fetched, and the best output of each frame, no others.
        static: compute in static steps (`model.static_step`); None: on CUDA, where they are captured as graphs.
        threads: that compute a step on a CPU; None: torch's own number.

    Raises:
        ConfigurationError: the model cannot stream (it has an adapter).
        StreamError: fewer than one slot.
    """

    def __init__(
        self,
        model: WavLMForCTC,
        context: StreamingContext,
        slots: int = 1,
        most: int | None = None,
        *,
        silent: Sequence[int] | None = None,
        static: bool | None = None,
        threads: ThreadChoice | None = None,
    ) -> None:
        self.model, self.context, self.config, self.threads = model, context, model.config, threads
        self.most = max(slots, most or slots)
        self.silent = list(silent or [model.config.pad_token_id])
        self.static = wants_static(model.lm_head.weight.device) if static is None else static
        self.ladder: StepLadder | None = None
        self.states: StreamStates = self._room_for(slots)
        self._free = list(range(slots - 1, -1, -1))
        self._open = 0

    def __len__(self) -> int:
        """Streams that are open."""
        return self._open

    @property
    def on_cpu(self) -> bool:
        """Whether the model computes on the CPU."""
        return self.states.device.type == "cpu"

    def open(self, encoder: SlotEncoder | None = None) -> SlotEncoder:
        """A slot for a stream that has heard nothing.

        Args:
            encoder: the stream's, made before; None: a new one.

        Raises:
            StreamError: all slots are taken.
        """
        if not self._free:
            self._grow()
        encoder = encoder or SlotEncoder(self.config)
        encoder.slots, encoder.slot = self, self._free.pop()
        self.states.reset(encoder.slot)
        self._open += 1
        return encoder

    def release(self, encoder: SlotEncoder) -> None:
        """Take a stream's slot back. What it leaves there is never read."""
        if encoder.slots is self:
            self._open -= 1
            self._free.append(encoder.slot)
            encoder.slots, encoder.slot = None, -1
        encoder.unheard.clear()

    def hear(self, encoders: Sequence[SlotEncoder]) -> None:
        """Convolve the sound that these streams have heard, rows of about the same length together.

        Raises:
            StreamError: a stream has heard more than it has room for.
        """
        rows = []
        for encoder in encoders:
            if encoder.unheard:
                parts, encoder.unheard = encoder.unheard, []
                rows.append((encoder.slot, np.concatenate(parts) if len(parts) > 1 else parts[0]))
        rows.sort(key=lambda row: -len(row[1]))
        at = 0
        while at < len(rows):
            longest = len(rows[at][1])
            most = len(rows)
            if self.on_cpu:
                most = max(1, CPU_CALL_VALUES // max(1, longest * max(self.config.conv_dim)))
            end = at + 1
            while end < min(len(rows), at + most) and len(rows[end][1]) >= ALIKE * longest:
                end += 1
            block = np.zeros((end - at, longest), np.float32)
            for line, (_, samples) in zip(block, rows[at:end], strict=True):
                line[: len(samples)] = samples
            slots, lengths = [slot for slot, _ in rows[at:end]], [len(samples) for _, samples in rows[at:end]]
            self.model.listen(self.states, slots, torch.from_numpy(block), lengths)
            at = end

    def compute(self, rows: Sequence[Row], *, commit: bool = True) -> list[EncoderStep]:
        """One step of some streams.

        Args:
            rows: the streams, each once.
            commit: commit a chunk of each; else look at what waits.

        Returns:
            What each stream is told, in the order of the rows.

        Raises:
            StreamError: too few waiting frames for a chunk of a stream that goes on, or a stream that was closed.
        """
        encoders = [row.encoder for row in rows]
        if any(encoder.slots is not self for encoder in encoders):
            raise StreamError(CLOSED)
        if self.threads is not None:
            self.threads.use(len(rows))
        voiced = [n for n, encoder in enumerate(encoders) if commit and encoder.heads is not None]
        # on a host log-probabilities are at hand as they are
        greedy = self.ladder is not None and all(row.greedy for row in rows)
        if self.ladder is None:
            results, own_frames, frames, voices = self._compute_now(rows, commit, voiced)
        else:
            results, own_frames, frames, voices = self._compute_static(self.ladder, rows, commit, greedy, voiced)
        if commit:
            for encoder, own in zip(encoders, own_frames, strict=True):
                encoder.committed_frames += own
        if greedy:
            told = greedy_rows(results, frames, self.config.vocab_size)
        else:
            told = read_rows(results, frames, [row.reading for row in rows], self.silent)
        return [
            # whoever decodes greedily, or with the beam of the reading, asks for nothing else
            EncoderStep(cast(np.ndarray, logprobs), own, voices.get(n))
            for n, (logprobs, own) in enumerate(zip(told, own_frames, strict=True))
        ]

    def _compute_now(
        self, rows: Sequence[Row], commit: bool, voiced: list[int]
    ) -> tuple[np.ndarray, list[int], list[int], dict[int, VoiceFrames]]:
        """The step in the shapes of this moment: log-probabilities, own and all frames of each row, and voices."""
        self.hear([row.encoder for row in rows])
        slots, finals = [row.encoder.slot for row in rows], [row.final for row in rows]
        out = self.model.step(self.states, slots, commit=commit, final=finals, layers=bool(voiced))
        assert out.logits is not None
        logprobs = out.logits.log_softmax(-1).cpu().numpy()  # [rows, frames, labels], the one fetch of the step
        voices: dict[int, VoiceFrames] = {}
        if voiced:
            heads = rows[voiced[0]].encoder.heads  # the model's, which all its streams share
            assert heads is not None
            assert out.hidden_states is not None
            read = heads.read([state[voiced] for state in out.hidden_states])
            voices = {n: one[: out.own_frames[n]] for n, one in zip(voiced, read, strict=True)}
        return logprobs, out.own_frames, out.frames, voices

    def _compute_static(
        self, ladder: StepLadder, rows: Sequence[Row], commit: bool, greedy: bool, voiced: list[int]
    ) -> tuple[np.ndarray, list[int], list[int], dict[int, VoiceFrames]]:
        """The same in static steps; what does not fit into one, such as a stream's first sound, is heard before."""
        parts, owns, seens, voices = [], [], [], {}
        for at in range(0, len(rows), ladder.largest):
            some = rows[at : at + ladder.largest]
            heard = [n for n in voiced if at <= n < at + len(some)]
            heads = rows[heard[0]].encoder.heads if heard else None  # the model's, which all its streams share
            step = ladder.at(len(some), commit=commit, greedy=greedy, heads=heads)
            given = [StaticRow(row.encoder.slot, row.encoder.unheard_sound(), row.final) for row in some]
            for n, fits in enumerate(step.fits(given)):
                if fits:
                    some[n].encoder.unheard = []
                else:
                    self.hear([some[n].encoder])
                    given[n] = StaticRow(given[n].slot, _NO_SOUND, given[n].final)
            results, own, seen = step.run(given)
            parts.append(results.numpy().copy())  # the next call writes there
            for n in heard:
                assert heads is not None
                voices[n] = heads.frames_of(step.host_voices[n - at, : own[n - at]].numpy().copy())
            owns += own
            seens += seen
        return np.concatenate(parts), owns, seens, voices

    def read(self, encoder: SlotEncoder) -> dict[str, Tensor]:
        """A copy of a stream's state on the host; with `write` the stream goes on elsewhere, exactly."""
        self.hear([encoder])
        return {name: tensor[encoder.slot].to("cpu", copy=True) for name, tensor in self.states.tensors().items()}

    def write(self, encoder: SlotEncoder, state: dict[str, Tensor]) -> None:
        """Make a stream what `read` gave.

        Raises:
            StreamError: the state is of another model or context.
        """
        own = self.states.tensors()
        for name in sorted(own.keys() | state.keys()):
            if name not in own or name not in state or own[name].shape[1:] != state[name].shape:
                raise StreamError(
                    f"the saved stream does not fit this model and context {self.context}: tensor {name!r} differs"
                )
        for name, tensor in own.items():
            tensor[encoder.slot] = state[name].to(tensor)
        encoder.heard_samples = self.states.samples(encoder.slot)
        encoder.committed_frames = self.states.committed(encoder.slot)

    def _grow(self) -> None:
        """Twice the slots, at most `most`; what the streams have stays as it is."""
        old, before = self.states, self.states.slots - self.static
        slots = min(self.most, 2 * before)
        if slots <= before:
            raise StreamError(f"all {before} slots are taken; close a stream, or make room for more")
        self.states = self._room_for(slots)
        for name, tensor in self.states.tensors().items():
            tensor[:before] = old.tensors()[name][:before]
        self._free = list(range(slots - 1, before - 1, -1))

    def _room_for(self, slots: int) -> StreamStates:
        """States for so many streams; static steps need a spare slot, and are made for these tensors."""
        states = self.model.new_states(slots + self.static, self.context)
        if self.static:
            self.ladder = StepLadder(self.model, states, self.silent, min(slots, LARGEST_STATIC))
        return states


def wants_static(device: torch.device) -> bool:
    """Whether streams on a device are computed in static steps unless somebody says otherwise."""
    return device.type == "cuda"
