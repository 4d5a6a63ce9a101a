"""Figures of voice heads on speakers that they never heard: activity (ROC) and verification (EER, minDCF).

All through the streaming context that is asked for: what a stream's frames would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..context import StreamingContext
from ..errors import ConfigurationError
from ..voice_heads import SpeakerNumbers, VoiceFrames, VoiceHeads
from ..wavlm import WavLMModel
from .augment import add_noise, rms
from .cache import RATE, SoundCache
from .conversations import Conversations
from .manifest import Utterance
from .mixtures import by_speaker
from .scores import area, equal_error_rate, minimum_cost, operating_points, thinned

SPEECH_S = 3.0
"""Length of the stretches that are compared."""
MOST_STRETCHES = 12
"""Most stretches of a speaker."""


@torch.no_grad()
def frames_through(
    model: WavLMModel, heads: VoiceHeads, waves: Sequence[np.ndarray], context: StreamingContext
) -> list[VoiceFrames]:
    """What the heads say of recordings, float32 `[samples]` each, under a streaming context."""
    found = []
    for wave in waves:
        hidden = model(torch.from_numpy(wave)[None], context=context, output_hidden_states=True).hidden_states
        assert hidden is not None
        found += heads.read(hidden)
    return found


def vector_of(heads: VoiceHeads, frames: VoiceFrames, first: int = 0, last: int | None = None) -> np.ndarray | None:
    """The vector of the speech between two frames, as a stream pools it; None: too little speech."""
    from ..time_delay import moments_of

    speaker, activity = heads.speaker, frames.activity
    assert speaker is not None
    assert frames.speaker is not None
    assert activity is not None
    outputs, _ = speaker.delayed_step(frames.speaker, speaker.empty_carry())
    delay = speaker.reach_frames // 2
    spoken = activity[delay : delay + len(outputs)] > 0.5
    inside = np.zeros(len(outputs), bool)
    inside[max(0, first - delay) : None if last is None else max(0, last - delay)] = True
    moments = moments_of(outputs[spoken & inside])
    return None if moments[0] < 15 else speaker.embedding(moments)


def stretches(
    utterances: Sequence[Utterance], cache: SoundCache, seconds: float = SPEECH_S, most: int = MOST_STRETCHES
) -> list[tuple[str, np.ndarray]]:
    """Name and sound of stretches of each speaker: long recordings cut, short ones joined; no recording in two."""
    found: list[tuple[str, np.ndarray]] = []
    for name, pool in sorted(by_speaker([u for u in utterances if u.speaker]).items()):
        made: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for u in sorted(pool, key=lambda u: u.file):
            wave = cache.wave(u.file)
            parts.append(wave * np.float32(0.05 / rms(wave)))
            if sum(map(len, parts)) >= 0.8 * seconds * RATE:
                made.append(np.concatenate(parts)[: int(seconds * RATE)])
                parts = []
        found += [(name, wave) for wave in made[:most]]
    return found


def verification(
    model: WavLMModel,
    heads: VoiceHeads,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext,
    seconds: float = SPEECH_S,
) -> dict[str, Any]:
    """All pairs of stretches: EER and minimum costs, all together and within each corpus; with the trials.

    Raises:
        ConfigurationError: too few recordings name their speakers.
    """
    named = stretches(utterances, cache, seconds)
    frames = frames_through(model, heads, [wave for _, wave in named], context)
    vectors, names = [], []
    for (name, _), one in zip(named, frames, strict=True):
        vector = vector_of(heads, one)
        if vector is not None:
            vectors.append(vector / max(float(np.linalg.norm(vector)), 1e-9))
            names.append(name)
    if len(set(names)) < 2:
        raise ConfigurationError(f"{len(set(names))} speakers have enough speech, expected at least 2")
    unit = np.stack(vectors)
    first, second = np.triu_indices(len(names), 1)
    scores = np.einsum("nd,nd->n", unit[first], unit[second])
    labels = np.array(names)
    corpora = np.array([name.partition("/")[0] for name in names])
    same, within = labels[first] == labels[second], corpora[first] == corpora[second]
    report = {
        "eer": equal_error_rate(scores, same),
        "eer_within_corpus": equal_error_rate(scores[within], same[within]),
        "min_dcf_0.01": minimum_cost(scores, same, 0.01),
        "min_dcf_0.05": minimum_cost(scores, same, 0.05),
        "speakers": len(set(names)),
        "stretches": len(names),
        "trials": len(scores),
        "curve": thinned(operating_points(scores, same)[:2]),
    }
    return {"report": report, "scores": scores, "same": same, "within": within}


def activity_scores(
    model: WavLMModel,
    heads: VoiceHeads,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    noises: Sequence[np.ndarray],
    context: StreamingContext,
    count: int = 12,
) -> dict[str, Any]:
    """ROC of voice activity on conversations of unseen speakers: clean, and with noise at 10 and 0 dB."""
    assert heads.activity is not None
    maker = Conversations(utterances, cache, seconds=20.0, pause_s=(0.3, 2.0))
    report: dict[str, Any] = {}
    for name, snr_db in (("clean", None), ("noise at 10 dB", 10.0), ("noise at 0 dB", 0.0)):
        probabilities, truth = [], []
        for number in range(count):
            made = maker.draw(np.random.default_rng([77, number]), 2)
            wave = made.wave
            if snr_db is not None:
                noisy = add_noise(wave, noises, snr_db, np.random.default_rng([78, number]))
                wave = noisy / np.float32(max(1.0, float(np.abs(noisy).max()) / 0.99))
            (frames,) = frames_through(model, heads, [wave], context)
            assert frames.activity is not None
            probabilities.append(frames.activity)
            truth.append(made.activity.any(axis=0))
        scores, speech = np.concatenate(probabilities), np.concatenate(truth)
        report[name] = {
            "auc": area(scores, speech),
            "eer": equal_error_rate(scores, speech),
            "right_at_0.5": float(((scores > 0.5) == speech).mean()),
            "curve": thinned(operating_points(scores, speech)[:2], 60),
        }
    return report


def tuned_numbers(trials: dict[str, Any]) -> SpeakerNumbers:
    """What the cosines of held-out trials within corpora mean.

    A new speaker begins where misses equal false alarms, an enrolled one is recognised where one in a hundred others
    would be; the probability is a logistic regression with both kinds weighing the same.
    """
    scores, same = trials["scores"][trials["within"]], trials["same"][trials["within"]]
    alarms, misses, thresholds = operating_points(scores, same)
    even = float(thresholds[int(np.argmax(alarms >= misses))])
    sure = float(np.quantile(scores[~same], 0.99))
    x = torch.tensor(scores, dtype=torch.float64)
    y = torch.tensor(same, dtype=torch.float64)
    weight = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    line = torch.tensor([8.0, -3.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(line[0] * x + line[1], y, weight, reduction="sum")
        loss = loss + 1e-4 * line.square().sum()  # trials without an error have no steepest line
        loss.backward()
        return loss

    search.step(closure)  # type: ignore[arg-type]
    slope, offset = line.detach().tolist()
    return SpeakerNumbers(
        new_below=round(even, 3), known_above=round(max(sure, even), 3), slope=round(slope, 3), offset=round(offset, 3)
    )
