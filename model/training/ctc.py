"""Training WavLM for CTC, from scratch or further, with streaming contexts drawn per batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ctc import WavLMForCTC
from ..errors import ConfigurationError
from .augment import Augmentation
from .batches import Batch, BatchPlan
from .cache import SoundCache
from .engine import Engine
from .evaluate import measure
from .frame_labels import FrameLabels
from .frame_targets import WavLMForCTCAndFrames, frame_loss, right_frames
from .manifest import Utterance
from .objective import ctc_loss, divergence
from .run_folder import RunFolder
from .settings import Pool, Stage, TrainSettings, parse_context
from .trainer import Trainer

log = logging.getLogger(__name__)


class CTCTrainer(Trainer):
    """One training run.

    Args:
        settings: the recipe.
        folder: where checkpoints and logs go.
        train: utterances to learn from, decoded in `cache`.
        dev: utterances to choose the best weights by; may be empty.
        noises: background recordings, float32 [samples].
        engine: how the processes work together; alone on the CPU by default.
        teacher: model to distil from where the recipe names one.
        frame_labels: labels of frames where the recipe has `frames`.

    Raises:
        DeviceError: there is no such device.
        ConfigurationError: a teacher with other tokens, or `frames` in the recipe without labels or the other way
            round.
    """

    task = "ctc"

    def __init__(
        self,
        settings: TrainSettings,
        folder: RunFolder,
        train: Sequence[Utterance],
        cache: SoundCache,
        *,
        dev: Sequence[Utterance] = (),
        noises: Sequence[np.ndarray] = (),
        engine: Engine | None = None,
        teacher: WavLMForCTC | None = None,
        frame_labels: FrameLabels | None = None,
    ) -> None:
        if (settings.frames is None) != (frame_labels is None):
            raise ConfigurationError(
                "labels of frames were given, and the recipe has no `frames`"
                if frame_labels is not None
                else "the recipe names labels of `frames`, and none were given; make them by `train align`"
            )
        self.frame_labels = frame_labels
        self.train_set, self.dev_set, self.cache, self.noises = train, dev, cache, noises
        super().__init__(settings, folder, engine=engine)
        vocabulary = self.model.config.vocab_size
        if teacher is not None and teacher.config.vocab_size != vocabulary:
            raise ConfigurationError(
                f"the teacher writes {teacher.config.vocab_size} tokens, the model {vocabulary}; "
                "distil from a model with the same vocabulary"
            )
        self.teacher = teacher.to(self.device).eval().requires_grad_(False) if teacher is not None else None

    def make_model(self, stage: Stage) -> nn.Module:
        """See `ModelState.make_model`."""
        config, frames = self.settings.config(stage), self.settings.frames
        if frames is None or self.frame_labels is None:
            return WavLMForCTC(config)
        return WavLMForCTCAndFrames(config, self.frame_labels.classes, frames.layer)

    def make_plan(self, stage: Stage, number: int) -> BatchPlan:
        """See `Trainer.make_plan`."""
        return BatchPlan(
            self.train_set,
            self.cache,
            stage,
            seed=self.settings.seed,
            number=number,
            noises=self.noises,
            frame_labels=self.frame_labels,
        )

    def loss(self, batch: Batch, step: int) -> Tensor:
        """CTC loss per character of the whole batch; where the step streams, also the divergence from the teacher.

        Where the recipe has `frames`, the cross-entropy of their labels comes on top.
        """
        self.seed_step(step)
        context = self.context(step)
        frame_lengths = self.model.feature_lengths(batch.sample_lengths).to(torch.long)
        distill = self.settings.distill
        taught = self._taught(batch) if distill is not None and context is not None else None
        with self.autocast():
            output = self.wrapped(batch.input_values, attention_mask=batch.attention_mask, context=context)
        loss = ctc_loss(output.logits, batch.labels, frame_lengths, batch.label_lengths, batch.characters)
        frames = self.settings.frames
        named: Tensor | float = 0.0
        if frames is not None and batch.frame_labels is not None:
            named = frames.weight * frame_loss(output.frame_logits, batch.frame_labels, batch.labelled_frames)
        if distill is None or taught is None:
            return loss + named
        apart = divergence(output.logits, taught, frame_lengths, distill.temperature) / batch.characters
        return (1.0 - distill.weight) * loss + distill.weight * apart + named

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor:
        """The teacher's logits from the whole utterance, without dropout and SpecAugment."""
        teacher: Any = self.model if self.teacher is None else self.teacher
        training = teacher.training
        teacher.eval()
        with self.autocast():
            logits = teacher(batch.input_values, attention_mask=batch.attention_mask).logits
        teacher.train(training)
        return logits

    def measure(self) -> dict[str, float]:
        """Error rates by corpus on some of the dev set, through the streaming computation; see `Trainer.measure`."""
        if not self.dev_set:
            return {}
        chosen: list[Utterance] = []
        for corpus in sorted({u.corpus for u in self.dev_set}):
            chosen += [u for u in self.dev_set if u.corpus == corpus][: self.settings.dev_utterances]
        context = parse_context(self.settings.dev_context)
        result = measure(self.model, chosen, self.cache, context, device=self.device)
        rates = {f"{kind}_{c}": round(v[kind], 4) for kind in ("wer", "cer") for c, v in result.items()}
        # Each corpus counts alike: long sentences, far from right for long, would drown the words that are.
        rates["score"] = round(sum(v["wer"] for c, v in result.items() if c != "all") / (len(result) - 1), 4)
        if self.frame_labels is not None and (share := self._frames_right(chosen, context)) is not None:
            rates["frames_right"] = share
        return rates

    @torch.inference_mode()
    def _frames_right(self, utterances: Sequence[Utterance], context: Any) -> float | None:
        """Share of the labelled frames that are named rightly; None where no frame is labelled."""
        pool = Pool("dev", {u.corpus: 1.0 for u in utterances}, max_s=1e4)
        stage = Stage("dev", (pool,), steps=1, augment=Augmentation(gain_db=(0.0, 0.0)))
        plan = BatchPlan(utterances, self.cache, stage, seed=0, frame_labels=self.frame_labels)
        right = total = 0
        for step in range(plan.epoch_batches(0)):
            batch = plan.batch(step)
            assert batch is not None  # every batch has rows
            batch = batch.to(self.device)
            assert batch.frame_labels is not None  # the plan has labels
            output = self.model(batch.input_values, attention_mask=batch.attention_mask, context=context)
            some, all_of_them = right_frames(output.frame_logits, batch.frame_labels)
            right, total = right + some, total + all_of_them
        return round(right / total, 4) if total else None
