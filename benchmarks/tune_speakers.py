"""The odds by which streams tell voices apart: chosen on dev, held against cosines on test.

    python benchmarks/tune_speakers.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER]

The conversations of `live_diarization.py`, and others of single words, whose frames the encoder computes once; then
every choice of the odds below which a stretch is somebody new, and of the advantage of whoever spoke just before, hears
them. Beside it the cosine that `train voices` found, and the best cosine. What is best on dev are the defaults of
`SpeakerNumbers`. Stretches end here where they are long enough or at a pause; in a stream they end with a final result,
too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from live_diarization import HOP, LEFT_OUT, MANNERS, errors, guess_of
from machine import write

from wavlm_live.model.context import StreamingContext
from wavlm_live.model.training.conversations import Conversations
from wavlm_live.model.training.data import load_data
from wavlm_live.model.training.voice_scores import frames_through
from wavlm_live.model.voice_heads import SpeakerNumbers, VoiceFrames, VoiceHeads
from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.speakers import SpeakerRules, SpeakerTracker

CHUNK = 32
WORDS = "in turn, words"
SAME_ABOVE, STAY_ODDS = (-2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0), (0.0, 2.0, 4.0)
COSINES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
Heard = list[tuple[tuple[int, str], np.ndarray, VoiceFrames]]
"""Kind of a conversation, who speaks in it, and what the heads say of its frames."""


def heard(recogniser: Recogniser, heads: VoiceHeads, options: argparse.Namespace, split: str, cache_at: str) -> Heard:
    """Conversations of a split."""
    context = recogniser.contexts["default"]
    assert isinstance(context, StreamingContext)
    data, cache, _ = load_data(options.manifest, cache_at, splits=[split], texts=False)
    found: Heard = []
    for manner, pause_s in {**MANNERS, WORDS: MANNERS["in turn"]}.items():
        people = [u for u in data[split] if (u.corpus in LEFT_OUT) == (manner == WORDS)]
        maker = Conversations(people, cache, seconds=60.0, turn_s=(2.0, 6.0), pause_s=pause_s)
        for count, number in itertools.product((2, 3), range(options.conversations)):
            made = maker.draw(np.random.default_rng([9, count, number]), count)
            (frames,) = frames_through(recogniser.model.wavlm.float(), heads, [made.wave], context)
            found.append(((count, manner), made.activity, frames))
    return found


def judge(told: Heard, heads: VoiceHeads, numbers: SpeakerNumbers, new_below: float | None = None) -> dict[str, Any]:
    """Diarization error of each kind, and their mean."""
    heads.numbers = numbers
    pairs: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for kind, truth, frames in told:
        track = SpeakerTracker(heads, SpeakerRules(enabled=True, new_below=new_below), HOP)
        assert frames.activity is not None
        events = [e for at in range(0, len(frames.activity), CHUNK) for e in track.accept(frames[at : at + CHUNK])]
        pairs.setdefault(kind, []).append((truth, guess_of([*events, *track.close()], truth.shape[1])))
    rows = {f"{count} {manner}": errors(found)["der"] for (count, manner), found in pairs.items()}
    return {"der": rows, "mean": round(float(np.mean(list(rows.values()))), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", help="a folder in transformers' format (default: the bundled model)")
    parser.add_argument("--cache", help="folder for the decoded sound (default: a temporary one)")
    parser.add_argument("--conversations", type=int, default=24, help="of each kind, each 60 s")
    options = parser.parse_args()
    sys.argv = ["benchmarks/tune_speakers.py", "--manifest", "SPEECH/utterances.tsv"]  # no folder of this machine
    torch.set_num_threads(1)
    recogniser = Recogniser.load(options.model, "cpu")
    heads = recogniser.voice_heads()
    if heads.voices is None:
        parser.error("these heads have no model of voices; train them again: wavlm-live train voices")
    given = heads.numbers
    with tempfile.TemporaryDirectory() as temporary:
        dev, test = (heard(recogniser, heads, options, s, options.cache or temporary) for s in ("dev", "test"))
    tried = [
        {"same_above": above, "stay_odds": stay, **judge(dev, heads, replace(given, same_above=above, stay_odds=stay))}
        for above, stay in itertools.product(SAME_ABOVE, STAY_ODDS)
    ]
    cosines = [{"new_below": cosine, **judge(dev, heads, given, cosine)} for cosine in COSINES]
    best, cosine = min(tried, key=lambda row: row["mean"]), min(cosines, key=lambda row: row["mean"])
    chosen = replace(given, same_above=best["same_above"], stay_odds=best["stay_odds"])
    result = {
        "conversations": options.conversations,
        "dev": {"odds": tried, "cosines": cosines},
        "best": {name: best[name] for name in ("same_above", "stay_odds")},
        "test": {
            "in use": judge(test, heads, given),
            "best on dev": judge(test, heads, chosen),
            f"the cosine of the heads, {given.new_below:g}": judge(test, heads, given, given.new_below),
            f"the best cosine on dev, {cosine['new_below']:g}": judge(test, heads, given, cosine["new_below"]),
        },
    }
    for row in sorted(tried, key=lambda row: row["mean"])[:5] + cosines:
        print(row)
    for name, row in result["test"].items():
        print(name, row)
    write("tune_speakers", result)


if __name__ == "__main__":
    main()
