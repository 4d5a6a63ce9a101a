"""Does live text flicker, and how late is it? Real recordings through streaming sessions, as from a microphone.

    python benchmarks/stability.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER] [--every 8]

Each recording, with a second of silence behind it, is fed in blocks of 50 ms; what a session shows after each block is
what a user would see. The encoder runs once for each chunk size: its steps are replayed for the other decoders, which
ask for the same ones.

- changed: words that were shown and then replaced or taken back, for each word of the finals. A last word that grows
  ("sev", "seven") is counted apart, as grown.
- shown, stable: from the end of a word, by forced alignment of the true text, to the first time it is shown as it
  stays, and to the first time it is stable; words that are right, sound alone, no time for computing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jiwer
import numpy as np
import torch
from decoding_words import right_words
from machine import write
from speech_logits import CONTEXTS, Speech, add_arguments, load

from wavlm_live.model import StreamingContext
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.streamer import DecodingSettings, SessionSettings
from wavlm_live.streamer.alignment import Ends, align_words
from wavlm_live.streamer.encoder import EncoderStep, EncoderStream, LocalEncoder
from wavlm_live.streamer.events import Final, Partial, Word
from wavlm_live.streamer.language_model import load_language_model

CHUNKS = {name: text for name, text in CONTEXTS.items() if text is not None}
BLOCK_SAMPLES, SILENCE_SAMPLES, HOP_SAMPLES = 800, 16000, 320
DECODERS = {
    "greedy": DecodingSettings(),
    "beam, eager (0)": DecodingSettings(method="beam", stability=0.0),
    "greedy, every look": DecodingSettings(looks=1),
    "beam, default (0.5)": DecodingSettings(method="beam"),
    "beam, careful (1)": DecodingSettings(method="beam", stability=1.0),
    "beam + LM, default (0.5)": DecodingSettings(method="beam", lm_path="english"),
}


class Taped:
    """An encoder that remembers its steps, or, without one inside, gives remembered ones back in their order."""

    def __init__(self, inside: EncoderStream | None, steps: list[EncoderStep], sizes: tuple[int, int]) -> None:
        self.hop_samples, self.receptive_samples = sizes
        self._inside, self._steps = inside, steps
        self._heard = self._committed = self._at = 0

    @property
    def waiting_frames(self) -> int:
        """See `EncoderStream`."""
        if self._inside is not None:
            return self._inside.waiting_frames
        frames = (self._heard - self.receptive_samples) // self.hop_samples + 1
        return max(0, frames) - self._committed

    def listen(self, samples: np.ndarray) -> None:
        """See `EncoderStream`."""
        self._heard += len(samples)
        if self._inside is not None:
            self._inside.listen(samples)

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        """See `EncoderStream`."""
        if self._inside is not None:
            self._steps.append(self._inside.step(commit=commit, final=final))
        step = self._steps[self._at]
        self._at += 1
        if commit:
            self._committed += step.own_frames
        return step

    def close(self) -> None:
        """See `EncoderStream`."""


@dataclass
class Seen:
    """What a user saw of one recording, or of several."""

    words: int = 0
    changed: int = 0
    grown: int = 0
    right: int = 0
    shown_ms: list[float] = field(default_factory=list)
    stable_ms: list[float] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Take another one in."""
        for name in ("words", "changed", "grown", "right", "shown_ms", "stable_ms"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self) -> dict[str, Any]:
        """Figures."""
        row: dict[str, Any] = {
            "words": self.words,
            "changed_per_word": round(self.changed / max(1, self.words), 3),
            "grown_per_word": round(self.grown / max(1, self.words), 3),
            "right_words": self.right,
        }
        for name, values in (("shown", self.shown_ms), ("stable", self.stable_ms)):
            if values:
                row[f"{name}_median_ms"] = round(statistics.median(values))
                row[f"{name}_p90_ms"] = round(float(np.percentile(values, 90)))
        return row


