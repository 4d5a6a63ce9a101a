"""False words in an hour of noise, where nobody speaks.

    python benchmarks/noise.py --noise NOISE.tar [--streams 6] [--minutes 10] [--only N | --whole]

The noise: every recording of the tar (Ogg, FLAC or WAV, 16 kHz mono), looped, and white, pink and brown noise, mains
hum, clicks and silence, in sections of 20 s, each with a random level; six streams of ten minutes. What a session says
in it is counted by the kind of noise, for the ways to decode, with words that need a voice and without. All
sessions are given the same frames of one encoder, which computes ahead as for a recording. With `--only`, one stream
is measured and added to the results; with `--whole`, one that goes on for the length of all, with noise of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from machine import RESULTS, write

from wavlm_live.streamer import DecodingSettings, Final, Recogniser, Session, SessionSettings, SpeechRules
from wavlm_live.streamer.ahead_encoder import AheadEncoder
from wavlm_live.streamer.encoder import EncoderStep, EncoderStream
from wavlm_live.streamer.plan import Plan

RATE = 16_000
SECTION_S = 20
LEVELS_DB = (-50.0, -15.0)
"""Root mean square of a section, dB of full scale."""
DECODING = {
    "greedy": DecodingSettings(),
    "beam": DecodingSettings("beam"),
    "beam + LM": DecodingSettings("beam", lm_path="english"),
}


class Follower:
    """An encoder that another one steps for: it only counts frames."""

    hop_samples, receptive_samples = 320, 400

    def __init__(self) -> None:
        self._heard = self._committed = 0

    @property
    def waiting_frames(self) -> int:
        return max(0, (self._heard - 80) // 320) - self._committed

    def listen(self, samples: np.ndarray) -> None:
        self._heard += len(samples)

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        raise RuntimeError("a follower is given its steps")

    def commit(self, step: EncoderStep) -> None:
        self._committed += step.own_frames

    def close(self) -> None:
        pass


def drive(encoder: EncoderStream, plans: Sequence[Plan]) -> None:
    """Give all plans, which must need the same, the steps of one encoder, until they need no more."""
    while (need := plans[0].need()) is not None:
        step = encoder.step(commit=need.commit, final=need.final)
        for plan in plans:
            assert plan.need() == need
            if isinstance(plan.encoder, Follower):
                plan.encoder.commit(step)
            plan.give(step)
    assert all(plan.need() is None for plan in plans)


def synthetic(rng: np.random.Generator, kind: str, samples: int) -> np.ndarray:
    """Noise that a formula makes."""
    white = rng.normal(size=samples)
    if kind in ("pink", "brown"):
        spectrum = np.fft.rfft(white)
        frequency = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
        return np.fft.irfft(spectrum / frequency ** (0.5 if kind == "pink" else 1.0), samples)
    if kind == "hum":
        t = np.arange(samples) / RATE
        return sum(np.sin(2 * np.pi * 50 * n * t) / n for n in (1, 2, 3, 5, 7)) + 0.02 * white
    if kind == "clicks":
        clicks = np.where(rng.random(samples) < 2 / RATE, rng.normal(size=samples) * 30, 0.0)
        return np.convolve(clicks, np.exp(-np.arange(80) / 12.0))[:samples] + 0.02 * white
    return white


def recordings(tar: str) -> dict[str, np.ndarray]:
    """The sound of each file of a tar, by its name."""
    found = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                sound, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
                if rate != RATE or sound.ndim != 1:
                    raise SystemExit(f"{member.name} has {rate} Hz, expected {RATE} Hz mono")
                found[Path(member.name).stem] = sound
    return found


def sections(tar: str, minutes: float, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Kind and sound of each section; every kind comes again and again."""
    rng = np.random.default_rng(seed)
    beds = recordings(tar)
    kinds = [*sorted(beds), "white", "pink", "brown", "hum", "clicks", "silence"]
    samples = SECTION_S * RATE
    for n in range(round(minutes * 60 / SECTION_S)):
        kind = kinds[n % len(kinds)]
        if kind == "silence":
            yield kind, np.zeros(samples, np.float32)
            continue
        if kind in beds:
            bed = beds[kind]
            start = int(rng.integers(len(bed)))
            sound = np.resize(np.roll(bed, -start), samples).astype(np.float64)
        else:
            sound = synthetic(rng, kind, samples)
        level = 10 ** (rng.uniform(*LEVELS_DB) / 20)
        yield kind, np.clip(sound * level / np.sqrt(np.mean(sound**2) + 1e-12), -1, 1).astype(np.float32)


