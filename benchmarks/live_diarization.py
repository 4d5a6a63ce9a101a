"""Speakers told apart live, on conversations of people that the heads never heard: who speaks, verification, activity.

    python benchmarks/live_diarization.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER]

Conversations of 2 and 3 speakers of the test split are made of turns of 2 to 6 s (`model.training.conversations`), once
with pauses up to 1 s, once with people who interrupt each other, and heard as streams in blocks of 100 ms. The
diarization error has no collar and counts overlap: missed speech, false alarms and confusion by the speech of all
speakers; with a collar of 0.25 s beside it. Verification compares stretches of 3 s by the vectors that the stream gave;
activity is the probability of every frame as it comes. The cost is processor time of the same sound with speakers and
without, in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from machine import RESULTS, write

from wavlm_live.model.training.augment import add_noise
from wavlm_live.model.training.conversations import Conversation, Conversations
from wavlm_live.model.training.data import load_data
from wavlm_live.model.training.scores import (
    area,
    diarization_error,
    equal_error_rate,
    minimum_cost,
    verification_trials,
)
from wavlm_live.model.training.voice_scores import stretches
from wavlm_live.streamer import Activity, Event, Recogniser, SessionSettings, SpeechRules
from wavlm_live.streamer.events import Speaker
from wavlm_live.streamer.speakers import SpeakerRules

BLOCK_SAMPLES, HOP = 1600, 320
COLLAR_FRAMES = 12
ACTIVITY = SpeechRules(detector="head", words_need_voice=False)
PLAIN = SessionSettings(partial_hop_ms=0, speech=SpeechRules(detector="model", words_need_voice=False))
WHO = replace(PLAIN, speakers=SpeakerRules(enabled=True))
PARTS = ("diarization", "verification", "activity", "cost")
KEYS = {"diarization": "rows", "cost": "processor_time"} | {name: name for name in PARTS[1:3]}
LEFT_OUT = ("speech_commands", "fsdd")
"""Single words: no conversation is made of them."""
MANNERS = {"in turn": (-0.2, 1.0), "interrupting": (-2.5, 0.5)}
"""How people talk: seconds from the end of a turn to the next, which begins before that end where they are negative."""


def stream(
    recogniser: Recogniser, sound: np.ndarray, settings: SessionSettings, vectors: list | None = None
) -> list[Event]:
    """All events of a stream; the vectors of its stretches are added to a list."""
    session = recogniser.open(settings)
    if vectors is not None and session.speakers is not None:
        session.speakers.on_vector = lambda vector, frames: vectors.append((vector, frames))
    events = []
    for at in range(0, len(sound), BLOCK_SAMPLES):
        events += session.feed(sound[at : at + BLOCK_SAMPLES])
    return events + session.finish()


def guess_of(events: list[Event], frames: int) -> np.ndarray:
    """Who speaks by the events: bool `[labels, frames]`."""
    told = [event for event in events if isinstance(event, Speaker)]
    names = sorted({event.speaker for event in told})
    guess = np.zeros((max(1, len(names)), frames), bool)
    for event in told:
        guess[names.index(event.speaker), event.start_samples // HOP : event.end_samples // HOP] = True
    return guess


def errors(pairs: list[tuple[np.ndarray, np.ndarray]], collar_frames: int = 0) -> dict[str, float]:
    """Diarization error of several recordings, in percent of their speech."""
    total = dict.fromkeys(("missed", "false_alarm", "confusion", "speech"), 0.0)
    for truth, guess in pairs:
        parts = diarization_error(truth, guess, collar_frames)
        total = {name: value + parts[name] for name, value in total.items()}
    shares = {name: 100 * total[name] / total["speech"] for name in ("missed", "false_alarm", "confusion")}
    return {"der": round(sum(shares.values()), 1), **{name: round(value, 1) for name, value in shares.items()}}


def diarization(recogniser: Recogniser, made: list[Conversation], speakers: int, manner: str) -> dict[str, Any]:
    """The error on conversations of so many speakers, and what always saying the same one would get."""
    pairs, alone, found = [], [], []
    for one in made:
        events = stream(recogniser, one.wave, WHO)
        guess = guess_of(events, one.activity.shape[1])
        pairs.append((one.activity, guess))
        alone.append((one.activity, np.any(guess, axis=0, keepdims=True)))
        found.append(len({e.speaker for e in events if isinstance(e, Speaker) and e.speaker != "unknown"}))
    return {
        "speakers": speakers,
        "manner": manner,
        "conversations": len(made),
        **errors(pairs),
        "der_collar": errors(pairs, COLLAR_FRAMES)["der"],
        "der_one_label": errors(alone)["der"],
        "labels_found": round(float(np.mean(found)), 1),
        "overlap": round(100 * float(np.mean([(c.activity.sum(axis=0) > 1).mean() for c in made])), 1),
    }


def verification(recogniser: Recogniser, named: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """EER and costs of pairs of stretches, by the vectors of streams."""
    vectors, names = [], []
    for name, sound in named:
        told: list[tuple[np.ndarray, int]] = []
        stream(recogniser, sound, WHO, told)
        if told:
            vectors.append(np.sum([vector * frames for vector, frames in told], axis=0))
            names.append(name)
    scores, same = verification_trials(names, np.stack(vectors))
    corpora = np.array([name.partition("/")[0] for name in names])
    first, second = np.triu_indices(len(names), 1)
    within = corpora[first] == corpora[second]
    return {
        "eer": round(100 * equal_error_rate(scores, same), 1),
        "eer_within_corpus": round(100 * equal_error_rate(scores[within], same[within]), 1),
        "min_dcf_0.01": round(minimum_cost(scores, same, 0.01), 3),
        "min_dcf_0.05": round(minimum_cost(scores, same, 0.05), 3),
        "speakers": len(set(names)),
        "stretches": len(names),
        "trials": len(scores),
        "seconds": 3.0,
    }


def activity(recogniser: Recogniser, made: list[Conversation], noises: list[np.ndarray]) -> list[dict[str, Any]]:
    """ROC of the activity head in streams, clean and noisy."""
    rows = []
    for name, snr_db in (("clean", None), ("noise at 10 dB", 10.0), ("noise at 0 dB", 0.0)):
        told, truth = [], []
        for number, one in enumerate(made):
            sound = one.wave
            if snr_db is not None:
                noisy = add_noise(sound, noises, snr_db, np.random.default_rng([78, number]))
                sound = noisy / np.float32(max(1.0, float(np.abs(noisy).max()) / 0.99))
            events = stream(recogniser, sound, replace(PLAIN, speech=ACTIVITY, activity=True))
            probabilities = np.concatenate([e.probabilities for e in events if isinstance(e, Activity)])
            speech = np.asarray(np.any(one.activity, axis=0))
            told.append(probabilities[: len(speech)])
            truth.append(speech[: len(told[-1])])
        scores, speech = np.concatenate(told), np.concatenate(truth)
        row = {
            "sound": name,
            "auc": round(area(scores, speech), 3),
            "eer": round(100 * equal_error_rate(scores, speech), 1),
        }
        row["right_at_0.5"] = round(100 * float(((scores > 0.5) == speech).mean()), 1)
        rows.append(row)
    return rows


def cost(recogniser: Recogniser, sounds: list[np.ndarray]) -> dict[str, float]:
    """Processor time by the length of the sound, with speakers and without."""
    spent = {"without": 0.0, "with": 0.0}
    for sound in sounds:
        for name, settings in (("without", PLAIN), ("with", WHO)):
            start = time.process_time()
            stream(recogniser, sound, settings)
            spent[name] += time.process_time() - start
    seconds = sum(map(len, sounds)) / 16_000
    shares = {name: round(value / seconds, 4) for name, value in spent.items()}
    return {**shares, "ratio": round(spent["with"] / spent["without"], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", help="a folder in transformers' format (default: the bundled model)")
    parser.add_argument("--cache", help="folder for the decoded sound (default: a temporary one)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--conversations", type=int, default=12, help="of each kind, each 60 s")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure this anew, and keep the rest of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.argv = ["benchmarks/live_diarization.py", "--manifest", "SPEECH/utterances.tsv"]
    sys.argv += ["--conversations", str(options.conversations)]
    recogniser = Recogniser.load(options.model, "cpu", "auto")
    with tempfile.TemporaryDirectory() as temporary:
        data, cache, noises = load_data(
            options.manifest, options.cache or temporary, splits=[options.split], texts=False
        )
        people = [u for u in data[options.split] if u.corpus not in LEFT_OUT]
        makers = {
            manner: Conversations(people, cache, seconds=60.0, turn_s=(2.0, 6.0), pause_s=pause_s)
            for manner, pause_s in MANNERS.items()
        }
        made = {
            (count, manner): [
                maker.draw(np.random.default_rng([9, count, n]), count) for n in range(options.conversations)
            ]
            for manner, maker in makers.items()
            for count in (2, 3)
        }
        polite = made[2, "in turn"]
        path = RESULTS / "live_diarization.json"
        result = json.loads(path.read_text()) if options.only and path.is_file() else {}
        result.pop("machine", None)
        wanted = options.only or PARTS
        if "diarization" in wanted:
            result["rows"] = [diarization(recogniser, made[kind], *kind) for kind in made]
        if "verification" in wanted:
            result["verification"] = verification(recogniser, stretches(data[options.split], cache))
        if "activity" in wanted:
            result["activity"] = activity(recogniser, polite[:3], [cache.wave(name) for name in noises])
        if "cost" in wanted:
            result["processor_time"] = cost(recogniser, [one.wave for one in polite[:2]])
    for name in wanted:
        print(name, result[KEYS[name]], flush=True)
    write("live_diarization", {"split": options.split, **result})


if __name__ == "__main__":
    main()
