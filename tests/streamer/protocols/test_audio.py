"""Sound on the wire: every encoding against FFmpeg or soundfile, cut anywhere, and damaged in any way."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model.errors import AudioError, ConfigurationError
from wavlm_live.streamer.protocols.audio import ENCODINGS, AudioDecoder, AudioFormat
from wavlm_live.streamer.sources import FileSource


def speech(seconds: float, rate: int, seed: int, channels: int = 1) -> np.ndarray:
    """[samples] or [samples, channels], not too loud, with low frequencies like speech."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((round(seconds * rate), channels)).astype(np.float32)
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(12) / 12, "same"), 0, noise)
    out = (0.3 * smooth).clip(-1, 1).astype(np.float32)
    return out[:, 0] if channels == 1 else out


def cut(data: bytes, rng: np.random.Generator) -> list[bytes]:
    places = sorted(rng.integers(0, len(data) + 1, size=rng.integers(0, 40)).tolist())
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def decoded(format: AudioFormat, pieces: list[bytes]) -> np.ndarray:
    decoder = AudioDecoder(format)
    found = [samples for piece in pieces for samples in decoder.decode(piece)]
    return np.concatenate([*found, decoder.finish()])


def as_webm(samples: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48_000)
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW"), ("pcm_s16le", "PCM_16")])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (8_000, 1), (16_000, 2)])
def test_raw_encodings_equal_soundfile(encoding, subtype, rate, channels, seed):
    samples = speech(1, rate, seed, channels)
    raw, back = io.BytesIO(), io.BytesIO()
    soundfile.write(raw, samples, rate, format="RAW", subtype=subtype, endian="LITTLE" if channels else None)
    raw.seek(0)
    read, _ = soundfile.read(
        raw, samplerate=rate, channels=channels, format="RAW", subtype=subtype, endian="LITTLE", dtype="float32"
    )
    del back
    expected = read if channels == 1 else read.mean(axis=1)
    found = decoded(AudioFormat(encoding, rate, channels), cut(raw.getvalue(), np.random.default_rng(seed)))
    if rate == 16_000:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    else:
        assert abs(len(found) - len(expected) * 2) <= 2