def changes(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Words that changed or went, and whether the last one grew, from one text to the next (fewest changes in all)."""
    if not before:
        return 0, 0
    if not after:
        return len(before), 0
    grown = int(len(after) >= len(before) and after[len(before) - 1] != before[-1])
    grown &= int(after[len(before) - 1].startswith(before[-1])) if grown else 0
    if grown:
        before = [*before[:-1], after[len(before) - 1]]
    measured = jiwer.process_words(" ".join(before), " ".join(after))
    return measured.substitutions + measured.deletions, grown


def seen_of(events: Sequence[tuple[int, Any]], text: str, ends: list[Ends] | None) -> Seen:
    """Figures of one recording.

    Args:
        events: each with the samples that were fed before it came.
        text: what was really said.
        ends: of its words, in frames.
    """
    seen = Seen()
    shown: list[str] = []
    looks: list[tuple[int, tuple[Word, ...], int]] = []  # when, words, how many of them are stable
    final_words: list[tuple[Word, int]] = []  # and the first look of its segment
    first_look = 0
    for at, event in events:
        if not isinstance(event, Partial | Final):
            continue
        words = [word.text for word in event.words]
        changed, grown = changes(shown, words)
        seen.changed, seen.grown = seen.changed + changed, seen.grown + grown
        stable = len(event.words) if isinstance(event, Final) else len(event.stable.split())
        looks.append((at, event.words, stable))
        shown = words
        if isinstance(event, Final):
            final_words += [(word, first_look) for word in event.words]
            shown, first_look = [], len(looks)
    seen.words = len(final_words)
    places = right_words(text, [word for word, _ in final_words])
    for (word, first), place in zip(final_words, places, strict=True):
        if place is None or ends is None:
            continue
        seen.right += 1
        end = ends[place][1] * HOP_SAMPLES
        said = [(at, i < stable) for at, words, stable in looks[first:] for i, w in enumerate(words) if _same(w, word)]
        seen.shown_ms.append((said[0][0] - end) / 16)
        seen.stable_ms.append((next(at for at, stable in said if stable) - end) / 16)
    return seen


def _same(one: Word, other: Word) -> bool:
    overlap = min(one.end_samples, other.end_samples) > max(one.start_samples, other.start_samples)
    return one.text == other.text and overlap


_given: tuple[Speech, StreamingContext, list[list[Ends] | None]]


def _watch(index: int) -> dict[str, Seen]:
    """One recording through all decoders."""
    torch.set_num_threads(1)
    speech, context, ends = _given
    recogniser, utterance = speech.recogniser, speech.utterances[index]
    wave = np.concatenate([speech.sound.wave(utterance.file), np.zeros(SILENCE_SAMPLES, np.float32)])
    steps: list[EncoderStep] = []
    sizes = recogniser.model.config.hop_samples, recogniser.model.config.receptive_samples
    found = {}
    for name, decoding in DECODERS.items():
        inside = None if steps else LocalEncoder(recogniser.model, context)
        encoder = Taped(inside, steps, sizes)
        session = recogniser.open(SessionSettings(context=context, decoding=decoding), encoder)
        events: list[tuple[int, Any]] = []
        for start in range(0, len(wave), BLOCK_SAMPLES):
            block = wave[start : start + BLOCK_SAMPLES]
            events += [(start + len(block), event) for event in session.feed(block)]
        events += [(len(wave), event) for event in session.finish()]
        found[name] = seen_of(events, utterance.text, ends[index])
    return found


def kind_of(utterance: Utterance) -> str:
    """Single words apart from sentences: the bundled model knows little of the latter."""
    return "single words" if " " not in utterance.text else "sentences"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=8, help="take one recording of so many (8)")
    parser.add_argument("--chunks", nargs="+", choices=CHUNKS, default=list(CHUNKS))
    options = parser.parse_args()
    shown = [f'"{chunk}"' for chunk in options.chunks]
    sys.argv = ["benchmarks/stability.py", "--manifest", "SPEECH/utterances.tsv", "--every", str(options.every)]
    sys.argv += ["--chunks", *shown]
    global _given
    rows = []
    with ExitStack() as stack:
        speech = load(options, [options.split], stack)[options.split]
        torch.set_num_threads(1)
        load_language_model("english")
        frames, alphabet = speech.frames("whole"), speech.recogniser.alphabet
        ends = [align_words(f, u.text, alphabet) for f, u in zip(frames, speech.utterances, strict=True)]
        chosen = range(0, len(speech.utterances), options.every)
        audio_s = sum(speech.sound.samples(speech.utterances[i].file) for i in chosen) / 16000
        for chunk in options.chunks:
            _given = speech, StreamingContext.parse(CHUNKS[chunk]), ends
            with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
                found = pool.map(_watch, chosen, chunksize=1)
            for name in DECODERS:
                for kind in ("single words", "sentences"):
                    total = Seen()
                    for index, seen in zip(chosen, found, strict=True):
                        if kind_of(speech.utterances[index]) == kind:
                            total.add(seen[name])
                    rows.append({"chunk": chunk, "decoder": name, "kind": kind, **total.row()})
                    print(rows[-1], flush=True)
    write("stability", {"split": options.split, "recordings": len(chosen), "audio_s": round(audio_s), "rows": rows})


if __name__ == "__main__":
    main()
