"""What codecs do to speech: encode and decode, so that models hear telephones, radio links and compressed files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

RATE = 16000


def _through(wave: np.ndarray, rate: int, container: str, subtype: str, level: float | None = None) -> np.ndarray:
    """Through a codec of libsndfile at `rate`, back to 16 kHz, cut or padded to the length it had."""
    import soundfile
    import soxr

    narrow = wave if rate == RATE else soxr.resample(wave, RATE, rate, quality="MQ")
    sound = io.BytesIO()
    narrow = np.clip(narrow, -1.0, 1.0)
    soundfile.write(sound, narrow, rate, format=container, subtype=subtype, compression_level=level)
    sound.seek(0)
    decoded, decoded_rate = soundfile.read(sound, dtype="float32")
    if decoded_rate != RATE:
        decoded = soxr.resample(decoded, decoded_rate, RATE, quality="MQ")
    result = np.zeros(len(wave), np.float32)
    result[: len(decoded)] = decoded[: len(wave)]
    return result


CODECS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "g711u": lambda wave, _: _through(wave, 8000, "WAV", "ULAW"),
    "g711a": lambda wave, _: _through(wave, 8000, "WAV", "ALAW"),
    "gsm": lambda wave, _: _through(wave, 8000, "WAV", "GSM610"),
    "adpcm": lambda wave, _: _through(wave, RATE, "WAV", "IMA_ADPCM"),
    "opus": lambda wave, level: _through(wave, RATE, "OGG", "OPUS", 0.9 + 0.1 * level),
    "vorbis": lambda wave, level: _through(wave, RATE, "OGG", "VORBIS", 0.7 + 0.3 * level),
    "mp3": lambda wave, level: _through(wave, RATE, "MP3", "MPEG_LAYER_III", 0.8 + 0.19 * level),
}
"""Telephone (G.711 in both laws, GSM full rate), ADPCM, and files at low rates; each takes the sound, float32
[samples] at 16 kHz, and a strength from 0 to 1, and gives sound of the same length in the same place."""


def through_codec(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through a random codec at a random strength: float32 [samples] -> float32 [samples]."""
    name = list(CODECS)[int(rng.integers(len(CODECS)))]
    return CODECS[name](wave, float(rng.random()))
