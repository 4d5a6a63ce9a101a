"""One speaker's voice from recordings of his: `Enrolment`, for `wavlm-live enroll`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.errors import AudioError
from .ahead_encoder import AheadEncoder
from .events import SAMPLE_RATE
from .heard_voices import unit
from .recogniser import Recogniser
from .session_settings import SessionSettings
from .speakers import LEARNING_FRAMES, SpeakerRules

LEAST_SPEECH_S = 3.0


@dataclass(frozen=True)
class Enrolled:
    """What recordings gave."""

    vector: np.ndarray
    """Of length 1, float64 `[dim]`."""
    speech_s: float
    alike: float
    """Mean similarity of the stretches to the vector; low where several people speak."""


class Enrolment:
    """Hears recordings of one speaker; not a stream, each recording begins anew.

    Args:
        recogniser: with voice heads.

    Raises:
        ConfigurationError: the model has none.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._settings = SessionSettings(partial_hop_ms=0, speakers=SpeakerRules(enabled=True))
        self._stretches: list[tuple[np.ndarray, int]] = []
        self._hop = recogniser.model.config.hop_samples
        recogniser.voice_heads()

    def hear(self, samples: np.ndarray) -> float:
        """Hear one recording, float32 `[samples]`; the speech in it, in seconds."""
        encoder = AheadEncoder(self._recogniser.model, self._recogniser.contexts["default"])
        session = self._recogniser.open(self._settings, encoder)
        found: list[tuple[np.ndarray, int]] = []
        assert session.speakers is not None
        session.speakers.on_vector = lambda vector, frames: found.append((vector, frames))
        for start in range(0, len(samples), 64 * SAMPLE_RATE):
            block = samples[start : start + 64 * SAMPLE_RATE]
            encoder.ahead(block)
            session.feed(block)
        session.finish()
        self._stretches += found
        return sum(frames for _, frames in found) * self._hop / SAMPLE_RATE

    def result(self) -> Enrolled:
        """The speaker.

        Raises:
            AudioError: too little speech.
        """
        useful = [(vector, frames) for vector, frames in self._stretches if frames >= LEARNING_FRAMES]
        speech_s = sum(frames for _, frames in useful) * self._hop / SAMPLE_RATE
        if speech_s < LEAST_SPEECH_S:
            raise AudioError(
                f"the recordings hold {speech_s:.1f} s of speech, expected at least {LEAST_SPEECH_S:g} s to know a "
                "voice again; give more, 20 s are good"
            )
        vector = unit(np.sum([vector * frames for vector, frames in useful], axis=0))
        alike = float(np.average([v @ vector for v, _ in useful], weights=[frames for _, frames in useful]))
        return Enrolled(vector, speech_s, alike)
