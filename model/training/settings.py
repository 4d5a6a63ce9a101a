"""Settings of a training run, read from a recipe in JSON: the model, the curriculum, the optimiser."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import WavLMConfig
from ..context import StreamingContext
from ..errors import ConfigurationError
from .augment import Augmentation
from .letters import TOKENS

RECIPES = Path(__file__).parent / "recipes"
EVERY = "*"
"""Stands for all corpora that a pool does not name."""


def _build(kind: type, values: Any, where: str) -> Any:
    """Make a dataclass from a JSON object; unknown and missing names are errors that say where."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} is a {type(values).__name__}, expected a JSON object")
    names = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigurationError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(names))}")
    try:
        return kind(**values)
    except TypeError as e:
        raise ConfigurationError(f"{where}: {e}") from e


@dataclass(frozen=True)
class Pool:
    """Recordings that are drawn together, and how often a batch is made of them."""

    name: str
    corpora: Mapping[str, float] = field(default_factory=lambda: {EVERY: 1.0})
    """Share of each corpus's recordings used in an epoch of the pool (1: each once, 2: each twice); "*": of all others
    in the manifest."""
    weight: float = 1.0
    """Share of the batches of the stage."""
    min_s: float = 0.0
    max_s: float = 16.0
    """Recordings from `min_s` to `max_s` seconds; joined ones stay below `max_s` too."""
    join: tuple[int, int] = (1, 1)
    """Fewest and most recordings that are joined to one utterance."""
    gap_s: tuple[float, float] = (0.1, 1.0)
    """Silence between joined recordings."""

    def __post_init__(self) -> None:
        if not self.weight > 0 or not self.corpora or any(not share > 0 for share in self.corpora.values()):
            raise ConfigurationError(f"pool {self.name!r}: its weight and its corpora's shares must be above 0")
        if not 1 <= self.join[0] <= self.join[1]:
            raise ConfigurationError(f"pool {self.name!r}: join is {self.join}, expected two numbers from 1 up")
        object.__setattr__(self, "join", tuple(self.join))
        object.__setattr__(self, "gap_s", tuple(self.gap_s))

    def share(self, corpus: str) -> float | None:
        """Of a corpus's recordings; None: it does not belong to the pool."""
        return self.corpora.get(corpus, self.corpora.get(EVERY))


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: which recordings batches are made of, for how long, how hard they are."""

    name: str
    pools: tuple[Pool, ...]
    minutes: float | None = None
    """Length by the clock; give this or `steps`."""
    steps: int | None = None
    batch_s: float = 60.0
    """Seconds of sound in a batch, padding included."""
    most_clips: int = 64
    pad_s: float = 0.0
    """Batches are padded to multiples of this; 0: to the longest row. A CPU's library compiles its kernels anew for
    every shape, so few of them are faster."""
    augment: Augmentation = field(default_factory=Augmentation)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's configuration that the stage changes: dropouts, SpecAugment."""
    contexts: Mapping[str, float] = field(default_factory=dict)
    """Streaming contexts of the stage, as `TrainSettings.contexts`; empty: those of the recipe."""

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ConfigurationError(f"stage {self.name!r}: give its length either in minutes or in steps")
        if not self.pad_s >= 0:
            raise ConfigurationError(f"stage {self.name!r}: pad_s is {self.pad_s!r}, expected seconds from 0 on")
        pools = tuple(p if isinstance(p, Pool) else _build(Pool, p, f"stage {self.name!r}") for p in self.pools)
        if not pools:
            raise ConfigurationError(f"stage {self.name!r} has no pool")
        object.__setattr__(self, "pools", pools)
        if not isinstance(self.augment, Augmentation):
            object.__setattr__(self, "augment", Augmentation.from_dict(self.augment))


