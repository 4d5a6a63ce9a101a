"""Conversations with turns: speakers alternate, with pauses and a little overlap, and every frame's speakers are known.

`Mixer` lays whole recordings over each other; here people let each other finish, as in what live diarization hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError
from .augment import change_speed, near_silence, rms
from .cache import RATE, SoundCache
from .manifest import HOP, WINDOW, Utterance, frames_of
from .mixtures import activity_of, by_speaker


@dataclass(frozen=True)
class Turn:
    """What one speaker says at a stretch."""

    name: str
    start_frame: int
    end_frame: int
    """One past its last frame."""


@dataclass(frozen=True)
class Conversation:
    """A recording made of turns."""

    wave: np.ndarray
    """float32 `[samples]`."""
    names: tuple[str, ...]
    activity: np.ndarray
    """bool `[speakers, frames]`, rows as `names`: who speaks."""
    turns: tuple[Turn, ...]


class Conversations:
    """Makes conversations of single recordings, each the same for the same generator.

    Args:
        utterances: recordings of one speaker each; those without a name of a speaker are left out.
        cache: their sound.
        seconds: length of a conversation.
        turn_s: shortest and longest turn; short recordings of a speaker are joined for one.
        pause_s: range of the silence between turns; negative values overlap.
        speeds: each speaker is played at one of these, which makes other speakers of him.

    Raises:
        ConfigurationError: no recording names its speaker.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: SoundCache,
        *,
        seconds: float = 20.0,
        turn_s: tuple[float, float] = (1.5, 5.0),
        pause_s: tuple[float, float] = (-0.2, 1.0),
        speeds: Sequence[float] = (1.0,),
    ) -> None:
        self.cache, self.samples = cache, int(seconds * RATE)
        self.turn_s, self.pause_s, self.speeds = turn_s, pause_s, tuple(speeds)
        self.voices = by_speaker([u for u in utterances if u.speaker])
        self.names = sorted(self.voices)
        if not self.names:
            raise ConfigurationError("no recording names its speaker; fill the column 'speaker' of the manifest")

    def draw(self, rng: np.random.Generator, speakers: Sequence[str] | int = 2) -> Conversation:
        """One conversation.

        Args:
            rng: every draw comes from here.
            speakers: names, or how many are drawn. Who spoke last does not go on where others could.
        """
        if isinstance(speakers, int):
            if speakers > len(self.names):
                raise ConfigurationError(
                    f"a conversation of {speakers} was asked for, the recordings have {len(self.names)} speakers"
                )
            speakers = [self.names[int(i)] for i in rng.choice(len(self.names), speakers, replace=False)]
        factors = {name: float(self.speeds[int(rng.integers(len(self.speeds)))]) for name in speakers}
        loud = {name: 0.05 * 10.0 ** (float(rng.uniform(-3.0, 3.0)) / 20.0) for name in speakers}
        wave = near_silence(self.samples, rng)
        labels = [label(name, factors[name]) for name in speakers]
        activity = np.zeros((len(labels), frames_of(self.samples)), bool)
        turns: list[Turn] = []
        position, last = int(rng.uniform(0.0, 0.8) * RATE), -1
        while self.samples - position > RATE // 2:
            others = [i for i in range(len(speakers)) if i != last] or [0]
            row = last = others[int(rng.integers(len(others)))]
            clip = self._turn(speakers[row], factors[speakers[row]], rng)[: self.samples - position]
            start = max(0, position) // HOP * HOP  # so that its frames are the conversation's
            speech = activity_of(clip)
            if not speech.any():
                break
            wave[start : start + len(clip)] += clip * np.float32(min(loud[speakers[row]] / rms(clip), 20.0))
            first = start // HOP
            activity[row, first : first + len(speech)] |= speech
            turns.append(Turn(labels[row], first, first + len(speech)))
            position = start + len(clip) + int(rng.uniform(*self.pause_s) * RATE)
        peak = float(np.abs(wave).max(initial=0.0))
        return Conversation(wave / np.float32(max(1.0, peak / 0.99)), tuple(labels), activity, tuple(turns))

    def _turn(self, name: str, factor: float, rng: np.random.Generator) -> np.ndarray:
        """Sound of one speaker, as long as a turn: a stretch of a recording, or several joined."""
        wanted = int(rng.uniform(*self.turn_s) * RATE)
        pool, parts, have = self.voices[name], [], 0
        while have < wanted and len(parts) < 8:
            clip = self.cache.wave(pool[int(rng.integers(len(pool)))].file)
            if len(clip) > wanted:
                at = int(rng.integers(len(clip) - wanted + 1))
                clip = clip[at : at + wanted]
            parts.append(clip * np.float32(0.05 / rms(clip)))
            have += len(clip)
        clip = np.concatenate(parts)[: max(wanted, WINDOW)]
        return change_speed(clip, factor)


def label(name: str, factor: float) -> str:
    """The name of a speaker played at another speed: somebody else."""
    return name if factor == 1.0 else f"{name}@{factor:g}"
