"""Which microphones there are, and which one a user means."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from ...model.errors import DeviceError

_INSTALL_PORTAUDIO = (
    "microphones need the PortAudio library, which is not installed: `sudo apt-get install libportaudio2` on "
    "Debian and Ubuntu, `sudo dnf install portaudio` on Fedora, `sudo pacman -S portaudio` on Arch, "
    "`brew install portaudio` on macOS"
)


@dataclass(frozen=True)
class InputDevice:
    """A device that sound can be recorded from."""

    index: int
    """What `--input-device` takes; may change when devices are plugged in."""
    name: str
    channels: int
    """Most channels it records at once."""
    default_rate: float
    """Its own sample rate, in Hz."""
    is_default: bool
    """Whether it is used when none is named."""
    host_api: str = ""
    """The system's interface it is reached by, such as ALSA, Core Audio or Windows WASAPI."""

    def __str__(self) -> str:
        mark = " (default)" if self.is_default else ""
        return f"{self.index}: {self.name}, {self.host_api}{mark}"


def load_sounddevice() -> ModuleType:
    """The module sounddevice, imported at the first use of a microphone: without PortAudio it cannot be.

    Raises:
        DeviceError: PortAudio or sounddevice is not installed; says what to install.
    """
    try:
        return importlib.import_module("sounddevice")
    except OSError as error:
        raise DeviceError(_INSTALL_PORTAUDIO) from error
    except ImportError as error:
        raise DeviceError("microphones need the Python package sounddevice: pip install sounddevice") from error


def list_input_devices() -> list[InputDevice]:
    """All devices with at least one input channel, in PortAudio's order.

    Raises:
        DeviceError: PortAudio is missing or cannot list the devices.
    """
    sounddevice = load_sounddevice()
    try:
        devices = list(sounddevice.query_devices())
        host_apis = [api["name"] for api in sounddevice.query_hostapis()]
        default = int(sounddevice.default.device[0])
    except sounddevice.PortAudioError as error:
        raise DeviceError(f"the input devices cannot be listed: {error}") from error
    return [
        InputDevice(
            index=index,
            name=device["name"],
            channels=device["max_input_channels"],
            default_rate=float(device["default_samplerate"]),
            is_default=index == default,
            host_api=host_apis[device["hostapi"]],
        )
        for index, device in enumerate(devices)
        if device["max_input_channels"] > 0
    ]


def choose_device(wanted: str | int | None, devices: Sequence[InputDevice]) -> InputDevice:
    """The device that is meant.

    Args:
        wanted: an index (also as text), part of a name in any case (the host API may follow: `usb, alsa`), or
            None for the system's default. A full name goes before a part; among equal names behind several
            host APIs the default's goes first.
        devices: those there are.

    Raises:
        DeviceError: none or several fit; the message lists what there is.
    """
    if not devices:
        raise DeviceError(
            "there is no input device: plug in a microphone, or check that the sound server (PulseAudio, PipeWire) runs"
        )
    if wanted is None:
        fitting = [d for d in devices if d.is_default] or list(devices[:1])
    elif isinstance(wanted, int) or wanted.strip().isdecimal():
        fitting = [d for d in devices if d.index == int(wanted)]
    else:
        fitting = _by_name(wanted.strip().lower(), devices)
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(str(d) for d in (fitting or devices))
    if fitting:
        raise DeviceError(f"{len(fitting)} input devices fit {wanted!r}: {listed}; give an index or a longer name")
    raise DeviceError(f"no input device fits {wanted!r}; there are: {listed}")


def _by_name(wanted: str, devices: Sequence[InputDevice]) -> list[InputDevice]:
    fitting = [d for d in devices if wanted in f"{d.name}, {d.host_api}".lower()]
    exact = [d for d in fitting if d.name.lower() == wanted]
    fitting = exact or fitting
    if len(fitting) > 1 and len({d.name for d in fitting}) == 1:
        default_api = next((d.host_api for d in devices if d.is_default), None)
        return [d for d in fitting if d.host_api == default_api][:1] or fitting
    return fitting
