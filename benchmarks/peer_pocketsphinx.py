"""Word errors and computing time of pocketsphinx 5 and of our bundled model, on the same recordings in the same run.

    pip install pocketsphinx
    python benchmarks/peer_pocketsphinx.py --manifest SPEECH/utterances.tsv [--cache FOLDER] [--model FOLDER] [--again]

pocketsphinx comes with an English model in its wheel, the only other recogniser that a plain `pip install` brings. It
is given each recording at once, by which it normalises the whole of it first: that suits it better than a stream. Ours
hears each recording as a stream, in blocks of 100 ms under 640+160 ms, greedily and by a beam with the language model
that comes with the package. Both use one thread; the real-time factor is processor time by the length of the sound.
What pocketsphinx said is kept in the results, so that only our side is computed where its model alone has changed;
`--again` computes both. `--most-s` ends its part early; the same command then goes on, and both are scored on the
recordings that it has heard, which come in random order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from machine import RESULTS, describe, write
from word_errors import NAMES

from wavlm_live.model import StreamingContext
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import load_data
from wavlm_live.model.training.evaluate import error_rates
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.streamer import DecodingSettings, Final, Recogniser, SessionSettings

NAME = "peer_pocketsphinx"
CONTEXT = "250,32,8"
BLOCK_SAMPLES = 1600


def theirs(utterances: list[Utterance], cache: SoundCache, kept: dict[str, Any], most_s: float) -> dict[str, Any]:
    """What pocketsphinx says of each recording, and its processor time; goes on where a run before ended."""
    if all(u.file in kept.get("said", {}) for u in utterances):
        return kept
    from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]

    decoder = Decoder(samprate=16_000, loglevel="FATAL")
    said, spent_s, begun_s = dict(kept.get("said", {})), kept.get("processor_s", 0.0), kept.get("processor_s", 0.0)
    for u in utterances:
        if u.file in said:
            continue
        if spent_s - begun_s > most_s:
            print(f"pocketsphinx: {len(said)} of {len(utterances)}; the same command goes on", file=sys.stderr)
            break
        sound = np.asarray(cache[u.file]).tobytes()
        start = time.process_time()
        decoder.start_utt()
        decoder.process_raw(sound, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        spent_s += time.process_time() - start
        said[u.file] = found.hypstr if found else ""
    audio_s = sum(cache.samples(file) for file in said) / 16_000
    about = {"version": version("pocketsphinx"), "measured": describe(), "audio_s": round(audio_s, 1)}
    return {**about, "processor_s": round(spent_s, 2), "said": said}


def ours(recogniser: Recogniser, utterances: list[Utterance], cache: SoundCache, lm: str | None) -> dict[str, Any]:
    """What our stream says of each recording, and its processor time."""
    decoding = DecodingSettings(method="beam", lm_path=lm) if lm else DecodingSettings()
    settings = SessionSettings(context=StreamingContext.parse(CONTEXT), partial_hop_ms=0, decoding=decoding)
    recogniser.open(settings).finish()  # the language model is loaded
    said, spent_s = {}, 0.0
    for u in utterances:
        sound = cache.wave(u.file)
        start = time.process_time()
        session = recogniser.open(settings)
        events = []
        for at in range(0, len(sound), BLOCK_SAMPLES):
            events += session.feed(sound[at : at + BLOCK_SAMPLES])
        events += session.finish()
        spent_s += time.process_time() - start
        said[u.file] = " ".join(event.text for event in events if isinstance(event, Final))
    return {"processor_s": round(spent_s, 1), "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", help="a folder in transformers' format (default: the bundled model)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", help="folder for the decoded sound (default: a temporary one)")
    parser.add_argument("--most-s", type=float, default=1e9, help="processor time of pocketsphinx in this run")
    parser.add_argument("--again", action="store_true", help="compute pocketsphinx too where its words are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.argv = ["benchmarks/peer_pocketsphinx.py", "--manifest", "SPEECH/utterances.tsv"]
    recogniser = Recogniser.load(options.model, "cpu", "auto")
    with tempfile.TemporaryDirectory() as temporary:
        data, cache, _ = load_data(options.manifest, options.cache or temporary, splits=[options.split])
        utterances = data[options.split]
        order = np.random.default_rng(1).permutation(len(utterances))  # whatever is done first is a fair sample
        utterances = [utterances[int(n)] for n in order]
        path = RESULTS / f"{NAME}.json"
        kept = json.loads(path.read_text())["pocketsphinx"] if path.is_file() and not options.again else {}
        peer = theirs(utterances, cache, kept, options.most_s)
        utterances = [u for u in utterances if u.file in peer["said"]]
        sides = {
            "pocketsphinx": peer,
            "ours, greedy": ours(recogniser, utterances, cache, None),
            "ours, beam + LM": ours(recogniser, utterances, cache, "english"),
        }
    audio_s = sum(cache.samples(u.file) for u in utterances) / 16_000
    rates = {name: error_rates(utterances, [side["said"][u.file] for u in utterances]) for name, side in sides.items()}
    rows = [
        {
            "corpus": corpus,
            "name": NAMES.get(corpus, "all"),
            "words": rates["pocketsphinx"][corpus]["words"],
            "wer": {name: round(100 * by[corpus]["wer"], 1) for name, by in rates.items()},
            "cer": {name: round(100 * by[corpus]["cer"], 1) for name, by in rates.items()},
        }
        for corpus in [*NAMES, "all"]
        if corpus in rates["pocketsphinx"]
    ]
    factors = {name: round(side["processor_s"] / side.get("audio_s", audio_s), 3) for name, side in sides.items()}
    for row in rows:
        print(f"{row['name']:28} {row['words']:6} ", "  ".join(f"{n} {w:.1f}" for n, w in row["wer"].items()))
    print("processor time by sound:", factors)
    result = {
        "split": options.split,
        "audio_s": round(audio_s),
        "context": CONTEXT,
        "recordings": len(utterances),
        "rows": rows,
    }
    write(NAME, {**result, "realtime_factor": factors, "pocketsphinx": peer})


if __name__ == "__main__":
    main()
