"""What the commands `ctc`, `pretrain` and `heads` do in each process: settings, data, trainer, run, model card."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigurationError
from .data import load_data
from .letters import TOKENS
from .progress_bar import LiveHandler
from .settings import TrainSettings

if TYPE_CHECKING:
    from .cache import SoundCache
    from .engine import Engine
    from .frame_labels import FrameLabels
    from .manifest import Utterance
    from .run_folder import Progress
    from .trainer import Trainer

log = logging.getLogger("wavlm_live.training")

SPLITS = ("train", "dev")


def start_logging(level: int) -> None:
    """Log lines on stderr, above the progress bar."""
    logging.basicConfig(level=level, handlers=[LiveHandler()])


def settings_kind(task: str) -> type[TrainSettings]:
    """The class of a task's settings."""
    from .heads import HeadSettings
    from .pretrain import PretrainSettings

    kinds: dict[str, type[TrainSettings]] = {"ctc": TrainSettings, "pretrain": PretrainSettings, "heads": HeadSettings}
    return kinds[task]


def cache_of(args: argparse.Namespace) -> Path:
    """Folder of the decoded sound."""
    return Path(args.cache or Path(args.out) / "cache")


def load(args: argparse.Namespace, settings: TrainSettings) -> tuple[dict[str, list[Utterance]], SoundCache, list[str]]:
    """Data of a command, see `load_data`."""
    return load_data(
        args.manifest,
        cache_of(args),
        splits=SPLITS,
        characters_per_s=settings.characters_per_s,
        texts=args.task == "ctc",
    )


def read_settings(args: argparse.Namespace) -> TrainSettings:
    """The recipe, with what the command line changes."""
    settings = settings_kind(args.task).from_file(args.recipe)
    if args.minutes:
        settings = settings.scaled(args.minutes)
    return settings


def cluster_labels(
    args: argparse.Namespace, settings: Any, data: dict[str, list[Utterance]], cache: SoundCache
) -> FrameLabels:
    """Labels of the frames for `pretrain`: read from OUT/labels.npz, made first unless they cover the data.

    Raises:
        ConfigurationError: `--labels` is neither "mfcc" nor CHECKPOINT:LAYER.
    """
    from .cluster_labels import layer_features, make_labels, mfcc_features
    from .export import read_model
    from .frame_labels import FrameLabels

    path = Path(args.out) / "labels.npz"
    keys = [u.file for split in data.values() for u in split]
    if path.exists():
        labels = FrameLabels.load(path)
        if labels.classes == settings.clusters and all(key in labels for key in keys):
            return labels
    if args.labels == "mfcc":
        features = mfcc_features(cache)
    else:
        source, _, layer = args.labels.rpartition(":")
        if not source or not layer.isdigit():
            raise ConfigurationError(
                f'labels {args.labels!r} not understood, expected "mfcc" or CHECKPOINT:LAYER, such as runs/a/last.pt:6'
            )
        model = read_model(source).wavlm.to(args.device if args.device != "auto" else "cpu")
        features = layer_features(cache, model, int(layer), device=next(model.parameters()).device)
    log.info("labels of %d recordings from %s", len(keys), args.labels)
    labels = make_labels(keys, features, settings.clusters, seed=settings.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    labels.save(path)
    return labels


def prepare(args: argparse.Namespace) -> None:
    """What is made once, before several processes look for it: the cache of sound, and labels."""
    settings = read_settings(args)
    data, cache, _ = load(args, settings)
    if args.task == "pretrain":
        cluster_labels(args, settings, data, cache)


def make_trainer(args: argparse.Namespace, engine: Engine) -> tuple[Trainer, list[Utterance]]:
    """The trainer of a command and the recordings that it learns from."""
    from ..bundled import named
    from .ctc import CTCTrainer
    from .export import read_model
    from .frame_labels import FrameLabels
    from .heads import HeadSettings, HeadTrainer
    from .pretrain import PretrainSettings, PretrainTrainer
    from .run_folder import RunFolder

    settings: Any = read_settings(args)
    start = read_model(args.start) if args.start else None
    if start is not None:
        # what the recipe leaves open is as in the checkpoint, except for its outputs
        given = {k: v for k, v in start.config.to_dict().items() if k not in ("vocab_size", "num_labels", "id2label")}
        given |= {"vocab_size": len(TOKENS)} if args.task == "ctc" else {}
        settings = dataclasses.replace(settings, model=given | dict(settings.model))
    data, cache, noises = load(args, settings)
    common: dict[str, Any] = {
        "dev": data["dev"],
        "noises": [cache.wave(key) for key in noises],
        "engine": engine,
    }
    folder = RunFolder(args.out)
    trainer: Trainer
    if isinstance(settings, PretrainSettings):
        labels = cluster_labels(args, settings, data, cache)
        trainer = PretrainTrainer(settings, folder, data["train"], cache, labels, **common)
    elif isinstance(settings, HeadSettings):
        trainer = HeadTrainer(settings.for_data(data["train"]), folder, data["train"], cache, **common)
    else:
        wanted = settings.distill.teacher if settings.distill else "self"
        teacher = None if wanted == "self" else read_model(wanted)
        labels = FrameLabels.load(args.frame_labels) if args.frame_labels else None
        trainer = CTCTrainer(settings, folder, data["train"], cache, teacher=teacher, frame_labels=labels, **common)
    if start is not None:
        trainer.start_from(start.state_dict(), new_head=args.task != "ctc" or args.new_head)
        if args.task == "ctc" and not args.new_head and engine.leads:
            folder.inherit(named(args.start))
    return trainer, data["train"]


def train(args: argparse.Namespace) -> Progress:
    """One process's part of a training command."""
    from .engine import Engine
    from .model_card import write_card

    engine = Engine(args.device, shard=args.shard)
    if not engine.leads:
        start_logging(logging.WARNING)
    if engine.size > 1 and args.processes > 1:
        torch.set_num_threads(max(1, (args.threads or torch.get_num_threads()) // args.processes))
    if engine.size > 1 and args.processes == 1:  # a launcher's processes: on each machine one makes what all read
        if engine.accelerator.is_local_main_process:
            prepare(args)
        engine.accelerator.wait_for_everyone()
    trainer, data = make_trainer(args, engine)
    progress = trainer.run(resume=args.resume, most_steps=args.steps)
    if engine.leads:
        write_card(trainer, data)
    return progress
