"""Training heads on a frozen or tuned encoder: classes of recordings, of frames, and vectors of speakers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..audio_frame_classification import WavLMForAudioFrameClassification
from ..errors import ConfigurationError
from ..sequence_classification import WavLMForSequenceClassification
from ..xvector import WavLMForXVector
from .augment import augment
from .batches import BatchPlan
from .cache import RATE, SoundCache
from .engine import Engine
from .head_scores import measure_head
from .manifest import Utterance
from .mixtures import Mixer
from .run_folder import RunFolder
from .scores import permutations
from .settings import Stage, TrainSettings
from .trainer import Trainer

FRAME_TASKS = {"activity": ("silence", "speech"), "overlap": ("nobody", "one speaker", "several speakers")}
TASKS = ("sequence", "speaker", "diarization", *FRAME_TASKS)
COLUMNS = ("text", "speaker", "corpus", "label")


@dataclass(frozen=True)
class HeadSettings(TrainSettings):
    """Everything that decides what the training of a head computes.

    The encoder is frozen by `freeze: {"wavlm": null}`; the weighted sum of layers is `use_weighted_layer_sum` of
    the model.
    """

    head: str = "activity"
    """"sequence" (a class a recording), "activity", "overlap", "diarization" (frames), or "speaker" (x-vectors)."""
    column: str = "label"
    """Column of the manifest that holds the class of a recording."""
    labels: tuple[str, ...] = ()
    """Names of the classes; from the data where the recipe has none."""
    crop_s: float = 4.0
    """Longest stretch of a recording, or length of a mixture."""
    speakers: tuple[int, int] = (1, 2)
    """Fewest and most speakers in a mixture."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(FRAME_TASKS.get(self.head, self.labels)))
        object.__setattr__(self, "speakers", tuple(self.speakers))
        super().__post_init__()
        if self.head not in TASKS or self.column not in COLUMNS or not self.crop_s > 0.4:
            raise ConfigurationError(
                f"the head {self.head!r} on the column {self.column!r} with crops of {self.crop_s} s was asked for; "
                f"heads are {', '.join(TASKS)}, columns {', '.join(COLUMNS)}, crops from 0.4 s on"
            )

    @property
    def defaults(self) -> dict[str, Any]:
        """As many outputs as there are classes, or speakers in a mixture."""
        names = [f"speaker {i + 1}" for i in range(self.speakers[1])] if self.head == "diarization" else self.labels
        return {"num_labels": max(1, len(names)), "id2label": dict(enumerate(names))}

    @property
    def mixes(self) -> bool:
        """Whether batches are mixtures of recordings."""
        return self.head in (*FRAME_TASKS, "diarization")

    def class_of(self, utterance: Utterance) -> str:
        """Class of a recording: for x-vectors its speaker, else what its column says."""
        if self.head == "speaker":
            return f"{utterance.corpus}/{utterance.speaker}" if utterance.speaker else ""
        return str(getattr(utterance, self.column))

    def for_data(self, train: Sequence[Utterance]) -> HeadSettings:
        """The same with the classes of the data, where the recipe names none.

        Raises:
            ConfigurationError: fewer than two classes.
        """
        if self.mixes or self.labels:
            return self
        found = sorted({self.class_of(u) for u in train} - {""})
        if len(found) < 2:
            raise ConfigurationError(
                f"the recordings have {len(found)} classes ({', '.join(found)[:100]}), expected at least 2; "
                f"check the column {'speaker' if self.head == 'speaker' else self.column!r} of the manifest"
            )
        return dataclasses.replace(self, labels=tuple(found))


@dataclass
class LabelledBatch:
    """Rows of a head's batch."""

    input_values: Tensor
    """float32 [batch, samples]."""
    attention_mask: Tensor
    labels: Tensor
    """int64 [batch] (classes), int64 [batch, frames] (-100: none), or float32 [batch, speakers, frames]."""
    sample_lengths: Tensor
    rows: int
    """Rows of the whole batch, of which this may be one process's part."""
    keys: list[str]
    weight: float = 1.0

    @property
    def seconds(self) -> float:
        """Seconds of sound, without padding."""
        return self.weight * float(self.sample_lengths.sum()) / RATE

    def to(self, device: torch.device) -> LabelledBatch:
        """The batch on another device."""
        names = ("input_values", "attention_mask", "labels", "sample_lengths")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})


def frame_labels(activity: np.ndarray, head: str) -> np.ndarray:
    """Who speaks, bool [speakers, frames], as the labels of a head: int64 [frames], or float32 as it came."""
    if head == "diarization":
        return activity.astype(np.float32)
    return np.minimum(activity.sum(axis=0), 1 if head == "activity" else 2).astype(np.int64)


