"""What a `VoiceModel` is made of: stretches of conversations of training speakers, heard as streams hear them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..context import StreamingContext
from ..time_delay import moments_of
from ..voice_heads import VoiceFrames, VoiceHeads
from ..voice_model import STRETCH_FRAMES, VoiceModel
from ..wavlm import WavLMModel
from .cache import RATE, SoundCache
from .conversations import Conversation, Conversations
from .manifest import Utterance
from .voice_scores import frames_through

SENTENCE_S = 2.0
"""Recordings from this length on are taken for sentences, shorter ones for single words."""
LEAST_FRAMES = 60
"""Frames of speech in a stretch that is counted."""
SECONDS = 8400.0
"""Of conversations."""


def voice_model(
    model: WavLMModel,
    heads: VoiceHeads,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext,
    *,
    seconds: float = SECONDS,
    seed: int = 9,
) -> VoiceModel:
    """How vectors of training speakers lie.

    Args:
        model: the encoder.
        heads: both.
        utterances: of training speakers.
        cache: their sound.
        context: that streams use.
        seconds: of conversations of a minute, of three people each.
        seed: of the draws.

    Raises:
        ConfigurationError: fewer than two speakers with enough speech.
    """
    vectors: list[np.ndarray] = []
    names: list[str] = []
    # Sentences and words alike: words alone lie elsewhere, and of a model that never saw them all would be one voice.
    kinds = [
        [u for u in utterances if u.speaker and (cache.samples(u.file) >= SENTENCE_S * RATE) == long]
        for long in (True, False)
    ]
    kinds = [kind for kind in kinds if kind] or [list(utterances)]
    for kind in kinds:
        maker = Conversations(kind, cache, seconds=60.0, turn_s=(2.0, 6.0), pause_s=(-0.5, 1.0))
        rng = np.random.default_rng([seed, 0])
        waiting: list[str] = []
        for number in range(max(1, round(seconds / 60.0 / len(kinds)))):
            if len(waiting) < 3:  # everybody in turn, so that nobody weighs more than others
                waiting += [maker.names[int(i)] for i in rng.permutation(len(maker.names))]
            people = list(dict.fromkeys(waiting[:3]))
            waiting = waiting[3:]
            made = maker.draw(np.random.default_rng([seed, 1, number]), people)
            (frames,) = frames_through(model, heads, [made.wave], context)
            for name, vector in stretches_of(heads, made, frames):
                vectors.append(vector)
                names.append(name)
    return VoiceModel.of(np.stack(vectors) if vectors else np.zeros((0, 1)), names)


def stretches_of(heads: VoiceHeads, made: Conversation, frames: VoiceFrames) -> list[tuple[str, np.ndarray]]:
    """Speakers and vectors, of length 1, of the stretches of a conversation in which one speaks alone."""
    speaker = heads.speaker
    assert speaker is not None
    assert frames.speaker is not None
    assert frames.activity is not None
    outputs, _ = speaker.delayed_step(frames.speaker, speaker.empty_carry())
    delay = speaker.reach_frames // 2
    count = min(len(outputs), made.activity.shape[1] - delay)
    heard = frames.activity[delay : delay + count] > 0.5
    alone = made.activity[:, delay : delay + count].sum(axis=0) == 1
    found = []
    for row, name in enumerate(made.names):
        own = made.activity[row, delay : delay + count] & alone & heard
        for turn in made.turns:
            if turn.name != name:
                continue
            first, last = max(0, turn.start_frame - delay), max(0, min(count, turn.end_frame - delay))
            spoken = first + np.flatnonzero(own[first:last])
            for at in range(0, len(spoken) - LEAST_FRAMES + 1, STRETCH_FRAMES):
                vector = speaker.embedding(moments_of(outputs[spoken[at : at + STRETCH_FRAMES]])).astype(np.float64)
                found.append((name, vector / max(float(np.linalg.norm(vector)), 1e-9)))
    return found
