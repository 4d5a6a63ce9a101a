"""Recordings of any common format, decoded as a stream: memory does not grow with their length."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import numpy as np
from av.error import FFmpegError

from ...model.errors import AudioError, ConfigurationError, StreamError
from .base import AudioSource, SampleIntake, counted, in_blocks
from .pipes import Pipe, is_pipe
from .resample import StreamResampler
from .truncation import missing_bytes, states_length

_SHORT_BY_S = 0.25
"""A file that ends this much before its stated length is called cut off; encoders' padding stays below it."""

_GAP_S = 0.5
"""Holes in the timestamps from here on are filled with silence, so that later times stay right."""

_LONGEST_GAP_S = 60.0
"""A larger jump is a clock that was set anew, not missing sound."""

_MOST_FAILURES = 100
"""So often in a row a file may refuse to give its next packet before the rest is given up."""

_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31}
"""Full scale of FFmpeg's integer formats; 24-bit sound arrives as s32."""


class FileSource(AudioSource):
    """A recording: WAV of any width, FLAC, MP3, M4A, Ogg with Opus or Vorbis, WebM, video with sound, ...

    It can be iterated once, and closed from another thread, which ends the iteration. A file whose end is missing
    or that is damaged inside gives what can be decoded, with a sentence in `problems`; stretches lost inside become
    silence, so that later times stay right. A pipe will do for what is decoded from its beginning on.

    Args:
        path: of the file.
        channel: channel to keep, from 0; None takes the mean of all.
        block_samples: samples at 16 000 Hz in a block; the last block may be shorter.

    Raises:
        AudioError: no such file, no permission, a folder, empty, not sound, no audio track, no such channel.
            While iterating: it holds no samples, or not one finite sample.
        ConfigurationError: block_samples below 1.
    """

    def __init__(self, path: str | Path, *, channel: int | None = None, block_samples: int = 1600) -> None:
        if block_samples < 1:
            raise ConfigurationError(f"block_samples is {block_samples}: it must be at least 1")
        self.path = Path(path)
        self.name = str(path)
        self.rate = 0
        """Sample rate of the recording, in Hz."""
        self.channels = 0
        self._block_samples = block_samples
        self._intake = SampleIntake(self.name, channel)
        self._notes: list[str] = []
        self._damaged_packets = 0
        self._started = False
        self._stopped = False
        # FFmpeg frees what it reads from when it closes: a packet that another thread reads is waited for.
        self._reading = threading.Lock()
        self._pipe = _readable(self.path, self.name)
        try:
            container, self._stream = _open(self.path, self.name, self._pipe)
        except BaseException:
            self._close_pipe()
            raise
        self._container: av.container.InputContainer | None = container
        # Where the presentation begins: sound that starts later than the picture begins with silence.
        self._origin_s = (container.start_time or 0) / 1_000_000
        self.rate = self._stream.rate or 0
        self.channels = self._stream.channels
        if self.channels:
            try:
                self._intake.check_channel(self.channels)
            except AudioError:
                self.close()
                raise
        self._stated_s = self._stated_length()

    @property
    def duration_s(self) -> float | None:
        return self._duration_s

    @property
    def problems(self) -> tuple[str, ...]:
        found = list(self._notes)
        if self._damaged_packets:
            found.append(f"{self.name}: {counted(self._damaged_packets, 'packet')} damaged, not decoded")
        return (*found, *self._intake.problems())

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._started:
            raise StreamError(f"{self.name} was read already: open it again to read it again")
        if self._container is None:
            raise StreamError(f"{self.name} was closed: open it again to read it")
        self._started = True
        return in_blocks(self._resampled(), self._block_samples)

    def stop(self) -> None:
        """Ends the sound: iterating gives what was read until then and ends. May be called twice, and in a signal."""
        self._stopped = True
        if self._pipe is not None:
            self._pipe.stop()

    def close(self) -> None:
        self.stop()
        with self._reading:
            if self._container is not None:
                self._container.close()
                self._container = None
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _stated_length(self) -> float | None:
        """Seconds that the file itself promises, None where FFmpeg only guesses; sets `duration_s`."""
        container, stream = self._container, self._stream
        assert container is not None
        length_s = None
        if stream.duration is not None and stream.time_base is not None:
            length_s = float(stream.duration * stream.time_base)
        alone = len(container.streams) == 1
        if length_s is None and container.duration is not None:
            length_s = container.duration / 1_000_000
            stated = alone  # otherwise it may be the picture that is longer
        else:
            stated = length_s is not None
        self._duration_s = length_s
        kind = container.format.name
        if kind == "mp3":
            stated = self._pipe is None and states_length(self.path)
        elif kind in ("aac", "ac3", "eac3", "amr", "dts", "loas", "wav", "ogg"):
            stated = False  # guessed from the bit rate, or measured on what is there
        return length_s if stated else None

    def _resampled(self) -> Iterator[np.ndarray]:
        """Mono pieces at 16 000 Hz of any length."""
        resampler: StreamResampler | None = None
        for samples, rate in self._decoded():
            if resampler is None or resampler.rate != rate:
                if resampler is not None:
                    yield resampler.finish()  # chained streams may change their rate
                resampler = StreamResampler(rate)
            yield resampler.feed(samples)
        if resampler is not None:
            yield resampler.finish()
        if not self._stopped:  # else what was read says nothing about the recording
            self._intake.check()

    def _decoded(self) -> Iterator[tuple[np.ndarray, int]]:
        """Mono pieces at the recording's own rate, gaps filled, and that rate."""
        origin_s, passed_s = self._origin_s, 0.0
        for frame in self._frames():
            rate = frame.sample_rate
            gap_s = (frame.time - origin_s - passed_s) if frame.time is not None else 0.0
            if gap_s > _LONGEST_GAP_S:
                origin_s += gap_s
            elif gap_s > _GAP_S:
                if passed_s:
                    self._notes.append(
                        f"{self.name}: {gap_s:.2f} s of sound are missing at {passed_s:.2f} s and became silence"
                    )
                yield np.zeros(round(gap_s * rate), np.float32), rate
                passed_s += gap_s
            yield self._intake.mono(_channels(frame, self.name)), rate
            passed_s += frame.samples / rate
        if not self._stopped:
            self._note_missing_end(passed_s)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames in order; packets that cannot be decoded are counted and left out."""
        for packet in self._packets():
            with self._reading:
                if self._container is None:
                    return
                try:
                    frames = packet.decode()
                except (FFmpegError, OSError):
                    self._damaged_packets += 1
                    continue
            yield from frames

    def _packets(self) -> Iterator[av.Packet]:
        """Encoded packets of the audio track; where they stop making sense, the next that do are sought."""
        failures = 0
        packets: Iterator[av.Packet] | None = None
        while True:
            with self._reading:
                if self._container is None or self._stopped:
                    return
                try:
                    packets = packets or self._container.demux(self._stream)
                    packet = next(packets, None)
                except (FFmpegError, OSError) as error:
                    packets = None  # it ended with its error: another goes on behind the place
                    failures += 1
                    self._damaged_packets += failures == 1
                    if failures == _MOST_FAILURES:
                        self._notes.append(f"{self.name} cannot be read on: {_reason(error)}")
                        return
                    continue
                finally:
                    if self._pipe is not None:
                        self._pipe.check()
            if packet is None:
                return
            failures = 0
            yield packet

    def _note_missing_end(self, decoded_s: float) -> None:
        try:
            missing = missing_bytes(self.path) if self._pipe is None else 0
        except OSError:
            missing = 0  # the file was taken away while it was read
        if self._stated_s is not None and decoded_s < self._stated_s - _SHORT_BY_S:
            self._notes.append(
                f"{self.name} is cut off or damaged: it states {self._stated_s:.2f} s, "
                f"of which {decoded_s:.2f} s could be decoded"
            )
        elif missing:
            self._notes.append(
                f"{self.name} is cut off: at least {counted(missing, 'byte')} missing after {decoded_s:.2f} s"
            )


def _readable(path: Path, name: str) -> Pipe | None:
    """Refuses what cannot be read; the pipe, where it is one."""
    try:
        if path.is_dir():
            raise AudioError(f"{name} is a folder, expected a recording")
        if is_pipe(path):
            return Pipe(path)  # a byte that is read from it to see whether it can be is gone
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist") from None
    except PermissionError:
        raise AudioError(f"{name} cannot be read: no permission") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{name} cannot be read: {_reason(error)}") from error
    if not first:
        raise AudioError(f"{name} is empty: 0 bytes")
    return None


def _open(path: Path, name: str, pipe: Pipe | None) -> tuple[av.container.InputContainer, av.AudioStream]:
    """Opens a file or pipe for decoding.

    The prefix keeps a name with a colon from being taken for a protocol.
    """
    try:
        container = av.open(pipe or f"file:{os.fspath(path)}", "r", metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        why = "no audio or video file, or it is damaged or cut off"
        if pipe is not None:
            pipe.check()
            if not pipe.bytes:
                raise AudioError(f"{name} is empty: 0 bytes came through the pipe") from error
            why += ", or of a kind that cannot be read from a pipe"
        raise AudioError(f"{name} cannot be read as sound: it is {why} ({_reason(error)})") from error
    tracks = container.streams.audio
    if not tracks:
        container.close()
        raise AudioError(f"{name} holds no audio track")
    best = container.streams.best("audio")
    stream = best if isinstance(best, av.AudioStream) else tracks[0]
    if stream.codec_context is None:
        container.close()
        raise AudioError(f"{name} uses an audio codec that this FFmpeg build does not know")
    return container, stream


def _channels(frame: av.AudioFrame, name: str) -> np.ndarray:
    """Samples of a decoded frame as floats, [channels, samples], full scale 1."""
    try:
        data = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(
            f"{name} holds samples of the format {frame.format.name}: convert it to WAV or FLAC"
        ) from error
    if frame.format.is_packed:
        data = data.reshape(-1, frame.layout.nb_channels).T
    kind = frame.format.name.removesuffix("p")
    if kind not in _SCALES:
        return data  # float or double
    # 32-bit integers need the 53 bits of double until they are scaled.
    scaled = data.astype(np.float64 if kind == "s32" else np.float32) / _SCALES[kind]
    return scaled - 1 if kind == "u8" else scaled


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip()
