"""How near the times of words are to a forced alignment of the known text, and to where single words really sound.

    python benchmarks/word_times.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER] [--split test]

Of the words that were said right, each side of each word is held against the best path of the model's own outputs for
the true text over the whole utterance (`streamer/alignment.py`). That says what streaming and decoding do to times; it
cannot say where the model itself hears letters too early or too late. So recordings of one word are held against their
sound too: where the level first and last comes within 20 dB of the loudest 20 ms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from decoding_errors import decoders
from decoding_words import decode, right_words
from machine import write
from speech_logits import Speech, add_arguments, load

from wavlm_live.streamer.alignment import align_words
from wavlm_live.streamer.events import Word

CONTEXT_NAMES = {"greedy": ("160 ms", "320 ms", "640 ms", "640+160 ms", "960 ms", "whole")}
"""Contexts by decoder; the others are measured in the bundled model's own."""
NEAR_MS = 60
HOP_SAMPLES, BELOW_DB = 320, 20.0
SINGLE_WORDS = ("fsdd", "speech_commands", "art4apps")


def sounding(wave: np.ndarray) -> tuple[int, int]:
    """First and one past the last sample of the word in a recording of one word, to 20 ms."""
    frames = wave[: len(wave) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES).astype(np.float64)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() - BELOW_DB)
    return int(loud[0]) * HOP_SAMPLES, (int(loud[-1]) + 1) * HOP_SAMPLES


def differences(
    speech: Speech, said: Sequence[Sequence[Word]], whole: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end against the alignment, and against the sound of single words: ms `[words, 2]` each."""
    aligned, sounded = [], []
    for utterance, words, frames in zip(speech.utterances, said, whole, strict=True):
        ends = align_words(frames, utterance.text, speech.recogniser.alphabet)
        if ends is None:
            continue
        for word, at in zip(words, right_words(utterance.text, words), strict=True):
            if at is None:
                continue
            first, end = (frame * HOP_SAMPLES for frame in ends[at])
            aligned.append((word.start_samples - first, word.end_samples - end))
            if utterance.corpus in SINGLE_WORDS and len(words) == 1:
                first, end = sounding(speech.sound.wave(utterance.file))
                sounded.append((word.start_samples - first, word.end_samples - end))
    return (np.array(rows, dtype=np.float64).reshape(-1, 2) / 16 for rows in (aligned, sounded))  # type: ignore[return-value]


def summary(ms: np.ndarray) -> dict[str, Any]:
    """Shares within 60 ms, and medians: negative is early."""
    if not len(ms):
        return {"words": 0}
    near = np.abs(ms) <= NEAR_MS
    return {
        "words": len(ms),
        "start_near": round(float(near[:, 0].mean()), 3),
        "end_near": round(float(near[:, 1].mean()), 3),
        "both_near": round(float(near.all(axis=1).mean()), 3),
        "start_median_ms": round(float(np.median(ms[:, 0])), 1),
        "end_median_ms": round(float(np.median(ms[:, 1])), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="test")
    parser.add_argument("--lm", default="english")
    options = parser.parse_args()
    sys.argv = ["benchmarks/word_times.py", "--manifest", "SPEECH/utterances.tsv", "--split", options.split]
    rows = []
    with ExitStack() as stack:
        speech = load(options, [options.split], stack)[options.split]
        whole = speech.frames("whole")
        for name, settings in decoders(speech, options.lm).items():
            for context in CONTEXT_NAMES.get(name, ("640+160 ms",)):
                said = decode(speech.recogniser.alphabet, settings, speech.frames(context))
                aligned, sounded = differences(speech, said, whole)
                row = {"decoder": name, "context": context, "aligned": summary(aligned), "sounded": summary(sounded)}
                rows.append(row)
                print(row, flush=True)
    write("word_times", {"split": options.split, "near_ms": NEAR_MS, "rows": rows})


if __name__ == "__main__":
    main()
