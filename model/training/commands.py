"""The commands of `python -m wavlm_live.model.training`, which are those of `wavlm-live train`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import OutputError, WavLMLiveError
from . import voices_command as voices
from .data import load_data
from .evaluate_command import add_arguments
from .parallel import run_together
from .tasks import SPLITS, prepare, start_logging, train

__all__ = ["load_data", "main", "parser"]

log = logging.getLogger("wavlm_live.training")


def train_model(args: argparse.Namespace) -> None:
    """`ctc`, `pretrain`, `heads`: run a recipe."""
    if args.recipe is None:
        args.recipe = args.usual_recipe
        if args.task == "ctc" and args.start:
            args.recipe = "finetune" if args.new_head else "adapt"
        log.info("the recipe %s", args.recipe)
    if args.processes > 1:  # made once, before the others look for it
        prepare(args)
    progress = run_together(train, args, args.processes)
    log.info("%d steps in %.1f minutes, best score %.3f", progress.step, progress.elapsed_s / 60, progress.best_score)


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


def align_phones(args: argparse.Namespace) -> None:
    """`align`: the phone of every frame of a manifest's train and dev recordings."""
    from .alignments import align_all

    try:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    except OSError as e:
        raise OutputError(f"cannot make the folder of {args.out}: {e.strerror}; name another place") from e
    data, cache, _ = load_data(args.manifest, args.cache, splits=SPLITS)
    align_all([u for split in data.values() for u in split], cache, workers=args.workers).save(args.out)
    sys.stdout.write(f"{args.out}\n")


def parser(program: str = "python -m wavlm_live.model.training") -> argparse.ArgumentParser:
    """The command line of a program that is called so."""
    top = argparse.ArgumentParser(prog=program, description=__doc__)
    top.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    commands = top.add_subparsers(required=True)

    training = {
        "ctc": ("train a CTC model", "bundled_first_edition"),
        "pretrain": ("pre-train without text: masked prediction with utterance mixing", "pretrain_small"),
        "heads": ("train a head: classes of recordings or frames, vectors of speakers", "head_activity"),
    }
    for task, (text, recipe) in training.items():
        sub = commands.add_parser(task, help=text)
        sub.add_argument("--manifest", required=True, nargs="+", help="tables of recordings, hf:NAME of the hub")
        sub.add_argument(
            "--start", help="start from these weights: a run's checkpoint, english, or what from_pretrained reads"
        )
        default = f"{recipe}; with --start adapt, and with --new-head finetune" if task == "ctc" else recipe
        sub.add_argument("--recipe", help=f"a JSON file, or the name of one in recipes/ (default: {default})")
        sub.add_argument("--out", required=True, help="folder of the run")
        sub.add_argument("--cache", help="folder of the decoded sound (default: OUT/cache)")
        sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto")
        sub.add_argument("--processes", type=int, default=1, help="train together; threads are shared among them")
        sub.add_argument("--shard", action="store_true", help="FSDP: a part of weights and optimiser in each process")
        sub.add_argument("--minutes", type=float, help="scale the recipe's clock to this total")
        sub.add_argument("--steps", type=int, help="leave after this many steps, with a checkpoint")
        sub.add_argument("--resume", action="store_true", help="continue the run in OUT if there is one")
        if task == "ctc":
            sub.add_argument("--new-head", action="store_true", help="with --start: only the encoder has to fit")
            sub.add_argument("--frame-labels", help="labels of frames that `align` wrote, for a recipe with `frames`")
        if task == "pretrain":
            sub.add_argument("--labels", default="mfcc", help="what is clustered: mfcc, or CHECKPOINT:LAYER")
        sub.set_defaults(run=train_model, task=task, usual_recipe=recipe)

    align = commands.add_parser("align", help="find the phone of every frame, for a recipe with `frames`")
    align.add_argument("--manifest", required=True, nargs="+", help="tables of recordings, hf:NAME of the hub")
    align.add_argument("--out", required=True, help="file of the labels, such as runs/phones.npz")
    align.add_argument("--cache", required=True, help="folder of the decoded sound")
    align.add_argument("--workers", type=int, default=2)
    align.set_defaults(run=align_phones)

    add_arguments(commands.add_parser("evaluate", help="measure a model of any task under streaming contexts"))

    voices.add_arguments(commands.add_parser("voices", help="train the light voice heads of an encoder"))

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


def main(arguments: Sequence[str] | None = None, program: str = "python -m wavlm_live.model.training") -> int:
    """Run one command; 0, or 1 after a message about what went wrong."""
    args = parser(program).parse_args(arguments)
    start_logging(logging.INFO)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        args.run(args)
    except WavLMLiveError as e:
        log.error("%s", e)
        return 1
    return 0
