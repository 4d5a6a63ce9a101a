"""What a training run holds: model, optimiser and running average; built, frozen, started, saved and loaded."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigurationError
from .engine import Engine, like, whole
from .frame_targets import PREFIX as FRAME_HEAD
from .objective import is_under, parameter_groups, rate_of
from .run_folder import Progress, plain
from .settings import Stage, TrainSettings

log = logging.getLogger(__name__)


class ModelState(ABC):
    """Model, optimiser and running average of the weights of one run.

    Sharded over processes, parameters, moments and average are DTensors; checkpoints hold whole tensors.

    Args:
        settings: the recipe.
        engine: how the processes work together.
    """

    task = ""

    def __init__(self, settings: TrainSettings, engine: Engine) -> None:
        self.settings, self.engine, self.device = settings, engine, engine.device
        self.progress = Progress()
        torch.manual_seed(settings.seed)
        self.model: Any = None
        self.average: list[Tensor] = []
        self._build(settings.stages[0])
        self._average_anew()

    @abstractmethod
    def make_model(self, stage: Stage) -> nn.Module:
        """The model of a stage, with random weights."""

    def _build(self, stage: Stage, weights: Mapping[str, Tensor] | None = None, optimizer: Any = None) -> None:
        """Make model and optimiser for a stage, with whole weights and optimiser state where there are any."""
        self.model = self.make_model(stage).to(self.device)
        if weights is not None:
            self.model.load_state_dict(weights)
        if self.settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if self.engine.shard and getattr(self.model.config, "layerdrop", 0.0):
            raise ConfigurationError("layerdrop is above 0: sharded processes would wait for layers that others skip")
        self._wrap()
        layers = self.settings.config(stage).num_hidden_layers
        groups = parameter_groups(
            self.model,
            self.settings.weight_decay,
            lambda name: rate_of(name, self.settings.learning_rates, self.settings.layer_decay, layers),
        )
        self.parameters = list(self.model.parameters())
        s = self.settings
        self.optimizer = torch.optim.AdamW(groups, lr=s.peak_lr, betas=(s.betas[0], s.betas[1]), fused=True)
        if optimizer is not None:
            self._load_optimizer(optimizer)

    def _frozen(self) -> frozenset[str]:
        """Names of the parameters that the coming step leaves as they are."""
        prefixes = [p for p, steps in self.settings.freeze.items() if steps is None or self.progress.step < steps]
        names = [name for name, _ in self.model.named_parameters()]
        return frozenset(name for name in names if any(is_under(name, p) for p in prefixes))

    def _wrap(self) -> None:
        """Freeze what is frozen now, and connect the rest with the other processes."""
        self._held = self._frozen()
        for name, p in self.model.named_parameters():
            p.requires_grad_(name not in self._held)
        self.wrapped = self.engine.prepare(self.model)

    def rebuild(self, stage: Stage) -> None:
        """The same weights and optimiser under the configuration of a stage, and with what is frozen now."""
        state = self.state()
        self._build(stage, state["model"], state["optimizer"])

    def _average_anew(self) -> None:
        self.average = [p.detach().clone() for p in self.parameters]

    def start_from(self, weights: Mapping[str, Tensor], *, new_head: bool = False) -> None:
        """Begin with these weights instead of random ones; a resumed run takes its own.

        Args:
            weights: by name; those of a training objective that this task does not have are left out.
            new_head: keep random weights for everything outside the base model that does not fit.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape.
        """
        expected = self.model.state_dict()
        fits = {n: w for n, w in weights.items() if n in expected and w.shape == expected[n].shape}
        base = [n for n in expected if n.startswith("wavlm.")]
        wrong = [
            f"{n} {tuple(weights[n].shape) if n in weights else 'missing'}, expected {tuple(expected[n].shape)}"
            for n in (base if new_head else expected)
            if n not in fits and n != "wavlm.masked_spec_embed" and not n.startswith(FRAME_HEAD)
        ]
        wrong += [f"{n} unknown" for n in weights if n not in expected and n.startswith("wavlm.")]
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} tensors do not fit the model of the recipe, such as {'; '.join(wrong[:3])}; "
                "give the recipe's `model` the numbers of the checkpoint's configuration or leave it empty; "
                "--new-head asks for the encoder alone"
            )
        if fresh := sorted(set(expected) - set(fits)):
            log.info("%d tensors begin with random values: %s", len(fresh), ", ".join(fresh[:6]))
        current = {n: whole(t) for n, t in expected.items()}
        self._build(self.settings.stages[0], current | fits)
        self._average_anew()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Any]:
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

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs: tensors and plain values. Sharded, every process must call it."""
        names = [name for name, _ in self.model.named_parameters()]
        optimizer = self.optimizer.state_dict()
        moments = {i: {k: whole(v) for k, v in entry.items()} for i, entry in optimizer["state"].items()}
        return {
            "task": self.task,
            "model": {n: whole(t) for n, t in self.model.state_dict().items()},
            "average": dict(zip(names, map(whole, self.average), strict=True)),
            "optimizer": {**optimizer, "state": moments},
            "progress": dict(vars(self.progress)),
            "settings": plain(self.settings.to_dict()),
            "torch_rng": torch.get_rng_state(),
        }

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        flat = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            i: {
                k: like(v, flat[i]) if getattr(v, "shape", None) == flat[i].shape and v.ndim else v
                for k, v in e.items()
            }
            for i, e in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": moments})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` of another process.

        Raises:
            CheckpointError: it is of another task or of another model.
        """
        if state.get("task", self.task) != self.task:
            raise CheckpointError(f"the run is of the task {state['task']!r}, expected {self.task!r}")
        self.progress = Progress(**state["progress"])
        try:
            stage = self.settings.stages[min(self.progress.stage, len(self.settings.stages) - 1)]
            self._build(stage, state["model"], state["optimizer"])
            self.average = [like(state["average"][n], p).clone() for n, p in self.model.named_parameters()]
        except (RuntimeError, KeyError, ValueError) as e:
            raise CheckpointError(
                f"the checkpoint is of another model than the recipe describes: {str(e)[:300]}; "
                "resume with the settings of the run, or choose another folder"
            ) from e
        torch.set_rng_state(state["torch_rng"])
