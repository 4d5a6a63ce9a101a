"""Where sound comes from: files of any format, raw samples on stdin, microphones."""

from __future__ import annotations

import sys
from pathlib import Path

from ...model.errors import AudioError
from .base import SAMPLE_RATE, AudioSource
from .devices import InputDevice, list_input_devices
from .files import FileSource
from .microphone import MicrophoneSource
from .pcm import PcmSource
from .resample import StreamResampler

__all__ = [
    "AudioSource",
    "FileSource",
    "InputDevice",
    "MicrophoneSource",
    "PcmSource",
    "StreamResampler",
    "list_input_devices",
    "open_source",
]


def open_source(
    path: str | Path,
    *,
    channel: int | None = None,
    block_samples: int = 1600,
    rate: int = SAMPLE_RATE,
    channels: int = 1,
) -> FileSource | PcmSource:
    """The source behind a name on the command line: a file, or raw samples from stdin for `-`.

    Args:
        path: of a recording, or `-`.
        channel: channel to keep, from 0; None takes the mean of all.
        block_samples: samples in a block; at most so many at once from stdin.
        rate: of the samples on stdin, in Hz; files know their own.
        channels: interleaved on stdin.

    Raises:
        AudioError: as `FileSource`; or stdin is a terminal.
    """
    if str(path) != "-":
        return FileSource(path, channel=channel, block_samples=block_samples)
    if sys.stdin.isatty():
        raise AudioError(
            "stdin is a terminal, expected raw samples from a pipe: signed 16-bit little-endian, "
            f"{rate} Hz, {channels} channel(s)"
        )
    stream = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return PcmSource(stream, rate=rate, channels=channels, channel=channel, block_samples=block_samples)
