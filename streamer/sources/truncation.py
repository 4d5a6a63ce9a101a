"""Tells from a file's own structure whether its end is missing.

A decoder plays what is there and says nothing; a listener should learn that the rest is gone.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_UNKNOWN_WAV_SIZE = 0x7FFF0000
"""Programs that write WAV into a pipe cannot know its length; they write 0 or something from here up."""

_OGG_PAGE = struct.Struct("<4sBBqIIIB")
_LARGEST_OGG_PAGE = _OGG_PAGE.size + 255 + 255 * 255


def missing_bytes(path: Path) -> int:
    """Bytes that a WAV file's header, or the last page of an Ogg file, promises beyond the file's end.

    0 for whole files, other formats, and files whose length is not stated.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            return max(0, _end_of_wav(file) - size)
        if start[:4] == b"OggS":
            return max(0, _end_of_last_page(file, size) - size)
    return 0


def states_length(path: Path) -> bool:
    """Whether an MP3 file carries a header with its number of frames.

    Without one a player guesses the duration from the first frame's bit rate, which says nothing about a
    missing end.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3" and len(tag) == 10:
            # The tag's size: four bytes of seven bits each.
            file.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True)))
        else:
            file.seek(0)
        first_frame = file.read(512)
    return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))


def _end_of_wav(file: BinaryIO) -> int:
    """Where the data chunk should end; 0 if there is none or its length is not stated."""
    while len(header := file.read(8)) == 8:
        name, size = header[:4], int.from_bytes(header[4:], "little")
        if name == b"data":
            return 0 if size == 0 or size >= _UNKNOWN_WAV_SIZE else file.tell() + size
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _end_of_last_page(file: BinaryIO, size: int) -> int:
    """Where the last page should end, by its header and its table of segments."""
    start = max(0, size - _LARGEST_OGG_PAGE)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return 0
    header = tail[page : page + _OGG_PAGE.size]
    if len(header) < _OGG_PAGE.size:
        return start + page + _OGG_PAGE.size
    segments = _OGG_PAGE.unpack(header)[-1]
    table = tail[page + _OGG_PAGE.size : page + _OGG_PAGE.size + segments]
    return start + page + _OGG_PAGE.size + segments + sum(table)
