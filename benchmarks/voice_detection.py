"""Which detector knows best where somebody speaks: Silero VAD, the model's blanks, or both.

    python benchmarks/voice_detection.py --manifest SPEECH/utterances.tsv --noise NOISE.tar [--split dev]

Utterances with pauses of 1.5 to 4 s between them, each at a random level, alone and under noise, as one stream for
each condition; then noise alone. What is true is taken from the clean recordings: 10 ms within 30 dB of an utterance's
level, pauses below 300 ms filled. A detector's answer is what its `SpeechStarted` and `SpeechStopped` say. Misses are
shares of speech, false alarms shares of the pauses; starts in noise are a count a minute.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import soundfile
import torch
from machine import write
from noise import Follower, drive, recordings, sections

from wavlm_live.model.training.manifest import read_manifest
from wavlm_live.streamer import Recogniser, SessionSettings, SpeechRules, SpeechStarted, SpeechStopped
from wavlm_live.streamer.encoder import LocalEncoder

RATE = 16_000
STEP = 160  # samples of a truth: 10 ms
DETECTORS = ("silero", "model", "both")
SNRS = (20, 10, 5)


def truth_of(sound: np.ndarray) -> np.ndarray:
    """Whether somebody speaks, for each 10 ms of a clean recording."""
    level = 10 * np.log10((sound[: len(sound) // STEP * STEP].reshape(-1, STEP) ** 2).mean(1) + 1e-12)
    loud = level > max(np.percentile(level, 95) - 30, -65)
    places = np.flatnonzero(loud)
    for a, b in pairwise(places):
        if b - a <= 30:
            loud[a:b] = True
    return loud


def scene(utterances: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One sound and its truth."""
    sounds, truths = [], []
    for sound in utterances:
        gap = int(rng.uniform(1.5, 4) * 100) * STEP
        sound = sound[: len(sound) // STEP * STEP]
        sound = sound / (np.sqrt((sound**2).mean()) + 1e-9) * 10 ** (rng.uniform(-32, -18) / 20)
        sounds += [np.zeros(gap), np.clip(sound, -1, 1)]
        truths += [np.zeros(gap // STEP, bool), truth_of(sound)]
    return np.concatenate(sounds).astype(np.float32), np.concatenate(truths)


@dataclass
class Scenes:
    """The same speech in several conditions."""

    sounds: dict[str, np.ndarray]
    """By the condition."""
    truth: np.ndarray
    """Whether somebody speaks, for each 10 ms."""


def scenes(manifest: str, noise_tar: str, split: str, count: int) -> Scenes:
    """Utterances of a split as one stream, clean and under noise."""
    rng = np.random.default_rng(1)
    usable, _ = read_manifest(manifest, splits=[split])
    chosen = [usable[int(n)] for n in rng.permutation(len(usable))[:count]]
    sounds = [soundfile.read(io.BytesIO(u.location.read()), dtype="float32")[0] for u in chosen]
    clean, truth = scene(sounds, rng)
    beds = [bed / np.sqrt((bed**2).mean() + 1e-12) for bed in recordings(noise_tar).values() if len(bed) > 5 * RATE]
    parts = [np.resize(beds[int(rng.integers(len(beds)))], 20 * RATE) for _ in range(len(clean) // (20 * RATE) + 1)]
    bed = np.concatenate(parts)[: len(clean)]
    level = np.sqrt((clean[np.repeat(truth, STEP)] ** 2).mean())
    noisy = {f"{snr} dB": clean + bed * level * 10 ** (-snr / 20) for snr in SNRS}
    return Scenes({n: np.clip(s, -1, 1).astype(np.float32) for n, s in {"clean": clean, **noisy}.items()}, truth)


def errors(stretches: list[tuple[int, int]], truth: np.ndarray) -> tuple[float, float]:
    """Per cent of speech that was missed, and of pauses that were called speech."""
    said = np.zeros(len(truth), bool)
    for start, end in stretches:
        said[round(start / STEP) : round(end / STEP)] = True
    return round(100 * float((~said)[truth].mean()), 1), round(100 * float(said[~truth].mean()), 1)


def heard(recogniser: Recogniser, sound: np.ndarray) -> dict[str, list[tuple[int, int]]]:
    """Stretches of speech by detector, all from one pass of the encoder."""
    encoder = LocalEncoder(recogniser.model, recogniser.context())
    sessions = {
        name: recogniser.open(
            SessionSettings(partial_hop_ms=0, speech=SpeechRules(name)),  # type: ignore[arg-type]
            encoder if name == DETECTORS[0] else Follower(),
        )
        for name in DETECTORS
    }
    found: dict[str, list[int]] = {name: [] for name in DETECTORS}
    plans = [session.plan for session in sessions.values()]

    def take() -> None:
        drive(encoder, plans)
        for name, session in sessions.items():
            found[name] += [e.at_samples for e in session.plan.take() if isinstance(e, SpeechStarted | SpeechStopped)]

    for start in range(0, len(sound), RATE):
        for session in sessions.values():
            session.begin_feed(sound[start : start + RATE])
        take()
    for session in sessions.values():
        session.begin_finish()
    take()
    return {name: list(zip(ats[::2], ats[1::2], strict=True)) for name, ats in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--noise", required=True, help="a tar of recordings in which nobody speaks")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--noise-minutes", type=float, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.argv = ["benchmarks/voice_detection.py", "--manifest", "SPEECH/utterances.tsv", "--noise", "NOISE.tar"]
    sys.argv += [
        "--split",
        options.split,
        "--utterances",
        str(options.utterances),
        "--noise-minutes",
        f"{options.noise_minutes:g}",
    ]
    sys.argv += ["--threads", str(options.threads)]
    found = scenes(options.manifest, options.noise, options.split, options.utterances)
    recogniser = Recogniser.load(None, "cpu")
    rows = {name: {"detector": name, "missed": {}, "false": {}} for name in DETECTORS}
    for label, sound in found.sounds.items():
        for name, stretches in heard(recogniser, sound).items():
            rows[name]["missed"][label], rows[name]["false"][label] = errors(stretches, found.truth)
    noise = np.concatenate([sound for _, sound in sections(options.noise, options.noise_minutes, 2)])
    for name, stretches in heard(recogniser, noise).items():
        rows[name]["starts_in_noise_a_minute"] = round(len(stretches) / options.noise_minutes, 2)
    for row in rows.values():
        print(row)
    write(
        "voice_detection",
        {
            "split": options.split,
            "utterances": options.utterances,
            "minutes": round(len(found.truth) * STEP / RATE / 60, 1),
            "noise_minutes": options.noise_minutes,
            "rows": list(rows.values()),
        },
    )


if __name__ == "__main__":
    main()
