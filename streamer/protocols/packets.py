"""What the containers have in common: decoding while sound arrives, single packets for FFmpeg, Opus in two of them.

Containers are taken apart here, byte by byte as they come; FFmpeg's decoders get single packets and never see a
file, a path or a playlist. What has to be kept until it is whole is bounded, so a hostile stream ends in an
`AudioError` and not in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...model.errors import AudioError

MOST_KEPT_BYTES = 1 << 20
"""Longest header or packet that is waited for."""

_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31}


class Container(ABC):
    """One stream of a container."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[tuple[np.ndarray, int]]:
        """Decode what bytes complete.

        Yields:
            `[channels, samples]`, full scale 1, and their rate in Hz.

        Raises:
            AudioError: the bytes are no such container, or damaged beyond repair.
        """

    def finish(self) -> Iterator[tuple[np.ndarray, int]]:
        """What was held back until the end.

        Raises:
            AudioError: no sound had begun.
        """
        yield from ()


class Packets:
    """FFmpeg's decoder of a codec, given single packets.

    Args:
        codec: FFmpeg's name.
        extradata: the codec's header.
        rate: in Hz, where the codec's header does not say.
    """

    def __init__(self, codec: str, extradata: bytes, rate: int | None = None) -> None:
        import av
        from av.error import FFmpegError

        self._context: Any = av.CodecContext.create(codec, "r")
        self._context.extradata = extradata
        if rate is not None:
            self._context.sample_rate = rate
        self._packet: Callable[[bytes], Any] = av.Packet
        self._errors = (FFmpegError, OSError, ValueError)
        self.damaged = 0
        """Packets that could not be decoded and were left out."""
        try:
            self._context.open()
        except self._errors as error:
            raise AudioError(f"the {codec} header cannot be used: {error}") from error

    def decode(self, packet: bytes | None) -> Iterator[tuple[np.ndarray, int]]:
        """Samples of a packet; None for what the decoder holds back at the end."""
        if packet == b"":
            return  # FFmpeg takes an empty packet for the end
        try:
            frames = self._context.decode(None if packet is None else self._packet(packet))
        except self._errors:
            self.damaged += 1
            return
        for frame in frames:
            channels = _floats(frame)
            if channels.size:
                yield channels, frame.sample_rate


class OpusPackets:
    """Opus packets as both containers carry them: 48 kHz; FFmpeg leaves the first samples (pre-skip) out.

    Args:
        head: the `OpusHead` header (RFC 7845, section 5.1).
    """

    def __init__(self, head: bytes) -> None:
        if len(head) < 19 or not head.startswith(b"OpusHead"):
            raise AudioError("the stream has no Opus header; expected Opus in this container")
        if not 1 <= head[9] <= 8:
            raise AudioError(f"the Opus header names {head[9]} channels, expected 1 to 8")
        self._packets = Packets("opus", head)
        self.pre_skip = int.from_bytes(head[10:12], "little")
        self.given = 0

    def decode(self, packet: bytes, limit: int | None = None) -> Iterator[tuple[np.ndarray, int]]:
        """Samples of a packet; no more than `limit` in the whole stream, where its end is known."""
        for channels, rate in self._packets.decode(packet):
            if limit is not None:
                channels = channels[:, : max(0, limit - self.given)]
            self.given += channels.shape[1]
            if channels.size:
                yield channels, rate


def _floats(frame: Any) -> np.ndarray:
    """Samples of a decoded frame, `[channels, samples]`, full scale 1."""
    data = frame.to_ndarray()
    if frame.format.is_packed:
        data = data.reshape(-1, frame.layout.nb_channels).T
    kind = frame.format.name.removesuffix("p")
    if kind not in _SCALES:
        return data.astype(np.float32)
    scaled = data.astype(np.float64 if kind == "s32" else np.float32) / _SCALES[kind]
    return (scaled - 1 if kind == "u8" else scaled).astype(np.float32)
