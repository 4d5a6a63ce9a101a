"""Recordings of every common format against the recording they were made from."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import AudioError
from wavlm_live.streamer.sources import FileSource, open_source

AUDIO = Path(__file__).parent.parent / "audio"
RECORDING = AUDIO / "sentence_tureen.opus"
LONG_RECORDING = AUDIO / "digits_and_commands.flac"


def speech(recording: Path = RECORDING) -> np.ndarray:
    """The recording, float32 [samples], 16 kHz, as libsndfile reads it: not the decoder under test."""
    return soundfile.read(recording, dtype="float32")[0]


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return soxr.resample(samples, 16_000, rate)


def encode(path: Path, codec: str, samples: np.ndarray, rate: int = 48_000) -> Path:
    """Writes mono samples at `rate` with one of FFmpeg's encoders."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        frame.pts = 0
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.codec_context.frame_size)
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path


def make(folder: Path, kind: str, recording: Path = RECORDING) -> Path:
    """The recording in another format."""
    sound = {
        "wav 8 bit": ("WAV", "PCM_U8", 16_000),
        "wav 16 bit": ("WAV", "PCM_16", 16_000),
        "wav 24 bit": ("WAV", "PCM_24", 16_000),
        "wav 32 bit": ("WAV", "PCM_32", 16_000),
        "wav float": ("WAV", "FLOAT", 16_000),
        "wav double": ("WAV", "DOUBLE", 16_000),
        "wav mu-law": ("WAV", "ULAW", 16_000),
        "wav 8 kHz": ("WAV", "PCM_16", 8_000),
        "wav 44.1 kHz": ("WAV", "PCM_16", 44_100),
        "wav 96 kHz": ("WAV", "PCM_24", 96_000),
        "wav64": ("W64", "PCM_16", 16_000),
        "rf64": ("RF64", "PCM_16", 16_000),
        "aiff": ("AIFF", "PCM_16", 22_050),
        "flac": ("FLAC", "PCM_16", 16_000),
        "flac 24 bit 48 kHz": ("FLAC", "PCM_24", 48_000),
        "ogg vorbis": ("OGG", "VORBIS", 16_000),
        "ogg opus": ("OGG", "OPUS", 48_000),
    }
    if kind in sound:
        container, subtype, rate = sound[kind]
        path = folder / f"recording.{container.lower()}"
        samples = speech(recording) if rate == 16_000 else resample(speech(recording), rate)
        soundfile.write(path, samples, rate, format=container, subtype=subtype)
        return path
    suffix, codec = {
        "mp3": ("mp3", "libmp3lame"),
        "m4a": ("m4a", "aac"),
        "aac": ("aac", "aac"),
        "webm": ("webm", "libopus"),
        "mkv": ("mkv", "flac"),
    }[kind]
    return encode(folder / f"recording.{suffix}", codec, resample(speech(recording), 48_000))


# Largest error against the recording, in dB of the recording's power, and the largest difference of length in
# seconds: an MP3 or AAC encoder adds part of a frame.
QUALITY = {
    "wav 8 bit": (-19, 0),
    "wav 16 bit": (-70, 0),
    "wav 24 bit": (-100, 0),
    "wav 32 bit": (-100, 0),
    "wav float": (-130, 0),
    "wav double": (-130, 0),
    "wav mu-law": (-35, 0),
    "wav 8 kHz": (-17, 1 / 16_000),
    "wav 44.1 kHz": (-60, 1 / 16_000),
    "wav 96 kHz": (-60, 1 / 16_000),
    "wav64": (-70, 0),
    "rf64": (-70, 0),
    "aiff": (-60, 1 / 16_000),
    "flac": (-70, 0),
    "flac 24 bit 48 kHz": (-60, 1 / 16_000),
    "ogg vorbis": (-20, 0),
    "ogg opus": (-20, 1 / 16_000),
    "mp3": (-20, 0.06),
    "m4a": (-20, 0.06),
    "aac": (-15, 0.06),
    "webm": (-20, 0.03),
    "mkv": (-60, 1 / 16_000),
}


def aligned(out: np.ndarray, original: np.ndarray, within: int) -> np.ndarray:
    """The part of `out` that lines up with the original, sought by cross-correlation."""
    size = len(out) + len(original)
    spectrum = np.fft.rfft(out, size) * np.conj(np.fft.rfft(original, size))
    correlation = np.roll(np.fft.irfft(spectrum, size), within)[: 2 * within + 1]
    lag = int(correlation.argmax()) - within
    return np.concatenate([np.zeros(max(0, -lag), np.float32), out[max(0, lag) :], np.zeros(2 * within, np.float32)])[
        : len(original)
    ]