@dataclass(frozen=True)
class Distillation:
    """Learning from what a model says that sees the whole utterance (as in arXiv 2303.09278)."""

    weight: float = 0.3
    """Share of the divergence from the teacher in the loss of a streaming step; the CTC loss has the rest."""
    teacher: str = "self"
    """"self": the model being trained, its full-context pass; or what `--start` may name, with the same tokens."""
    temperature: float = 1.0
    """Divides the logits of both."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1 or not self.temperature > 0:
            raise ConfigurationError(
                f"distillation has the weight {self.weight} and the temperature {self.temperature}; expected a weight "
                "above 0 and at most 1, and a temperature above 0"
            )


@dataclass(frozen=True)
class FrameTargets:
    """Naming a label of every frame, such as the phone that is said, from a layer below the letters.

    The labels come from `--frame-labels`, a file that `train align` writes. Nothing of this is exported.
    """

    layer: int
    """Its output is read; 1 is the first layer."""
    weight: float = 0.5
    """Of the cross-entropy per frame, beside 1 for the CTC loss per character."""

    def __post_init__(self) -> None:
        if self.layer < 1 or not self.weight > 0:
            raise ConfigurationError(
                f"frames has the layer {self.layer} and the weight {self.weight}; expected a layer from 1 on and a "
                "weight above 0"
            )


SCHEDULES = ("linear", "cosine", "tristage")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a run computes.

    Raises:
        ConfigurationError: a value that cannot work; the message names it.
    """

    model: Mapping[str, Any]
    """Fields of `WavLMConfig`. Empty where the run starts from a checkpoint: then its own."""
    stages: tuple[Stage, ...]
    contexts: Mapping[str, float] = field(default_factory=lambda: {"full": 1.0})
    """Streaming contexts "left,chunk,right" in frames, or "full", with the share of the steps trained so."""
    seed: int = 1
    peak_lr: float = 8e-4
    warmup_steps: int = 200
    schedule: str = "linear"
    """How the rate falls from the first step to the end of the last stage: "linear" or "cosine" to 0, "tristage" as
    wav2vec 2.0 was fine-tuned: up for a tenth, level for four, then exponentially to a twentieth."""
    freeze: Mapping[str, int | None] = field(default_factory=dict)
    """Prefixes of parameter names, and the steps for which those stay as they are; null: for the whole run.
    wav2vec 2.0 and WavLM: {"wavlm.feature_extractor": null, "wavlm": 10000}."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Prefixes of parameter names, and factors on their learning rate; the longest prefix counts."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer of the encoder to the one below it."""
    gradient_checkpointing: bool = False
    """Compute layers twice instead of keeping what they computed: a third slower, far less memory."""
    distill: Distillation | None = None
    frames: FrameTargets | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    """Of the running average of the weights, which is what is measured and exported."""
    bf16: bool = True
    """Compute in bfloat16 under autocast; weights, loss and optimiser stay float32."""
    checkpoint_minutes: float = 3.0
    log_steps: int = 25
    dev_minutes: float = 10.0
    """Minutes between measurements on the dev split; 0: only at the end."""
    dev_context: str = "250,32,8"
    dev_utterances: int = 40
    """Utterances of each corpus in these measurements."""
    characters_per_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Believed rates by corpus; a text far outside belongs to another recording."""
    prefetch: int = 4
    """Batches made ahead."""
    workers: int = 0
    """Processes that make them; 0: a thread, enough for a CPU. One makes some 800 s of sound in a second of its own."""
    licence: str = ""
    """Of the trained weights, for the model card."""

    def __post_init__(self) -> None:
        stages = tuple(
            s if isinstance(s, Stage) else _build(Stage, s, f"stage {i + 1}") for i, s in enumerate(self.stages)
        )
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "betas", tuple(self.betas))
        if not stages:
            raise ConfigurationError("the recipe has no stage")
        if len({s.steps is None for s in stages}) > 1:
            raise ConfigurationError("some stages are given in minutes and some in steps; expected one of the two")
        if self.workers < 0 or self.prefetch < 1:
            raise ConfigurationError(
                f"workers is {self.workers}, prefetch {self.prefetch}; expected from 0 and from 1 on"
            )
        if self.schedule not in SCHEDULES:
            raise ConfigurationError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")
        if isinstance(self.distill, Mapping):
            object.__setattr__(self, "distill", _build(Distillation, self.distill, "distill"))
        if isinstance(self.frames, Mapping):
            object.__setattr__(self, "frames", _build(FrameTargets, self.frames, "frames"))
        if not 0 < self.layer_decay <= 1 or any(not rate >= 0 for rate in self.learning_rates.values()):
            raise ConfigurationError(
                f"layer_decay is {self.layer_decay} and learning_rates {dict(self.learning_rates)}; expected a decay "
                "above 0 and at most 1, and factors of at least 0"
            )
        if any(steps is not None and not steps > 0 for steps in self.freeze.values()):
            raise ConfigurationError(f"freeze is {dict(self.freeze)}, expected numbers of steps above 0, or null")
        for contexts in (self.contexts, *(stage.contexts or self.contexts for stage in stages)):
            if not contexts or any(not w > 0 for w in contexts.values()):
                raise ConfigurationError("contexts must name at least one context, each with a weight above 0")
            for name in contexts:
                parse_context(name)
        for stage in stages:
            layers = self.config(stage).num_hidden_layers
            if self.frames is not None and self.frames.layer > layers:
                raise ConfigurationError(f"frames names layer {self.frames.layer}, the model has {layers}")

    @property
    def by_clock(self) -> bool:
        """Whether stages are measured in minutes (else in steps)."""
        return self.stages[0].steps is None

    def config(self, stage: Stage) -> WavLMConfig:
        """The model's configuration during a stage."""
        return WavLMConfig.from_dict({**self.defaults, **self.model, **stage.config})

    @property
    def defaults(self) -> dict[str, Any]:
        """What the task asks of the configuration unless the recipe says otherwise."""
        return {"vocab_size": len(TOKENS)}

    def scaled(self, minutes: float) -> TrainSettings:
        """The same recipe with the clock of its stages scaled to a total of `minutes`."""
        if not self.by_clock:
            raise ConfigurationError("this recipe counts steps; its minutes cannot be set")
        factor = minutes / sum(s.minutes or 0.0 for s in self.stages)
        stages = tuple(dataclasses.replace(s, minutes=(s.minutes or 0.0) * factor) for s in self.stages)
        return dataclasses.replace(self, stages=stages)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the recipe."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """From the JSON object of a recipe; unknown names are refused."""
        return _build(cls, values, "the recipe")

    @classmethod
    def from_file(cls, path: str | Path) -> TrainSettings:
        """Read a recipe: a file, or the name of one in `recipes/`.

        Raises:
            ConfigurationError: no such file, not JSON, or a value that cannot work.
        """
        path = Path(path)
        named = RECIPES / f"{path.name}.json"
        if not path.exists() and path.parent == Path(".") and named.exists():
            path = named
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as e:
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.json")))
            raise ConfigurationError(f"cannot read the recipe {path}: {e.strerror}; ready-made are: {known}") from e
        except ValueError as e:
            raise (e if isinstance(e, ConfigurationError) else ConfigurationError(f"{path} is not JSON: {e}")) from e


def parse_context(text: str) -> StreamingContext | None:
    """ "left,chunk,right" in frames, or "full" for a pass over the whole utterance (None)."""
    return None if text == "full" else StreamingContext.parse(text)
