"""Sound as it comes over a wire: how it is encoded, and `AudioDecoder`, which makes samples of it piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Literal, get_args

import numpy as np

from ...model.errors import AudioError, ConfigurationError
from ..events import SAMPLE_RATE
from ..sources.base import SampleIntake
from ..sources.resample import StreamResampler
from .containers import Container, open_container
from .g711 import ALAW, MULAW

RawEncoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]
ContainerEncoding = Literal["ogg_opus", "webm_opus", "wav", "flac"]
Encoding = Literal[RawEncoding, ContainerEncoding]
ENCODINGS: tuple[str, ...] = (*get_args(RawEncoding), *get_args(ContainerEncoding))

LOWEST_RATE = 4_000
HIGHEST_RATE = 192_000
MOST_CHANNELS = 8
_WIDTHS = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class AudioFormat:
    """How the sound of a stream is encoded.

    Raises:
        ConfigurationError: a value that cannot be; the message names the field.
    """

    encoding: Encoding = "pcm_s16le"
    rate: int = SAMPLE_RATE
    """Samples a second, in Hz; a container says so itself."""
    channels: int = 1
    """Interleaved; the mean of all is heard. A container says so itself."""

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ConfigurationError(f"encoding is {self.encoding!r}, expected one of {', '.join(ENCODINGS)}")
        if type(self.rate) is not int or not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise ConfigurationError(f"rate is {self.rate!r}, expected whole Hz from {LOWEST_RATE} to {HIGHEST_RATE}")
        if type(self.channels) is not int or not 1 <= self.channels <= MOST_CHANNELS:
            raise ConfigurationError(f"channels is {self.channels!r}, expected 1 to {MOST_CHANNELS}")

    @property
    def is_raw(self) -> bool:
        """Samples one after the other, so that the sound can be cut anywhere between two of them."""
        return self.encoding in _WIDTHS

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels; raw encodings only."""
        return _WIDTHS[self.encoding] * self.channels

    @property
    def grid_samples(self) -> int:
        """Every so many samples at 16 kHz a sample at this rate begins at the same time."""
        return SAMPLE_RATE // gcd(SAMPLE_RATE, self.rate)

    def bytes_at(self, samples: int) -> int:
        """Bytes before a sample at 16 kHz, which lies on the grid; raw encodings only."""
        return samples * self.rate // SAMPLE_RATE * self.frame_bytes


class AudioDecoder:
    """Turns the bytes of one stream, cut anywhere, into samples.

    Args:
        format: of the bytes.
        name: what the sound is called in messages.
    """

    def __init__(self, format: AudioFormat, name: str = "the stream") -> None:
        self.format = format
        self._intake = SampleIntake(name)
        self._waiting = b""
        self._resampler: StreamResampler | None = StreamResampler(format.rate) if format.is_raw else None
        self._container: Container | None = None if format.is_raw else open_container(format.encoding)

    def decode(self, data: bytes) -> Iterator[np.ndarray]:
        """The samples that bytes complete, in pieces of a few seconds at most, so that a caller can stop in between.

        Yields:
            float32 `[samples]`, mono at 16 kHz, in [-1, 1], never empty.

        Raises:
            AudioError: the bytes are no such sound.
        """
        if self._container is not None:
            for channels, rate in self._container.feed(data):
                yield from self._resampled(channels, rate)
            return
        size = self.format.frame_bytes
        for start in range(0, len(data), _PIECE_BYTES):
            piece = self._waiting + data[start : start + _PIECE_BYTES]
            whole = len(piece) - len(piece) % size
            self._waiting = piece[whole:]
            if whole:
                channels = _samples(self.format.encoding, piece[:whole]).reshape(-1, self.format.channels).T
                yield from self._resampled(channels, self.format.rate)

    def finish(self) -> np.ndarray:
        """What was held back until the end, float32 `[samples]`, maybe none.

        Raises:
            AudioError: a container ended before any sound began.
        """
        rest: list[np.ndarray] = [np.zeros(0, np.float32)]
        if self._container is not None:
            for channels, rate in self._container.finish():
                rest.extend(self._resampled(channels, rate))
        if self._resampler is not None:
            rest.append(self._resampler.finish())
        return np.concatenate(rest)

    @property
    def problems(self) -> list[str]:
        """A sentence for each kind of damage so far."""
        return [p for p in self._intake.problems() if "silent" not in p]

    def _resampled(self, channels: np.ndarray, rate: int) -> Iterator[np.ndarray]:
        if self._resampler is None or self._resampler.rate != rate:
            if self._resampler is not None and len(rest := self._resampler.finish()):
                yield rest
            self._resampler = StreamResampler(rate)
        samples = self._resampler.feed(self._intake.mono(channels))
        if len(samples):
            yield samples


def _samples(encoding: str, data: bytes) -> np.ndarray:
    """Interleaved samples, full scale 1."""
    if encoding == "pcm_s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768
    if encoding == "pcm_f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    return (MULAW if encoding == "mulaw" else ALAW)[np.frombuffer(data, np.uint8)]


def encoded(sound: np.ndarray | bytes, audio: AudioFormat) -> bytes:
    """Sound as bytes in an encoding.

    Raises:
        AudioError: not float32 `[samples]`, or an encoding that takes bytes only.
    """
    if isinstance(sound, bytes | bytearray | memoryview):
        return bytes(sound)
    if not isinstance(sound, np.ndarray) or sound.dtype != np.float32 or sound.ndim != 1:
        raise AudioError("a client takes float32 [samples], mono at the rate of its audio format, or bytes")
    if audio.encoding == "pcm_f32le" and audio.channels == 1:
        return sound.astype("<f4").tobytes()
    if audio.encoding == "pcm_s16le" and audio.channels == 1:
        return np.clip(np.rint(sound * 32768), -32768, 32767).astype("<i2").tobytes()
    raise AudioError(f"samples cannot be sent as {audio.encoding} with {audio.channels} channels; give bytes")
