"""A recording at full speed: `AheadEncoder` computes many chunks of it in one pass, `Offline` hands them to a session.

A recording is all there, so its chunks need not be computed one after the other: `forward(context=)` computes all
chunks of a stretch at once, each seeing what it would see in a stream. A stretch begins so far before its first chunk
that nothing older can reach it (`resuming.Reach`), so the frames are those of a stream, and so is the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..model import StreamingContext, WavLMForCTC
from ..model.errors import StreamError
from ..model.voice_heads import VoiceFrames, VoiceHeads
from .encoder import EncoderStep
from .events import SAMPLE_RATE, Event
from .plan import TAIL_SAMPLES
from .resuming import Reach

if TYPE_CHECKING:
    from .recogniser import Recogniser
    from .session_settings import SessionSettings

FIRST_STRETCH_S, LONGEST_STRETCH_S = 16.0, 256.0
"""Sound that is computed at once: little at first, so that there is text soon, then twice as much each time."""
ALIKE = 0.75
"""Recordings are encoded together if the shortest has at least this share of the longest one's frames."""


class AheadEncoder:
    """The encoder of one recording; an `EncoderStream` that may be given sound before the session hears it.

    Args:
        model: in evaluation mode, on its device.
        context: what a step sees.
    """

    def __init__(self, model: WavLMForCTC, context: StreamingContext) -> None:
        config = model.config
        self.hop_samples, self.receptive_samples = config.hop_samples, config.receptive_samples
        self._model, self._context = model, context
        reach = Reach.of(config, context).history_samples // config.hop_samples
        self._reach_frames = -(-reach // context.chunk_frames) * context.chunk_frames
        self._carry = model.wavlm.feature_extractor.start(1, cumulative=True, device=self._device)
        self._sound = np.zeros(0, np.float32)  # given, and not convolved yet
        self._given = self._heard = self._committed = 0
        self._frames: Tensor = torch.zeros(0)  # behind the front end, from frame `_first` on
        self._first = 0
        self._chunks: deque[tuple[np.ndarray, VoiceFrames | None]] = deque()  # the next chunks' own frames
        self.heads: VoiceHeads | None = None

    @property
    def _device(self) -> torch.device:
        return self._model.lm_head.weight.device

    @property
    def waiting_frames(self) -> int:
        """See `EncoderStream`."""
        return self._frames_of(self._heard) - self._committed

    def ahead(self, samples: np.ndarray) -> None:
        """Take sound that the session will hear next, and compute the chunks that it completes."""
        self._convolve(samples)
        complete = (self._first + len(self._frames) - self._context.right_frames) // self._context.chunk_frames
        done = self._committed // self._context.chunk_frames + len(self._chunks)
        if complete > done:
            self._chunks.extend(self._encode(done, complete))

    def listen(self, samples: np.ndarray) -> None:
        """See `EncoderStream`; sound that was not given ahead is computed now."""
        self._heard += len(samples)
        beyond = self._heard - self._given
        if beyond > 0:
            self.ahead(samples[len(samples) - beyond :])

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        """See `EncoderStream`.

        Raises:
            StreamError: too few waiting frames for a chunk, or a look at an unfinished one, which would not be cheap
                here.
        """
        chunk = self._context.chunk_frames
        waiting = self.waiting_frames
        if not commit:
            raise StreamError("a recording at full speed has no provisional results; open a stream for them")
        if not final and waiting < self._context.step_frames:
            raise StreamError(f"{waiting} frames wait, a chunk needs {self._context.step_frames}")
        if not self._chunks:  # the end: the last chunks are shorter, or see less to the right
            self._chunks.extend(self._encode(self._committed // chunk, None))
        logprobs, voices = self._chunks.popleft()
        own = min(waiting, chunk)
        assert len(logprobs) == own
        self._committed += own
        return EncoderStep(logprobs, own, voices)  # without right context, which only partial results would need

    def close(self) -> None:
        """See `EncoderStream`; the memory goes with the object."""

    def _frames_of(self, samples: int) -> int:
        beyond = samples - self.receptive_samples
        return beyond // self.hop_samples + 1 if beyond >= 0 else 0

    @torch.no_grad()
    def _convolve(self, samples: np.ndarray) -> None:
        """The front end, every sample once."""
        before = self._frames_of(self._given)
        self._given += len(samples)
        self._sound = np.concatenate([self._sound, samples])
        count = self._frames_of(self._given) - before
        base, blocks = self._model.wavlm, [self._frames] if len(self._frames) else []
        while count:
            block = min(count, 500)
            need = self.hop_samples * block + (0 if before else self.receptive_samples - self.hop_samples)
            sound = torch.from_numpy(self._sound[:need].copy())[None].to(self._device)
            features, self._carry = base.feature_extractor.run(sound, self._carry)
            blocks.append(base.feature_projection(features)[0][0])
            self._sound = self._sound[need:]
            before, count = before + block, count - block
        if blocks:
            self._frames = torch.cat(blocks)

    def _encode(self, first: int, last: int | None) -> list[tuple[np.ndarray, VoiceFrames | None]]:
        """The chunks [first, last): log-probabilities `[own frames, labels]` and voices; None: to the end."""
        chunk = self._context.chunk_frames
        keep = max(0, first * chunk - self._reach_frames)
        self._frames = self._frames[keep - self._first :]
        self._first = keep
        end = None if last is None else last * chunk + self._context.right_frames - keep
        frames = self._frames[None, :end]
        hidden, layers = self._model.wavlm.encode_frames(frames, self._context, layers=self.heads is not None)
        part = slice(first * chunk - keep, None if last is None else last * chunk - keep)
        logprobs = self._model.lm_head(hidden[0, part]).float().log_softmax(-1).cpu().numpy()
        return self._chunked(logprobs, [state[0, part] for state in layers])

    def _chunked(self, logprobs: np.ndarray, layers: list[Tensor]) -> list[tuple[np.ndarray, VoiceFrames | None]]:
        """Frames, and their layers where there are heads, chunk by chunk."""
        chunk = self._context.chunk_frames
        starts = range(0, len(logprobs), chunk)
        if self.heads is None:
            return [(logprobs[n : n + chunk], None) for n in starts]
        voices = self.heads.read([state[None] for state in layers])[0]
        return [(logprobs[n : n + chunk], voices[n : n + chunk]) for n in starts]

    def keep(self, logprobs: np.ndarray, layers: list[Tensor]) -> None:
        """Take over all frames that were computed with others'.

        Args:
            logprobs: `[frames, labels]`.
            layers: `[frames, hidden]` each, where there are heads.
        """
        self._chunks.extend(self._chunked(logprobs, layers))
        self._frames = self._frames[:0]


@torch.no_grad()
def encode_together(encoders: Sequence[AheadEncoder], sounds: Sequence[np.ndarray]) -> None:
    """Compute whole recordings, those of about the same length in one pass.

    Args:
        encoders: fresh, of one model and context, on each of which a session then hears its recording.
        sounds: float32 `[samples]`, not empty.
    """
    for encoder, sound in zip(encoders, sounds, strict=True):
        encoder._convolve(np.concatenate([sound, np.zeros(TAIL_SAMPLES, np.float32)]))  # as a session ends it
    waiting = sorted(encoders, key=lambda encoder: -len(encoder._frames))
    while waiting:
        longest = len(waiting[0]._frames)
        most = max(1, round(LONGEST_STRETCH_S * 50) // max(1, longest))
        alike = [e for e in waiting[:most] if len(e._frames) >= ALIKE * longest]
        waiting = waiting[len(alike) :]
        model, context = alike[0]._model, alike[0]._context
        lengths = [len(e._frames) for e in alike]
        padded = torch.nn.utils.rnn.pad_sequence([e._frames for e in alike], batch_first=True)
        counts = None if min(lengths) == longest else torch.tensor(lengths, device=padded.device)
        hidden, layers = model.wavlm.encode_frames(padded, context, counts, layers=alike[0].heads is not None)
        logprobs = model.lm_head(hidden).float().log_softmax(-1).cpu().numpy()
        for row, (encoder, length) in enumerate(zip(alike, lengths, strict=True)):
            encoder.keep(logprobs[row, :length].copy(), [state[row, :length] for state in layers])


class Offline:
    """A recording at full speed: the events of a stream, computed in long stretches; a `Listener`.

    Args:
        recogniser: whose model computes.
        settings: how to listen; partial results are left out, and nothing sleeps: all is computed before it is heard.
        encoder: that has computed the whole recording already, see `encode_together`; None: it is computed as it comes.

    Raises:
        ConfigurationError: as `Recogniser.open`.
    """

    def __init__(self, recogniser: Recogniser, settings: SessionSettings, encoder: AheadEncoder | None = None) -> None:
        context = settings.context or recogniser.contexts["default"]
        self._given = encoder is not None
        self._encoder = encoder or AheadEncoder(recogniser.model, context)
        self._session = recogniser.open(replace(settings, partial_hop_ms=0, sleep_after_s=0.0), self._encoder)
        self.ready = self._session.ready
        """The event that opens the stream."""
        self._blocks: list[np.ndarray] = []
        self._stretch_samples = round(FIRST_STRETCH_S * SAMPLE_RATE)

    def feed(self, samples: np.ndarray) -> list[Event]:
        """See `Session.feed`; most blocks are only kept."""
        self._blocks.append(samples)
        if sum(map(len, self._blocks)) < self._stretch_samples:
            return []
        self._stretch_samples = min(2 * self._stretch_samples, round(LONGEST_STRETCH_S * SAMPLE_RATE))
        return self._compute()

    def finish(self) -> list[Event]:
        """See `Session.finish`."""
        return self._compute() + self._session.finish()

    def _compute(self) -> list[Event]:
        if not self._blocks:
            return []
        sound, self._blocks = np.concatenate(self._blocks), []
        if not self._given:
            self._encoder.ahead(sound)
        return self._session.feed(sound)