class HeadPlan(BatchPlan):
    """Batches of crops with their class, or of mixtures with their frames' labels."""

    def __init__(self, settings: HeadSettings, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings = settings
        self._classes = {name: i for i, name in enumerate(settings.labels)}
        self._mixer: Mixer | None = None
        if settings.mixes:
            chosen = sorted({int(i) for pool in self._members for members in pool.values() for i in members})
            self._mixer = Mixer(
                [self._utterances[i] for i in chosen], self.cache, seconds=settings.crop_s, speakers=settings.speakers
            )
            # speed and edges would move sound against its labels
            augmentation = dataclasses.replace(self.stage.augment, speed=0.0, edge_s=(0.0, 0.0))
            self.stage = dataclasses.replace(self.stage, augment=augmentation)

    def _row(self, step: int, row: int, item: tuple[int, ...]) -> tuple[np.ndarray, Any, str]:
        rng = self._rng(3, step, row)
        if self._mixer is not None:
            mixture = self._mixer.draw(rng)
            wave = augment([mixture.wave], self.stage.augment, rng, self.noises, responses=self.responses)
            return wave, frame_labels(mixture.activity, self._settings.head), "+".join(mixture.names)
        utterance = self._utterances[item[0]]
        wave = self.cache.wave(utterance.file)
        most = int(self._settings.crop_s * RATE)
        if len(wave) > most:
            start = int(rng.integers(len(wave) - most + 1))
            wave = wave[start : start + most]
        wave = augment([wave], self.stage.augment, rng, self.noises, responses=self.responses)
        if len(wave) < 6400:  # the network of an x-vector needs 16 frames
            wave = np.pad(wave, (0, 6400 - len(wave)))
        return wave, self._classes[self._settings.class_of(utterance)], utterance.file

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Any:
        """See `BatchPlan.batch`: this process's rows as a `LabelledBatch`."""
        _, items = self.items(step)
        if part >= len(items):
            return None
        made = [self._row(step, row, items[row]) for row in range(part, len(items), parts)]
        lengths = torch.tensor([len(wave) for wave, _, _ in made])
        inputs = np.zeros((len(made), int(lengths.max())), np.float32)
        for row, (wave, _, _) in zip(inputs, made, strict=True):
            row[: len(wave)] = wave
        return LabelledBatch(
            torch.from_numpy(inputs),
            (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long(),
            torch.from_numpy(np.stack([np.asarray(label) for _, label, _ in made])),
            lengths,
            len(items),
            [key for _, _, key in made],
        )


def permutation_free_loss(logits: Tensor, activity: Tensor) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Binary cross-entropy of each mixture under its best order of speakers (Fujita et al. 2019, section 2.2).

    Args:
        logits: [batch, frames, speakers].
        activity: float [batch, speakers, frames], 0 or 1.

    Returns:
        Loss of each mixture, [batch], mean over frames and speakers; and the order chosen for each:
        output i is speaker order[i].
    """
    outputs = logits.float().transpose(1, 2)  # [B, S, T]
    orders = permutations(outputs.shape[1])
    each = torch.stack(
        [
            F.binary_cross_entropy_with_logits(outputs, activity[:, list(order)], reduction="none").mean((1, 2))
            for order in orders
        ]
    )  # [orders, B]
    best, index = each.min(0)
    return best, [orders[i] for i in index.tolist()]


class HeadTrainer(Trainer):
    """One training of a head; arguments as `CTCTrainer`.

    Raises:
        ConfigurationError: recordings of a class that the settings do not name.
    """

    settings: HeadSettings

    def __init__(
        self,
        settings: HeadSettings,
        folder: RunFolder,
        train: Sequence[Utterance],
        cache: SoundCache,
        *,
        dev: Sequence[Utterance] = (),
        noises: Sequence[np.ndarray] = (),
        engine: Engine | None = None,
    ) -> None:
        if not settings.mixes:
            strange = sorted({settings.class_of(u) for u in train} - set(settings.labels) - {""})
            if strange:
                raise ConfigurationError(f"{len(strange)} classes are unknown to the recipe, such as {strange[0]!r}")
            train = [u for u in train if settings.class_of(u)]
        self.train_set, self.dev_set, self.cache, self.noises = train, dev, cache, noises
        self.task = settings.head
        super().__init__(settings, folder, engine=engine)

    def make_model(self, stage: Stage) -> nn.Module:
        """See `ModelState.make_model`."""
        return HEADS[self.settings.head](self.settings.config(stage))

    def make_plan(self, stage: Stage, number: int) -> HeadPlan:
        """See `Trainer.make_plan`."""
        s = self.settings
        return HeadPlan(s, self.train_set, self.cache, stage, seed=s.seed, number=number, noises=self.noises)

    def loss(self, batch: Any, step: int) -> Tensor:
        """Mean over the rows of the whole batch of the head's loss."""
        self.seed_step(step)
        labels = None if self.settings.head == "diarization" else batch.labels
        with self.autocast():
            output = self.wrapped(
                batch.input_values, attention_mask=batch.attention_mask, labels=labels, context=self.context(step)
            )
        if labels is None:
            return permutation_free_loss(output.logits, batch.labels)[0].sum() / batch.rows
        return output.loss.float() * len(batch.labels) / batch.rows

    def measure(self) -> dict[str, float]:
        """See `measure_head`: the figures of the task on the dev set, `score` first of all."""
        if not self.dev_set:
            return {}
        report = measure_head(self.model, self.settings, self.dev_set, self.cache, device=self.device)
        return {name: value for name, value in report.items() if isinstance(value, float)}


HEADS: dict[str, Any] = {
    "sequence": WavLMForSequenceClassification,
    "speaker": WavLMForXVector,
    "activity": WavLMForAudioFrameClassification,
    "overlap": WavLMForAudioFrameClassification,
    "diarization": WavLMForAudioFrameClassification,
}
