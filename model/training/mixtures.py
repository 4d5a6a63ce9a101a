"""Conversations from single recordings, with who speaks in each frame: data for activity, overlap and diarization."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError
from .augment import near_silence, rms
from .cache import RATE, SoundCache
from .manifest import HOP, WINDOW, Utterance, frames_of


def activity_of(wave: np.ndarray, range_db: float = 35.0, floor_db: float = -60.0, gap_frames: int = 10) -> np.ndarray:
    """Where a clean recording holds speech, by its level: float32 [samples] -> bool [frames].

    A frame is speech within `range_db` of the recording's loud frames (their 95th percentile) and above `floor_db`
    of full scale. Pauses of up to `gap_frames` within speech count as speech, as they do in human annotation.
    """
    frames = frames_of(len(wave))
    if not frames:
        return np.zeros(0, bool)
    at = np.arange(frames)[:, None] * HOP + np.arange(WINDOW)[None]
    level = 10.0 * np.log10(np.mean(np.square(wave[at]), axis=1) + 1e-12)
    active = level > max(float(np.percentile(level, 95)) - range_db, floor_db)
    speech = np.flatnonzero(active)
    for before, after in itertools.pairwise(speech):
        if after - before <= gap_frames + 1:
            active[before:after] = True
    return active


def by_speaker(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Recordings of each speaker; one without a name is taken for a speaker of his own."""
    found: dict[str, list[Utterance]] = {}
    for u in utterances:
        found.setdefault(f"{u.corpus}/{u.speaker}" if u.speaker else u.file, []).append(u)
    return found


@dataclass(frozen=True)
class Mixture:
    """A conversation."""

    wave: np.ndarray
    """float32 [samples]."""
    activity: np.ndarray
    """bool [speakers, frames]: who speaks."""
    names: tuple[str, ...]


class Mixer:
    """Makes mixtures of the recordings of several speakers, each the same for the same generator.

    Args:
        utterances: recordings of one speaker each.
        cache: their sound.
        seconds: length of a mixture.
        speakers: fewest and most that take part.

    Raises:
        ConfigurationError: fewer speakers in the data than asked for.
    """

    def __init__(
        self, utterances: Sequence[Utterance], cache: SoundCache, *, seconds: float, speakers: tuple[int, int] = (1, 2)
    ) -> None:
        self.cache, self.samples, self.speakers = cache, int(seconds * RATE), speakers
        self.voices: Mapping[str, list[Utterance]] = by_speaker(utterances)
        self._names = sorted(self.voices)
        if not 0 < speakers[0] <= speakers[1] <= len(self._names):
            raise ConfigurationError(
                f"mixtures of {speakers[0]} to {speakers[1]} speakers were asked for, the recordings have "
                f"{len(self._names)}; name their speakers in the manifest, or ask for fewer"
            )

    def draw(self, rng: np.random.Generator) -> Mixture:
        """One mixture: every speaker says some recordings at random times, levels within 6 dB of each other.

        With one speaker half of the mixture is silent on average; speakers overlap where chance has it.
        """
        count = int(rng.integers(self.speakers[0], self.speakers[1] + 1))
        names = [self._names[int(i)] for i in rng.choice(len(self._names), count, replace=False)]
        wave = near_silence(self.samples, rng)
        activity = np.zeros((self.speakers[1], frames_of(self.samples)), bool)
        for row, name in enumerate(names):
            loud = 0.05 * 10.0 ** (float(rng.uniform(-3.0, 3.0)) / 20.0)
            position = int(rng.uniform(0.0, 0.5) * self.samples)
            while position < self.samples - WINDOW:
                pool = self.voices[name]
                clip = self.cache.wave(pool[int(rng.integers(len(pool)))].file)[: self.samples - position]
                speech = activity_of(clip)
                start = position // HOP * HOP  # so that its frames are the mixture's
                wave[start : start + len(clip)] += clip * np.float32(min(loud / rms(clip), 20.0))
                activity[row, start // HOP : start // HOP + len(speech)] |= speech
                position += len(clip) + int(rng.exponential(1.5) * RATE)
                if rng.random() < 0.3:
                    break
        peak = float(np.abs(wave).max(initial=0.0))
        return Mixture(wave / np.float32(max(1.0, peak / 0.99)), activity, tuple(names))
