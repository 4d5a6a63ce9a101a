"""Pre-training without text: masked speech denoising and prediction with utterance mixing (Chen et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError
from .augment import Augmentation, augment
from .batches import BatchPlan
from .cache import RATE, SoundCache
from .engine import Engine
from .frame_labels import FrameLabels
from .manifest import HOP, Utterance, frames_of
from .masked_prediction import WavLMForMaskedPrediction
from .mixing import Mixing, mix_one
from .run_folder import RunFolder
from .settings import Pool, Stage, TrainSettings, _build
from .trainer import Trainer


@dataclass(frozen=True)
class PretrainSettings(TrainSettings):
    """Everything that decides what a pre-training run computes; the defaults are the paper's."""

    clusters: int = 100
    """Labels: k-means clusters (HuBERT: 100 of MFCC, then 500 of a layer)."""
    projection: int = 256
    temperature: float = 0.1
    mask_prob: float = 0.8
    """Share of the frames that masks would cover if they never overlapped."""
    mask_length: int = 10
    """Frames of one mask."""
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked, beside 1 for those that are."""
    crop_s: float = 15.6
    """Longest stretch of a recording that is used at once."""
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.mixing, Mapping):
            object.__setattr__(self, "mixing", _build(Mixing, self.mixing, "mixing"))
        if not 0 < self.mask_prob <= 1 or self.mask_length < 1 or self.clusters < 2 or not self.crop_s > 0.1:
            raise ConfigurationError(
                f"mask_prob {self.mask_prob}, mask_length {self.mask_length}, clusters {self.clusters}, crop_s "
                f"{self.crop_s}: expected a share up to 1, at least 1 frame, 2 clusters and 0.1 s"
            )
        if joined := [pool.name for stage in self.stages for pool in stage.pools if pool.join != (1, 1)]:
            raise ConfigurationError(f"pool {joined[0]!r} joins recordings; pre-training takes them one by one")

    @property
    def defaults(self) -> dict[str, Any]:
        """SpecAugment's vector is what masked frames show."""
        return {"apply_spec_augment": True, "mask_time_prob": 0.8}


@dataclass
class MaskedBatch:
    """Rows of a pre-training batch."""

    input_values: Tensor
    """float32 [batch, samples]."""
    attention_mask: Tensor
    """int64 [batch, samples]."""
    targets: Tensor
    """int64 [batch, frames], clusters of the primary speaker's frames; -100 after each row's end."""
    masked: Tensor
    """bool [batch, frames]."""
    sample_lengths: Tensor
    counts: tuple[int, int]
    """Masked and unmasked frames of the whole batch, of which this may be one process's part."""
    keys: list[str]
    weight: float = 1.0

    @property
    def seconds(self) -> float:
        """Seconds of sound, without padding."""
        return self.weight * float(self.sample_lengths.sum()) / RATE

    def to(self, device: torch.device) -> MaskedBatch:
        """The batch on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def mask_spans(frames: int, prob: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Spans of `length` frames from starts drawn without replacement: bool [frames].

    As in wav2vec 2.0 and HuBERT there are prob * frames / length of them, rounded at random; they may overlap.
    """
    mask = np.zeros(frames, bool)
    length = min(length, frames)
    if frames:
        count = min(int(prob * frames / length + rng.random()), frames - length + 1)
        for start in rng.choice(frames - length + 1, max(1, count), replace=False):
            mask[start : start + length] = True
    return mask


