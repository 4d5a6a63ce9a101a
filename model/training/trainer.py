"""The loop of every training: stages, learning rate, steps that are not finite, checkpoints, measurements.

Every step's data, masks, dropout and context follow from (seed, step) alone; a checkpoint holds weights,
their running average, the optimiser and the counters. So a run that is killed and resumed computes the same
losses (stages counted in steps; stages by the clock end when the clock says so).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import WavLMLiveError
from .batches import Batch
from .engine import Engine
from .model_state import ModelState
from .objective import rate_factor, update_average
from .prefetch import Prefetcher, WorkerPrefetcher
from .progress_bar import ProgressBar
from .run_folder import BEST, LAST, Progress, RunFolder, on_signal
from .settings import Stage, TrainSettings, parse_context

log = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 50


class Plan(Protocol):
    """What each step of a stage is made of."""

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch | None: ...


@dataclass(frozen=True)
class OwnRows:
    """Of each step the rows of one process; where there is none for it, one of another's that does not count."""

    plan: Plan
    rank: int
    size: int

    def __call__(self, step: int) -> Batch:
        batch = self.plan.batch(step, self.rank, self.size)
        if batch is not None:
            return batch
        batch = self.plan.batch(step, 0, 1 << 30)
        assert batch is not None  # a batch has a row
        return dataclasses.replace(batch, weight=0.0)


