"""Word errors by decoder and chunk, and whether confidences mean what they say, on a split that nothing was chosen on.

    python benchmarks/decoding_errors.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER] [--tune]

Each recording is decoded greedily, by a beam of 16, and by that beam with the language model, with the numbers of the
model's `decoding.json`. `--tune` finds these anew on dev first and writes them (`tune_decoding.py`), so that one
command does all that a new model needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from decoding_words import Confidences, decode, rates_of
from machine import write
from speech_logits import CONTEXTS, Speech, add_arguments, load
from word_errors import NAMES as CORPORA

from wavlm_live.streamer import DecodingSettings

NAMES = {**CORPORA, "all": "all"}
RELIABILITY = "640+160 ms"
"""Context of the reliability tables: the bundled model's own."""
SURE = 0.9


def decoders(speech: Speech, lm: str) -> dict[str, DecodingSettings]:
    """Ways to decode by name."""
    settings = {
        "greedy": DecodingSettings(),
        "beam": DecodingSettings(method="beam"),
        "beam + LM": DecodingSettings(method="beam", lm_path=lm),
    }
    return {name: setting.filled(speech.recogniser.decoding) for name, setting in settings.items()}


def reliability(found: Confidences) -> dict[str, Any]:
    """Confidence against the share of right words."""
    sure = found.confidence >= SURE
    return {
        "table": found.table(),
        "calibration_error": round(found.calibration_error(), 3),
        "words": len(found.right),
        "sure_words": int(sure.sum()),
        "sure_right": round(float(found.right[sure].mean()), 3) if sure.any() else None,
        "sure_confidence": round(float(found.confidence[sure].mean()), 3) if sure.any() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="test")
    parser.add_argument("--lm", default="english")
    parser.add_argument("--tune", action="store_true", help="choose the model's numbers on dev first")
    options = parser.parse_args()
    if options.tune:
        given = [("--manifest", options.manifest), ("--model", options.model), ("--cache", options.cache)]
        given.append(("--threads", str(options.threads)))
        arguments = [part for name, value in given if value for part in (name, value)]
        tune = Path(__file__).with_name("tune_decoding.py")
        subprocess.run([sys.executable, str(tune), "--write", "--lm", options.lm, *arguments], check=True)
    sys.argv = ["benchmarks/decoding_errors.py", "--manifest", "SPEECH/utterances.tsv", "--split", options.split]
    rates: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    reliabilities: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        speech = load(options, [options.split], stack)[options.split]
        for name, settings in decoders(speech, options.lm).items():
            rates[name] = {}
            for context in CONTEXTS:
                frames = speech.frames(context)
                start = time.monotonic()
                said = decode(speech.recogniser.alphabet, settings, frames)
                seconds[f"{name}, {context}"] = round(time.monotonic() - start, 1)
                rates[name][context] = rates_of(speech.utterances, said)
                whole = rates[name][context]["all"]
                print(
                    f"{name:10} {context:11} WER {100 * whole['wer']:5.1f}  CER {100 * whole['cer']:5.1f}", flush=True
                )
                if context == RELIABILITY:
                    reliabilities[name] = reliability(Confidences.of(speech.utterances, said))
        audio_s = round(speech.seconds)
    rows = [
        {
            "corpus": corpus,
            "name": shown,
            "decoder": name,
            "words": by_context[RELIABILITY][corpus]["words"],
            "wer": {context: round(100 * r[corpus]["wer"], 1) for context, r in by_context.items()},
            "cer": {context: round(100 * r[corpus]["cer"], 1) for context, r in by_context.items()},
        }
        for corpus, shown in NAMES.items()
        for name, by_context in rates.items()
        if corpus in by_context[RELIABILITY]
    ]
    result = {"split": options.split, "contexts": CONTEXTS, "audio_s": audio_s, "decoding_seconds": seconds}
    write("decoding_errors", {**result, "rows": rows, "reliability_context": RELIABILITY, "reliability": reliabilities})


if __name__ == "__main__":
    main()