@pytest.mark.parametrize("kind", QUALITY)
def test_formats(tmp_path: Path, kind: str) -> None:
    error_db, length_s = QUALITY[kind]
    original = speech()
    with open_source(make(tmp_path, kind)) as source:
        blocks = list(source)
        assert source.problems == ()
        assert source.duration_s == pytest.approx(len(original) / 16_000, abs=max(length_s, 0.01))
    assert all(block.dtype == np.float32 and len(block) == 1600 for block in blocks[:-1])
    out = np.concatenate(blocks)
    assert abs(len(out) - len(original)) <= length_s * 16_000
    assert np.abs(out).max() <= 1
    # Only AAC without a container keeps its encoder's delay of one frame.
    out = aligned(out, original, within=1_100 if kind == "aac" else 2)
    error = 10 * np.log10(np.mean((out - original) ** 2) / np.mean(original**2) + 1e-20)
    assert error < error_db


def test_every_small_recording_can_be_read() -> None:
    files = sorted(f for f in AUDIO.iterdir() if f.suffix in (".opus", ".flac"))
    assert len(files) == 10
    for file in files:
        expected, _ = soundfile.read(file, dtype="float32")
        out = np.concatenate(list(FileSource(file)))
        assert abs(len(out) - len(expected)) <= 1
        assert np.corrcoef(out[: len(expected)], expected[: len(out)])[0, 1] > 0.98


@pytest.mark.parametrize("block_samples", [1, 77, 16_000, 10**9])
def test_blocks(tmp_path: Path, block_samples: int) -> None:
    samples = speech()[:5_000]
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    source = FileSource(tmp_path / "a.wav", block_samples=block_samples)
    blocks = list(source)
    assert {len(block) for block in blocks[:-1]} <= {block_samples}
    assert 0 < len(blocks[-1]) <= block_samples
    np.testing.assert_array_equal(np.concatenate(blocks), samples)
    assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(blocks))


def test_channels_are_mixed_or_chosen(tmp_path: Path) -> None:
    channels = np.stack([speech()[i * 4_000 : (i + 1) * 4_000] for i in range(5)], axis=1)
    soundfile.write(tmp_path / "five.wav", channels, 16_000, subtype="FLOAT")

    def take(channel: int | None) -> np.ndarray:
        return np.concatenate(list(FileSource(tmp_path / "five.wav", channel=channel)))

    for channel in range(5):
        np.testing.assert_allclose(take(channel), channels[:, channel], atol=1e-7)
    np.testing.assert_allclose(take(None), channels.mean(axis=1), atol=1e-6)
    with pytest.raises(AudioError, match="channels 0 to 4"):
        FileSource(tmp_path / "five.wav", channel=5)
    with pytest.raises(AudioError, match="channel 0 alone"):
        FileSource(RECORDING, channel=1)
    with pytest.raises(AudioError, match="channels count from 0"):
        FileSource(RECORDING, channel=-1)


def test_video_with_sound_that_starts_late(tmp_path: Path) -> None:
    samples = resample(speech(), 48_000)
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        assert isinstance(video, av.VideoStream)
        video.width = video.height = 64
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        for number in range(60):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for start in range(0, len(samples) - 1_024, 1_024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1_024], format="fltp", layout="mono")
            frame.sample_rate = 48_000
            frame.pts = 2 * 48_000 + start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    source = FileSource(path)
    out = np.concatenate(list(source))
    assert source.problems == ()
    assert np.abs(out[:31_000]).max() < 1e-3
    there = aligned(out[32_000:], speech(), within=400)
    assert np.corrcoef(there, speech())[0, 1] > 0.95


def test_file_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "silent_film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        assert isinstance(video, av.VideoStream)
        video.width = video.height = 64
        for number in range(3):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    with pytest.raises(AudioError, match="no audio track"):
        FileSource(path)


CUT = ["wav 16 bit", "wav 24 bit", "flac", "ogg vorbis", "ogg opus", "mp3", "webm", "mkv"]


