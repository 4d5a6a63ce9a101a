"""`wavlm-live train voices`: both light heads of an encoder, their numbers from dev, their figures from test."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from typing import Any

from ..context import StreamingContext
from ..ctc import WavLMForCTC
from ..errors import ConfigurationError
from .voice_pairs import SECONDS

log = logging.getLogger("wavlm_live.training")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--model", required=True, help="folder of the encoder, a model with a CTC head, or a bundled name"
    )
    parser.add_argument("--manifest", required=True, nargs="+", help="tables of recordings that name their speakers")
    parser.add_argument("--out", help="folder for heads.json and heads.safetensors (default: the model's)")
    parser.add_argument("--cache", help="folder of the decoded sound (default: a temporary one)")
    parser.add_argument("--context", default="250,32,8", help="streaming context of the figures")
    parser.add_argument("--first-s", type=float, help="seconds of conversations for the activity head")
    parser.add_argument("--most-stretches", type=int, help="stretches of speech of each speaker")
    parser.add_argument("--first-steps", type=int, help="steps of the activity head")
    parser.add_argument(
        "--pairs-s", type=float, default=SECONDS, help="seconds of conversations to learn from how voices differ"
    )
    parser.add_argument(
        "--stretch-s", type=float, default=3.0, help="length of the stretches that are learned from and compared"
    )
    parser.set_defaults(run=train_voices)


def train_voices(args: argparse.Namespace) -> None:
    """Train, tune, measure and save.

    Raises:
        ConfigurationError: no training speakers, or an output that is no folder.
        CheckpointError: the model cannot be read, or the heads cannot be written.
    """
    from ..bundled import named
    from .data import load_data
    from .voice_pairs import voice_model
    from .voice_scores import activity_scores, tuned_numbers, verification
    from .voices import VoiceSettings, train_heads

    path = named(args.model)
    out = named(args.out) if args.out else path
    given = {"first_s": args.first_s, "first_steps": args.first_steps, "most_stretches": args.most_stretches}
    given["stretch_s"] = args.stretch_s
    settings = VoiceSettings(**{name: value for name, value in given.items() if value is not None})
    model = WavLMForCTC.from_pretrained(path).wavlm.eval()
    with tempfile.TemporaryDirectory() as temporary:
        data, cache, noise_keys = load_data(
            args.manifest, args.cache or temporary, splits=("train", "dev", "test"), texts=False
        )
        if not data["train"]:
            raise ConfigurationError("the manifest has no recording of the split train")
        noises = [cache.wave(key) for key in noise_keys]
        heads = train_heads(model, data["train"], cache, noises, settings)
        heads.save(out)  # before anything is measured: what was trained is not lost
        context = StreamingContext.parse(args.context)
        try:
            heads.voices = voice_model(model, heads, data["train"], cache, context, seconds=args.pairs_s)
        except ConfigurationError as error:
            log.warning("speakers of a stream will be told apart by cosines alone: %s", error)
        figures: dict[str, Any] = {"context": args.context, "stretch_s": args.stretch_s}
        for split in ("dev", "test"):
            try:
                trials = verification(model, heads, data[split], cache, context, args.stretch_s)
            except ConfigurationError as error:
                log.warning("%s is not measured: %s", split, error)
                continue
            if split == "dev":
                heads.numbers = tuned_numbers(trials)
            figures[f"verification_{split}"] = report = trials["report"]
            eer, within = 100 * report["eer"], 100 * report["eer_within_corpus"]
            log.info("%s: EER %.1f %%, within a corpus %.1f %%", split, eer, within)
        if data["test"]:
            figures["activity_test"] = voiced = activity_scores(model, heads, data["test"], cache, noises, context)
            log.info("activity: %s", {name: round(row["auc"], 3) for name, row in voiced.items()})
        heads.about["figures"] = _rounded(figures)
        heads.save(out)
    sys.stdout.write(f"{out}\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items() if name != "curve"}
    return round(value, 4) if isinstance(value, float) else value
