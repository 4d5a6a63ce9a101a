"""What the evaluation of a head reports: accuracy, ROC, EER, detection cost, diarization error, under a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..context import StreamingContext
from ..errors import ConfigurationError
from .batches import by_length
from .cache import RATE, SoundCache
from .manifest import Utterance
from .mixtures import Mixer
from .scores import (
    area,
    diarization_error,
    equal_error_rate,
    minimum_cost,
    operating_points,
    thinned,
    verification_trials,
)

if TYPE_CHECKING:
    from .heads import HeadSettings

MIXTURES = 64
"""Mixtures of held-out recordings that frames are scored on."""


def _outputs(
    model: Any, waves: Sequence[np.ndarray], context: StreamingContext | None, device: torch.device | str
) -> Iterator[tuple[int, Any, int]]:
    """Number of each recording, the output of its batch, its row there."""
    seconds = np.array([len(w) / RATE for w in waves])
    for members in by_length(seconds, 60.0, 32):
        lengths = torch.tensor([len(waves[int(i)]) for i in members])
        inputs = torch.zeros(len(members), int(lengths.max()))
        for row, i in zip(inputs, members, strict=True):
            row[: len(waves[int(i)])] = torch.from_numpy(waves[int(i)])
        mask = (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long()
        with torch.inference_mode():
            output = model(inputs.to(device), mask.to(device), context=context)
        for row, i in enumerate(members):
            yield int(i), output, row


def _crops(utterances: Sequence[Utterance], cache: SoundCache, most_s: float) -> list[np.ndarray]:
    """The middle of each recording, at most `most_s` and at least 0.4 s long."""
    waves = []
    for u in utterances:
        wave, most = cache.wave(u.file), int(most_s * RATE)
        start = max(0, len(wave) - most) // 2
        wave = wave[start : start + most]
        waves.append(np.pad(wave, (0, max(0, 6400 - len(wave)))))
    return waves


def measure_head(
    model: Any,
    settings: HeadSettings,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    *,
    context: StreamingContext | None = None,
    device: torch.device | str = "cpu",
    mixtures: int = MIXTURES,
) -> dict[str, Any]:
    """Figures of a head on held-out recordings; `score` is the one to be low.

    sequence: error rate. speaker: EER and minimum costs over all pairs, of speakers that training may never have
    heard. activity: ROC (its area, EER) over frames of mixtures. overlap: balanced error and the ROC of "several".
    diarization: DER with its parts, threshold 0.5. Curves come as lists under "curve".

    Raises:
        ConfigurationError: nothing to score: no such class, or pairs of one kind only.
    """
    if settings.mixes:
        return _measure_frames(model, settings, utterances, cache, context, device, mixtures)
    chosen = [u for u in utterances if settings.class_of(u)]
    if settings.head == "sequence":
        chosen = [u for u in chosen if settings.class_of(u) in settings.labels]
    if not chosen:
        raise ConfigurationError(
            f"none of {len(utterances)} recordings has a class that the head {settings.head!r} knows"
        )
    waves = _crops(chosen, cache, settings.crop_s)
    if settings.head == "sequence":
        right = 0
        for i, output, row in _outputs(model, waves, context, device):
            right += settings.labels[int(output.logits[row].argmax())] == settings.class_of(chosen[i])
        error = 1.0 - right / len(chosen)
        return {"score": error, "error": error, "accuracy": 1.0 - error, "recordings": len(chosen)}
    embeddings = [np.zeros(0)] * len(chosen)
    for i, output, row in _outputs(model, waves, context, device):
        embeddings[i] = output.embeddings[row].float().cpu().numpy()
    scores, same = verification_trials([settings.class_of(u) for u in chosen], np.stack(embeddings))
    eer = equal_error_rate(scores, same)
    return {
        "score": eer,
        "eer": eer,
        "min_dcf_0.01": minimum_cost(scores, same, 0.01),
        "min_dcf_0.05": minimum_cost(scores, same, 0.05),
        "trials": len(scores),
        "speakers": len({settings.class_of(u) for u in chosen}),
        "curve": thinned(operating_points(scores, same)[:2]),
    }


def _measure_frames(
    model: Any,
    settings: HeadSettings,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext | None,
    device: torch.device | str,
    mixtures: int,
) -> dict[str, Any]:
    mixer = Mixer(utterances, cache, seconds=settings.crop_s, speakers=settings.speakers)
    made = [mixer.draw(np.random.default_rng([101, i])) for i in range(mixtures)]
    logits = [np.zeros(0)] * len(made)
    for i, output, row in _outputs(model, [m.wave for m in made], context, device):
        logits[i] = output.logits[row].float().cpu().numpy()
    if settings.head == "diarization":
        total = dict.fromkeys(("missed", "false_alarm", "confusion", "speech"), 0.0)
        for mixture, scores in zip(made, logits, strict=True):
            parts = diarization_error(mixture.activity, scores.T > 0.0)
            total = {name: value + parts[name] for name, value in total.items()}
        shares = {name: total[name] / max(1.0, total["speech"]) for name in ("missed", "false_alarm", "confusion")}
        error = sum(shares.values())
        return {"score": error, "der": error, **shares, "mixtures": mixtures}
    count = np.concatenate([m.activity.sum(axis=0) for m in made])
    every = np.concatenate(logits)
    if settings.head == "activity":
        scores, truth = every[:, 1] - every[:, 0], count > 0
        error = equal_error_rate(scores, truth)
        extra = {"eer": error, "accuracy": float(((scores > 0) == truth).mean())}
    else:
        others = np.logaddexp(every[:, 0], every[:, 1])
        scores, truth = every[:, 2] - others, count > 1
        wanted = np.minimum(count, 2)
        found = every.argmax(axis=1)
        per_class = [float((found[wanted == c] != c).mean()) for c in np.unique(wanted)]
        error = float(np.mean(per_class))
        extra = {"balanced_error": error, "eer_several": equal_error_rate(scores, truth)}
    curve = thinned(operating_points(scores, truth)[:2])
    return {"score": error, "auc": area(scores, truth), **extra, "mixtures": mixtures, "curve": curve}
