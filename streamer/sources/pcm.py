"""Raw samples from a pipe: `arecord -f S16_LE -r 16000 | wavlm-live transcribe -`."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ...model.errors import AudioError, ConfigurationError, StreamError
from .base import SAMPLE_RATE, AudioSource, SampleIntake, counted
from .pipes import Arrivals
from .resample import StreamResampler

_SIGNATURES = {
    b"RIFF": "a WAV file",
    b"RF64": "a WAV file",
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3\x03": "an MP3 file",
    b"ID3\x04": "an MP3 file",
    b"\x1aE\xdf\xa3": "a WebM or Matroska file",
}
"""First four bytes of files that people pipe in by mistake; taken as samples they would be noise."""

_POLL_S = 0.01
"""Pause before asking a non-blocking pipe again."""


class PcmSource(AudioSource):
    """Signed 16-bit little-endian samples without a header, channels interleaved.

    Blocks come as the pipe delivers them, so that live sound is not held back. Bytes at the end that make no
    whole sample are left out and mentioned in `problems`. It may be stopped and closed from another thread.

    Args:
        stream: binary stream; it stays the caller's to close. Of a pipe give the unbuffered one
            (`sys.stdin.buffer.raw`): waiting for its sound can be ended.
        rate: of its samples, in Hz.
        channels: interleaved in it.
        channel: the one to keep, from 0; None takes the mean.
        block_samples: at most so many samples are read at once.
        name: what to call it in messages.

    Raises:
        ConfigurationError: channels or block_samples below 1.
        AudioError: a rate or channel that cannot be.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        rate: int = SAMPLE_RATE,
        channels: int = 1,
        channel: int | None = None,
        block_samples: int = 1600,
        name: str = "stdin",
    ) -> None:
        if channels < 1 or block_samples < 1:
            raise ConfigurationError(
                f"raw samples with {channels} channels in blocks of {block_samples}: both must be at least 1"
            )
        self.name = name
        self._stream: BinaryIO | None = stream
        self._arrivals = _arrivals_of(stream)
        self._stopped = False
        self._intake = SampleIntake(name, channel)
        self._resampler = StreamResampler(rate)
        self._channels = channels
        self._block_bytes = 2 * channels * block_samples
        self._left_over = 0
        self._started = False

    @property
    def problems(self) -> tuple[str, ...]:
        found = self._intake.problems()
        if self._left_over:
            found.append(f"{self.name}: {counted(self._left_over, 'byte')} at the end, no whole sample: left out")
        return tuple(found)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._started:
            raise StreamError(f"{self.name} was read already: a pipe can be listened to once")
        self._started = True
        return self._blocks()

    def _blocks(self) -> Iterator[np.ndarray]:
        frame_bytes = 2 * self._channels
        waiting = b""
        checked = False
        while data := self._read():
            waiting += data
            if not checked:
                if len(waiting) < 4:
                    continue
                checked = True
                self._refuse_files(waiting[:4])
            whole = len(waiting) - len(waiting) % frame_bytes
            block = self._resampler.feed(self._mono(waiting[:whole]))
            waiting = waiting[whole:]
            if len(block):
                yield block
        whole = len(waiting) - len(waiting) % frame_bytes
        self._left_over = len(waiting) - whole
        block = np.concatenate([self._resampler.feed(self._mono(waiting[:whole])), self._resampler.finish()])
        if not self._stopped:
            self._intake.check()
        if len(block):
            yield block

    def stop(self) -> None:
        """Ends the sound: iterating gives what was read until then and ends. May be called twice, and in a signal."""
        self._stopped = True

    def close(self) -> None:
        self._stopped = True
        self._stream = None

    def _mono(self, data: bytes) -> np.ndarray:
        frames = np.frombuffer(data, "<i2").reshape(-1, self._channels)
        return self._intake.mono(frames.T.astype(np.float32) / 32768)

    def _read(self) -> bytes:
        """Bytes as they come; empty at the end, or once the source was stopped or closed."""
        while (stream := self._stream) is not None and not self._stopped:
            if self._arrivals is not None and not self._arrivals.waited():
                continue
            # read1 gives what is there instead of waiting for a full block.
            read = getattr(stream, "read1", stream.read)
            try:
                data = read(self._block_bytes)
            except (OSError, ValueError) as error:
                raise AudioError(f"{self.name} cannot be read: {error}") from error
            if data is not None:
                return data
            time.sleep(_POLL_S)
        return b""

    def _refuse_files(self, start: bytes) -> None:
        if start in _SIGNATURES:
            raise AudioError(
                f"{self.name} brings {_SIGNATURES[start]}, expected raw samples (signed 16-bit "
                "little-endian): give the file's name instead, or decode it first"
            )


def _arrivals_of(stream: BinaryIO) -> Arrivals | None:
    """What tells whether there is something to read; None where reading is the only way to know."""
    if not isinstance(stream, io.RawIOBase):
        return None
    try:
        return Arrivals(stream.fileno())
    except (OSError, ValueError):
        return None  # not of the operating system, or closed, which reading will tell