class PretrainPlan(BatchPlan):
    """Batches of crops with the labels of their frames, mixed and masked; a function of seed, stage and step alone."""

    def __init__(self, settings: PretrainSettings, labels: FrameLabels, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings, self._labels = settings, labels
        # What would move sound against its labels has no place here.
        keep = {"gain_db": self.stage.augment.gain_db, "telephone": self.stage.augment.telephone}
        self._augment = Augmentation(**keep)

    def _crop(self, step: int, row: int, key: str) -> tuple[np.ndarray, np.ndarray]:
        """A stretch of a recording, starting with a frame, and its labels."""
        wave, labels = self.cache.wave(key), self._labels[key]
        most = int(self._settings.crop_s * RATE)
        if len(wave) > most:
            first = int(self._rng(4, step, row).integers((len(wave) - most) // HOP + 1))
            wave, labels = wave[first * HOP : first * HOP + most], labels[first:]
        frames = frames_of(len(wave))
        return wave, labels[:frames]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Any:
        """See `BatchPlan.batch`: this process's rows as a `MaskedBatch`."""
        _, items = self.items(step)
        if part >= len(items):
            return None
        keys = [self._utterances[item[0]].file for item in items]
        s = self._settings
        masks = {}
        for row, key in enumerate(keys):
            frames = len(self._crop(step, row, key)[1])
            masks[row] = mask_spans(frames, s.mask_prob, s.mask_length, self._rng(5, step, row))
        masked = sum(int(m.sum()) for m in masks.values())
        rows = range(part, len(items), parts)
        waves, targets = [], []
        for row in rows:
            rng = self._rng(3, step, row)
            wave, labels = self._crop(step, row, keys[row])
            wave, _ = mix_one(
                row, wave, len(items), lambda other: self._crop(step, other, keys[other])[0], self.noises, s.mixing, rng
            )
            waves.append(augment([wave], self._augment, rng))
            targets.append(labels)
        lengths = torch.tensor([len(w) for w in waves])
        inputs = np.zeros((len(waves), int(lengths.max())), np.float32)
        frames = frames_of(inputs.shape[1])
        wanted, covered = np.full((len(waves), frames), -100, np.int64), np.zeros((len(waves), frames), bool)
        for i, row in enumerate(rows):
            inputs[i, : len(waves[i])] = waves[i]
            wanted[i, : len(targets[i])] = targets[i]
            covered[i, : len(masks[row])] = masks[row]
        total = sum(len(m) for m in masks.values())
        return MaskedBatch(
            torch.from_numpy(inputs),
            (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long(),
            torch.from_numpy(wanted),
            torch.from_numpy(covered),
            lengths,
            (masked, total - masked),
            [keys[row] for row in rows],
        )


def prediction_loss(logits: Tensor, batch: MaskedBatch, unmasked_weight: float = 0.0) -> Tensor:
    """Cross-entropy per masked frame of the whole batch, plus the weighted one per frame that is not masked.

    Args:
        logits: [rows, frames, clusters].
        batch: the rows.
        unmasked_weight: of the second part.
    """
    each = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="none")
    masked = batch.masked.flatten()
    loss = each[masked].sum() / max(1, batch.counts[0])
    if unmasked_weight:
        loss = loss + unmasked_weight * each[~masked].sum() / max(1, batch.counts[1])
    return loss


class PretrainTrainer(Trainer):
    """One pre-training run; arguments as `CTCTrainer`, texts are not looked at.

    Args:
        labels: clusters of every frame of `train` and `dev`.

    Raises:
        ConfigurationError: recordings without labels, or another number of clusters than the recipe's.
    """

    task = "pretrain"
    settings: PretrainSettings

    def __init__(
        self,
        settings: PretrainSettings,
        folder: RunFolder,
        train: Sequence[Utterance],
        cache: SoundCache,
        labels: FrameLabels,
        *,
        dev: Sequence[Utterance] = (),
        noises: Sequence[np.ndarray] = (),
        engine: Engine | None = None,
    ) -> None:
        missing = [u.file for u in (*train, *dev) if u.file not in labels]
        if missing or labels.classes != settings.clusters:
            raise ConfigurationError(
                f"the labels know {labels.classes} clusters and lack {len(missing)} recordings; the recipe has "
                f"{settings.clusters} clusters: delete the labels to make them again"
            )
        self.train_set, self.dev_set, self.cache, self.noises, self.labels = train, dev, cache, noises, labels
        super().__init__(settings, folder, engine=engine)

    def make_model(self, stage: Stage) -> nn.Module:
        """See `ModelState.make_model`."""
        s = self.settings
        return WavLMForMaskedPrediction(s.config(stage), s.clusters, s.projection, s.temperature)

    def make_plan(self, stage: Stage, number: int) -> PretrainPlan:
        """See `Trainer.make_plan`."""
        s = self.settings
        return PretrainPlan(
            s, self.labels, self.train_set, self.cache, stage, seed=s.seed, number=number, noises=self.noises
        )

    def loss(self, batch: Any, step: int) -> Tensor:
        """See `prediction_loss`."""
        self.seed_step(step)
        with self.autocast():
            output = self.wrapped(
                batch.input_values,
                attention_mask=batch.attention_mask,
                mask_time_indices=batch.masked,
                context=self.context(step),
            )
        return prediction_loss(output.logits, batch, self.settings.unmasked_weight)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Loss and share of masked frames named rightly, on the dev set without mixing; always the same masks."""
        if not self.dev_set:
            return {}
        settings = dataclasses.replace(self.settings, mixing=Mixing(probability=0.0))
        pool = Pool("dev", {u.corpus: 1.0 for u in self.dev_set}, max_s=1e4)
        stage = dataclasses.replace(self.settings.stages[0], pools=(pool,), augment=Augmentation(gain_db=(0.0, 0.0)))
        plan = PretrainPlan(settings, self.labels, self.dev_set, self.cache, stage, seed=0)
        total = right = frames = 0.0
        for step in range(plan.epoch_batches(0)):
            batch = plan.batch(step).to(self.device)
            logits = self.model(batch.input_values, batch.attention_mask, mask_time_indices=batch.masked).logits
            total += float(prediction_loss(logits, batch)) * batch.counts[0]
            right += float((logits.argmax(-1) == batch.targets)[batch.masked].sum())
            frames += batch.counts[0]
        loss = total / max(1.0, frames)
        return {"score": loss, "loss_masked": loss, "accuracy_masked": right / max(1.0, frames)}
