"""The microphone: for real against a virtual one, and the rules for choosing devices without any."""

from __future__ import annotations

import _thread
import importlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import ConfigurationError, DeviceError
from wavlm_live.streamer.sources import AudioSource, InputDevice, MicrophoneSource, list_input_devices
from wavlm_live.streamer.sources.devices import choose_device, load_sounddevice
from wavlm_live.streamer.sources.microphone import _settings

AUDIO = Path(__file__).parent.parent / "audio"

VirtualMicrophone = Any
"""What the fixtures of conftest.py give; no test can import from there."""

microphone_test = pytest.mark.microphone


def listen(source: MicrophoneSource, seconds: float) -> np.ndarray:
    """What the source hears in that time, by its own samples."""
    heard: list[np.ndarray] = []
    for block in source:
        heard.append(block)
        if sum(map(len, heard)) >= seconds * 16_000:
            break
    return np.concatenate(heard)


def similarity(heard: np.ndarray, played: np.ndarray) -> float:
    """Peak of the cross-correlation, 1 for the same sound at any time and loudness."""
    size = len(heard) + len(played)
    correlation = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size)), size)[: len(heard)]
    start = int(correlation.argmax())
    part = heard[start : start + len(played)]
    return float(part @ played[: len(part)] / np.linalg.norm(part) / np.linalg.norm(played))


@microphone_test
@pytest.mark.parametrize("rate", [None, 44_100, 48_000])
def test_hears_what_is_played(virtual_microphone: VirtualMicrophone, rate: int | None) -> None:
    played, _ = soundfile.read(AUDIO / "sentence_tureen.opus", dtype="float32")
    with MicrophoneSource(rate=rate) as source:
        assert isinstance(source, AudioSource)
        assert source.rate == (rate or 16_000)
        assert source.duration_s is None
        assert source.name == "default"
        listen(source, 0.2)
        assert source.level == -120
        player = virtual_microphone.play(AUDIO / "sentence_tureen.opus")
        heard = listen(source, 4.8)
        assert player.wait(timeout=20) == 0
        assert (source.dropped_blocks, source.dropped_samples, source.overflows) == (0, 0, 0)
        assert source.problems == ()
    assert heard.dtype == np.float32
    assert similarity(heard, played) > 0.98


@microphone_test
def test_channels(virtual_microphone: VirtualMicrophone) -> None:
    played, _ = soundfile.read(AUDIO / "sentence_tureen.opus", dtype="float32")
    stereo = np.stack([played, np.roll(played[::-1], 8_000)], axis=1)
    heard = []
    for channel, channels in ((0, 2), (1, 2), (None, 1)):  # one after the other: streams side by side tear
        with MicrophoneSource("headset", channel=channel, queue_s=20) as source:
            assert source.channels == channels
            listen(source, 0.5)  # the first moments of a stream may tear as well
            playing = virtual_microphone.play(stereo)
            heard.append(listen(source, 4.8))
            playing.wait()
    expected = [stereo[:, 0], stereo[:, 1], stereo.mean(axis=1)]
    likeness = np.array([[similarity(h, e) for e in expected] for h in heard])
    assert (likeness.diagonal() > 0.98).all()
    assert likeness[0, 1] < 0.5 > likeness[1, 0]


@microphone_test
def test_devices_are_listed_and_chosen(virtual_microphone: VirtualMicrophone) -> None:
    devices = list_input_devices()
    assert {d.name for d in devices} == {"default", "headset"}
    assert [d.name for d in devices if d.is_default] == ["default"]
    headset = next(d for d in devices if d.name == "headset")
    assert headset.channels >= 2
    assert headset.default_rate > 0
    for wanted in ("headset", "HEAD", headset.index, str(headset.index)):
        with MicrophoneSource(wanted) as source:
            assert source.device == headset
    with pytest.raises(DeviceError, match=r"no input device fits 'webcam'; there are: 0: .*1: ") as error:
        MicrophoneSource("webcam")
    assert "default" in str(error.value)
    assert "headset" in str(error.value)
    with pytest.raises(DeviceError, match="channels 0 to"):
        MicrophoneSource("headset", channel=10_000)


@microphone_test
def test_stop_gives_the_last_sound_and_close_is_quick(virtual_microphone: VirtualMicrophone) -> None:
    source = MicrophoneSource(rate=48_000)
    listen(source, 0.1)
    time.sleep(0.5)
    assert source.waiting_samples > 5_000
    source.stop()
    source.stop()
    waiting = source.waiting_samples
    rest = np.concatenate(list(source))
    assert len(rest) >= waiting  # the resampler's tail comes as well
    assert list(source) == []

    source = MicrophoneSource()
    started = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - started < 1
    assert list(source) == []


@microphone_test
def test_ctrl_c_while_waiting_keeps_what_was_recorded(virtual_microphone: VirtualMicrophone) -> None:
    source = MicrophoneSource()
    listen(source, 0.1)
    started = time.monotonic()
    samples = 0
    threading.Timer(0.4, _thread.interrupt_main).start()
    try:
        for block in source:
            samples += len(block)
    except KeyboardInterrupt:
        time.sleep(0.5)
    source.stop()
    seconds = time.monotonic() - started
    after = sum(len(block) for block in source)
    assert after >= 0.4 * 16_000
    assert (seconds - 0.2) * 16_000 < samples + after < (seconds + 0.2) * 16_000


@microphone_test
def test_a_late_reader_loses_the_oldest_sound_and_is_told(virtual_microphone: VirtualMicrophone) -> None:
    with MicrophoneSource(queue_s=0.2, block_ms=20) as source:
        listen(source, 0.1)
        time.sleep(1.2)
        assert source.waiting_samples <= 0.2 * 16_000
        assert source.dropped_samples >= 0.6 * 16_000
        assert source.dropped_samples == source.dropped_blocks * 320
        assert "were dropped" in source.problems[0]


