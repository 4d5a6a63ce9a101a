"""`Wav`: RIFF/WAVE as it arrives, of any length, also where the header does not know it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...model.errors import AudioError
from .g711 import ALAW, MULAW
from .packets import Container

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that write into a pipe cannot know the length; they write 0 or something from here up."""
_PIECE_BYTES = 1 << 16


class Wav(Container):
    """WAV of 8, 16, 24 or 32 bits, float of 32 or 64, mu-law or A-law."""

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._begun = False
        self._kind = ""
        self._rate = 0
        self._channels = 0
        self._frame = 0
        self._left: int | None = None  # bytes of the data chunk that are still to come; None where nobody knows
        self._in_data = False

    def feed(self, data: bytes) -> Iterator[tuple[np.ndarray, int]]:
        for start in range(0, len(data), _PIECE_BYTES):
            self._buffer += data[start : start + _PIECE_BYTES]
            while not self._in_data and self._read_chunk():
                pass
            if self._in_data and (whole := self._take()):
                yield self._floats(whole), self._rate

    def finish(self) -> Iterator[tuple[np.ndarray, int]]:
        if not self._in_data:
            raise AudioError("the WAV stream ended before its sound began")
        yield from ()

    def _take(self) -> bytes:
        """The bytes of whole frames that are there."""
        there = len(self._buffer) if self._left is None else min(self._left, len(self._buffer))
        there -= there % self._frame
        whole, self._buffer = self._buffer[:there], self._buffer[there:]
        if self._left is not None:
            self._left -= there
            if self._left < self._frame:
                self._buffer, self._left = b"", 0  # what follows the sound are names and comments
        return whole

    def _read_chunk(self) -> bool:
        """Read the next header; False: not all there."""
        if not self._begun:
            if len(self._buffer) < 12:
                return False
            if self._buffer[:4] not in (b"RIFF", b"RF64") or self._buffer[8:12] != b"WAVE":
                raise AudioError("the stream does not begin as WAV does")
            self._buffer, self._begun = self._buffer[12:], True
        passed = min(self._skip, len(self._buffer))
        self._buffer, self._skip = self._buffer[passed:], self._skip - passed
        if self._skip or len(self._buffer) < 8:
            return False
        name, size = self._buffer[:4], int.from_bytes(self._buffer[4:8], "little")
        if name == b"fmt ":
            if not 16 <= size <= 1024:
                raise AudioError(f"the WAV header has a format of {size} bytes, expected 16 to 40")
            if len(self._buffer) < 8 + size:
                return False
            self._read_format(self._buffer[8 : 8 + size])
        elif name == b"data":
            if not self._kind:
                raise AudioError("the WAV stream has sound before its format")
            self._buffer, self._in_data = self._buffer[8:], True
            self._left = None if size == 0 or size >= _UNKNOWN_SIZE else size
            return True
        self._buffer, self._skip = self._buffer[8:], size + size % 2
        return True

    def _read_format(self, data: bytes) -> None:
        def number(start: int, end: int) -> int:
            return int.from_bytes(data[start:end], "little")

        tag, self._channels, self._rate, bits = number(0, 2), number(2, 4), number(4, 8), number(14, 16)
        if tag == _EXTENSIBLE and len(data) >= 26:
            tag = number(24, 26)
        kinds = {(_PCM, 8): "u8", (_PCM, 16): "s16", (_PCM, 24): "s24", (_PCM, 32): "s32"}
        kinds |= {(_FLOAT, 32): "f32", (_FLOAT, 64): "f64", (_ALAW, 8): "alaw", (_MULAW, 8): "mulaw"}
        kind = kinds.get((tag, bits))
        if kind is None or not 1 <= self._channels <= 8 or not 1000 <= self._rate <= 384_000:
            raise AudioError(
                f"the WAV header names format {tag}, {bits} bits, {self._channels} channels and {self._rate} Hz; "
                "expected PCM, float, A-law or mu-law, 1 to 8 channels, 1000 to 384000 Hz"
            )
        self._kind, self._frame = kind, self._channels * bits // 8

    def _floats(self, data: bytes) -> np.ndarray:
        """`[channels, samples]`, full scale 1."""
        if self._kind == "u8":
            flat = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        elif self._kind == "s24":
            three = np.frombuffer(data, np.uint8).reshape(-1, 3)
            four = np.zeros((len(three), 4), np.uint8)
            four[:, 1:] = three
            flat = (four.view("<i4")[:, 0].astype(np.float64) / 2.0**31).astype(np.float32)
        elif self._kind in ("s16", "s32"):
            bits = int(self._kind[1:])
            flat = (np.frombuffer(data, f"<i{bits // 8}").astype(np.float64) / 2.0 ** (bits - 1)).astype(np.float32)
        elif self._kind in ("f32", "f64"):
            with np.errstate(over="ignore"):
                flat = np.frombuffer(data, f"<f{int(self._kind[1:]) // 8}").astype(np.float32)
        else:
            flat = (ALAW if self._kind == "alaw" else MULAW)[np.frombuffer(data, np.uint8)]
        return flat.reshape(-1, self._channels).T
