"""Voices that a stream has heard, and whose a stretch of speech is: `Voice`, `choose`.

A stretch may be of each voice or of somebody new. With a `VoiceModel` the odds say which: they know how long each was
listened to, so one stretch of a new voice does not repel the next one, nor a long one attract what is only a little
like it. Without one the cosine between the vectors decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..model.voice_heads import VoiceHeads
from ..model.voice_model import Observed, VoiceModel
from .speaker_memory import HEAVIEST_FRAMES, VoiceVector

KNOWN_FRAMES = 750
"""An enrolled speaker counts as if listened to for so long: fifteen seconds."""


class Voice:
    """One voice that was heard, or enrolled.

    Args:
        label: its name.
        vector: of length 1, float `[dim]`.
        frames: how much speech it is the mean of; 0: enrolled, it does not change.
        length: of the sum over that speech; None: as of equal vectors.
    """

    def __init__(self, label: str, vector: np.ndarray, frames: int, length: float | None = None) -> None:
        self.label, self.frames = label, frames
        self.heard_frame = 0
        """The end of its last stretch."""
        self._sum = vector.astype(np.float64) * (max(1, frames) if length is None else length)

    @property
    def known(self) -> bool:
        """It was enrolled."""
        return self.frames == 0

    @property
    def vector(self) -> np.ndarray:
        """Its direction, of length 1."""
        return self._sum / max(float(np.linalg.norm(self._sum)), 1e-9)

    @property
    def remembered(self) -> VoiceVector:
        """A voice without a name, for a stream that goes on elsewhere."""
        length = max(float(np.linalg.norm(self._sum)), 1e-9)
        return VoiceVector(int(self.label.removeprefix("speaker ")), self.frames, length, self.vector)

    def observed(self, model: VoiceModel) -> Observed:
        """What was heard of it."""
        if self.known:
            return model.observed(self.vector * (model.typical_length * KNOWN_FRAMES), KNOWN_FRAMES)
        return model.observed(self._sum, self.frames)

    def learn(self, vector: np.ndarray, frames: int) -> None:
        """Move towards a stretch of it."""
        self._sum = self._sum + vector * frames
        self.frames += frames
        if self.frames > HEAVIEST_FRAMES:
            self._sum *= HEAVIEST_FRAMES / self.frames
            self.frames = HEAVIEST_FRAMES


class Limits(NamedTuple):
    """Cosines that a user has set, in place of what the model says."""

    new_below: float | None = None
    known_above: float | None = None


class Choice(NamedTuple):
    """Whose a stretch is."""

    voice: Voice | None
    """None: somebody new."""
    score: float
    """Cosine to the voice; to the nearest one for somebody new."""
    probability: float
    """That this is right."""
    sure: bool
    """It may be learned from."""


def choose(
    voices: Sequence[Voice], vector: np.ndarray, frames: int, follows: str, heads: VoiceHeads, limits: Limits
) -> Choice:
    """Whose a stretch of speech is.

    Args:
        voices: those so far.
        vector: of the stretch, of length 1.
        frames: of speech in it.
        follows: label of whoever spoke just before, without a pause; empty: nobody.
        heads: what they say of vectors.
        limits: those of the user.
    """
    known_above = heads.numbers.known_above if limits.known_above is None else limits.known_above
    if heads.voices is None or limits.new_below is not None:
        new_below = heads.numbers.new_below if limits.new_below is None else limits.new_below
        return _by_cosine(voices, vector, follows, heads, known_above, new_below)
    return _by_odds(voices, vector, frames, follows, heads, heads.voices, known_above)


def _by_cosine(
    voices: Sequence[Voice], vector: np.ndarray, follows: str, heads: VoiceHeads, known_above: float, new_below: float
) -> Choice:
    numbers = heads.numbers
    best, best_score, best_rank, nearest = None, 0.0, -2.0, -1.0
    for voice in voices:
        score = float(vector @ voice.vector)
        nearest = max(nearest, score)
        rank = score + (numbers.stay_bonus if voice.label == follows else 0.0)
        if rank >= (known_above if voice.known else new_below) and rank > best_rank:
            best, best_score, best_rank = voice, score, rank
    if best is None:
        return Choice(None, nearest, 1.0 - numbers.probability(nearest), True)
    return Choice(best, best_score, numbers.probability(best_score), best_score >= new_below)


def _by_odds(
    voices: Sequence[Voice],
    vector: np.ndarray,
    frames: int,
    follows: str,
    heads: VoiceHeads,
    model: VoiceModel,
    known_above: float,
) -> Choice:
    numbers = heads.numbers
    heard = model.observed(vector * frames, frames)
    best, best_score, best_odds, nearest = None, 0.0, -np.inf, -1.0
    everybody = [numbers.same_above]  # log odds of somebody new, then of each voice
    for voice in voices:
        score, odds = float(vector @ voice.vector), voice.observed(model).same(heard)
        nearest = max(nearest, score)
        stays = voice.label == follows
        odds += numbers.stay_odds if stays else 0.0
        everybody.append(odds)
        if voice.known:  # a name is given for a likeness that few others have
            fits = score + (numbers.stay_bonus if stays else 0.0) >= known_above
        else:
            fits = odds >= numbers.same_above
        if fits and odds > best_odds:
            best, best_score, best_odds = voice, score, odds
    if best is not None and best.known:
        return Choice(best, best_score, numbers.probability(best_score), False)
    chosen = numbers.same_above if best is None else best_odds
    probability = 1.0 / float(np.exp(np.minimum(np.array(everybody) - chosen, 60.0)).sum())
    return Choice(best, nearest if best is None else best_score, probability, True)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector scaled to length 1, float64."""
    return vector.astype(np.float64) / max(float(np.linalg.norm(vector)), 1e-9)
