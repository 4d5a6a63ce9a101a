"""Word error rates of a model on real speech, greedy, through the stream.

    python benchmarks/word_errors.py --manifest SPEECH/utterances.tsv [--model FOLDER] [--cache FOLDER] [--split test]

Every streaming context goes through `listen` and `step` in blocks of 100 ms, eight streams at once; "whole" is the
forward pass over the whole utterance, which no stream can do. With a cache, frames that another benchmark has computed
are read from there (`speech_logits.py`).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from machine import write
from speech_logits import CONTEXTS, add_arguments, load

from wavlm_live.model.training.evaluate import error_rates
from wavlm_live.model.training.letters import decode

NAMES = {
    "fsdd": "digits (fsdd)",
    "speech_commands": "commands (speech_commands)",
    "libri_dev_mp3": "LibriSpeech (libri_dev_mp3)",
    "cv1_dev": "Common Voice 1 (cv1_dev)",
    "cv_misc": "Common Voice (cv_misc)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    # a figure names its command; where the speech lies on this machine is nobody's business
    sys.argv = ["benchmarks/word_errors.py", "--manifest", "SPEECH/utterances.tsv", "--split", options.split]
    rates = {}
    with ExitStack() as stack:
        speech = load(options, [options.split], stack)[options.split]
        for context in CONTEXTS:
            texts = [decode(frames.argmax(1)) for frames in speech.frames(context)]
            rates[context] = error_rates(speech.utterances, texts)
            print(f"{context:12} WER {100 * rates[context]['all']['wer']:5.1f}", flush=True)
        audio_s = round(speech.seconds)
    rows = [
        {
            "corpus": corpus,
            "name": NAMES.get(corpus, "all"),
            "utterances": first["utterances"],
            "words": first["words"],
            "wer": {context: round(100 * found[corpus]["wer"], 1) for context, found in rates.items()},
            "cer": {context: round(100 * found[corpus]["cer"], 1) for context, found in rates.items()},
        }
        for corpus in [*NAMES, "all"]
        if (first := rates["whole"].get(corpus))
    ]
    streamed = {name: text for name, text in CONTEXTS.items() if text is not None}
    write("word_errors", {"split": options.split, "contexts": streamed, "rows": rows, "audio_s": audio_s})


if __name__ == "__main__":
    main()
