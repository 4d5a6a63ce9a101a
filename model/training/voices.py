"""Training both light heads of a frozen encoder in one go: voice activity and x-vectors, see `model.voice_heads`.

The encoder computes each second of training sound once, under the contexts that streams use, and its frames are kept;
training on them then takes minutes on one core. First both weighted sums of layers are learned on a small part of
which all layers are kept, then the x-vector network on much more, of which only its sum is kept.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import WavLMConfig
from ..context import StreamingContext
from ..pooling import weighted_layer_sum
from ..voice_heads import ActivityHead, SpeakerHead, SpeakerNumbers, VoiceHeads, sample_of
from ..wavlm import WavLMModel, initialise
from ..xvector import AMSoftmaxLoss
from .augment import Augmentation, augment
from .cache import SoundCache
from .conversations import Conversation, Conversations, Turn
from .manifest import Utterance

log = logging.getLogger("wavlm_live.training")

CONTEXTS = ("250,32,8", "250,32,8", "250,16,0", "250,8,8")
"""Streaming contexts that the frames are computed under, in turn."""
SHORTEST_TURN = 30
"""Frames of a turn that is learned from."""


@dataclass(frozen=True)
class VoiceSettings:
    """How the heads are trained. One core takes about as many minutes as the defaults say with a 6 M encoder."""

    seed: int = 3
    tdnn_dim: tuple[int, ...] = (128, 128, 128, 128, 384)
    embedding: int = 128
    """Width that is trained; of it discriminant analysis keeps `kept`."""
    kept: int = 64
    first_s: float = 1000.0
    """Sound of which all layers are kept."""
    more_s: float = 6000.0
    """Sound of which the speaker head's sum of layers is kept."""
    first_steps: int = 300
    steps: int = 1500
    batch: int = 48
    peak_lr: float = 2e-3
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    augment: Augmentation = dataclasses.field(
        default_factory=lambda: Augmentation(gain_db=(-20.0, 6.0), noise=0.5, snr_db=(0.0, 30.0), reverberation=0.2)
    )


@dataclass
class Frames:
    """One conversation's frames behind the encoder."""

    states: Tensor
    """float16 `[layers + 1, frames, hidden]`, or `[1, frames, hidden]` of one sum."""
    speech: np.ndarray
    """bool `[frames]`: somebody speaks."""
    turns: tuple[Turn, ...]


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
    maker = Conversations(utterances, cache, speeds=settings.speeds)
    rng = np.random.default_rng([settings.seed, seed])
    order = balanced(maker.names, rng)
    for number in range(round(seconds * 16000 / maker.samples)):
        names = list(dict.fromkeys(next(order) for _ in range(4)))
        made = maker.draw(np.random.default_rng([settings.seed, seed, number]), names)
        wave = augment([made.wave], settings.augment, np.random.default_rng([settings.seed, seed, number, 1]), noises)
        yield dataclasses.replace(made, wave=wave)


