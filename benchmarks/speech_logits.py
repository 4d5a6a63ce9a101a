"""What a model's outputs are for a split of real speech, computed once and kept: many decoders read the same frames.

Every streaming context goes through `listen` and `step` in blocks of 100 ms, eight streams at once; "whole" is the
forward pass over the whole utterance. With a cache folder the frames are kept there, by the digest of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wavlm_live.model import StreamingContext, WavLMForCTC
from wavlm_live.model.bundled import bundled_names, bundled_path
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import load_data
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.streamer import Recogniser

CONTEXTS: dict[str, str | None] = {
    "160 ms": "250,8,0",
    "320 ms": "250,16,0",
    "640 ms": "250,32,0",
    "640+160 ms": "250,32,8",
    "960 ms": "250,48,0",
    "whole": None,
}
"""Chunk (and right context) by the context it is short for; five seconds back in each."""
BLOCK_SAMPLES, STREAMS = 1600, 8


@dataclass
class Speech:
    """A split with its sound and what the model makes of it."""

    recogniser: Recogniser
    utterances: list[Utterance]
    sound: SoundCache
    folder: Path
    """Where frames are kept."""

    def frames(self, context: str) -> list[np.ndarray]:
        """Natural log-probabilities `[frames, labels]` of each utterance under one of `CONTEXTS`."""
        names = "\n".join(u.file for u in self.utterances)
        key = hashlib.sha256(f"{_digest(self.recogniser)} {CONTEXTS[context]} {names}".encode()).hexdigest()[:16]
        kept = self.folder / f"logprobs_{key}.npz"
        if not kept.is_file():
            rows = self._computed(CONTEXTS[context])
            lengths = np.array([len(r) for r in rows])
            partial = kept.with_suffix(".partial.npz")
            np.savez(partial, rows=np.concatenate(rows), lengths=lengths)
            os.replace(partial, kept)
        with np.load(kept) as found:
            return np.split(found["rows"], np.cumsum(found["lengths"])[:-1])

    @property
    def seconds(self) -> float:
        """Length of all utterances."""
        return sum(self.sound.samples(u.file) for u in self.utterances) / 16000

    def _computed(self, context: str | None) -> list[np.ndarray]:
        model = self.recogniser.model
        waves = [self.sound.wave(u.file) for u in self.utterances]
        rows: list[np.ndarray] = []
        with torch.inference_mode():
            if context is None:
                for wave in waves:
                    logits = model(torch.from_numpy(wave)[None]).logits[0]
                    rows.append(logits.float().log_softmax(-1).numpy())
                return rows
            for start in range(0, len(waves), STREAMS):
                rows += _streamed(model, waves[start : start + STREAMS], StreamingContext.parse(context))
        return rows


def _streamed(model: WavLMForCTC, waves: list[np.ndarray], context: StreamingContext) -> list[np.ndarray]:
    states = model.new_states(len(waves), context)
    rows: list[list[np.ndarray]] = [[] for _ in waves]

    def step(slots: list[int], *, final: bool) -> None:
        output = model.step(states, slots, final=final)
        logprobs = output.logits.float().log_softmax(-1).numpy()
        for row, slot in enumerate(slots):
            rows[slot].append(logprobs[row, : output.own_frames[row]])

    for at in range(0, max(map(len, waves)), BLOCK_SAMPLES):
        slots = [i for i, wave in enumerate(waves) if at < len(wave)]
        lengths = [min(BLOCK_SAMPLES, len(waves[i]) - at) for i in slots]
        samples = np.zeros((len(slots), max(lengths)), np.float32)
        for row, slot, length in zip(samples, slots, lengths, strict=True):
            row[:length] = waves[slot][at : at + length]
        model.listen(states, slots, torch.from_numpy(samples), lengths)
        while ready := [i for i in slots if states.waiting(i) >= context.step_frames]:
            step(ready, final=False)
    while waiting := [i for i in range(len(waves)) if states.waiting(i)]:
        step(waiting, final=True)
    return [np.concatenate(parts) for parts in rows]


def _digest(recogniser: Recogniser) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(recogniser.model.state_dict().items()):
        digest.update(name.encode() + value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which model hears which speech."""
    parser.add_argument("--manifest", required=True, help="table of recordings, see wavlm_live.model.training.manifest")
    parser.add_argument("--model", help="a folder in transformers' format or a bundled name (default: the bundled one)")
    parser.add_argument("--cache", help="folder for decoded sound and frames (default: a temporary one)")
    parser.add_argument("--threads", type=int, default=2)


def load(options: argparse.Namespace, splits: Sequence[str], stack: ExitStack) -> dict[str, Speech]:
    """The splits, heard by the model of `add_arguments`."""
    torch.set_num_threads(options.threads)
    folder = Path(options.cache or stack.enter_context(tempfile.TemporaryDirectory()))
    name = options.model
    path = bundled_path(name) if name is None or name in bundled_names() else name
    recogniser = Recogniser.load(path, device="cpu", dtype="float32")
    data, sound, _ = load_data(options.manifest, folder, splits=splits, corpora=None)
    return {split: Speech(recogniser, data[split], sound, folder) for split in splits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--contexts", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    options = parser.parse_args()
    with ExitStack() as stack:
        speech = load(options, [options.split], stack)[options.split]
        for context in options.contexts:
            frames = speech.frames(context)
            print(f"{options.split}, {context}: {sum(map(len, frames))} frames of {len(frames)} utterances", flush=True)


if __name__ == "__main__":
    main()
