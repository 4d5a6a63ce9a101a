"""A virtual microphone (PulseAudio with a speaker that nobody hears, whose monitor is the input), a small model, the
command line and a terminal for the tests."""

from __future__ import annotations

import codecs
import ctypes.util
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import soundfile

SERVER_SCRIPT = """\
load-module module-native-protocol-unix socket={folder}/native auth-anonymous=1
load-module module-null-sink sink_name=speaker rate=48000 channels=2
set-default-sink speaker
set-default-source speaker.monitor
"""

# PortAudio speaks to PulseAudio through ALSA's plugin.
ALSA_CONFIGURATION = """\
pcm.!default { type pulse hint { show on description "virtual microphone" } }
ctl.!default { type pulse }
pcm.headset { type pulse device "speaker.monitor" hint { show on description "headset" } }
"""


class VirtualMicrophone:
    """What is played is what the microphone hears.

    `environment` is what another process needs to hear it too: `subprocess.run(..., env=microphone.environment)`.
    """

    def __init__(self, folder: Path, server: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.server = server
        self.environment = os.environ | _environment(folder)

    def play(self, recording: Path | np.ndarray, rate: int = 16_000) -> subprocess.Popen[bytes]:
        """Starts to play a recording, or samples [frames] or [frames, channels]; `.wait()` waits for its end."""
        if isinstance(recording, Path):
            recording, rate = soundfile.read(recording, dtype="float32")
        file = self.folder / f"{time.monotonic_ns()}.wav"
        soundfile.write(file, recording, rate)
        return subprocess.Popen(["paplay", "--latency-msec=1000", str(file)], env=self.environment)

    def freeze(self) -> None:
        """Stops the sound server without ending it: it no longer answers."""
        self.server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen sound server go on."""
        self.server.send_signal(signal.SIGCONT)

    def break_down(self) -> None:
        """Ends the sound server, as if the device was pulled out."""
        self.server.kill()
        self.server.wait()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "PULSE_RUNTIME_PATH": str(folder),
        "PULSE_STATE_PATH": str(folder),
        "PULSE_SERVER": f"unix:{folder}/native",
        "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
    }


def missing_packages() -> list[str]:
    """What a virtual microphone needs and this machine has not, by the names of the Debian packages."""
    missing = [
        package
        for program, package in {"pulseaudio": "pulseaudio", "paplay": "pulseaudio-utils"}.items()
        if shutil.which(program) is None
    ]
    if ctypes.util.find_library("portaudio") is None:
        missing.append("libportaudio2")
    if not list(Path("/usr/lib").glob("**/alsa-lib/libasound_module_pcm_pulse.so")):
        missing.append("libasound2-plugins")
    return missing


@contextmanager
def running_microphone() -> Iterator[VirtualMicrophone]:
    # Not pytest's own folder: the path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="microphone") as name:
        folder = Path(name)
        (folder / "asound.conf").write_text(ALSA_CONFIGURATION)
        (folder / "server.pa").write_text(SERVER_SCRIPT.format(folder=folder))
        arguments = [
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
            "--realtime=no",
            "--log-target=stderr",
        ]
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                ["pulseaudio", "-n", f"--file={folder / 'server.pa'}", *arguments],
                env=os.environ | _environment(folder),
                stdout=log,
                stderr=log,
            )
        try:
            microphone = VirtualMicrophone(folder, server)
            _wait_for_server(microphone)
            with _kept_awake(microphone):
                yield microphone
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def _kept_awake(microphone: VirtualMicrophone) -> Iterator[None]:
    """Something else listens in a hurry all the time: an idle input wakes up with two seconds of delay."""
    heard = microphone.folder / "heard.raw"
    with heard.open("wb") as file:
        reader = subprocess.Popen(
            ["parec", "--latency-msec=100", "--rate=8000", "--channels=1", "--format=u8"],
            env=microphone.environment,
            stdout=file,
        )
    try:
        end = time.monotonic() + 30
        while heard.stat().st_size == 0 and time.monotonic() < end:
            time.sleep(0.05)
        yield
    finally:
        reader.kill()
        reader.wait()


def _wait_for_server(microphone: VirtualMicrophone, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and microphone.server.poll() is None:
        asked = subprocess.run(
            ["pactl", "list", "short", "sources"], env=microphone.environment, capture_output=True, text=True
        )
        if "speaker.monitor" in asked.stdout:
            return
        time.sleep(0.1)
    pytest.fail(f"PulseAudio did not start: {(microphone.folder / 'server.log').read_text()}")


def _connect(microphone: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it the default input of this process."""
    import sounddevice

    for name, value in _environment(microphone.folder).items():
        monkeypatch.setenv(name, value)
    # PortAudio looks for devices once, when it is initialised.
    sounddevice._terminate()
    sounddevice._initialize()


@pytest.fixture(scope="module")
def _shared_microphone() -> Iterator[VirtualMicrophone]:
    if missing := missing_packages():
        pytest.skip(f"no virtual microphone without {', '.join(missing)}: apt-get install them")
    with running_microphone() as microphone:
        yield microphone


@pytest.fixture
def virtual_microphone(_shared_microphone: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch) -> VirtualMicrophone:
    """A running virtual microphone, the default input of this process and of others given its `environment`."""
    _connect(_shared_microphone, monkeypatch)
    return _shared_microphone


@pytest.fixture
def breakable_microphone(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    """The same for one test alone, which may break it."""
    if missing := missing_packages():
        pytest.skip(f"no virtual microphone without {', '.join(missing)}: apt-get install them")
    with running_microphone() as microphone:
        _connect(microphone, monkeypatch)
        yield microphone


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of 90 thousand random weights, which hears letters and gaps in any sound."""
    import torch

    from wavlm_live.model import CTCTokenizer, WavLMConfig, WavLMForCTC

    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = {"<pad>": 0, "|": 1, "'": 2} | {chr(97 + i): 3 + i for i in range(26)}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = WavLMConfig.from_dict(
        {
            **sizes,
            "vocab_size": len(vocabulary),
            "conv_dim": [16] * 7,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "pad_token_id": 0,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WavLMForCTC(config).eval()
    with torch.no_grad():
        model.lm_head.bias[1] += 0.1
    model.save_pretrained(folder)
    CTCTokenizer(vocabulary).save_pretrained(folder)
    (folder / "streaming.json").write_text('{"contexts": {"default": "100,16,4", "low": "100,4,0"}}')
    return folder


@dataclass
class Answer:
    """What a command line answered."""

    code: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *arguments: object, model: bool = True) -> Answer: ...


@pytest.fixture
def command(tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `wavlm-live` in this process, with the tiny model unless `model=False`. No answer may be a traceback."""
    from wavlm_live.streamer.cli import main

    for name in [n for n in os.environ if n.startswith("WAVLM_LIVE_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object, model: bool = True) -> Answer:
        if model:
            monkeypatch.setenv("WAVLM_LIVE_MODEL", str(tiny_model))
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Answer(code, captured.out, captured.err)

    return run


class Screen:
    """A pseudo-terminal whose contents can be read; `stream` is what a program writes to."""

    def __init__(self, columns: int, rows: int = 12) -> None:
        import pty

        pyte = pytest.importorskip("pyte", reason="no terminal emulator: pip install pyte")
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self.raw = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._screen = pyte.Screen(columns, rows)
        self._emulator = pyte.Stream(self._screen)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int = 12) -> None:
        """What a terminal does: lines that are too long now go on in the next row."""
        import fcntl
        import termios

        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if columns == self._screen.columns:
            return
        before = self.lines()
        folded = [line[i : i + columns] for line in before for i in range(0, max(1, len(line)), columns)]
        self._screen.resize(rows, columns)
        self._screen.reset()
        self._emulator.feed("\r\n".join(folded))

    def lines(self) -> list[str]:
        """The rows, without the empty ones at the bottom."""
        with suppress(BlockingIOError):
            while piece := os.read(self._master, 65536):
                data = self._decoder.decode(piece)  # a pseudo-terminal cuts letters in two
                self.raw += data
                self._emulator.feed(data)
        rows = [row.rstrip() for row in self._screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A terminal of 80 columns and 12 rows that can show colours."""
    if os.name != "posix":
        pytest.skip("no pseudo-terminals here")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen(80)
    yield screen
    screen.close()
