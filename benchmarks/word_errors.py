"""Word error rates of a model on real speech, greedy, through the stream.

    python benchmarks/word_errors.py --manifest SPEECH/utterances.tsv [--model FOLDER] [--split test]

Every streaming context goes through `listen` and `step` in blocks of 100 ms, eight streams at once; "whole" is the
forward pass over the whole utterance, which no stream can do. The manifest is a table of recordings, see
`wavlm_live.model.training.manifest`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import torch
from machine import write

from wavlm_live.model import StreamingContext, WavLMForCTC
from wavlm_live.model.bundled import bundled_path
from wavlm_live.model.training.commands import load_data
from wavlm_live.model.training.evaluate import report, table

CONTEXTS = {
    "160 ms": "250,8,0",
    "320 ms": "250,16,0",
    "640 ms": "250,32,0",
    "640+160 ms": "250,32,8",
    "960 ms": "250,48,0",
}
"""Chunk (and right context) by the context it is short for; five seconds back in each."""
NAMES = {
    "fsdd": "digits (fsdd)",
    "speech_commands": "commands (speech_commands)",
    "libri_dev_mp3": "LibriSpeech (libri_dev_mp3)",
    "cv1_dev": "Common Voice 1 (cv1_dev)",
    "cv_misc": "Common Voice (cv_misc)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", help="a folder in transformers' format (default: the bundled model)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", help="folder for the decoded sound (default: a temporary one)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # a figure names its command; where the speech lies on this machine is nobody's business
    sys.argv = ["benchmarks/word_errors.py", "--manifest", "SPEECH/utterances.tsv", "--split", options.split]
    model = WavLMForCTC.from_pretrained(options.model or bundled_path(), dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as temporary:
        cache_folder = options.cache or temporary
        data, cache, _ = load_data(options.manifest, cache_folder, splits=[options.split], corpora=None)
        utterances = data[options.split]
        streamed = {name: StreamingContext.parse(text) for name, text in CONTEXTS.items()}
        result = report(model, utterances, cache, streamed, through="stream")
        whole = report(model, utterances, cache, {"whole": None})
    result["contexts"].update(whole["contexts"])
    print(table(result))
    rows = []
    for corpus in [*NAMES, "all"]:
        rates = {name: entry["rates"].get(corpus) for name, entry in result["contexts"].items()}
        first = next(iter(rates.values()))
        if first is None:
            continue
        rows.append(
            {
                "corpus": corpus,
                "name": NAMES.get(corpus, "all"),
                "utterances": first["utterances"],
                "words": first["words"],
                "wer": {name: round(100 * r["wer"], 1) for name, r in rates.items() if r},
                "cer": {name: round(100 * r["cer"], 1) for name, r in rates.items() if r},
            }
        )
    speeds = {name: round(entry["audio_s_per_s"], 1) for name, entry in result["contexts"].items()}
    write(
        "word_errors",
        {
            "split": options.split,
            "contexts": CONTEXTS,
            "rows": rows,
            "audio_s": round(result["audio_s"]),
            "speed": speeds,
        },
    )


if __name__ == "__main__":
    main()