@pytest.mark.parametrize("kind", CUT)
def test_cut_off_files_give_what_is_there(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path, kind)
    expected = np.concatenate(list(FileSource(whole)))
    data = whole.read_bytes()
    cut = whole.with_stem("cut")
    cut.write_bytes(data[: len(data) * 3 // 5])
    source = FileSource(cut)
    out = np.concatenate(list(source))
    assert 0.3 * len(expected) < len(out) < 0.7 * len(expected)
    inside = slice(0, len(out) - 1_600)  # the resampler rings at the new end
    np.testing.assert_allclose(out[inside], expected[: len(out)][inside], atol=1e-4)
    assert "cut off" in source.problems[0]


def test_cut_off_index(tmp_path: Path) -> None:
    data = make(tmp_path, "m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="damaged or cut off"):
        FileSource(tmp_path / "cut.m4a")


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_of_unknown_length_is_whole(tmp_path: Path, size: int) -> None:
    data = bytearray(make(tmp_path, "wav 16 bit").read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = size.to_bytes(4, "little")
    (tmp_path / "piped.wav").write_bytes(data)
    source = FileSource(tmp_path / "piped.wav")
    assert sum(map(len, source)) == len(speech())
    assert source.problems == ()


def damaged(path: Path) -> Path:
    """The file with zeros from 40% to 60%."""
    data = bytearray(path.read_bytes())
    start, stop = len(data) * 4 // 10, len(data) * 6 // 10
    data[start:stop] = bytes(stop - start)
    bad = path.with_stem("damaged")
    bad.write_bytes(data)
    return bad


@pytest.mark.parametrize("kind", ["flac", "ogg vorbis", "ogg opus", "webm", "m4a", "mkv"])
def test_damage_inside_becomes_silence_and_later_times_stay(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path, kind, LONG_RECORDING)
    expected = np.concatenate(list(FileSource(whole)))
    source = FileSource(damaged(whole))
    out = np.concatenate(list(source))
    assert any("became silence" in problem for problem in source.problems)
    assert not any("cut off" in problem for problem in source.problems)
    assert abs(len(out) - len(expected)) <= 16
    start = len(expected) - 64_000
    # WebM keeps times in whole milliseconds.
    later = aligned(out[start:], expected[start:], within=16)
    assert np.corrcoef(later, expected[start:])[0, 1] > 0.98


@pytest.mark.parametrize("kind", ["mp3", "aac"])
def test_damage_inside_formats_without_timestamps_is_said(tmp_path: Path, kind: str) -> None:
    source = FileSource(damaged(make(tmp_path, kind, LONG_RECORDING)))
    seconds = sum(map(len, source)) / 16_000
    assert 17 < seconds < 20
    assert any("damaged" in problem for problem in source.problems)


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    samples = speech()[:8_000]
    samples[100], samples[200], samples[300] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    source = FileSource(tmp_path / "a.wav")
    out = np.concatenate(list(source))
    assert (out[[100, 200, 300]] == 0).all()
    good = np.isfinite(samples)
    np.testing.assert_array_equal(out[good], samples[good])
    assert len(source.problems) == 1
    assert "3 samples not finite" in source.problems[0]

    # Nothing leaks into the neighbours through the resampler either.
    soundfile.write(tmp_path / "b.wav", samples, 44_100, subtype="FLOAT")
    assert np.isfinite(np.concatenate(list(FileSource(tmp_path / "b.wav")))).all()

    soundfile.write(tmp_path / "c.wav", np.full(8_000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="every sample is NaN or infinite"):
        list(FileSource(tmp_path / "c.wav"))


def test_samples_beyond_full_scale(tmp_path: Path) -> None:
    samples = speech()[10_000:20_000]
    loud = samples * (3 / np.abs(samples).max())
    soundfile.write(tmp_path / "a.wav", loud, 16_000, subtype="FLOAT")
    source = FileSource(tmp_path / "a.wav")
    np.testing.assert_allclose(np.concatenate(list(source)), loud.clip(-1, 1), atol=1e-6)
    assert f"{(np.abs(loud) > 1).sum()} of 10000 samples lie beyond" in source.problems[0]


def test_silent_file_is_read_and_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    source = FileSource(tmp_path / "a.wav")
    assert sum(map(len, source)) == 16_000
    assert source.problems == (f"{tmp_path / 'a.wav'} is silent: no sample is louder than -80 dBFS",)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "folder").mkdir()
    (folder / "empty.wav").touch()
    soundfile.write(folder / "zero.wav", np.zeros(0), 16_000)
    (folder / "text.wav").write_text("hello world\n" * 500)
    (folder / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(100_000))
    (folder / "header.wav").write_bytes(make(folder, "wav 16 bit").read_bytes()[:30])
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return {
        "missing": (folder / "nowhere.wav", "does not exist"),
        "folder": (folder / "folder", "is a folder"),
        "empty": (folder / "empty.wav", "is empty"),
        "zero length": (folder / "zero.wav", "0 samples"),
        "text": (folder / "text.wav", "cannot be read as sound|no audio track"),
        "random bytes": (folder / "noise.mp3", "cannot be read as sound|no audio track|0 samples"),
        "half a header": (folder / "header.wav", "cannot be read as sound|0 samples"),
        "picture": (folder / "picture.png", "no audio track|cannot be read as sound"),
        "null byte in the name": (Path("a\0b.wav"), "cannot be read"),
        "endless name": (Path("a" * 5_000), "cannot be read"),
    }


BAD = [
    "missing",
    "folder",
    "empty",
    "zero length",
    "text",
    "random bytes",
    "half a header",
    "picture",
    "null byte in the name",
    "endless name",
]


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_sentence(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, words = bad_files(tmp_path)[case]
    with pytest.raises(AudioError, match=words) as error, FileSource(path) as source:
        list(source)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # FFmpeg's own messages stay inside