Said = list[tuple[int, str]]
"""First sample and text of each word."""


def measure(recogniser: Recogniser, sounds: list[tuple[str, np.ndarray]]) -> dict[tuple[str, bool], Said]:
    """What the sessions say in one stream, by the way to decode and whether words need a voice."""
    encoder = AheadEncoder(recogniser.model, recogniser.context())
    sides: dict[tuple[str, bool], Session] = {}
    for name, decoding in DECODING.items():
        for needed in (False, True):
            settings = SessionSettings(partial_hop_ms=0, decoding=decoding, speech=SpeechRules(words_need_voice=needed))
            sides[name, needed] = recogniser.open(settings, Follower() if sides else encoder)
    words: dict[tuple[str, bool], Said] = {side: [] for side in sides}
    plans = [session.plan for session in sides.values()]

    def take() -> None:
        drive(encoder, plans)
        for side, session in sides.items():
            for event in session.plan.take():
                if isinstance(event, Final):
                    words[side] += [(w.start_samples, w.text) for w in event.words]

    for _, sound in sounds:
        encoder.ahead(sound)
        for block in np.array_split(sound, SECTION_S):
            for session in sides.values():
                session.begin_feed(block)
            take()
    for session in sides.values():
        session.begin_finish()
    take()
    return words


Entries = list[dict[str, Any]]
"""What was said in a stream, for each way to decode."""


def stream(recogniser: Recogniser, tar: str, minutes: float, number: int) -> Entries:
    """Measure one stream; its number is the seed of its noise."""
    sounds = list(sections(tar, minutes, number))
    kinds = [kind for kind, _ in sounds]
    entries: Entries = []
    for (decoding, needed), said in measure(recogniser, sounds).items():
        found = [kinds[min(len(kinds) - 1, at // (SECTION_S * RATE))] for at, _ in said]
        entries.append(
            {
                "decoding": decoding,
                "words_need_voice": needed,
                "seconds_by_kind": {kind: kinds.count(kind) * SECTION_S for kind in sorted(set(kinds))},
                "words_by_kind": {kind: found.count(kind) for kind in sorted(set(found))},
                "words_by_minute": np.bincount(
                    [at // (60 * RATE) for at, _ in said], minlength=round(minutes)
                ).tolist(),
                "words": [text for _, text in said],
            }
        )
        print(f"stream {number}, {decoding}, need a voice: {needed}: {len(said)} words", file=sys.stderr)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", required=True, help="a tar of recordings in which nobody speaks")
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=10, help="of each stream")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", type=int, help="measure this stream alone, from 1, and add it to the results")
    some.add_argument("--whole", action="store_true", help="measure one stream as long as all, and add it")
    parser.add_argument("--model", help="name or folder (default: the bundled model)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.argv = ["benchmarks/noise.py", "--noise", "NOISE.tar"]
    recogniser = Recogniser.load(options.model, "cpu")
    place = RESULTS / "noise.json"
    before = json.loads(place.read_text()) if (options.only or options.whole) and place.is_file() else {}
    streams: dict[str, Entries] = before.get("streams", {})
    if options.whole:
        whole = stream(recogniser, options.noise, options.streams * options.minutes, 0)
        write("noise", {**{k: v for k, v in before.items() if k != "machine"}, "one_stream": whole})
        return
    for number in [options.only] if options.only else range(1, options.streams + 1):
        streams[str(number)] = stream(recogniser, options.noise, options.minutes, number)
    seconds = sum(sum(entries[0]["seconds_by_kind"].values()) for entries in streams.values())
    rows = []
    for n, entry in enumerate(next(iter(streams.values()))):
        count = sum(len(entries[n]["words"]) for entries in streams.values())
        rows.append(
            {
                "decoding": entry["decoding"],
                "words_need_voice": entry["words_need_voice"],
                "words": count,
                "words_a_minute": round(60 * count / seconds, 2),
            }
        )
        print(rows[-1])
    one = {"one_stream": before["one_stream"]} if "one_stream" in before else {}
    write("noise", {"minutes": seconds / 60, "rows": rows, "streams": streams, **one})


if __name__ == "__main__":
    main()
