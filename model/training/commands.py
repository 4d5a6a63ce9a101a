"""The commands `ctc`, `evaluate` and `export` of `python -m wavlm_live.model.training`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigurationError, WavLMLiveError
from .cache import SoundCache, build_cache, usable
from .hub_datasets import PREFIX, import_dataset
from .letters import TOKENS
from .manifest import SoundFinder, SoundLocation, Utterance, read_manifest
from .model_card import write_card
from .parallel import run_together
from .progress_bar import LiveHandler
from .settings import TrainSettings, parse_context

if TYPE_CHECKING:
    from .run_folder import Progress

log = logging.getLogger("wavlm_live.training")


def load_data(
    manifest: str | Path | Sequence[str],
    cache_folder: str | Path,
    *,
    splits: Sequence[str],
    characters_per_s: Any = None,
    corpora: Sequence[str] | None = None,
    workers: int = 2,
    noise: str = "noise",
) -> tuple[dict[str, list[Utterance]], SoundCache, list[str]]:
    """Utterances by split, their decoded sound, and the keys of the noises (`<noise>.tar` by a manifest).

    Several manifests make one set; a recording is known by its name, so they may not name two alike. "hf:NAME" is
    a dataset of the Hugging Face hub or a folder of parquet files.
    """
    named = [manifest] if isinstance(manifest, (str, Path)) else manifest
    manifests = [
        import_dataset(str(m), Path(cache_folder) / f"dataset-{re.sub(r'[^A-Za-z0-9]+', '-', str(m)[3:])}")
        if str(m).startswith(PREFIX)
        else m
        for m in named
    ]
    read = [
        read_manifest(path, splits=splits, corpora=corpora, characters_per_s=characters_per_s or {})
        for path in manifests
    ]
    sounds: dict[str, SoundLocation] = {}
    for found, outcome in read:
        for u in found:
            if sounds.setdefault(u.file, u.location) != u.location:
                raise ConfigurationError(f"{outcome.path}: {u.file} is in another manifest too; give it another name")
    if not sounds:
        reports = "\n".join(str(outcome) for _, outcome in read)
        raise ConfigurationError(f"{reports}\nno usable utterance of the split {', '.join(splits)}")
    noises: dict[str, SoundLocation] = {}
    for path in manifests:
        noises |= SoundFinder(Path(path).parent).members(noise)
    cache = build_cache(sounds | noises, cache_folder, workers=workers)
    utterances: list[Utterance] = []
    for found, outcome in read:
        utterances += usable(found, cache, outcome)
        log.info("%s", outcome)
    by_split = {split: [u for u in utterances if u.split == split] for split in splits}
    return by_split, cache, [key for key in noises if key in cache]


def _cache_of(args: argparse.Namespace) -> str | Path:
    return args.cache or Path(args.out) / "cache"


def _train(args: argparse.Namespace) -> Progress:
    """One process's part of `ctc`."""
    from .ctc import CTCTrainer
    from .engine import Engine
    from .export import read_model
    from .run_folder import RunFolder

    engine = Engine(args.device, shard=args.shard)
    if not engine.leads:
        _start_logging(logging.WARNING)
    if engine.size > 1 and args.processes > 1:
        torch.set_num_threads(max(1, (args.threads or torch.get_num_threads()) // args.processes))
    settings = TrainSettings.from_file(args.recipe)
    if args.minutes:
        settings = settings.scaled(args.minutes)
    start = read_model(args.start) if args.start else None
    if not settings.model and start is not None:
        settings = dataclasses.replace(settings, model=start.config.to_dict() | {"vocab_size": len(TOKENS)})
    data, cache, noises = load_data(
        args.manifest, _cache_of(args), splits=("train", "dev"), characters_per_s=settings.characters_per_s
    )
    named = settings.distill.teacher if settings.distill else "self"
    trainer = CTCTrainer(
        settings,
        RunFolder(args.out),
        data["train"],
        cache,
        dev=data["dev"],
        noises=[cache.wave(key) for key in noises],
        engine=engine,
        teacher=None if named == "self" else read_model(named),
    )
    if start is not None:
        trainer.start_from(start.state_dict(), new_head=args.new_head)
    progress = trainer.run(resume=args.resume, most_steps=args.steps)
    if engine.leads:
        write_card(trainer, data["train"])
    return progress


def train_ctc(args: argparse.Namespace) -> None:
    """`ctc`: run a recipe."""
    if args.processes > 1:  # made once, before the others look for it
        load_data(args.manifest, _cache_of(args), splits=("train", "dev"))
    progress = run_together(_train, args, args.processes)
    log.info("%d steps in %.1f minutes, best score %.3f", progress.step, progress.elapsed_s / 60, progress.best_score)


def evaluate_ctc(args: argparse.Namespace) -> None:
    """`evaluate`: error rates by corpus and context, as a table on stdout and JSON."""
    from .evaluate import report, table, write_report
    from .export import load_model

    model: Any
    if Path(args.model).is_dir():
        from ..ctc import WavLMForCTC

        model = WavLMForCTC.from_pretrained(args.model, dtype=torch.float32)
    else:
        model = load_model(args.model)
    model = model.to(args.device).eval()
    data, cache, _ = load_data(args.manifest, args.cache, splits=[args.split], corpora=args.corpus)
    contexts = {text: parse_context(text) for text in args.context}
    result = report(model, data[args.split], cache, contexts, device=args.device, through=args.through, bf16=args.bf16)
    result = {"model": str(args.model), "split": args.split, **result}
    sys.stdout.write(table(result) + "\n")
    if args.json:
        write_report(result, args.json)


def export_ctc(args: argparse.Namespace) -> None:
    """`export`: write a folder in transformers' format."""
    from .export import export

    contexts = dict(pair.split("=", 1) for pair in args.context)
    folder = export(args.checkpoint, args.out, contexts=contexts, dtype=args.dtype, averaged=not args.last_weights)
    sys.stdout.write(f"{folder}\n")


def synthesise_speech(args: argparse.Namespace) -> None:
    """`synthesize`: a synthetic corpus with its manifest."""
    from .synthesis import COMMANDS, synthesise

    manifest = synthesise(
        args.out,
        args.sentences,
        hours=args.hours,
        word_hours=args.word_hours,
        words=args.words or COMMANDS,
        sentence_words=tuple(args.sentence_words),
        seed=args.seed,
        workers=args.workers,
        flite_share=args.flite_share,
    )
    sys.stdout.write(f"{manifest}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m wavlm_live.model.training", description=__doc__)
    top.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    commands = top.add_subparsers(required=True)

    ctc = commands.add_parser("ctc", help="train a CTC model")
    ctc.add_argument("--manifest", required=True, nargs="+", help="tables of recordings, hf:NAME of the hub")
    ctc.add_argument(
        "--start", help="start from these weights: a run's checkpoint, or a folder or name for from_pretrained"
    )
    ctc.add_argument("--new-head", action="store_true", help="with --start: only the encoder has to fit the recipe")
    ctc.add_argument("--recipe", default="bundled_first_edition", help="a JSON file, or the name of one in recipes/")
    ctc.add_argument("--out", required=True, help="folder of the run")
    ctc.add_argument("--cache", help="folder of the decoded sound (default: OUT/cache)")
    ctc.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto")
    ctc.add_argument("--shard", action="store_true", help="FSDP: a part of weights and optimiser in each process")
    ctc.add_argument("--processes", type=int, default=1, help="train together; threads are shared among them")
    ctc.add_argument("--minutes", type=float, help="scale the recipe's clock to this total")
    ctc.add_argument("--steps", type=int, help="leave after this many steps, with a checkpoint")
    ctc.add_argument("--resume", action="store_true", help="continue the run in OUT if there is one")
    ctc.set_defaults(run=train_ctc)

    evaluate = commands.add_parser("evaluate", help="measure word and character error rates")
    evaluate.add_argument("model", help="a checkpoint of a run (best.pt) or a folder in transformers' format")
    evaluate.add_argument("--manifest", required=True)
    evaluate.add_argument("--cache", required=True, help="folder of the decoded sound")
    evaluate.add_argument("--split", default="dev")
    evaluate.add_argument("--corpus", action="append", help="only this corpus (may be repeated)")
    evaluate.add_argument("--context", nargs="+", default=["250,32,8"], help='"left,chunk,right" in frames, or full')
    evaluate.add_argument("--through", choices=("forward", "stream"), default="forward")
    evaluate.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    evaluate.add_argument("--device", default="cpu")
    evaluate.add_argument("--json", help="write the figures to this file")
    evaluate.set_defaults(run=evaluate_ctc)

    export = commands.add_parser("export", help="write a checkpoint in transformers' format")
    export.add_argument("checkpoint", help="best.pt or last.pt of a run")
    export.add_argument("--out", required=True)
    export.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    export.add_argument(
        "--context",
        nargs="+",
        default=["default=250,32,8", "low=250,8,8"],
        help="name=left,chunk,right to recommend",
    )
    export.add_argument("--last-weights", action="store_true", help="the last weights instead of their average")
    export.set_defaults(run=export_ctc)

    synthesize = commands.add_parser("synthesize", help="make synthetic speech with espeak-ng and flite")
    synthesize.add_argument("--out", required=True, help="folder for the manifest and the tars")
    synthesize.add_argument("--sentences", required=True, help="text, plain or gzip, a sentence a line")
    synthesize.add_argument("--hours", type=float, default=20.0, help="of sentences")
    synthesize.add_argument("--word-hours", type=float, default=1.0, help="of words said alone")
    synthesize.add_argument("--words", nargs="+", help="what is said alone (default: digits and commands)")
    synthesize.add_argument("--sentence-words", type=int, nargs=2, default=(3, 14), help="fewest and most words")
    synthesize.add_argument("--flite-share", type=float, default=0.1, help="share of items spoken by flite")
    synthesize.add_argument("--seed", type=int, default=1)
    synthesize.add_argument("--workers", type=int, default=2)
    synthesize.set_defaults(run=synthesise_speech)
    return top


def _start_logging(level: int) -> None:
    logging.basicConfig(level=level, handlers=[LiveHandler()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after a message about what went wrong."""
    args = parser().parse_args(arguments)
    _start_logging(logging.INFO)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        args.run(args)
    except WavLMLiveError as e:
        log.error("%s", e)
        return 1
    return 0
