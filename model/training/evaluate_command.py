"""The command `evaluate`: a model of any task, on the recordings of a manifest, under several streaming contexts."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from ..context import StreamingContext
from ..errors import CheckpointError, ConfigurationError
from .data import load_data
from .evaluate import contexts_of, report, table, write_report
from .settings import parse_context

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]*[\w-](?<!\.pt)")
"""`owner/name`; what ends like a checkpoint of a run is meant to be one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `evaluate`."""
    parser.add_argument(
        "model",
        help="a checkpoint of a run (best.pt), a folder in transformers' format, the name of a bundled model (english) "
        "or of one on the hub",
    )
    parser.add_argument("--manifest", required=True, nargs="+")
    parser.add_argument("--cache", required=True, help="folder of the decoded sound")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--corpus", action="append", help="only this corpus (may be repeated)")
    parser.add_argument("--context", nargs="+", default=[], help='"left,chunk,right" in frames, or full')
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[], help="chunks in frames, with every --left and --right"
    )
    parser.add_argument("--left", type=int, nargs="+", default=[250], help="left contexts in frames, for --chunks")
    parser.add_argument("--right", type=int, nargs="+", default=[0], help="right contexts in frames, for --chunks")
    parser.add_argument(
        "--through", choices=("forward", "stream"), default="forward", help="CTC: how streams are computed"
    )
    parser.add_argument("--latency", action="store_true", help="CTC: also time the steps of one stream")
    parser.add_argument("--bf16", action="store_true", help="CTC: compute in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--plot", help="draw them into this file: .png, .svg or .pdf")
    parser.set_defaults(run=evaluate)


def open_model(source: str) -> tuple[Any, Any, str]:
    """Model, settings (None for CTC) and task of a checkpoint of the trainer, of an exported folder, or of a bundled
    model or one of the hub, by name.

    Raises:
        CheckpointError: missing, damaged, or a head exported by another program, whose task is not known.
    """
    from ..bundled import named
    from ..ctc import WavLMForCTC
    from .export import load_trained
    from .heads import HEADS, HeadSettings

    source = str(named(source))
    if not Path(source).is_dir():
        if Path(source).exists() or not _HUB_NAME.fullmatch(source):
            return load_trained(source)
        return WavLMForCTC.from_pretrained(source, dtype=torch.float32), None, "ctc"
    try:
        recipe = json.loads((Path(source) / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recipe = {}
    task = recipe.get("task", "ctc")
    if task in HEADS:
        return HEADS[task].from_pretrained(source), HeadSettings.from_dict(recipe["recipe"]), task
    return WavLMForCTC.from_pretrained(source, dtype=torch.float32), None, "ctc"


def evaluate(args: argparse.Namespace) -> None:
    """`evaluate`: figures by corpus and context, as a table on stdout, as JSON and as a plot."""
    from .plots import plot_curves, plot_error_rates

    model, settings, task = open_model(args.model)
    if task == "pretrain":
        raise CheckpointError("a pre-trained model has no answers to score; its dev figures are in the run's log")
    model = model.to(args.device).eval()
    contexts: dict[str, StreamingContext | None] = {text: parse_context(text) for text in args.context}
    contexts |= contexts_of(args.chunks, args.left, args.right)
    contexts = contexts or {"250,32,8": parse_context("250,32,8")}
    data, cache, _ = load_data(args.manifest, args.cache, splits=[args.split], corpora=args.corpus, texts=task == "ctc")
    chosen = data[args.split]
    head = {"model": str(args.model), "task": task, "split": args.split}
    if task == "ctc":
        result = head | report(
            model,
            chosen,
            cache,
            contexts,
            device=args.device,
            through=args.through,
            bf16=args.bf16,
            latency=args.latency,
        )
        sys.stdout.write(table(result) + "\n")
    else:
        result = head | {"contexts": _score(model, settings, chosen, cache, contexts, args.device)}
        sys.stdout.write(_head_table(result) + "\n")
    if args.json:
        write_report(result, args.json)
    if args.plot:
        (plot_error_rates if task == "ctc" else plot_curves)(result, args.plot)


def _score(
    model: Any, settings: Any, utterances: Any, cache: Any, contexts: dict[str, StreamingContext | None], device: str
) -> dict[str, Any]:
    from .head_scores import measure_head

    if not utterances:
        raise ConfigurationError("there is no recording to measure on; check the split and the corpora")
    results = {}
    for name, context in contexts.items():
        figures = measure_head(model, settings, utterances, cache, context=context, device=device)
        results[name] = figures | ({} if context is None else {"latency_ms": context.latency_ms})
    return results


def _head_table(result: dict[str, Any]) -> str:
    contexts: dict[str, Any] = result["contexts"]
    names = [n for n, v in next(iter(contexts.values())).items() if not isinstance(v, list) and n != "score"]
    lines = [" ".join([f"{result['task']:<18}", *(f"{name:>15}" for name in contexts)])]
    for name in names:
        cells = [c.get(name, "") for c in contexts.values()]
        texts = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in cells]
        lines.append(" ".join([f"{name:<18}", *(f"{text:>15}" for text in texts)]))
    return "\n".join(lines)