class Trainer(ModelState):
    """One training run; a task says what is built, what a batch is, what the loss is and what is measured.

    Args:
        settings: the recipe.
        folder: where checkpoints and logs go.
        engine: how the processes work together; alone on the CPU by default.

    Raises:
        DeviceError: there is no such device.
    """

    def __init__(self, settings: TrainSettings, folder: RunFolder, *, engine: Engine | None = None) -> None:
        self.folder = folder
        self.measured: dict[str, float] = {}
        self._take_contexts(settings.contexts, settings.stages[0])
        self._asked_to_stop = self._stop = False
        self._clock = time.monotonic()
        super().__init__(settings, engine or Engine())

    # What a task says --------------------------------------------------------------------------------------

    @abstractmethod
    def make_plan(self, stage: Stage, number: int) -> Plan:
        """The batches of a stage."""

    @abstractmethod
    def loss(self, batch: Batch, step: int) -> Tensor:
        """This process's part of a batch's loss; the parts add up to the loss."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Figures of the averaged weights on the dev set, `self.model` in evaluation mode; `score` decides (lower)."""

    def _take_contexts(self, usual: Mapping[str, float], stage: Stage) -> None:
        """Draw from the contexts of a stage, or from the recipe's where it names none."""
        contexts = stage.contexts or usual
        self.contexts = [parse_context(name) for name in contexts]
        weights = np.array(list(contexts.values()), dtype=float)
        self._context_weights = weights / weights.sum()

    # One step ---------------------------------------------------------------------------------------------

    def context(self, step: int) -> Any:
        """The streaming context of a step (None: the whole utterance)."""
        rng = np.random.default_rng([self.settings.seed, 9, step])
        return self.contexts[int(rng.choice(len(self.contexts), p=self._context_weights))]

    def seed_step(self, step: int) -> None:
        """Seed everything random of a step: torch's generator, and numpy's for SpecAugment."""
        seed = (self.settings.seed * 1_000_003 + step) * self.engine.size + self.engine.rank
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    def autocast(self) -> Any:
        """bfloat16 where the recipe asks for it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16)

    def done(self) -> float:
        """Share of the run that is done."""
        s, p = self.settings, self.progress
        if s.by_clock:
            return p.elapsed_s / (60.0 * sum(stage.minutes or 0.0 for stage in s.stages))
        return p.step / sum(stage.steps or 0 for stage in s.stages)

    def learning_rate(self) -> float:
        """Rate of the coming step."""
        s = self.settings
        return s.peak_lr * rate_factor(s.schedule, self.progress.step, s.warmup_steps, self.done())

    def step(self, batch: Batch) -> tuple[float, float, float]:
        """Train on one batch (this process's rows of it); one that is not finite is left out.

        Returns:
            The loss, the norm of the gradient before clipping, the seconds of sound.
        """
        if self._frozen() != self._held:
            self.rebuild(self.settings.stages[self.progress.stage])
        self.wrapped.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["factor"]
        loss = self.loss(batch.to(self.device), self.progress.step) * batch.weight
        together = self.engine.size > 1
        if loss.requires_grad and (together or bool(torch.isfinite(loss))):  # alone, save the backward pass of a NaN
            self.engine.backward(loss)
        value, seconds = self._exchange(float(loss.detach()), batch.seconds)
        norm = math.nan
        if math.isfinite(value):
            norm = self.engine.clip(self.parameters, self.settings.clip_norm)
        if math.isfinite(norm):
            self.optimizer.step()
            update_average(self.average, self.parameters, self.settings.ema_decay, self.progress.step)
            self.progress.heard_s += seconds
        else:
            self.progress.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.stage_step += 1
        return value, norm, seconds

    def _exchange(self, loss: float, seconds: float) -> tuple[float, float]:
        """Sum loss and seconds over the processes; agree on the clock and on stopping.

        The leader's clock counts: were each to trust its own, one would leave a stage a step before the others.
        """
        now = time.monotonic()
        elapsed_s = self.progress.elapsed_s + now - self._clock
        self._clock = now
        words = [loss, seconds, elapsed_s if self.engine.leads else 0.0, float(self._asked_to_stop)]
        agreed = self.engine.sum(torch.tensor(words, dtype=torch.float64, device=self.device))
        loss, seconds, self.progress.elapsed_s, stop = agreed.tolist()
        self._stop = stop > 0
        return loss, seconds

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
        if self.engine.leads:
            self.folder.create(self.settings.to_dict(), resume=resume)
        if resume and self.folder.has(LAST):
            self.load_state(self.folder.load(LAST))
            log.info("resumed at step %d, %.1f minutes in", self.progress.step, self.progress.elapsed_s / 60)
        parameters = sum(p.numel() for p in self.parameters)
        threads = f"{self.engine.size} x {torch.get_num_threads()} threads"
        log.info("%.2f million parameters on %s, %s", parameters / 1e6, self.device, threads)
        last_step = math.inf if most_steps is None else self.progress.step + most_steps
        stages, p = self.settings.stages, self.progress
        with on_signal(self._ask_to_stop), ProgressBar(None if self.engine.leads else False) as self._bar:
            while p.stage < len(stages) and p.step < last_step and not self._stop:
                self._run_stage(last_step)
                if self.stage_over():
                    p.stage += 1
                    p.stage_step = 0
                    if p.stage < len(stages):
                        self.rebuild(stages[p.stage])
        if p.stage == len(stages):
            self._measure()
        self._save(LAST)
        self.folder.close()
        return p

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True

    def _run_stage(self, last_step: float) -> None:
        settings, p = self.settings, self.progress
        stage = settings.stages[p.stage]
        self._take_contexts(settings.contexts, stage)
        log.info("stage %d, %s, from step %d", p.stage + 1, stage.name, p.step)
        plan = self.make_plan(stage, p.stage)
        make = OwnRows(plan, self.engine.rank, self.engine.size)
        batches: Prefetcher[Batch] | WorkerPrefetcher[Batch]
        if settings.workers:
            batches = WorkerPrefetcher(make, p.stage_step, settings.prefetch, settings.workers)
        else:
            batches = Prefetcher(make, p.stage_step, settings.prefetch)
        self._clock = window_start = time.monotonic()
        window: list[tuple[float, float, float]] = []
        skipped_in_a_row = 0
        try:
            while p.step < last_step and not self._stop and not self.stage_over():
                window.append(self.step(next(batches)))
                skipped_in_a_row = skipped_in_a_row + 1 if not math.isfinite(window[-1][1]) else 0
                if skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                    raise WavLMLiveError(
                        f"loss or gradient was not finite {skipped_in_a_row} times in a row (step {p.step}); "
                        "lower the learning rate and resume from the last checkpoint"
                    )
                now = time.monotonic()
                self._bar.update(self.done(), step=p.step, loss=window[-1][0])
                if p.step % settings.log_steps == 0:
                    self._log(window, now - window_start)
                    window, window_start = [], now
                if settings.dev_minutes and p.elapsed_s >= p.next_dev_s:
                    p.next_dev_s = p.elapsed_s + 60.0 * settings.dev_minutes
                    if p.step > 1:
                        self._measure()
                # sharded, all must take part in saving: the clock they agree on decides
                if p.elapsed_s - p.saved_s >= 60.0 * settings.checkpoint_minutes:
                    p.saved_s = p.elapsed_s
                    self._save(LAST)
        finally:
            batches.close()

    def _log(self, window: list[tuple[float, float, float]], seconds: float) -> None:
        if not self.engine.leads:
            return
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
            "step %d  %5.1f min  stage %d  loss %.3f  lr %.2e  %.0f s/s  grad %.2f  skipped %d",
            p.step, values["minutes"], p.stage + 1, values["loss"] or math.nan, values["lr"],
            values["audio_s_per_s"], values["grad_norm"] or math.nan, p.skipped,
        )  # fmt: skip

    def _save(self, name: str) -> None:
        state = self.state() if self.engine.leads or self.engine.shard else {}
        if self.engine.leads:
            self.folder.save(name, state)

    def _measure(self) -> None:
        """Measure the averaged weights; the best are kept."""
        if not (self.engine.leads or self.engine.shard):
            return
        with self.averaged():
            figures = self.measure()
        if not figures:
            return
        if self.engine.leads:
            log.info("dev %s", "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
            self.folder.record("dev", self.progress.step, figures)
        self.measured = figures
        if figures["score"] < self.progress.best_score:
            self.progress.best_score = figures["score"]
            self._save(BEST)
