"""Training WavLM for CTC, from scratch or further, on a CPU or a GPU, with streaming contexts drawn per batch.

Every step's data, masks, dropout and context follow from (seed, step) alone; a checkpoint holds weights,
their running average, the optimiser and the counters. So a run that is killed and resumed computes the same
losses (stages counted in steps; stages by the clock end when the clock says so).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ctc import WavLMForCTC
from ..errors import CheckpointError, DeviceError, WavLMLiveError
from .batches import Batch, BatchPlan, Prefetcher
from .cache import SoundCache
from .evaluate import measure
from .manifest import Utterance
from .objective import ctc_loss, parameter_groups, rate_factor, update_average
from .parallel import Group
from .run_folder import BEST, LAST, Progress, RunFolder, on_signal, plain
from .settings import Stage, TrainSettings, parse_context

log = logging.getLogger(__name__)

_MOST_SKIPPED_IN_A_ROW = 50


class CTCTrainer:
    """One training run.

    Args:
        settings: the recipe.
        folder: where checkpoints and logs go.
        train: utterances to learn from, decoded in `cache`.
        dev: utterances to choose the best weights by; may be empty.
        noises: background recordings, float32 [samples].
        device: "cpu", "cuda" or "cuda:n".
        group: this process's place among those that train together.

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
        group: Group | None = None,
    ) -> None:
        self.settings, self.folder, self.group = settings, folder, group or Group()
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
        self._asked_to_stop = self._stop = False
        self._clock = time.monotonic()
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

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights instead of random ones; a resumed run takes its own.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape.
        """
        expected = self.model.state_dict()
        wrong = [
            f"{name} {tuple(weights[name].shape) if name in weights else 'missing'}, expected {tuple(t.shape)}"
            for name, t in expected.items()
            if name not in weights or weights[name].shape != t.shape
        ]
        wrong += [f"{name} unknown" for name in weights if name not in expected]
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} tensors do not fit the model of the recipe, such as {'; '.join(wrong[:3])}; "
                "give the recipe's `model` the numbers of the checkpoint's configuration"
            )
        self.model.load_state_dict(dict(weights))
        self.average = [p.detach().clone() for p in self.parameters]

    # One step ---------------------------------------------------------------------------------------------

    def context(self, step: int) -> Any:
        """The streaming context of a step (None: the whole utterance)."""
        rng = np.random.default_rng([self.settings.seed, 9, step])
        return self.contexts[int(rng.choice(len(self.contexts), p=self._context_weights))]

    def loss(self, batch: Batch, step: int) -> Tensor:
        """Loss of a batch (or of this process's rows of it), with everything random seeded by the step."""
        seed = (self.settings.seed * 1_000_003 + step) * self.group.size + self.group.rank
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            output = self.model(batch.input_values, attention_mask=batch.attention_mask, context=self.context(step))
        frame_lengths = self.model.feature_lengths(batch.sample_lengths).to(torch.long)
        return ctc_loss(output.logits, batch.labels, frame_lengths, batch.label_lengths, batch.characters)

    def learning_rate(self) -> float:
        """Rate of the coming step: warm-up by steps, then the fall over the whole recipe."""
        s, p = self.settings, self.progress
        if s.by_clock:
            done = p.elapsed_s / (60.0 * sum(stage.minutes or 0.0 for stage in s.stages))
        else:
            done = p.step / sum(stage.steps or 0 for stage in s.stages)
        return s.peak_lr * rate_factor(s.schedule, p.step, s.warmup_steps, done)

    def step(self, batch: Batch | None) -> tuple[float, float, float]:
        """Train on one batch (None: no row of it is this process's); one that is not finite is left out.

        Returns:
            The loss, the norm of the gradient before clipping, the seconds of sound.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = torch.zeros((), device=self.device)
        if batch is not None:
            loss = self.loss(batch.to(self.device), self.progress.step)
            if torch.isfinite(loss):
                loss.backward()
        value, seconds = self._exchange(float(loss.detach()), batch.seconds if batch else 0.0)
        norm = math.nan
        if math.isfinite(value):
            norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
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
        """Sum gradients, loss and seconds over the processes; agree on the clock and on stopping.

        The leader's clock counts: were each to trust its own, one would leave a stage a step before the others.
        """
        now = time.monotonic()
        elapsed_s = self.progress.elapsed_s + now - self._clock
        self._clock = now
        if self.group.size == 1:
            self.progress.elapsed_s, self._stop = elapsed_s, self._asked_to_stop
            return loss, seconds
        words = [loss, seconds, elapsed_s if self.group.leads else 0.0, float(self._asked_to_stop)]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([g.flatten() for g in grads] + [torch.tensor(words, device=self.device)])
        self.group.sum(flat)
        for p, piece in zip(self.parameters, flat[: -len(words)].split([g.numel() for g in grads]), strict=True):
            p.grad = piece.view_as(p)
        loss, seconds, self.progress.elapsed_s, stop = flat[-len(words) :].tolist()
        self._stop = stop > 0
        return loss, seconds

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
            "settings": plain(self.settings.to_dict()),
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
        if self.group.leads:
            self.folder.create(self.settings.to_dict(), resume=resume)
        if resume and self.folder.has(LAST):
            self.load_state(self.folder.load(LAST))
            log.info("resumed at step %d, %.1f minutes in", self.progress.step, self.progress.elapsed_s / 60)
        parameters = sum(p.numel() for p in self.parameters)
        threads = f"{self.group.size} x {torch.get_num_threads()} threads"
        log.info("%.2f million parameters on %s, %s", parameters / 1e6, self.device, threads)
        last_step = math.inf if most_steps is None else self.progress.step + most_steps
        with on_signal(self._ask_to_stop):
            while self.progress.stage < len(self.settings.stages) and self.progress.step < last_step and not self._stop:
                self._run_stage(last_step)
                if self.stage_over():
                    self.progress.stage += 1
                    self.progress.stage_step = 0
                    if self.progress.stage < len(self.settings.stages):
                        self._build(self.settings.stages[self.progress.stage])
        if self.progress.stage == len(self.settings.stages):
            self._measure()
        self._save(LAST)
        self.folder.close()
        return self.progress

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True

    def _run_stage(self, last_step: float) -> None:
        settings, p = self.settings, self.progress
        stage = settings.stages[p.stage]
        log.info("stage %d, %s, from step %d", p.stage + 1, stage.name, p.step)
        plan = BatchPlan(self.train_set, self.cache, stage, seed=settings.seed, number=p.stage, noises=self.noises)
        rank, size = self.group.rank, self.group.size
        batches = Prefetcher(lambda step: plan.batch(step, rank, size), p.stage_step, settings.prefetch)
        self._clock = saved = window_start = time.monotonic()
        window: list[tuple[float, float, float]] = []
        skipped_in_a_row = 0
        try:
            while p.step < last_step and not self._stop and not self.stage_over():
                window.append(self.step(next(batches)))
                skipped_in_a_row = skipped_in_a_row + 1 if not math.isfinite(window[-1][1]) else 0
                if skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
                    raise WavLMLiveError(
                        f"loss or gradient was not finite {skipped_in_a_row} times in a row (step {p.step}); "
                        "lower the learning rate and resume from the last checkpoint"
                    )
                now = time.monotonic()
                if p.step % settings.log_steps == 0:
                    self._log(window, now - window_start)
                    window, window_start = [], now
                if settings.dev_minutes and p.elapsed_s >= p.next_dev_s:
                    p.next_dev_s = p.elapsed_s + 60.0 * settings.dev_minutes
                    if p.step > 1:
                        self._measure()
                if now - saved >= 60.0 * settings.checkpoint_minutes:
                    self._save(LAST)
                    saved = now
        finally:
            batches.close()

    def _log(self, window: list[tuple[float, float, float]], seconds: float) -> None:
        if not self.group.leads:
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
        if self.group.leads:
            self.folder.save(name, self.state())

    def _measure(self) -> None:
        """Word error rate of the averaged weights on some of the dev set; the best weights are kept."""
        if not self.dev_set or not self.group.leads:
            return
        chosen: list[Utterance] = []
        for corpus in sorted({u.corpus for u in self.dev_set}):
            chosen += [u for u in self.dev_set if u.corpus == corpus][: self.settings.dev_utterances]
        with self.averaged() as model:
            result = measure(model, chosen, self.cache, parse_context(self.settings.dev_context), device=self.device)
        rates = {f"{kind}_{c}": round(v[kind], 4) for kind in ("wer", "cer") for c, v in result.items()}
        # Each corpus counts alike: long sentences, far from right for long, would drown the words that are.
        rates["wer_mean"] = round(sum(v["wer"] for c, v in result.items() if c != "all") / (len(result) - 1), 4)
        log.info("dev %s", "  ".join(f"{name} {100 * rate:.1f}%" for name, rate in rates.items()))
        self.folder.record("dev", self.progress.step, rates)
        if rates["wer_mean"] < self.progress.best_wer:
            self.progress.best_wer = rates["wer_mean"]
            self._save(BEST)
