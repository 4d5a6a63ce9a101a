"""Raw samples on stdin: any cutting, odd ends, channels and rates, and what is no raw sound."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import AudioError, ConfigurationError, StreamError
from wavlm_live.streamer.sources import PcmSource, open_source

AUDIO = Path(__file__).parent.parent / "audio"


def speech() -> np.ndarray:
    return soundfile.read(AUDIO / "sentence_tureen.opus", dtype="int16")[0]


class Trickle(io.RawIOBase):
    """Delivers bytes in pieces of random lengths, as pipes do; sometimes nothing is there yet."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.rng = np.random.default_rng(0)

    def read(self, size: int = -1) -> bytes | None:
        if self.data and self.rng.random() < 0.02:
            return None
        count = int(self.rng.integers(1, min(size, 700)))
        piece, self.data = self.data[:count], self.data[count:]
        return piece


def test_pieces_of_any_length_give_the_same_samples() -> None:
    samples = speech()[:20_000]
    blocks = list(PcmSource(Trickle(samples.astype("<i2").tobytes())))  # pyright: ignore[reportArgumentType]
    assert len(blocks) > 20
    assert all(block.dtype == np.float32 and 0 < len(block) <= 1600 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), samples.astype(np.float32) / 32768)


@pytest.mark.parametrize("extra", [b"\x01", b"\x01\x02", b"\x01\x02\x03"])
def test_bytes_at_the_end_that_make_no_whole_sample(extra: bytes) -> None:
    stereo = np.stack([speech()[:1_000], speech()[1_000:2_000]], axis=1)
    source = PcmSource(io.BytesIO(stereo.astype("<i2").tobytes() + extra), channels=2)
    assert sum(map(len, source)) == 1_000
    assert len(source.problems) == 1
    assert f"{len(extra)} byte" in source.problems[0]


def test_channels_are_mixed_or_chosen() -> None:
    left, right = speech()[:4_000], speech()[4_000:8_000]
    data = np.stack([left, right], axis=1).astype("<i2").tobytes()

    def take(channel: int | None) -> np.ndarray:
        return np.concatenate(list(PcmSource(io.BytesIO(data), channels=2, channel=channel))) * 32768

    np.testing.assert_allclose(take(0), left)
    np.testing.assert_allclose(take(1), right)
    np.testing.assert_allclose(take(None), (left.astype(float) + right) / 2)
    with pytest.raises(AudioError, match="channels 0 to 1"):
        take(2)


def test_other_rates_are_resampled() -> None:
    seconds = np.arange(44_100) / 44_100
    tone = (20_000 * np.sin(2 * np.pi * 440 * seconds)).astype("<i2")
    out = np.concatenate(list(PcmSource(io.BytesIO(tone.tobytes()), rate=44_100)))
    assert len(out) == 16_000
    expected = 20_000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(out[500:-500], expected[500:-500], atol=1e-3)


def test_live_sound_is_not_held_back() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb", buffering=0) as feeder:
        blocks = iter(PcmSource(pipe))
        feeder.write(bytes(640))
        arrived: list[int] = []
        reader = threading.Thread(target=lambda: arrived.append(len(next(blocks))), daemon=True)
        reader.start()
        reader.join(timeout=5)
        assert arrived == [320]


@pytest.mark.parametrize("data", [b"", b"\x01"])
def test_nothing_comes(data: bytes) -> None:
    with pytest.raises(AudioError, match="0 samples"):
        list(PcmSource(io.BytesIO(data)))


def test_silence_is_said() -> None:
    source = PcmSource(io.BytesIO(bytes(32_000)))
    assert sum(map(len, source)) == 16_000
    assert "silent" in source.problems[0]


@pytest.mark.parametrize(("kind", "word"), [("WAV", "a WAV"), ("FLAC", "a FLAC"), ("OGG", "an Ogg")])
def test_a_file_instead_of_raw_samples_is_named(kind: str, word: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, speech()[:4_000], 16_000, format=kind)
    file.seek(0)
    with pytest.raises(AudioError, match=f"{word} file.*raw samples"):
        list(PcmSource(file))


def test_wrong_uses() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        PcmSource(io.BytesIO(), channels=0)
    with pytest.raises(ConfigurationError, match="at least 1"):
        PcmSource(io.BytesIO(), block_samples=0)
    with pytest.raises(AudioError, match="channels count from 0"):
        PcmSource(io.BytesIO(), channel=-1)
    source = PcmSource(io.BytesIO(bytes(64)))
    list(source)
    with pytest.raises(StreamError, match="read already"):
        iter(source)


def test_a_stream_that_fails_is_a_sentence() -> None:
    with Path(AUDIO).joinpath("README.md").open("rb") as file:
        pass
    with pytest.raises(AudioError, match="cannot be read"):
        list(PcmSource(file))


def test_dash_is_stdin_and_closing_ends_the_iteration() -> None:
    program = (
        "from wavlm_live.streamer.sources import open_source\n"
        "with open_source('-') as source:\n"
        "    print(source.name, source.duration_s, sum(map(len, source)), source.problems)\n"
    )
    data = speech()[:5_000].astype("<i2").tobytes()
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=120, check=True)
    assert done.stdout.decode().split(None, 3) == ["stdin", "None", "5000", "()\n"]

    source = PcmSource(io.BytesIO(bytes(64_000)))
    blocks = iter(source)
    next(blocks)
    source.close()
    source.close()
    assert list(blocks) == []


def test_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    with open(terminal) as stdin, open(controller, "rb", buffering=0):
        monkeypatch.setattr(sys, "stdin", stdin)
        started = time.monotonic()
        with pytest.raises(AudioError, match="terminal"):
            open_source("-")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("how", ["stop", "close"])
def test_waiting_for_a_pipe_ends(how: str) -> None:
    """Sound that does not come holds nobody up who wants to end, and what came before is given."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(writing, "wb", buffering=0) as feeder:
        source = PcmSource(pipe)
        began = threading.Event()
        blocks: list[np.ndarray] = []

        def read() -> None:
            for block in source:
                blocks.append(block)
                began.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        feeder.write(bytes(641))
        assert began.wait(30)
        getattr(source, how)()
        reader.join(30)
        assert not reader.is_alive()
        assert sum(map(len, blocks)) == 320


def test_stopped_before_any_sound() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(writing, "wb"):
        source = PcmSource(pipe)
        source.stop()
        assert list(source) == []  # nothing is wrong with sound that nobody waited for
