"""Training both light heads of a frozen encoder in one go: voice activity and x-vectors, see `model.voice_heads`.

The encoder computes each second of training sound once, under the contexts that streams use. Voice activity is learned
from the frames of noisy conversations. The x-vectors are solved for, not descended to: rectified frames of the layer
that tells training speakers apart best, their means and deviations, and a linear discriminant analysis of these. With a
few hundred speakers and an hour of sound, a time delay network trained with AMSoftmax was far worse.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import WavLMConfig
from ..context import StreamingContext
from ..errors import ConfigurationError
from ..pooling import weighted_layer_sum
from ..voice_heads import ActivityHead, SpeakerHead, VoiceHeads, sample_of
from ..wavlm import WavLMModel, initialise
from .augment import Augmentation, augment
from .cache import SoundCache
from .conversations import Conversation, Conversations
from .manifest import Utterance
from .scores import equal_error_rate, verification_trials
from .voice_scores import stretches

log = logging.getLogger("wavlm_live.training")

CONTEXTS = ("250,32,8", "250,32,8", "250,16,0", "250,8,8")
"""Streaming contexts that the frames are computed under, in turn."""
SHORTEST_STRETCH = 30
"""Frames of speech in a stretch that is learned from."""
ONE_LAYER = 12.0
"""Weight of the chosen layer before the softmax; the others have 0."""


@dataclass(frozen=True)
class VoiceSettings:
    """How the heads are trained."""

    seed: int = 3
    first_s: float = 1000.0
    """Sound of conversations, for voice activity."""
    first_steps: int = 300
    """Steps of the activity head."""
    peak_lr: float = 2e-3
    stretch_s: float = 3.0
    """Length of the stretches of speech from which speakers are learned."""
    most_stretches: int = 6
    """Stretches of a speaker."""
    principal: int = 100
    """Principal components of the statistics that are kept before the discriminant analysis."""
    shrinkage: float = 0.3
    """Share of the mean variance that is added to every direction of a speaker's own variation."""
    kept: int = 64
    """Numbers of a speaker's vector."""
    augment: Augmentation = dataclasses.field(
        default_factory=lambda: Augmentation(gain_db=(-20.0, 6.0), noise=0.5, snr_db=(5.0, 30.0), reverberation=0.15)
    )


@dataclass
class Frames:
    """One conversation's frames behind the encoder."""

    states: Tensor
    """float16 `[layers + 1, frames, hidden]`."""
    speech: np.ndarray
    """bool `[frames]`: somebody speaks."""