@microphone_test
def test_a_device_that_goes_away_is_an_error_not_a_hang(breakable_microphone: VirtualMicrophone) -> None:
    source = MicrophoneSource()
    listen(source, 0.2)
    breakable_microphone.break_down()
    started = time.monotonic()
    with pytest.raises(DeviceError, match="stopped delivering sound"):
        listen(source, 1_000)
    source.close()
    assert time.monotonic() - started < 4
    with pytest.raises(DeviceError, match=r"cannot record|cannot be opened"):
        MicrophoneSource()


@microphone_test
def test_a_device_that_no_longer_answers_is_an_error_not_a_hang(breakable_microphone: VirtualMicrophone) -> None:
    source = MicrophoneSource(stall_s=0.7)
    listen(source, 0.2)
    breakable_microphone.freeze()
    started = time.monotonic()
    with pytest.raises(DeviceError, match="stopped delivering sound"):
        listen(source, 1_000)
    source.close()
    assert time.monotonic() - started < 5
    breakable_microphone.thaw()
    for thread in threading.enumerate():
        if thread.name == "closing the microphone":
            thread.join(timeout=20)
            assert not thread.is_alive()


def test_without_portaudio_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.delitem(sys.modules, "_sounddevice", raising=False)
    monkeypatch.delitem(sys.modules, "_sounddevice_data", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    if sys.platform == "linux":
        # The true import: on Linux the package brings no PortAudio of its own.
        with pytest.raises(DeviceError, match="apt-get install libportaudio2"):
            MicrophoneSource()
        with pytest.raises(DeviceError, match="apt-get install libportaudio2"):
            list_input_devices()

    def no_package(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", no_package)
    with pytest.raises(DeviceError, match="pip install sounddevice"):
        load_sounddevice()


DEVICES = [
    InputDevice(0, "Built-in Microphone", 2, 44_100, False, "MME"),
    InputDevice(1, "USB Headset", 1, 16_000, True, "MME"),
    InputDevice(4, "USB Camera", 1, 32_000, False, "MME"),
    InputDevice(5, "USB Headset", 1, 48_000, False, "WASAPI"),
    InputDevice(7, "Line", 8, 96_000, False, "WASAPI"),
    InputDevice(8, "Line in", 8, 96_000, False, "WASAPI"),
]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (None, 1),
        (4, 4),
        ("4", 4),
        ("built", 0),
        ("usb headset", 1),  # the default's host API goes first
        ("usb headset, wasapi", 5),
        ("camera", 4),
        ("line", 7),  # the full name goes before a part of one
        (" Line IN ", 8),
    ],
)
def test_choosing_a_device(wanted: str | int | None, index: int) -> None:
    assert choose_device(wanted, DEVICES).index == index


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("usb", r"3 input devices fit 'usb': 1: USB Headset, MME \(default\); 4: USB Camera, MME; 5: "),
        ("radio", "no input device fits 'radio'; there are: 0: Built-in Microphone"),
        (3, "no input device fits 3"),
        ("-1", "no input device fits '-1'"),
        (-1, "no input device fits -1"),
    ],
)
def test_choosing_none_or_several_lists_what_there_is(wanted: str | int, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        choose_device(wanted, DEVICES)
    with pytest.raises(DeviceError, match="there is no input device"):
        choose_device(wanted, [])


class FussyPortAudio:
    """Accepts the given rates and numbers of channels alone, as sound cards without a sound server do."""

    PortAudioError = RuntimeError

    def __init__(self, rates: set[float], channels: set[int]) -> None:
        self.rates, self.channels = rates, channels

    def check_input_settings(self, device: int, channels: int, samplerate: float, dtype: str) -> None:
        if samplerate not in self.rates or channels not in self.channels:
            raise RuntimeError("Invalid sample rate")


@pytest.mark.parametrize(
    ("rates", "channels", "channel", "expected"),
    [
        ({16_000, 48_000}, {1, 8}, None, (1, 16_000)),
        ({48_000}, {1, 8}, None, (1, 48_000)),
        ({48_000}, {8}, None, (8, 48_000)),
        ({16_000, 48_000}, {1, 3, 8}, 2, (3, 16_000)),
        ({16_000}, {8}, 2, (8, 16_000)),
    ],
)
def test_devices_that_refuse_16_khz_or_mono(
    rates: set[float], channels: set[int], channel: int | None, expected: tuple[int, float]
) -> None:
    device = InputDevice(0, "card", 8, 48_000, True, "ALSA")
    assert _settings(FussyPortAudio(rates, channels), device, channel, None) == expected


def test_both_channels_of_a_stereo_device_are_mixed_unless_it_refuses() -> None:
    device = InputDevice(0, "card", 2, 44_100, True, "ALSA")
    assert _settings(FussyPortAudio({16_000}, {1, 2}), device, None, None) == (2, 16_000)
    with pytest.raises(DeviceError, match=r"0: card, ALSA \(default\) cannot record at 8000 Hz: Invalid sample rate"):
        _settings(FussyPortAudio({16_000}, {1, 2}), device, None, 8_000)
    with pytest.raises(DeviceError, match="at 16000 or 44100 Hz"):
        _settings(FussyPortAudio(set(), {1, 2}), device, None, None)


@pytest.mark.parametrize("arguments", [{"block_ms": 0}, {"queue_s": 0.01}, {"stall_s": 0}, {"block_ms": -5}])
def test_impossible_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="must be positive"):
        MicrophoneSource(**arguments)  # pyright: ignore[reportArgumentType]
