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
from .batches import Batch, BatchPlan
from .cache import SoundCache
from .engine import Engine
from .evaluate import measure
from .manifest import Utterance
from .objective import ctc_loss, divergence
from .run_folder import RunFolder
from .settings import Stage, TrainSettings, parse_context
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

    Raises:
        DeviceError: there is no such device.
        ConfigurationError: a teacher with other tokens.
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
    ) -> None:
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
        return WavLMForCTC(self.settings.config(stage))

    def make_plan(self, stage: Stage, number: int) -> BatchPlan:
        """See `Trainer.make_plan`."""
        return BatchPlan(self.train_set, self.cache, stage, seed=self.settings.seed, number=number, noises=self.noises)

    def loss(self, batch: Batch, step: int) -> Tensor:
        """CTC loss per character of the whole batch; where the step streams, also the divergence from the teacher."""
        self.seed_step(step)
        context = self.context(step)
        frame_lengths = self.model.feature_lengths(batch.sample_lengths).to(torch.long)
        distill = self.settings.distill
        taught = self._taught(batch) if distill is not None and context is not None else None
        with self.autocast():
            output = self.wrapped(batch.input_values, attention_mask=batch.attention_mask, context=context)
        loss = ctc_loss(output.logits, batch.labels, frame_lengths, batch.label_lengths, batch.characters)
        if distill is None or taught is None:
            return loss
        apart = divergence(output.logits, taught, frame_lengths, distill.temperature) / batch.characters
        return (1.0 - distill.weight) * loss + distill.weight * apart

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
        return rates
