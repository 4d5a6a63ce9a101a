"""`Ogg`: Opus in Ogg, page by page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...model.errors import AudioError
from .packets import MOST_KEPT_BYTES, Container, OpusPackets


class Ogg(Container):
    """Ogg with Opus (RFC 3533, RFC 7845); chained streams follow each other."""

    def __init__(self) -> None:
        self._buffer = b""
        self._packet = b""
        self._serial: int | None = None
        self._opus: OpusPackets | None = None
        self._headers = 0

    def feed(self, data: bytes) -> Iterator[tuple[np.ndarray, int]]:
        self._buffer += data
        while (page := self._page()) is not None:
            yield from self._read(*page)

    def finish(self) -> Iterator[tuple[np.ndarray, int]]:
        if self._opus is None:
            raise AudioError("the Ogg stream ended before its Opus header")
        yield from ()

    def _page(self) -> tuple[int, int, int, list[bytes], bool] | None:
        """Flags, position, serial, the pieces of packets, and whether the last of them goes on; None: not all there."""
        start = self._buffer.find(b"OggS")
        if start < 0:
            if self._serial is None and len(self._buffer) >= 4:
                raise AudioError("the stream does not begin as Ogg does; expected Ogg with Opus")
            self._buffer = self._buffer[-3:]
            return None
        if start and self._serial is None:
            raise AudioError("the stream does not begin as Ogg does; expected Ogg with Opus")
        page = self._buffer = self._buffer[start:]
        if len(page) < 27 or len(page) < 27 + page[26]:
            return None
        table = page[27 : 27 + page[26]]
        size = 27 + len(table) + sum(table)
        if len(page) < size:
            return None
        self._buffer = page[size:]
        pieces, at, length = [], 27 + len(table), 0
        for lace in table:
            length += lace
            if lace < 255:
                pieces.append(page[at : at + length])
                at, length = at + length, 0
        open_end = bool(table) and table[-1] == 255
        if open_end:
            pieces.append(page[at : at + length])
        position = int.from_bytes(page[6:14], "little", signed=True)
        return page[5], position, int.from_bytes(page[14:18], "little"), pieces, open_end

    def _read(
        self, flags: int, position: int, serial: int, pieces: list[bytes], open_end: bool
    ) -> Iterator[tuple[np.ndarray, int]]:
        if flags & 2:  # a new stream begins
            self._serial, self._packet, self._opus, self._headers = serial, b"", None, 0
        if serial != self._serial:
            return
        if not flags & 1:
            self._packet = b""
        for number, piece in enumerate(pieces):
            self._packet += piece
            if len(self._packet) > MOST_KEPT_BYTES:
                raise AudioError(f"an Ogg packet is longer than {MOST_KEPT_BYTES} bytes")
            if open_end and number == len(pieces) - 1:
                return
            packet, self._packet = self._packet, b""
            last = bool(flags & 4)
            yield from self._take(packet, position if last else None)

    def _take(self, packet: bytes, position: int | None) -> Iterator[tuple[np.ndarray, int]]:
        if self._headers == 0:
            self._opus, self._headers = OpusPackets(packet), 1
        elif self._headers == 1:
            self._headers = 2  # OpusTags: names and comments
        elif self._opus is not None:
            limit = None if position is None or position < 0 else position - self._opus.pre_skip
            yield from self._opus.decode(packet, limit)
