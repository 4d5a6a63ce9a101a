"""`Flac`: FLAC without a container around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...model.errors import AudioError
from .packets import MOST_KEPT_BYTES, Container, Packets

_PIECE_BYTES = 4096
_LONGEST_HEADER = 16


class _Header(NamedTuple):
    """Of a frame (RFC 9639, section 9.1)."""

    number: int
    """Of the frame, or of its first sample."""
    samples: int

    @property
    def following(self) -> tuple[int, ...]:
        """Numbers that the next frame may have."""
        return self.number + 1, self.number + self.samples


class Flac(Container):
    """Native FLAC (RFC 9639)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._begun = False
        self._header = b""
        self._last = False
        self._looked = 0  # from here on the buffer was not looked through
        self._marks = b"\xf8\xf9"  # second byte of headers; all frames have the same
        self._following: tuple[int, ...] = ()  # numbers that the next frame may have
        self._doubted: tuple[int, _Header] | None = None  # where, and what: a header whose number does not follow
        self._packets: Packets | None = None

    def feed(self, data: bytes) -> Iterator[tuple[np.ndarray, int]]:
        if self._packets is None:
            self._buffer += data
            self._read_metadata()
            if self._packets is None:
                return
            data, self._buffer = self._buffer, b""
        for start in range(0, len(data), _PIECE_BYTES):
            for frame in self._split(data[start : start + _PIECE_BYTES]):
                yield from self._packets.decode(frame)

    def finish(self) -> Iterator[tuple[np.ndarray, int]]:
        if self._packets is None:
            raise AudioError("the FLAC stream ended before its sound began")
        yield from self._packets.decode(self._buffer[:MOST_KEPT_BYTES])
        yield from self._packets.decode(None)

    def _split(self, data: bytes) -> Iterator[bytes]:
        """Frames that bytes complete: one ends where the header of the next begins.

        FFmpeg's parser waits for ten headers, which is seconds of sound. Here one is enough if its number follows: by
        its marks and its checksum alone, sound looks like a header about once in twenty million bytes. Where a number
        does not follow, that is so or something was lost; the next header tells.
        """
        self._buffer += data
        while (end := self._next_header()) is not None:
            if end:
                yield self._buffer[:end]
            self._buffer, self._looked = self._buffer[end:], 2
        if len(self._buffer) > MOST_KEPT_BYTES:
            raise AudioError(f"a FLAC frame is longer than {MOST_KEPT_BYTES} bytes")

    def _next_header(self) -> int | None:
        """Where the next frame begins; None: not there yet."""
        buffer = self._buffer
        at = buffer.find(b"\xff", self._looked)
        while at >= 0:
            if len(buffer) < at + _LONGEST_HEADER:
                self._looked = at
                return None
            header = _header(buffer[at : at + _LONGEST_HEADER]) if buffer[at + 1] in self._marks else None
            if header is not None:
                if at == 0 or header.number in self._following:
                    return self._accept(at, header)
                if self._doubted is not None and header.number in self._doubted[1].following:
                    return self._accept(*self._doubted)
                self._doubted = at, header
            at = buffer.find(b"\xff", at + 1)
        self._looked = len(buffer)
        return None

    def _accept(self, at: int, header: _Header) -> int:
        self._marks, self._following, self._doubted = self._buffer[at + 1 : at + 2], header.following, None
        return at

    def _read_metadata(self) -> None:
        """Read blocks of metadata up to the last; only the first, STREAMINFO, is kept."""
        if not self._begun:
            if len(self._buffer) < 4:
                return
            if not self._buffer.startswith(b"fLaC"):
                raise AudioError("the stream does not begin as FLAC does")
            self._buffer, self._begun = self._buffer[4:], True
        while self._packets is None:
            passed = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[passed:], self._skip - passed
            if self._skip:
                return
            if self._last:
                self._packets = Packets("flac", self._header)
                return
            if len(self._buffer) < 4:
                return
            kind, size = self._buffer[0] & 0x7F, int.from_bytes(self._buffer[1:4], "big")
            if not self._header:
                if kind != 0 or size != 34:
                    raise AudioError("the FLAC stream does not begin with its STREAMINFO")
                if len(self._buffer) < 4 + size:
                    return
                self._header = self._buffer[4 : 4 + size]
            self._last = bool(self._buffer[0] & 0x80)
            self._buffer, self._skip = self._buffer[4:], size


def _header(head: bytes) -> _Header | None:
    """The header that begins here, of `_LONGEST_HEADER` bytes or fewer; None: there is none."""
    block, rate, size = head[2] >> 4, head[2] & 15, head[3] >> 1 & 7
    if block == 0 or rate == 15 or head[3] >> 4 > 10 or size == 3 or head[3] & 1:
        return None  # reserved
    length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()  # of the number, as UTF-8 counts
    rest = head[5 : 4 + length]
    if not 1 <= length <= 7 or 0x80 <= head[4] < 0xC0 or any(byte >> 6 != 2 for byte in rest):
        return None
    more = 4 + length  # the block's length, where the bits for it do not say, and the rate
    end = more + {6: 1, 7: 2}.get(block, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if _crc8(head[:end]) != head[end]:
        return None
    number = head[4] if length == 1 else head[4] & 0x7F >> length
    for byte in rest:
        number = number << 6 | byte & 0x3F
    if block in (6, 7):
        samples = int.from_bytes(head[more : more + block - 5], "big") + 1
    else:
        samples = 192 if block == 1 else 576 << block - 2 if block < 6 else 256 << block - 8
    return _Header(number, samples)


def _crc8(data: bytes) -> int:
    """The checksum of headers: polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def _crc8_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return table


_CRC8 = _crc8_table()