def test_float_samples_and_what_is_not_finite(seed):
    samples = speech(0.5, 16_000, seed)
    samples[[3, 70]] = [np.nan, np.inf]
    decoder = AudioDecoder(AudioFormat("pcm_f32le"))
    found = np.concatenate(list(decoder.decode(samples.astype("<f4").tobytes())))
    np.testing.assert_array_equal(found, np.where(np.isfinite(samples), samples, 0))
    assert "2 samples not finite" in decoder.problems[0]


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [(k, s) for k, subs in {
        "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
        "FLAC": ("PCM_16", "PCM_24"),
    }.items() for s in subs],
)  # fmt: skip
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_wav_and_flac_equal_a_file(kind, subtype, rate, channels, seed, tmp_path):
    path = tmp_path / "sound"
    soundfile.write(path, speech(0.7, rate, seed, channels), rate, format=kind, subtype=subtype)
    expected = np.concatenate(list(FileSource(path)))
    found = decoded(AudioFormat(kind.lower()), cut(path.read_bytes(), np.random.default_rng(seed)))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def flac_of(samples: np.ndarray) -> tuple[bytes, list[int]]:
    """A FLAC stream of int16 `[samples]`, and where its frames of 4096 samples begin."""
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format="FLAC", subtype="PCM_16")
    data, numbers = out.getvalue(), range(-(-len(samples) // 4096))
    places = [data.find(b"\xff\xf8\xc5\x08" + bytes([n])) for n in numbers[:-1]]  # 4096 samples, as STREAMINFO has it
    assert min(places) > 0
    return data, places


def test_flac_whose_sound_looks_like_headers(seed):
    """Loud noise is kept in FLAC as it is, and with it bytes that have all that a header has."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(-(2**15), 2**15, size=4096 * 40).astype(">i2")
    data, places = flac_of(samples.astype(np.int16))
    headers = [data[at : at + 6] for at in places]
    for n in range(2, 38):
        header = headers[int(rng.choice([m for m in range(38) if m not in (n, n + 1)]))]
        at = 4096 * n + int(rng.integers(10, 4000))
        samples[at : at + 3] = np.frombuffer(header, ">i2")
    samples = samples.astype(np.int16)
    data, _ = flac_of(samples)
    assert sum(data.count(header) for header in headers) >= 38 + 30  # they are in it as they are
    found = decoded(AudioFormat("flac"), cut(data, rng))
    np.testing.assert_array_equal(np.round(found * 32768), samples)


def test_flac_without_a_header_goes_on_behind_it(seed):
    rng = np.random.default_rng(seed)
    samples = (speech(10, 16_000, seed) * 32767).astype(np.int16)
    data, places = flac_of(samples)
    for n in (int(rng.integers(3, len(places) - 4)), 0):
        damaged = bytearray(data)
        damaged[places[n] + 5] ^= 0x55  # the checksum
        found = np.round(decoded(AudioFormat("flac"), cut(bytes(damaged), rng)) * 32768)
        rest = len(samples) - 4096 * (n + 2)
        np.testing.assert_array_equal(found[-rest:], samples[-rest:])
        np.testing.assert_array_equal(found[: 4096 * max(0, n - 1)], samples[: 4096 * max(0, n - 1)])


@pytest.mark.parametrize("more", [1, 5, 16, 4095])
def test_flac_of_silence_with_a_short_last_frame(more):
    """The last frame is shorter than what a header may be long."""
    samples = np.zeros(4096 * 3 + more, np.int16)
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format="FLAC", subtype="PCM_16")
    assert len(decoded(AudioFormat("flac"), [out.getvalue()])) == len(samples)


@pytest.mark.parametrize("block", [192, 1000, 4608])
def test_flac_as_ffmpeg_writes_it(block, seed):
    samples = (speech(3, 16_000, seed) * 32767).astype(np.int16)
    out = io.BytesIO()
    with av.open(out, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        stream.codec_context.options = {"frame_size": str(block)}
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found = decoded(AudioFormat("flac"), cut(out.getvalue(), np.random.default_rng(seed)))
    np.testing.assert_array_equal(np.round(found * 32768), samples)


def test_wav_of_unknown_length_and_with_chunks_behind(seed):
    samples = (speech(0.3, 16_000, seed) * 32767).astype("<i2")
    head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0"
    odd = b"LIST\x03\0\0\0abc\0"
    for size, behind in ((0xFFFFFFFF, b""), (0, b""), (samples.nbytes, b"LIST\x04\0\0\0abcd")):
        data = head + odd + b"data" + size.to_bytes(4, "little") + samples.tobytes() + behind
        found = decoded(AudioFormat("wav"), cut(data, np.random.default_rng(seed)))
        np.testing.assert_allclose(found * 32768, samples, atol=1e-3)


@pytest.mark.parametrize("name", ["command_left.opus", "sentence_rope.opus", "digit_seven.opus"])
def test_ogg_equals_a_file(name, audio_folder: Path, seed):
    path = audio_folder / name
    expected = np.concatenate(list(FileSource(path)))
    found = decoded(AudioFormat("ogg_opus"), cut(path.read_bytes(), np.random.default_rng(seed)))
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_webm_equals_a_file(seed, tmp_path):
    data = as_webm(speech(1.5, 48_000, seed), 48_000)
    (tmp_path / "sound.webm").write_bytes(data)
    expected = np.concatenate(list(FileSource(tmp_path / "sound.webm")))
    found = decoded(AudioFormat("webm_opus"), cut(data, np.random.default_rng(seed)))
    count = min(len(found), len(expected))
    assert abs(len(found) - len(expected)) <= 320  # the last packet's padding
    np.testing.assert_allclose(found[:count], expected[:count], atol=2e-3)  # blocks of the resampler fall elsewhere


def test_a_small_message_cannot_hold_the_decoder_up(seed):
    """A FLAC of silence is a thousand times smaller than its sound: it comes in pieces that a caller can count."""
    out = io.BytesIO()
    soundfile.write(out, np.zeros(16_000 * 600, np.float32), 16_000, format="FLAC")
    decoder = AudioDecoder(AudioFormat("flac"))
    pieces = decoder.decode(out.getvalue())
    assert len(out.getvalue()) < 100_000
    assert max(len(piece) for piece, _ in zip(pieces, range(50), strict=False)) <= 65_536


@pytest.mark.parametrize("encoding", ["ogg_opus", "webm_opus", "wav", "flac"])
def test_other_bytes_are_refused_in_a_sentence(encoding):
    with pytest.raises(AudioError, match=r"\w+ .*"):
        decoded(AudioFormat(encoding), [b"this is no sound at all, " * 10])


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_streams_give_sound_or_an_audio_error(data):
    encoding = data.draw(st.sampled_from(ENCODINGS))
    good = data.draw(st.sampled_from(samples_of(encoding)))
    bytes_ = bytearray(good)
    for _ in range(data.draw(st.integers(0, 6))):
        kind = data.draw(st.sampled_from(["flip", "drop", "insert"]))
        at = data.draw(st.integers(0, max(0, len(bytes_) - 1)))
        if kind == "flip" and bytes_:
            bytes_[at] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del bytes_[at : at + data.draw(st.integers(1, 50))]
        else:
            bytes_[at:at] = data.draw(st.binary(max_size=20))
    decoder = AudioDecoder(AudioFormat(encoding))
    try:
        for start in range(0, len(bytes_), 700):
            for samples in decoder.decode(bytes(bytes_[start : start + 700])):
                assert samples.dtype == np.float32
                assert samples.ndim == 1
                assert np.isfinite(samples).all()
                assert np.abs(samples).max() <= 1
        decoder.finish()
    except AudioError:
        pass


def samples_of(encoding: str) -> list[bytes]:
    if encoding not in _GOOD:
        out = io.BytesIO()
        samples = speech(0.2, 16_000, 1)
        if encoding in ("wav", "flac"):
            soundfile.write(out, samples, 16_000, format=encoding.upper())
        elif encoding == "ogg_opus":
            soundfile.write(out, samples, 16_000, format="OGG", subtype="OPUS")
        elif encoding == "webm_opus":
            out.write(as_webm(speech(0.3, 48_000, 1), 48_000))
        else:
            out.write(samples.tobytes())
        _GOOD[encoding] = [out.getvalue()]
    return _GOOD[encoding]


_GOOD: dict[str, list[bytes]] = {}


@pytest.mark.parametrize(
    "wrong", [{"encoding": "mp3"}, {"rate": 100}, {"rate": 16000.0}, {"channels": 0}, {"channels": 99}]
)
def test_formats_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        AudioFormat(**wrong)
