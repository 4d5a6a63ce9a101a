"""What every source of sound has in common: the protocol, mixing down to one channel, and even blocks.

Inside the program sound is float32, mono, 16 000 Hz, in [-1, 1]; a source makes that of whatever it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from ...model.errors import AudioError
from ..events import SAMPLE_RATE

__all__ = ["SAMPLE_RATE", "SILENCE_PEAK", "AudioSource", "SampleIntake", "counted", "in_blocks"]

SILENCE_PEAK = 1e-4
"""A recording whose loudest sample stays below this (-80 dBFS) is called silent."""

_CLIPPED_SHARE = 1e-3
"""Lossy decoders overshoot by a few samples now and then; only a larger share is worth a sentence."""


@runtime_checkable
class AudioSource(Protocol):
    """Something that can be listened to once: iterate over it, or use it in `with` and iterate inside.

    Each block is a float32 array `[samples]`, mono, 16 000 Hz, in [-1, 1], and belongs to the receiver.
    """

    name: str
    """What to call it in messages: a file's name, `stdin`, a microphone's name."""

    @property
    def duration_s(self) -> float | None:
        """Length in seconds where it is known beforehand."""
        return None

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what was wrong but did not stop the source; complete once iteration has ended."""
        ...

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of samples in order.

        Raises:
            AudioError: the sound cannot be decoded, or there is none.
            DeviceError: the microphone went away.
        """
        ...

    def close(self) -> None:
        """Release what the source holds. May be called twice."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SampleIntake:
    """Turns decoded channels into one clean channel and counts what had to be mended on the way.

    Args:
        name: what the sound is called in messages.
        channel: channel to keep, from 0; None takes the mean of all.

    Samples that are not finite become 0 and samples beyond [-1, 1] are clipped, both counted.
    """

    def __init__(self, name: str, channel: int | None = None) -> None:
        if channel is not None and channel < 0:
            raise AudioError(f"channel {channel} was asked of {name}: channels count from 0")
        self.name = name
        self.channel = channel
        self.samples = 0
        self.not_finite = 0
        self.clipped = 0
        self.peak = 0.0

    def check_channel(self, channels: int) -> None:
        """Whether sound with so many channels has the chosen one.

        Raises:
            AudioError: it has not.
        """
        if self.channel is not None and self.channel >= channels:
            there = "channel 0 alone" if channels == 1 else f"channels 0 to {channels - 1}"
            raise AudioError(f"channel {self.channel} was asked of {self.name}, which has {there}")

    def mono(self, channels: np.ndarray) -> np.ndarray:
        """One channel `[samples]`, float32, from `[channels, samples]` of any float type.

        Raises:
            AudioError: the chosen channel does not exist.
        """
        if self.channel is not None:
            self.check_channel(len(channels))
            channels = channels[self.channel : self.channel + 1]
        finite = np.isfinite(channels)
        if not finite.all():
            self.not_finite += int(finite.size - finite.sum())
            channels = np.where(finite, channels, 0)
        peak = float(np.abs(channels).max(initial=0.0))
        self.peak = max(self.peak, peak)
        if peak > 1:
            self.clipped += int((np.abs(channels) > 1).sum())
            channels = channels.clip(-1, 1)
        self.samples += channels.size
        return channels.mean(axis=0, dtype=np.float32) if len(channels) > 1 else channels[0].astype(np.float32)

    def check(self) -> None:
        """Called when everything was taken in.

        Raises:
            AudioError: not one sample came, or none of them is finite.
        """
        if self.samples == 0:
            raise AudioError(f"{self.name} holds no sound: its length is 0 samples")
        if self.not_finite == self.samples:
            raise AudioError(f"{self.name} holds no sound: every sample is NaN or infinite")

    def problems(self) -> list[str]:
        """A sentence for each kind of damage so far; silence counts as one."""
        found = []
        if self.not_finite:
            found.append(f"{self.name}: {counted(self.not_finite, 'sample')} not finite (NaN or infinite), taken as 0")
        if self.clipped > _CLIPPED_SHARE * self.samples:
            found.append(
                f"{self.name}: {self.clipped} of {self.samples} samples lie beyond [-1, 1] (the largest is "
                f"{self.peak:.3g}) and were clipped; scale the recording to that range"
            )
        if self.samples and self.peak < SILENCE_PEAK:
            found.append(f"{self.name} is silent: no sample is louder than -80 dBFS")
        return found


def counted(number: int, thing: str) -> str:
    """A number and what it counts: `1 byte`, `2 bytes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def in_blocks(pieces: Iterable[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """Joins and cuts arrays of any length into blocks of exactly `block_samples`; the last may be shorter."""
    waiting: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count < block_samples:
            continue
        joined = np.concatenate(waiting)
        whole = count - count % block_samples
        for start in range(0, whole, block_samples):
            # A copy: blocks handed out must not share memory with each other or with what still waits.
            yield joined[start : start + block_samples].copy()
        waiting = [joined[whole:]]
        count -= whole
    if count:
        yield np.concatenate(waiting)
