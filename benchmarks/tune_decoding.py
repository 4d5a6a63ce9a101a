"""Chooses a model's numbers of decoding on dev, and writes them into `decoding.json` beside its weights.

    python benchmarks/tune_decoding.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER] [--write]

The prior of the outputs is their mean over the frames. One number after the other takes the value with the fewest
errors, all others fixed: the mean over the corpora of the word error rate, each corpus counting the same. Cut-offs
take the smallest value that costs nothing. Then confidences are calibrated, for greedy decoding, beam, and beam with
language model: logistic regression of "this word is right" on the words of dev. Long recordings beyond `--most` a
corpus are left out while numbers are chosen, not for calibration.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from decoding_words import Confidences, decode, fit, rates_of
from machine import write
from speech_logits import Speech, add_arguments, load

from wavlm_live.model.bundled import bundled_names, bundled_path
from wavlm_live.streamer import DecodingSettings
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.decoding_defaults import FILE, PRIOR
from wavlm_live.streamer.recogniser import alphabet_of

CONTEXT = "640+160 ms"
LM_START = {"prior_weight": 0.3, "lm_weight": 0.6, "word_score": 0.0, "unknown_penalty": 12.0}
LM_GRID: list[tuple[str, tuple[float, ...]]] = [
    ("prior_weight", (0.0, 0.2, 0.3, 0.4)),
    ("word_score", (-1.0, 0.0, 1.0, 2.0)),
    ("unknown_penalty", (6.0, 9.0, 12.0, 20.0)),
    ("lm_weight", (0.4, 0.5, 0.6, 0.7)),
    ("word_score", (-2.0, -1.0, 0.0, 1.0, 2.0)),
    ("prior_weight", (0.1, 0.2, 0.3, 0.4)),
]
"""What is tried, in this order from `LM_START` on; a value is tried once in the same surroundings."""
CUTOFFS: list[tuple[str, tuple[float, ...]]] = [("token_cutoff", (4.0, 6.0, 8.0)), ("beam_cutoff", (8.0, 11.0, 14.0))]
BEAM_PRIORS = (0.0, 0.1, 0.2)
"""For a beam alone, where nothing else knows what is frequent."""
WIDTHS = (4, 8, 16, 32)
COSTS_NOTHING = 0.3
"""Per cent of words more that may be wrong with a tighter cut-off."""


class Tuning:
    """Errors of settings on dev; each setting is decoded once."""

    def __init__(self, speech: Speech, alphabet: Alphabet, most: int) -> None:
        self.alphabet = alphabet
        frames = speech.frames(CONTEXT)
        count: dict[str, int] = {}
        chosen = []
        for index, utterance in enumerate(speech.utterances):
            count[utterance.corpus] = count.get(utterance.corpus, 0) + 1
            if count[utterance.corpus] <= most:
                chosen.append(index)
        self.utterances = [speech.utterances[i] for i in chosen]
        self.frames = [frames[i] for i in chosen]
        self.rows: list[dict[str, Any]] = []
        self._known: dict[DecodingSettings, float] = {}

    def errors(self, settings: DecodingSettings) -> float:
        """Mean over the corpora of the word error rate, in per cent."""
        if settings not in self._known:
            rates = rates_of(self.utterances, decode(self.alphabet, settings, self.frames))
            corpora = {name: round(100 * r["wer"], 1) for name, r in rates.items() if name != "all"}
            self._known[settings] = sum(corpora.values()) / len(corpora)
            shown = {k: getattr(settings, k) for k in ("beam_width", "token_cutoff", "beam_cutoff", "prior_weight")}
            if settings.lm_path:
                shown |= {k: getattr(settings, k) for k in LM_START}
            self.rows.append({**shown, "wer": corpora, "mean": round(self._known[settings], 2)})
            print(self.rows[-1], flush=True)
        return self._known[settings]

    def choose(self, settings: DecodingSettings, name: str, values: tuple[float, ...]) -> DecodingSettings:
        """The value with the fewest errors; where several have, the one that comes first."""
        return min((replace(settings, **{name: value}) for value in values), key=self.errors)

    def tighten(self, settings: DecodingSettings, name: str, values: tuple[float, ...]) -> DecodingSettings:
        """The smallest value that costs nothing against the settings as they are."""
        bar = self.errors(settings) + COSTS_NOTHING
        trials = (replace(settings, **{name: value}) for value in sorted(values))
        return next((t for t in trials if self.errors(t) <= bar), settings)


def prior_of(speech: Speech) -> dict[str, float]:
    """Natural logarithm of the mean probability of each token over all frames, as `decoding.json` has it."""
    frames = speech.frames(CONTEXT)
    total = np.sum([np.exp(f, dtype=np.float64).sum(axis=0) for f in frames], axis=0)
    means = np.log(np.maximum(total / sum(map(len, frames)), 1e-30))
    return {token: round(float(means[index]), 3) for token, index in speech.recogniser.tokenizer.vocab.items()}


def calibrated(
    speech: Speech, alphabet: Alphabet, settings: DecodingSettings
) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers of the calibration, and how good it is on the words that it was learned from."""
    kinds = {"scale": (1.0, 0.0), "letters": (0.0, 1.0)} if settings.method == "beam" else {"scale": (1.0, 0.0)}
    found = {}
    for kind, (scale, letters) in kinds.items():
        plain = replace(settings, confidence_scale=scale, confidence_letters=letters, confidence_shift=0.0)
        said = decode(alphabet, plain, speech.frames(CONTEXT))
        found[kind] = Confidences.of(speech.utterances, said)
    right = found["scale"].right
    factors, shift = fit(right, *(c.confidence for c in found.values()))
    numbers = {f"confidence_{kind}": round(factor, 3) for kind, factor in zip(kinds, factors, strict=True)}
    numbers["confidence_shift"] = round(shift, 3)
    said = decode(alphabet, replace(settings, **numbers), speech.frames(CONTEXT))
    after = Confidences.of(speech.utterances, said)
    report = {
        "words": len(right),
        "right": round(float(np.mean(right)), 3),
        "calibration_error_before": round(found["scale"].calibration_error(), 3),
        "calibration_error_after": round(after.calibration_error(), 3),
    }
    print(settings.section, numbers, report, flush=True)
    return numbers, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--lm", default="english")
    parser.add_argument("--most", type=int, default=50, help="recordings of each corpus while numbers are chosen (50)")
    parser.add_argument("--write", action="store_true", help="write decoding.json into the model's folder")
    options = parser.parse_args()
    sys.argv = ["benchmarks/tune_decoding.py", "--manifest", "SPEECH/utterances.tsv", "--write"]
    name = options.model
    folder = bundled_path(name) if name is None or name in bundled_names() else Path(name)
    with ExitStack() as stack:
        speech = load(options, ["dev"], stack)["dev"]
        prior = prior_of(speech)
        recogniser = speech.recogniser
        alphabet = alphabet_of(recogniser.tokenizer, recogniser.model.config.vocab_size, prior)
        tuning = Tuning(speech, alphabet, options.most)
        plain = DecodingSettings(method="beam").filled()
        for number, values in CUTOFFS:
            plain = tuning.tighten(plain, number, values)
        plain = tuning.choose(plain, "prior_weight", BEAM_PRIORS)
        fused = replace(DecodingSettings(method="beam", lm_path=options.lm).filled(), **LM_START)
        for number, values in LM_GRID:
            fused = tuning.choose(fused, number, values)
        for number, values in CUTOFFS:
            fused = tuning.tighten(fused, number, values)
        for width in WIDTHS:
            tuning.errors(replace(fused, beam_width=width))
        numbers: dict[str, dict[str, float]] = {"greedy": {}, "beam": {}, "language_model": {}}
        reports = {}
        for section, settings in (("greedy", DecodingSettings()), ("beam", plain), ("language_model", fused)):
            if section != "greedy":
                numbers[section] |= {k: getattr(settings, k) for k in ("token_cutoff", "beam_cutoff", "prior_weight")}
            if section == "language_model":
                numbers[section] |= {k: getattr(settings, k) for k in LM_START}
            calibration, reports[section] = calibrated(speech, alphabet, settings)
            numbers[section] |= calibration
    numbers[PRIOR] = prior
    result = {"context": CONTEXT, "split": "dev", "numbers": numbers, "calibration": reports, "tried": tuning.rows}
    write("tune_decoding", result)
    if options.write:
        (folder / FILE).write_text(json.dumps(numbers, indent=2) + "\n")
        print(f"wrote {FILE}", file=sys.stderr)


if __name__ == "__main__":
    main()