def balanced(names: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Names in random order, all of them before any comes again."""
    while True:
        yield from (names[int(i)] for i in rng.permutation(len(names)))


def conversations(
    utterances: Sequence[Utterance],
    cache: SoundCache,
    noises: Sequence[np.ndarray],
    settings: VoiceSettings,
    seconds: float,
    seed: int,
) -> Iterator[Conversation]:
    """Conversations of training speakers, noisy and in rooms, every speaker about as often as any other."""
    maker = Conversations(utterances, cache)
    rng = np.random.default_rng([settings.seed, seed])
    order = balanced(maker.names, rng)
    for number in range(round(seconds * 16000 / maker.samples)):
        names = list(dict.fromkeys(next(order) for _ in range(4)))
        made = maker.draw(np.random.default_rng([settings.seed, seed, number]), names)
        wave = augment([made.wave], settings.augment, np.random.default_rng([settings.seed, seed, number, 1]), noises)
        yield dataclasses.replace(made, wave=wave)


@torch.no_grad()
def encode(model: WavLMModel, made: Iterator[Conversation], contexts: Sequence[str] = CONTEXTS) -> list[Frames]:
    """All layers of conversations of one length, the contexts used in turn."""
    found: list[Frames] = []
    batch: list[Conversation] = []

    def compute() -> None:
        context = StreamingContext.parse(contexts[len(found) // 4 % len(contexts)])
        inputs = torch.from_numpy(np.stack([c.wave for c in batch]))
        hidden = model(inputs, context=context, output_hidden_states=True).hidden_states
        assert hidden is not None
        for row, one in enumerate(batch):
            found.append(Frames(torch.stack([state[row].half() for state in hidden]), np.any(one.activity, axis=0)))
        batch.clear()

    for one in made:
        batch.append(one)
        if len(batch) == 4:
            compute()
    if batch:
        compute()
    return found


def _rate(step: int, steps: int, peak: float) -> float:
    warm = min(50, steps // 10 + 1)
    return peak * (step + 1) / warm if step < warm else peak * max(0.02, 1 - (step - warm) / max(1, steps - warm))


def train_activity(frames: Sequence[Frames], config: WavLMConfig, settings: VoiceSettings) -> ActivityHead:
    """Voice activity on frames with all layers."""
    torch.manual_seed(settings.seed)
    head = ActivityHead(config)
    initialise(head.classifier, config)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.peak_lr)
    rng = np.random.default_rng(settings.seed)
    for step in range(settings.first_steps):
        for group in optimizer.param_groups:
            group["lr"] = 10 * _rate(step, settings.first_steps, settings.peak_lr)
        chosen = [frames[int(i)] for i in rng.integers(len(frames), size=4)]
        states = torch.stack([f.states for f in chosen], 1).float()
        hidden = weighted_layer_sum(list(states), head.layer_weights)
        labels = torch.from_numpy(np.stack([f.speech for f in chosen])).long()
        loss = F.cross_entropy(head.classifier(hidden).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@torch.no_grad()
def scales_of(frames: Sequence[Frames]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every number of every layer in speech, `[layers + 1, hidden]` each."""
    parts = [one.states[:, torch.from_numpy(one.speech)].float() for one in frames]
    spoken = torch.cat(parts, 1)
    return spoken.mean(1), spoken.std(1).clamp(min=1e-3)


def rectified(states: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Frames `[..., hidden]` scaled, and what is above and below the mean apart, `[..., 2 * hidden]`."""
    scaled = (states - mean) / deviation
    return torch.cat([scaled, -scaled], -1).relu()


@torch.no_grad()
def statistics_of(
    model: WavLMModel,
    activity: ActivityHead,
    named: Sequence[tuple[str, np.ndarray]],
    scales: tuple[Tensor, Tensor],
    contexts: Sequence[str] = CONTEXTS,
) -> tuple[np.ndarray, list[str]]:
    """Means and deviations of rectified frames of speech, by layer.

    Args:
        model: in evaluation mode.
        activity: says what is speech.
        named: speakers and sound, float32 `[samples]`.
        scales: of `scales_of`.
        contexts: used in turn.

    Returns:
        `[stretches, layers + 1, 4 * hidden]`, and the speakers; stretches with little speech are left out.

    Raises:
        ConfigurationError: nothing to learn speakers from.
    """
    rows, names = [], []
    for at in range(0, len(named), 8):
        waves = [torch.from_numpy(wave) for _, wave in named[at : at + 8]]
        inputs = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        context = StreamingContext.parse(contexts[at // 8 % len(contexts)])
        hidden = model(inputs, context=context, output_hidden_states=True).hidden_states
        assert hidden is not None
        spoken = activity(weighted_layer_sum(hidden, activity.layer_weights)) > 0.5
        for row, wave in enumerate(waves):
            count = int(model.output_lengths(torch.tensor(len(wave))))
            speech = spoken[row, :count]
            if int(speech.sum()) < SHORTEST_STRETCH:
                continue
            states = torch.stack([state[row, :count][speech] for state in hidden])  # [layers + 1, frames, hidden]
            values = rectified(states, scales[0][:, None], scales[1][:, None])
            rows.append(torch.cat([values.mean(1), values.std(1)], -1).numpy())
            names.append(named[at + row][0])
    several = len(names) - len(set(names))
    if len(set(names)) < 2 or not several:
        raise ConfigurationError(
            f"{len(names)} stretches of {len(set(names))} speakers hold speech enough, expected several of each of at "
            "least 2; give more recordings that name their speakers, or shorter stretches"
        )
    return np.stack(rows), names


def best_layer(statistics: np.ndarray, names: Sequence[str]) -> tuple[int, list[float]]:
    """The layer whose statistics tell training speakers of one corpus apart best, and the EER of each."""
    corpora = np.array([name.partition("/")[0] for name in names])
    first, second = np.triu_indices(len(names), 1)
    within = corpora[first] == corpora[second]
    errors = []
    for layer in range(statistics.shape[1]):
        values = statistics[:, layer]
        values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
        scores, same = verification_trials(names, values)
        errors.append(equal_error_rate(scores[within], same[within]))
    return int(np.argmin(errors)), errors


def discriminant(
    vectors: np.ndarray, names: Sequence[str], kept: int, *, principal: int = 100, shrinkage: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis behind principal components (Belhumeur et al. 1997).

    Args:
        vectors: `[vectors, dim]`.
        names: speakers.
        kept, principal, shrinkage: as in `VoiceSettings`.

    Returns:
        The centre `[dim]`, and a matrix `[kept, dim]` behind which a speaker's own variation is alike everywhere.
    """
    from scipy.linalg import eigh

    vectors = vectors.astype(np.float64)
    centre = vectors.mean(axis=0)
    spread = vectors.std(axis=0) + 1e-3 * float(vectors.std())
    scaled = (vectors - centre) / spread
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    basis = axes[:principal] / spread
    values = (vectors - centre) @ basis.T
    groups = [g for name in sorted(set(names)) if len(g := values[np.array(names) == name]) > 1]
    own = [g - g.mean(axis=0) for g in groups]
    within = sum((g.T @ g for g in own), np.zeros((len(basis),) * 2)) / sum(len(g) - 1 for g in own)
    within += shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    means = np.stack([g.mean(axis=0) for g in groups])
    ratio, directions = eigh(means.T @ means / len(means), within)
    return centre, directions[:, np.argsort(-ratio)[:kept]].T @ basis


def solved_head(
    config: WavLMConfig, layer: int, scales: tuple[Tensor, Tensor], centre: np.ndarray, matrix: np.ndarray
) -> SpeakerHead:
    """The x-vector head that computes `matrix @ (statistics of rectified frames of a layer - centre)`."""
    head = SpeakerHead(config)
    mean, deviation = scales[0][layer], scales[1][layer]
    width = 2 * len(mean)
    with torch.no_grad():
        head.layer_weights.zero_()
        head.layer_weights[layer] = ONE_LAYER
        half = torch.diag(1 / deviation)
        head.projector.weight.copy_(torch.cat([half, -half]))
        head.projector.bias.copy_(torch.cat([-mean / deviation, mean / deviation]))
        for delay in head.layers:
            delay.kernel.weight.copy_(torch.eye(width))
            delay.kernel.bias.zero_()
        head.feature_extractor.weight.copy_(torch.from_numpy(matrix))
        head.feature_extractor.bias.copy_(torch.from_numpy(-matrix @ centre))
    return head.eval()


def train_heads(
    model: WavLMModel,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    noises: Sequence[np.ndarray],
    settings: VoiceSettings,
) -> VoiceHeads:
    """Both heads of a frozen encoder.

    Args:
        model: the encoder, in float32 on the CPU.
        utterances: of training speakers.
        cache, noises: sound.
        settings: see there.
    """
    model.eval().requires_grad_(False)
    hidden = model.config.hidden_size
    started = time.perf_counter()

    def note(text: str) -> None:
        log.info("%s, %.0f s", text, time.perf_counter() - started)

    frames = encode(model, conversations(utterances, cache, noises, settings, settings.first_s, 1))
    activity = train_activity(frames, model.config, settings)
    note(f"voice activity, layers {' '.join(f'{w:.2f}' for w in activity.layer_weights.detach().softmax(0).tolist())}")
    scales = scales_of(frames)
    del frames
    rng = np.random.default_rng(settings.seed)
    named = [
        (name, augment([wave], settings.augment, rng, noises))
        for name, wave in stretches(utterances, cache, settings.stretch_s, settings.most_stretches)
    ]
    statistics, names = statistics_of(model, activity, named, scales)
    layer, errors = best_layer(statistics, names)
    note(f"{len(names)} stretches of {len(set(names))} speakers; EER of layers {' '.join(f'{e:.3f}' for e in errors)}")
    kept = min(settings.kept, settings.principal, len(names))
    centre, matrix = discriminant(
        statistics[:, layer], names, kept, principal=settings.principal, shrinkage=settings.shrinkage
    )
    config = model.config.replace(
        tdnn_dim=(2 * hidden,), tdnn_kernel=(1,), tdnn_dilation=(1,), xvector_output_dim=len(matrix)
    )
    heads = VoiceHeads(config, encoder=sample_of(model))
    heads.activity, heads.speaker = activity, solved_head(config, layer, scales, centre, matrix)
    return heads.eval().requires_grad_(False)
