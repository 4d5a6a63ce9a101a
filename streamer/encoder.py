"""How a session talks to the encoder: `EncoderStream`, and `LocalEncoder`, which runs the model in place.

A session knows nothing but this interface, so streams that are computed together with others fit behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..model import StreamingContext, WavLMForCTC
from ..model.voice_heads import VoiceFrames, VoiceHeads


@dataclass(frozen=True)
class EncoderStep:
    """What one step of one stream gives."""

    logprobs: np.ndarray
    """Natural log-probabilities, float32 `[frames, labels]`: own frames, then those of the right context."""
    own_frames: int
    """Frames of the chunk itself; after a committing step they are final."""
    voices: VoiceFrames | None = None
    """What the voice heads say of the own frames, after a committing step of a stream that has heads."""


class EncoderStream(Protocol):
    """The encoder's side of one stream."""

    hop_samples: int
    """Samples from one frame to the next."""
    receptive_samples: int
    """Samples of the first frame."""

    @property
    def heads(self) -> VoiceHeads | None:
        """Read the layers of every committed chunk of this stream; set before its first step."""
        ...

    @heads.setter
    def heads(self, heads: VoiceHeads | None) -> None: ...

    @property
    def waiting_frames(self) -> int:
        """Frames heard and not committed."""
        ...

    def listen(self, samples: np.ndarray) -> None:
        """Hear sound, float32 `[samples]`: at most up to the end of the next chunk's right context."""
        ...

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        """Encode what waits: commit one chunk, or look at it without committing.

        Args:
            commit: False gives provisional frames and changes nothing.
            final: the stream has ended, a chunk may be short.
        """
        ...

    def close(self) -> None:
        """Give the stream's state back; nothing may follow."""
        ...


class LocalEncoder:
    """One stream of a model in this process: the only slot of its `StreamSlots`.

    Sound is convolved as it comes, so the same pieces give the same numbers to the last bit.

    Args:
        model: in evaluation mode, on its device.
        context: what a step sees.

    Raises:
        ConfigurationError: the model cannot stream (it has an adapter).
    """

    def __init__(self, model: WavLMForCTC, context: StreamingContext) -> None:
        from .stream_slots import StreamSlots

        self._slots = StreamSlots(model, context)
        self._encoder = self._slots.open()
        self.hop_samples = self._encoder.hop_samples
        self.receptive_samples = self._encoder.receptive_samples

    @property
    def waiting_frames(self) -> int:
        """See `EncoderStream`."""
        return self._encoder.waiting_frames

    @property
    def heads(self) -> VoiceHeads | None:
        """See `EncoderStream`."""
        return self._encoder.heads

    @heads.setter
    def heads(self, heads: VoiceHeads | None) -> None:
        self._encoder.heads = heads

    def listen(self, samples: np.ndarray) -> None:
        """See `EncoderStream`.

        Raises:
            StreamError: more samples than the state has room for.
        """
        self._encoder.listen(samples)
        self._slots.hear([self._encoder])

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        """See `EncoderStream`.

        Raises:
            StreamError: too few waiting frames for a chunk.
        """
        return self._encoder.step(commit=commit, final=final)

    def close(self) -> None:
        """See `EncoderStream`; the memory goes with the object."""
        self._encoder.close()
