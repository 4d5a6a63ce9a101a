"""What words that need a voice cost where people do speak: word errors with and without, through sessions.

    python benchmarks/words_by_voice.py --manifest SPEECH/utterances.tsv [--split test] [--every 4]

Single words are the hard case: a detector has little time to be sure, and digits (fsdd) fill their recordings. Each
utterance is a stream of its own.
"""

from __future__ import annotations

import argparse
import io
import sys

import jiwer
import numpy as np
import soundfile
import torch
from machine import write
from noise import measure

from wavlm_live.model.training.manifest import read_manifest
from wavlm_live.streamer import Recogniser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=4, help="of the utterances of each corpus, take each n-th")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.argv = ["benchmarks/words_by_voice.py", "--manifest", "SPEECH/utterances.tsv", "--split", options.split]
    sys.argv += ["--every", str(options.every)]
    recogniser = Recogniser.load(None, "cpu")
    usable, _ = read_manifest(options.manifest, splits=[options.split])
    corpora = sorted({u.corpus for u in usable})
    rows = []
    for corpus in corpora:
        chosen = [u for u in usable if u.corpus == corpus][:: options.every]
        said: dict[tuple[str, bool], list[str]] = {}
        for utterance in chosen:
            sound = soundfile.read(io.BytesIO(utterance.location.read()), dtype="float32")[0]
            for side, words in measure(recogniser, [("", np.asarray(sound))]).items():
                said.setdefault(side, []).append(" ".join(text for _, text in words))
        for (decoding, needed), texts in said.items():
            errors = jiwer.process_words([u.text for u in chosen], texts)
            rows.append(
                {
                    "corpus": corpus,
                    "decoding": decoding,
                    "words_need_voice": needed,
                    "utterances": len(chosen),
                    "words": errors.hits + errors.substitutions + errors.deletions,
                    "given": sum(len(text.split()) for text in texts),
                    "right": errors.hits,
                    "wer": round(100 * errors.wer, 1),
                }
            )
            print(rows[-1], flush=True)
    write("words_by_voice", {"split": options.split, "every": options.every, "rows": rows})


if __name__ == "__main__":
    main()
