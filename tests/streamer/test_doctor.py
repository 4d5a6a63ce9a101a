"""`wavlm-live doctor`: each finding, what is missing, and the exit code."""

from __future__ import annotations

import importlib
import sys

import pytest

from wavlm_live.streamer import doctor
from wavlm_live.streamer.sources.devices import InputDevice

DEVICES = "wavlm_live.streamer.sources.devices.list_input_devices"


@pytest.fixture
def without_portaudio(monkeypatch):
    """Importing sounddevice fails as it does without the library."""

    class NoPortAudio:
        def find_spec(self, name, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
    with pytest.raises(OSError, match="PortAudio"):
        importlib.import_module("sounddevice")


def findings(answer) -> dict[str, str]:
    """Status of each check by its name."""
    rows = [line for line in answer.out.splitlines() if not line.startswith(" ")]
    return {row[8:20].strip(): row[:8].strip() for row in rows}


def test_everything_is_looked_at(command, monkeypatch):
    monkeypatch.setattr(DEVICES, lambda: [InputDevice(3, "Headset", 1, 48_000, True, "ALSA")])
    answer = command("doctor")
    assert (answer.code, answer.err) == (0, "")
    found = findings(answer)
    assert list(found) == [
        "Python", "torch", "CPU", "CUDA", "kernels", "Triton", "sound files", "resampler", "microphone",
        "hub cache", "model",
    ]  # fmt: skip
    assert "broken" not in found.values()
    assert "WAV, FLAC, MP3, M4A, Ogg, WebM; codecs PCM, FLAC, MP3, AAC, Opus, Vorbis" in answer.out
    assert "1 input device(s): Headset" in answer.out
    assert "of computing a second of sound (chunks of 320 ms)" in answer.out
    assert "full_attention: torch (kernels are for CUDA, this is cpu)" in answer.out
    assert "streaming_attention: torch (" in answer.out


@pytest.mark.usefixtures("without_portaudio")
def test_without_portaudio(command):
    """Not needed for recordings, so doctor is content, but says what to install."""
    answer = command("doctor")
    assert answer.code == 0
    assert findings(answer)["microphone"] == "absent"
    assert "-> `sudo apt-get install libportaudio2`" in answer.out


@pytest.mark.usefixtures("without_portaudio")
@pytest.mark.parametrize("name", ["listen", "devices"])
def test_microphone_commands_without_portaudio(command, name):
    answer = command(name)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("wavlm-live: error: microphones need the PortAudio library")
    assert "apt-get install libportaudio2" in answer.err


def test_without_a_model(command, monkeypatch, tmp_path):
    monkeypatch.setattr("wavlm_live.model.bundled._HERE", tmp_path)
    answer = command("doctor", model=False)
    assert answer.code == 1
    assert findings(answer)["model"] == "missing"
    assert "-> give --model a folder or a hub id" in answer.out


def test_a_wish_for_kernels_that_is_not_understood(command, monkeypatch):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "cuda")
    answer = command("doctor")
    assert (answer.code, findings(answer)["kernels"]) == (1, "missing")
    assert "WAVLM_LIVE_KERNELS is 'cuda', expected auto, triton, torch" in answer.out


def test_a_missing_library(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert doctor.resampler().status == "broken"
    assert command("doctor").code == 1


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["torch"].status == "broken"
    assert checks["torch"].advice == "pip install torch"
    assert "model" not in checks  # it would only say the same again


def test_hub_cache_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    check = doctor.hub_cache()
    assert check.status == "absent"
    assert "HF_HOME" in check.advice


def test_a_slow_model_is_told(monkeypatch, tiny_model):
    ticks = iter([0.0, 6.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    check = doctor.try_model(str(tiny_model), "cpu")
    assert check.status == "absent"
    assert "2.000 s of computing a second of sound" in check.found
