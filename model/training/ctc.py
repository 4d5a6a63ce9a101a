"""Training WavLM for CTC, from scratch or further, on a CPU or a GPU, with streaming contexts drawn per batch.

Every step's data, masks, dropout and context follow from (seed, step) alone; a checkpoint holds weights,
their running average, the optimiser and the counters. So a run that is killed and resumed computes the same
losses (stages counted in steps; stages by the clock end when the clock says so).
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ctc import WavLMForCTC
from ..errors import DeviceError, WavLMLiveError
from .batches import Batch, BatchPlan, Prefetcher
from .cache import SoundCache
from .evaluate import measure
from .manifest import Utterance
from .run_folder import BEST, LAST, RunFolder
from .settings import Stage, TrainSettings, parse_context

log = logging.getLogger(__name__)

_MOST_SKIPPED_IN_A_ROW = 50


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Steps done, over all stages."""
    stage: int = 0
    stage_step: int = 0
    """Steps done within the stage."""
    elapsed_s: float = 0.0
    """Time spent, over all resumptions."""
    skipped: int = 0
    """Steps left out because loss or gradient was not finite."""
    heard_s: float = 0.0
    """Sound trained on."""
    best_wer: float = math.inf
    next_dev_s: float = 0.0


def ctc_loss(logits: Tensor, labels: Tensor, frame_lengths: Tensor, label_lengths: Tensor) -> Tensor:
    """CTC negative log-likelihood per character of the batch (Graves et al. 2006), float32 scalar; blank 0.

    Args:
        logits: [batch, frames, vocabulary].
        labels: [batch, characters], anything after `label_lengths`.
        frame_lengths: [batch].
        label_lengths: [batch].
    """
    log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    targets = torch.where(labels > 0, labels, 0)
    total = F.ctc_loss(log_probs, targets, frame_lengths, label_lengths, reduction="sum", zero_infinity=True)
    return total / label_lengths.sum().clamp(min=1)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices and kernels decay; norms, biases and other vectors do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.squeeze().ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.squeeze().ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class CTCTrainer:
    """One training run.

    Args:
        settings: the recipe.
        folder: where checkpoints and logs go.
        train: utterances to learn from, decoded in `cache`.
        dev: utterances to choose the best weights by; may be empty.
        noises: background recordings, float32 [samples].
        device: "cpu", "cuda" or "cuda:n".

    Raises:
        DeviceError: there is no such device.
    """

    def __init__(
        self,
        settings: TrainSettings,
        folder: RunFolder,
        train: Sequence[Utterance],
        cache: SoundCache,
        *,
        dev: Sequence[Utterance] = (),
        noises: Sequence[np.ndarray] = (),
        device: str = "cpu",
    ) -> None:
        self.settings, self.folder = settings, folder
        self.train_set, self.dev_set, self.cache, self.noises = train, dev, cache, noises
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as e:
            raise DeviceError(f"cannot train on the device {device!r}: {e}") from e
        self.progress = Progress()
        self.contexts = [parse_context(name) for name in settings.contexts]
        weights = np.array(list(settings.contexts.values()), dtype=float)
        self._context_weights = weights / weights.sum()
        self._stop = False
        torch.manual_seed(settings.seed)
        self._build(settings.stages[0])
        self.average = [p.detach().clone() for p in self.model.parameters()]

    def _build(self, stage: Stage) -> None:
        """Make the model and optimiser for a stage, keeping weights and optimiser state if there are any."""
        former = getattr(self, "model", None)
        state = self.optimizer.state_dict() if former is not None else None
        self.model = WavLMForCTC(self.settings.config(stage)).to(self.device)
        if former is not None:
            self.model.load_state_dict(former.state_dict())
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.settings.weight_decay),
            lr=self.settings.peak_lr,
            betas=self.settings.betas,
            fused=True,
        )
        if state is not None:
            self.optimizer.load_state_dict(state)

    # One step ---------------------------------------------------------------------------------------------

    def context(self, step: int) -> Any:
        """The streaming context of a step (None: the whole utterance)."""
        rng = np.random.default_rng([self.settings.seed, 9, step])
        return self.contexts[int(rng.choice(len(self.contexts), p=self._context_weights))]

    def loss(self, batch: Batch, step: int) -> Tensor:
        """Loss of a batch, with everything random seeded by the step."""
        seed = self.settings.seed * 1_000_003 + step
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            output = self.model(batch.input_values, attention_mask=batch.attention_mask, context=self.context(step))
        frame_lengths = self.model.feature_lengths(batch.sample_lengths).to(torch.long)
        return ctc_loss(output.logits, batch.labels, frame_lengths, batch.label_lengths)

    def learning_rate(self) -> float:
        """Rate of the coming step: warm-up by steps, then the fall over the whole recipe."""
        s, p = self.settings, self.progress
        if s.by_clock:
            done = p.elapsed_s / (60.0 * sum(stage.minutes or 0.0 for stage in s.stages))
        else:
            done = p.step / sum(stage.steps or 0 for stage in s.stages)
        done = min(done, 1.0)
        fall = 1.0 - done if s.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return s.peak_lr * min(1.0, (p.step + 1) / max(1, s.warmup_steps)) * fall

    def step(self, batch: Batch) -> tuple[float, float]:
        """Train on one batch; a step that is not finite is counted and left out.

        Returns:
            The loss, and the norm of the gradient before clipping.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        batch = batch.to(self.device)
        loss = self.loss(batch, self.progress.step)
        norm = math.nan
        if torch.isfinite(loss):
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
            self._update_average()
            self.progress.heard_s += batch.seconds
        else:
            self.progress.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.stage_step += 1
        return float(loss.detach()), norm

    @torch.no_grad()
    def _update_average(self) -> None:
        # Young averages forget faster, else the random first weights would stay in for thousands of steps.
        done = self.progress.step
        decay = min(self.settings.ema_decay, (1.0 + done) / (10.0 + done))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[WavLMForCTC]:
        """The model with its averaged weights, for measuring and exporting."""
        kept = [p.detach().clone() for p in self.parameters]
        training = self.model.training
        with torch.no_grad():
            for p, mean in zip(self.parameters, self.average, strict=True):
                p.copy_(mean)
        try:
            yield self.model.eval()
        finally:
            self.model.train(training)
            with torch.no_grad():
                for p, value in zip(self.parameters, kept, strict=True):
                    p.copy_(value)

    # Checkpoints ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs: tensors and plain values."""
        names = [name for name, _ in self.model.named_parameters()]
        return {
            "model": self.model.state_dict(),
            "average": dict(zip(names, self.average, strict=True)),
            "optimizer": self.optimizer.state_dict(),
            "progress": dict(vars(self.progress)),
            "settings": _plain(self.settings.to_dict()),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` of another process."""
        self.progress = Progress(**state["progress"])
        self._build(self.settings.stages[min(self.progress.stage, len(self.settings.stages) - 1)])
        self.model.load_state_dict(state["model"])
        self.average = [state["average"][n].to(self.device) for n, _ in self.model.named_parameters()]
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])

    # The run ----------------------------------------------------------------------------------------------

    def stage_over(self) -> bool:
        """Whether the current stage has had its steps, or its share of the clock."""
        stages, p = self.settings.stages, self.progress
        if not self.settings.by_clock:
            return p.stage_step >= (stages[p.stage].steps or 0)
        return p.elapsed_s >= 60.0 * sum(s.minutes or 0.0 for s in stages[: p.stage + 1])

    def run(self, *, resume: bool = False, most_steps: int | None = None) -> Progress:
        """Train to the end of the last stage, for `most_steps`, or until SIGINT or SIGTERM; then checkpoint.

        Raises:
            CheckpointError: the folder holds a run and `resume` is false, or cannot be written.
            WavLMLiveError: the loss stays without a finite value.
        """
        self.folder.create(self.settings.to_dict(), resume=resume)
        if resume and self.folder.has(LAST):
            self.load_state(self.folder.load(LAST))
            log.info("resumed at step %d, %.1f minutes in", self.progress.step, self.progress.elapsed_s / 60)
        parameters = sum(p.numel() for p in self.parameters)
        log.info(
            "%.2f million parameters on %s, %d threads",
            parameters / 1e6,
            self.device,
            torch.get_num_threads(),
        )
        last_step = math.inf if most_steps is None else self.progress.step + most_steps
        with _stop_on_signal(self):
            while self.progress.stage < len(self.settings.stages) and self.progress.step < last_step and not self._stop:
                self._run_stage(last_step)
                if self.stage_over():
                    self.progress.stage += 1
                    self.progress.stage_step = 0
                    if self.progress.stage < len(self.settings.stages):
                        self._build(self.settings.stages[self.progress.stage])
        if self.progress.stage == len(self.settings.stages):
            self._measure()
        self.folder.save(LAST, self.state())
        self.folder.close()
        return self.progress

    def _run_stage(self, last_step: float) -> None:
        settings, p = self.settings, self.progress
        stage = settings.stages[p.stage]
        log.info("stage %d, %s, from step %d", p.stage + 1, stage.name, p.step)
        plan = BatchPlan(self.train_set, self.cache, stage, seed=settings.seed, number=p.stage, noises=self.noises)
        batches = Prefetcher(plan.batch, p.stage_step, settings.prefetch)
        clock = saved = time.monotonic()
        window: list[tuple[float, float, float]] = []
        window_start, skipped_in_a_row = clock, 0
        try:
            while p.step < last_step and not self._stop and not self.stage_over():
                batch = next(batches)
                loss, norm = self.step(batch)
                skipped_in_a_row = skipped_in_a_row + 1 if not math.isfinite(norm) else 0
                if skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
                    raise WavLMLiveError(
                        f"loss or gradient was not finite {skipped_in_a_row} times in a row (step {p.step}); "
                        "lower the learning rate and resume from the last checkpoint"
                    )
                now = time.monotonic()
                p.elapsed_s += now - clock
                clock = now
                window.append((loss, norm, batch.seconds))
                if p.step % settings.log_steps == 0:
                    self._log(window, now - window_start, batch.pool)
                    window, window_start = [], now
                if settings.dev_minutes and p.elapsed_s >= p.next_dev_s:
                    if p.step > 1:
                        self._measure()
                    p.next_dev_s = p.elapsed_s + 60.0 * settings.dev_minutes
                if now - saved >= 60.0 * settings.checkpoint_minutes:
                    self.folder.save(LAST, self.state())
                    saved = now
        finally:
            batches.close()

    def _log(self, window: list[tuple[float, float, float]], seconds: float, pool: str) -> None:
        losses = [x for x, _, _ in window if math.isfinite(x)]
        norms = [n for _, n, _ in window if math.isfinite(n)]
        p = self.progress
        values = {
            "loss": sum(losses) / len(losses) if losses else None,
            "lr": self.learning_rate(),
            "audio_s_per_s": sum(s for _, _, s in window) / max(seconds, 1e-9),
            "grad_norm": sum(norms) / len(norms) if norms else None,
            "minutes": p.elapsed_s / 60,
            "skipped": p.skipped,
            "stage": p.stage + 1,
        }
        self.folder.record("train", p.step, values)
        log.info(
            "step %d  %5.1f min  stage %d (%s)  loss %.3f  lr %.2e  %.0f s/s  grad %.2f  skipped %d",
            p.step, values["minutes"], p.stage + 1, pool, values["loss"] or math.nan, values["lr"],
            values["audio_s_per_s"], values["grad_norm"] or math.nan, p.skipped,
        )  # fmt: skip

    def _measure(self) -> None:
        """Word error rate of the averaged weights on some of the dev set; the best weights are kept."""
        if not self.dev_set:
            return
        chosen: list[Utterance] = []
        for corpus in sorted({u.corpus for u in self.dev_set}):
            chosen += [u for u in self.dev_set if u.corpus == corpus][: self.settings.dev_utterances]
        with self.averaged() as model:
            result = measure(model, chosen, self.cache, parse_context(self.settings.dev_context), device=self.device)
        rates = {f"{kind}_{c}": round(v[kind], 4) for kind in ("wer", "cer") for c, v in result.items()}
        log.info("dev %s", "  ".join(f"{name} {100 * rate:.1f}%" for name, rate in rates.items()))
        self.folder.record("dev", self.progress.step, rates)
        if rates["wer_all"] < self.progress.best_wer:
            self.progress.best_wer = rates["wer_all"]
            self.folder.save(BEST, self.state())


@contextlib.contextmanager
def _stop_on_signal(trainer: CTCTrainer) -> Iterator[None]:
    """On SIGINT or SIGTERM finish the step, then leave with a checkpoint (signals reach the main thread)."""

    def ask(number: int, frame: object) -> None:
        log.info("stopping after this step (signal %d)", number)
        trainer._stop = True

    former = {}
    with contextlib.suppress(ValueError):
        former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    """Mappings and sequences as dict and list, so that a checkpoint holds nothing but plain values."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
