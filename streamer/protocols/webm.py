"""`WebM`: Opus in WebM, as browsers' MediaRecorder writes it, element by element (RFC 8794, RFC 9559)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...model.errors import AudioError
from .packets import MOST_KEPT_BYTES, Container, OpusPackets

_EBML, _SEGMENT, _CLUSTER, _TRACKS, _TRACK = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
_NUMBER, _CODEC, _PRIVATE = 0xD7, 0x86, 0x63A2
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
_OPENED = {_SEGMENT, _CLUSTER, _BLOCK_GROUP}
"""Elements whose contents are read one by one; their own size does not matter."""
_KEPT = {_TRACKS, _SIMPLE_BLOCK, _BLOCK}
"""Elements that are read once they are whole; all others are passed over."""


class WebM(Container):
    """The first Opus track of a WebM or Matroska stream."""

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._begun = False
        self._track: int | None = None
        self._opus: OpusPackets | None = None

    def feed(self, data: bytes) -> Iterator[tuple[np.ndarray, int]]:
        self._buffer += data
        while True:
            passed = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[passed:], self._skip - passed
            if self._skip:
                return
            header = _header(self._buffer)
            if header is None:
                return
            kind, size, at = header
            if not self._begun:
                if kind != _EBML:
                    raise AudioError("the stream does not begin as WebM does")
                self._begun = True
            if kind in _OPENED:
                self._buffer = self._buffer[at:]
            elif kind in _KEPT:
                if size is None or size > MOST_KEPT_BYTES:
                    raise AudioError(f"a WebM element of {size} bytes came, expected at most {MOST_KEPT_BYTES}")
                if len(self._buffer) < at + size:
                    return
                body, self._buffer = self._buffer[at : at + size], self._buffer[at + size :]
                if kind == _TRACKS:
                    self._read_tracks(body)
                else:
                    yield from self._read_block(body)
            elif size is None:
                raise AudioError("a WebM element without a size came where it needs one")
            else:
                self._buffer, self._skip = self._buffer[at:], size

    def finish(self) -> Iterator[tuple[np.ndarray, int]]:
        if self._opus is None:
            raise AudioError("the WebM stream ended before its sound began")
        yield from ()

    def _read_tracks(self, body: bytes) -> None:
        for kind, track in _children(body):
            if kind != _TRACK or self._opus is not None:
                continue
            fields = dict(_children(track))
            if fields.get(_CODEC, b"").rstrip(b"\0") == b"A_OPUS":
                self._track = int.from_bytes(fields.get(_NUMBER, b"\1"), "big")
                self._opus = OpusPackets(fields.get(_PRIVATE, b""))
        if self._opus is None:
            raise AudioError("the WebM stream has no Opus track")

    def _read_block(self, body: bytes) -> Iterator[tuple[np.ndarray, int]]:
        if self._opus is None:
            raise AudioError("the WebM stream has sound before its tracks")
        number = _vint(body, 0, keep_marker=False)
        if number is None or len(body) < number[1] + 3:
            return
        track, at = number
        if track != self._track:
            return
        if body[at + 2] & 0x06:
            raise AudioError("the WebM stream packs several packets into a block (lacing), which Opus does not need")
        yield from self._opus.decode(body[at + 3 :])


def _vint(data: bytes, at: int, keep_marker: bool) -> tuple[int | None, int] | None:
    """A number of variable length and where it ends; (None, end) for the size that says "unknown"; None: not all there.

    Raises:
        AudioError: no such number.
    """
    if at >= len(data):
        return None
    length = 9 - data[at].bit_length()
    if length > 8:
        raise AudioError("the WebM stream is damaged: a number longer than 8 bytes")
    if at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        if value == (1 << 7 * length) - 1:
            return None, at + length
    return value, at + length


def _header(data: bytes, at: int = 0) -> tuple[int, int | None, int] | None:
    """Identifier and size of an element, and where its body begins; None: not all there."""
    kind = _vint(data, at, keep_marker=True)
    if kind is None or kind[0] is None:
        return None
    size = _vint(data, kind[1], keep_marker=False)
    return None if size is None else (kind[0], size[0], size[1])


def _children(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements inside an element that is whole."""
    at = 0
    while at < len(body):
        header = _header(body, at)
        if header is None or header[1] is None:
            return
        kind, size, start = header
        assert size is not None
        yield kind, body[start : start + size]
        at = start + size
