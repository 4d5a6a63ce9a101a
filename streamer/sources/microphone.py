"""A microphone as a source: PortAudio's thread fills a bounded queue, the caller's thread empties it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any, Self

import numpy as np

from ...model.errors import ConfigurationError, DeviceError
from .base import SAMPLE_RATE, AudioSource, counted
from .devices import InputDevice, choose_device, list_input_devices, load_sounddevice
from .resample import StreamResampler

_POLL_S = 0.1
"""How often a waiting caller looks whether the device still lives; also how soon Ctrl+C works on Windows."""

_CLOSE_S = 2.0
"""Longest that closing waits for the sound system; a device that was pulled out may never answer."""

_QUIETEST_DB = -120.0


class MicrophoneSource(AudioSource):
    """Live sound from an input device. Iterate in one thread; recording begins when the source is made.

    The device is opened at 16 000 Hz, or, when it refuses, at its own rate and resampled. When the reader is
    late by more than `queue_s`, the oldest sound is dropped and counted: neither memory nor delay can grow.

    `stop` ends the recording in order: what was recorded until then still comes out. `close` drops it.

    Args:
        device: index, part of the name, or None for the default.
        channel: channel to keep, from 0; None takes the mean of what is recorded (both channels of a stereo
            device, else one).
        block_ms: how much sound the device delivers at once.
        queue_s: how much sound may wait for the reader.
        rate: rate to open the device at, in Hz; None as described above.
        stall_s: after so long without sound the device counts as gone.

    Raises:
        DeviceError: no PortAudio, no such device, or it cannot be opened. While iterating: it stopped.
        ConfigurationError: a duration that is not positive, or a queue shorter than a block.
    """

    def __init__(
        self,
        device: str | int | None = None,
        *,
        channel: int | None = None,
        block_ms: float = 20,
        queue_s: float = 5,
        rate: int | None = None,
        stall_s: float = 5,
    ) -> None:
        if not 0 < block_ms <= queue_s * 1000 or stall_s <= 0:
            raise ConfigurationError(
                f"block_ms={block_ms}, queue_s={queue_s}, stall_s={stall_s}: all must be positive and a "
                "block no longer than the queue"
            )
        sounddevice = load_sounddevice()
        self.device = choose_device(device, list_input_devices())
        if channel is not None and not 0 <= channel < self.device.channels:
            raise DeviceError(
                f"channel {channel} was asked of {self.device}, which has channels 0 to {self.device.channels - 1}"
            )
        self.name = self.device.name
        self.overflows = 0
        """How often the sound system itself lost samples before they reached this program."""
        self.dropped_blocks = 0
        """Blocks lost because the reader was late."""
        self._dropped_frames = 0
        self._channel = channel
        self._level_db = _QUIETEST_DB
        self._most_blocks = max(1, math.ceil(queue_s * 1000 / block_ms))
        self._stall_s = stall_s
        self._queue: deque[np.ndarray] = deque()
        self._arrived = threading.Event()
        self._last_arrival = time.monotonic()
        self._ended = False  # the stream ended, by us or by itself
        self._stopping = False
        self._closed = False
        self.channels, self.rate = _settings(sounddevice, self.device, channel, rate)
        self._resampler = StreamResampler(self.rate)
        self._stream: Any = self._start(sounddevice, round(self.rate * block_ms / 1000))

    @property
    def problems(self) -> tuple[str, ...]:
        found = []
        if self.dropped_blocks:
            lost_s = self.dropped_samples / SAMPLE_RATE
            found.append(f"{self.name}: {lost_s:.2f} s of sound were dropped, since they were not taken in time")
        if self.overflows:
            found.append(f"{self.name}: {counted(self.overflows, 'input overflow')}: the sound system lost samples")
        return tuple(found)

    @property
    def dropped_samples(self) -> int:
        """Samples lost because the reader was late, counted at 16 000 Hz."""
        return round(self._dropped_frames * SAMPLE_RATE / self.rate)

    @property
    def level(self) -> float:
        """Root mean square of the block handed out last, in dB of full scale; -120 for silence."""
        return self._level_db

    @property
    def waiting_samples(self) -> int:
        """Samples that wait for the reader, counted at 16 000 Hz."""
        return round(sum(len(block) for block in list(self._queue)) * SAMPLE_RATE / self.rate)

    def __iter__(self) -> Self:
        # An iterator, not a generator: after Ctrl+C inside, iteration can go on and hand out the last words.
        return self

    def __next__(self) -> np.ndarray:
        while not self._closed:
            try:
                samples = self._resampler.feed(self._mono(self._queue.popleft()))
            except IndexError:
                if self._ended:
                    return self._tail()
                self._check_alive()
                self._arrived.wait(_POLL_S)
                self._arrived.clear()
                continue
            if len(samples):
                return samples
        raise StopIteration

    def stop(self) -> None:
        """Ends the recording; iterating gives what waits in the queue and then ends. May be called twice."""
        self._stopping = True
        self._shut()
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        """Ends the recording and drops what waits. May be called twice, and from another thread."""
        self._closed = True
        self.stop()
        self._queue.clear()

    def _tail(self) -> np.ndarray:
        """The resampler's last samples, then the end of the iteration."""
        if self._queue:
            return self.__next__()  # a block arrived between looking and ending
        last = self._resampler.finish()
        self._closed = True
        if not self._stopping:
            raise self._gone()
        if not len(last):
            raise StopIteration
        return last

    def _mono(self, block: np.ndarray) -> np.ndarray:
        """[frames, channels] to [frames]; keeps the level."""
        samples = block.mean(axis=1) if self._channel is None else block[:, self._channel]
        power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
        self._level_db = max(_QUIETEST_DB, 10 * math.log10(power)) if power > 0 else _QUIETEST_DB
        return samples.clip(-1, 1)

    def _start(self, sounddevice: Any, block_frames: int) -> Any:
        stream = None
        try:
            stream = sounddevice.InputStream(
                device=self.device.index,
                channels=self.channels,
                samplerate=self.rate,
                blocksize=block_frames,
                dtype="float32",
                callback=self._take,
                finished_callback=self._finish,
            )
            stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            if stream is not None:
                stream.close(ignore_errors=True)
            raise DeviceError(
                f"the input device {self.device} cannot be opened at {self.rate:g} Hz with {self.channels} "
                f"channel(s): {error}; is another program using it?"
            ) from error
        return stream

    def _take(self, block: np.ndarray, frames: int, _when: object, status: Any) -> None:
        """Called by PortAudio's thread for each block; must neither wait nor raise."""
        if status.input_overflow:
            self.overflows += 1
        if len(self._queue) >= self._most_blocks:
            try:
                self._dropped_frames += len(self._queue.popleft())
                self.dropped_blocks += 1
            except IndexError:
                pass  # the reader was faster
        self._queue.append(block.copy())
        self._last_arrival = time.monotonic()
        self._arrived.set()

    def _finish(self) -> None:
        """Called by PortAudio's thread when the stream has ended, whoever ended it."""
        self._ended = True
        self._arrived.set()

    def _check_alive(self) -> None:
        if time.monotonic() - self._last_arrival > self._stall_s and not self._stopping:
            self.close()
            raise self._gone()

    def _gone(self) -> DeviceError:
        return DeviceError(
            f"the input device {self.device} stopped delivering sound: was it unplugged, or did the sound server end?"
        )

    def _shut(self) -> None:
        """Ends the PortAudio stream without ever hanging on a dead device."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        ending = threading.Thread(
            target=stream.close, kwargs={"ignore_errors": True}, daemon=True, name="closing the microphone"
        )
        ending.start()
        ending.join(_CLOSE_S)


def _settings(sounddevice: Any, device: InputDevice, channel: int | None, rate: int | None) -> tuple[int, float]:
    """Channels and rate that the device accepts, 16 000 Hz and few channels first.

    Raises:
        DeviceError: it accepts none; the message holds the last answer.
    """
    if channel is None:
        few = 2 if device.channels == 2 else 1
    else:
        few = min(max(2, channel + 1), device.channels)  # asked for one, sound servers mix all into it
    rates = [float(rate)] if rate is not None else [float(SAMPLE_RATE), device.default_rate]
    answer: Exception | None = None
    for each_rate in dict.fromkeys(rates):
        for channels in dict.fromkeys((few, device.channels)):
            try:
                sounddevice.check_input_settings(
                    device=device.index, channels=channels, samplerate=each_rate, dtype="float32"
                )
            except (sounddevice.PortAudioError, ValueError) as error:
                answer = error
                continue
            return channels, each_rate
    tried = " or ".join(f"{each:g}" for each in dict.fromkeys(rates))
    raise DeviceError(f"the input device {device} cannot record at {tried} Hz: {answer}") from answer