@torch.no_grad()
def encode(
    model: WavLMModel,
    made: Iterator[Conversation],
    layer_weights: Tensor | None = None,
    contexts: Sequence[str] = CONTEXTS,
) -> list[Frames]:
    """Frames of conversations.

    Args:
        model: in evaluation mode.
        made: conversations of one length.
        layer_weights: keep only this sum of layers; None: all.
        contexts: used in turn.
    """
    found: list[Frames] = []
    batch: list[Conversation] = []

    def compute() -> None:
        context = StreamingContext.parse(contexts[len(found) // 4 % len(contexts)])
        inputs = torch.from_numpy(np.stack([c.wave for c in batch]))
        hidden = model(inputs, context=context, output_hidden_states=True).hidden_states
        assert hidden is not None
        kept = [weighted_layer_sum(hidden, layer_weights)] if layer_weights is not None else list(hidden)
        for row, one in enumerate(batch):
            states = torch.stack([state[row].half() for state in kept])
            found.append(Frames(states, one.activity.any(axis=0), one.turns))
        batch.clear()

    for one in made:
        batch.append(one)
        if len(batch) == 4:
            compute()
    if batch:
        compute()
    return found


class _Turns:
    """Draws batches of turns for the speaker head."""

    def __init__(self, frames: Sequence[Frames], names: Sequence[str], seed: int) -> None:
        number = {name: i for i, name in enumerate(names)}
        self._rng = np.random.default_rng(seed)
        self._by_name: dict[int, list[tuple[Frames, Turn]]] = {}
        for one in frames:
            for turn in one.turns:
                if turn.end_frame - turn.start_frame >= SHORTEST_TURN:
                    self._by_name.setdefault(number[turn.name], []).append((one, turn))
        self._classes = sorted(self._by_name)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """States `[states, size, frames, hidden]`, which frames are speech bool `[size, frames]`, and speakers."""
        rng, count = self._rng, int(self._rng.integers(SHORTEST_TURN, 151))
        chosen = [self._classes[int(i)] for i in rng.choice(len(self._classes), size)]
        states, speech = [], []
        for name in chosen:
            one, turn = self._by_name[name][int(rng.integers(len(self._by_name[name])))]
            most = max(turn.start_frame, turn.end_frame - count)
            start = int(rng.integers(turn.start_frame, most + 1))
            # a turn may be shorter than the batch: what follows it does not count
            part = one.states[:, start : start + count]
            voiced = torch.zeros(count, dtype=torch.bool)
            inside = min(turn.end_frame, start + count) - start
            voiced[:inside] = torch.from_numpy(one.speech[start : start + inside])
            if part.shape[1] < count:
                part = F.pad(part, (0, 0, 0, count - part.shape[1]))
            states.append(part)
            speech.append(voiced)
        return torch.stack(states, 1).float(), torch.stack(speech), torch.tensor(chosen)


def pooled(hidden: Tensor, speech: Tensor) -> Tensor:
    """Mean and deviation over frames of speech, `[batch, 2 * dim]`; with a floor under the deviation's gradient."""
    weight = speech.unsqueeze(-1).to(hidden.dtype)
    count = weight.sum(1).clamp(min=2.0)
    mean = (hidden * weight).sum(1) / count
    squares = ((hidden - mean[:, None]).square() * weight).sum(1) / (count - 1)
    return torch.cat([mean, (squares + 1e-6).sqrt()], -1)


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


def train_speaker(
    frames: Sequence[Frames],
    config: WavLMConfig,
    settings: VoiceSettings,
    steps: int,
    layer_weights: Tensor | None = None,
) -> SpeakerHead:
    """X-vectors with AMSoftmax.

    Args:
        frames: with all layers, or with one sum.
        layer_weights: the sum that was kept; None: learn one.
    """
    torch.manual_seed(settings.seed)
    head = SpeakerHead(config)
    initialise(head, config)
    names = sorted({turn.name for one in frames for turn in one.turns})
    turns = _Turns(frames, names, settings.seed)
    middle = nn.Sequential(nn.BatchNorm1d(config.xvector_output_dim), nn.ReLU(), nn.Linear(config.xvector_output_dim, config.xvector_output_dim))  # fmt: skip  # noqa: E501
    objective = AMSoftmaxLoss(config.xvector_output_dim, len(names), margin=0.2)
    parts = nn.ModuleList([head, middle, objective])
    others = [p for p in parts.parameters() if p is not head.layer_weights]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": [head.layer_weights], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    reach, shown, started = head.reach_frames, 0.0, time.perf_counter()
    for step in range(steps):
        for group, faster in zip(optimizer.param_groups, (1, 20), strict=True):
            group["lr"] = faster * _rate(step, steps, settings.peak_lr)
        states, speech, labels = turns.batch(settings.batch)
        hidden = weighted_layer_sum(list(states), head.layer_weights) if layer_weights is None else states[0]
        with torch.autocast("cpu", torch.bfloat16):
            out = head.delayed(F.dropout(head.projector(hidden), 0.1))
        middle_frames = speech[:, reach // 2 : reach // 2 + out.shape[1]]
        vectors = head.feature_extractor(pooled(out.float(), middle_frames))
        loss = objective(middle(vectors), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 2.0)
        optimizer.step()
        shown = 0.98 * shown + 0.02 * float(loss.detach()) if step else float(loss.detach())
        if step % 100 == 99:
            log.info(
                "speakers: step %d of %d, loss %.2f, %.0f s", step + 1, steps, shown, time.perf_counter() - started
            )
    if layer_weights is not None:
        head.layer_weights.data = layer_weights.clone()
    return head.eval()


@torch.no_grad()
def vectors_of(
    head: SpeakerHead, frames: Sequence[Frames], most_frames: int = 150, *, summed: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Vectors `[turns, dim]` of the turns, at most so many frames of each, and their speakers."""
    reach, vectors, names = head.reach_frames, [], []
    for one in frames:
        hidden = one.states[0].float() if summed else weighted_layer_sum(list(one.states.float()), head.layer_weights)
        out = head.delayed(head.projector(hidden)[None])[0]
        speech = torch.from_numpy(one.speech[reach // 2 : reach // 2 + len(out)])
        for turn in one.turns:
            start, end = max(0, turn.start_frame - reach // 2), turn.end_frame - reach // 2
            for first in range(start, end, most_frames):
                part = slice(first, min(end, first + most_frames))
                if int(speech[part].sum()) >= SHORTEST_TURN:
                    vectors.append(head.feature_extractor(pooled(out[None, part], speech[None, part]))[0])
                    names.append(turn.name)
    return torch.stack(vectors).numpy(), names


def discriminate(head: SpeakerHead, vectors: np.ndarray, names: Sequence[str], kept: int) -> None:
    """Fold the mean and a linear discriminant analysis into the last layer, which then has `kept` outputs.

    Directions in which speakers differ more than a speaker from himself come forward, scaled so that a speaker's own
    variation is the same in all of them (Ioffe 2006, whose between-speaker shrinkage the scale by the square root
    of the ratio stands for).
    """
    from scipy.linalg import eigh

    vectors = vectors.astype(np.float64)
    centre = vectors.mean(axis=0)
    groups = [vectors[np.array(names) == name] for name in sorted(set(names))]
    groups = [g for g in groups if len(g) > 1]
    within = sum(((g - g.mean(axis=0)).T @ (g - g.mean(axis=0)) for g in groups), np.zeros((len(centre),) * 2))
    within /= sum(len(g) - 1 for g in groups)
    means = np.stack([g.mean(axis=0) for g in groups]) - centre
    between = means.T @ means / len(means)
    within += 1e-3 * np.trace(within) / len(within) * np.eye(len(within))
    values, axes = eigh(between, within)
    order = np.argsort(-values)[:kept]
    matrix = axes[:, order].T  # within-speaker variance 1 in each
    layer = head.feature_extractor
    weight = matrix @ layer.weight.detach().double().numpy()
    bias = matrix @ (layer.bias.detach().double().numpy() - centre)
    folded = nn.Linear(layer.in_features, len(order))
    folded.weight.data, folded.bias.data = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    head.feature_extractor = folded


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
    config = model.config.replace(tdnn_dim=settings.tdnn_dim, xvector_output_dim=settings.embedding)
    started = time.perf_counter()

    def note(text: str) -> None:
        log.info("%s, %.0f s", text, time.perf_counter() - started)

    first = encode(model, conversations(utterances, cache, noises, settings, settings.first_s, 1))
    note(f"all layers of {settings.first_s:.0f} s of sound")
    activity = train_activity(first, config, settings)
    note(f"voice activity, layers {_shares(activity.layer_weights)}")
    trial = train_speaker(first, config, settings, settings.first_steps)
    weights = trial.layer_weights.detach().clone()
    note(f"layers for speakers {_shares(weights)}")
    more = encode(model, conversations(utterances, cache, noises, settings, settings.more_s, 2), weights)
    del first
    note(f"frames of {settings.more_s:.0f} s of sound")
    speaker = train_speaker(more, config, settings, settings.steps, weights)
    vectors, names = vectors_of(speaker, more, summed=True)
    discriminate(speaker, vectors, names, settings.kept)
    note("speakers")
    heads = VoiceHeads(config.replace(xvector_output_dim=settings.kept), encoder=sample_of(model))
    heads.activity, heads.speaker = activity, speaker
    heads.numbers = SpeakerNumbers()
    return heads.eval().requires_grad_(False)


def _shares(weights: Tensor) -> str:
    return " ".join(f"{share:.2f}" for share in weights.detach().softmax(0).tolist())
