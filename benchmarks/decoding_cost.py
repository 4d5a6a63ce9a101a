"""What decoding costs one stream, by decoder, on the model's own outputs for real recordings.

    python benchmarks/decoding_cost.py [--model FOLDER] [--lm english] [--streams 1 8 64] RECORDING ...

The recordings, `tests/audio` if none are named, are encoded once, in the model's default context. Then each decoder
reads them again and again in chunks of that context and, at every chunk, peeks at half a chunk of provisional frames.
Time is process time of one thread, as per cent of the duration of the sound.

With `--streams`, the chunks of so many streams at once are read as the batcher hands them out: log-probabilities of all
in one array. One by one, each stream finds in its own what its beam looks at; together, that is found for all at once
(`wavlm_live.streamer.chosen_frames`). The sides take turns, and must say the same, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from machine import write

from wavlm_live.streamer import DecodingSettings, EndpointRules, Event, Recogniser, SpeechRules
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.chosen_frames import read_rows
from wavlm_live.streamer.decoding import make_decoder
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.segmenter import Segmenter
from wavlm_live.streamer.sources import FileSource

AUDIO = Path(__file__).resolve().parent.parent / "tests" / "audio"
FRAMES_A_SECOND, MOST_FRAMES = 50, 8_000


def logprobs_of(recogniser: Recogniser, path: Path) -> np.ndarray:
    """Committed frames `[frames, labels]` of a recording."""
    encoder = LocalEncoder(recogniser.model, recogniser.context())
    step = recogniser.context().step_frames
    hop, rows = encoder.hop_samples, []
    with FileSource(path) as source:
        for block in source:
            for start in range(0, len(block), hop):
                encoder.listen(block[start : start + hop])
                if encoder.waiting_frames >= step:
                    out = encoder.step()
                    rows.append(out.logprobs[: out.own_frames])
    while encoder.waiting_frames:
        out = encoder.step(final=True)
        rows.append(out.logprobs[: out.own_frames])
    return np.concatenate(rows)


def seconds(recogniser: Recogniser, settings: DecodingSettings, sound: list[np.ndarray], peek: bool) -> float:
    """Process time of decoding everything once."""
    chunk = recogniser.context().chunk_frames
    start = time.process_time()
    for logprobs in sound:
        decoder = make_decoder(recogniser.alphabet, settings)
        for at in range(0, len(logprobs), chunk):
            decoder.accept(logprobs[at : at + chunk])
            if peek:
                decoder.peek(logprobs[at + chunk : at + chunk + chunk // 2])
    return time.process_time() - start


def together(
    recogniser: Recogniser, settings: DecodingSettings, sound: np.ndarray, streams: int, rounds: int
) -> dict[str, object]:
    """Per cent of a core for each of some streams that read the same sound from different places on."""
    chunk, alphabet = recogniser.context().chunk_frames, recogniser.alphabet
    frames = max(3 * chunk, MOST_FRAMES // streams)
    long = np.resize(sound, (max(frames, len(sound)), sound.shape[1]))
    batch = np.stack([np.roll(long, -37 * n, axis=0)[:frames] for n in range(streams)])
    steps = [batch[:, at : at + chunk].copy() for at in range(0, frames, chunk)]
    speech = SpeechRules(words_need_voice=False)  # nobody hears the sound here
    times: dict[bool, list[float]] = {False: [], True: []}
    said: dict[bool, list[Event]] = {}
    for at_once in [False, True] * (3 * rounds):
        decoders = [make_decoder(alphabet, settings) for _ in batch]
        segmenters = [Segmenter(decoder, EndpointRules(), speech) for decoder in decoders]
        readings = [decoder.reading if at_once and isinstance(decoder, BeamDecoder) else None for decoder in decoders]
        events: list[Event] = []
        start = time.process_time()
        for step in steps:
            told = read_rows(step, [step.shape[1]] * streams, readings, alphabet.silent_ids)
            for segmenter, logprobs in zip(segmenters, told, strict=True):
                events += segmenter.accept(cast(np.ndarray, logprobs))
        times[at_once].append(time.process_time() - start)
        said[at_once] = events + [event for segmenter in segmenters for event in segmenter.close()]
    if said[False] != said[True]:
        raise SystemExit(f"{streams} streams together do not say what they say alone")
    one_by_one, together = (
        round(100 * statistics.median(times[side]) / (streams * frames / FRAMES_A_SECOND), 4) for side in (False, True)
    )
    return {"streams": streams, "one_by_one_percent": one_by_one, "together_percent": together}


LOADING = """
import json, resource, sys, time
import numpy
from wavlm_live.streamer.language_model import load_language_model
from wavlm_live.streamer.fusion import vocabulary_of
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6
before, start = resident(), time.perf_counter()
vocabulary_of(load_language_model(sys.argv[1]))
print(json.dumps({"load_s": round(time.perf_counter() - start, 2), "resident_mb": round(resident() - before, 1)}))
"""


def loading(lm: str) -> dict[str, float]:
    """Time and memory of the first session with a language model, in a fresh process; later ones share it."""
    done = subprocess.run([sys.executable, "-c", LOADING, lm], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--lm")
    parser.add_argument("--streams", type=int, nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # a figure names its command; where the files lie on this machine is nobody's business
    shown = [("--model", options.model), ("--lm", options.lm)]
    sys.argv = ["benchmarks/decoding_cost.py", *(part for k, v in shown if v for part in (k, Path(v).name))]
    sys.argv += ["--streams", *map(str, options.streams)] if options.streams else []
    recogniser = Recogniser.load(options.model, device="cpu")
    sound = [logprobs_of(recogniser, path) for path in options.recordings or sorted(AUDIO.glob("*.opus"))]
    duration_s = sum(map(len, sound)) / FRAMES_A_SECOND
    settings = {"greedy": DecodingSettings()}
    for width in (1, 4, 16, 64):
        settings[f"beam {width}"] = DecodingSettings(method="beam", beam_width=width)
    settings["beam 16, hotwords"] = DecodingSettings(method="beam", hotwords=(("wavlm live", 1.5), ("new york", 1.5)))
    if options.lm:
        settings["beam 16, language model"] = DecodingSettings(method="beam", lm_path=os.fspath(options.lm))
    rows = []
    for name, setting in settings.items():
        seconds(recogniser, setting, sound, True)  # warm up: caches, the language model
        rounds = range(options.rounds)
        read = statistics.median(seconds(recogniser, setting, sound, False) for _ in rounds)
        both = statistics.median(seconds(recogniser, setting, sound, True) for _ in rounds)
        row = {"decoder": name, "percent": 100 * read / duration_s, "with_peeks_percent": 100 * both / duration_s}
        rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
        print(f"{name:26} {row['percent']:6.2f} %   with peeks {row['with_peeks_percent']:6.2f} %")
    many = []
    for name in settings if options.streams else ():
        for streams in options.streams if name.startswith(("beam 16", "beam 64")) else ():
            row = together(recogniser, settings[name], np.concatenate(sound), streams, options.rounds)
            many.append({"decoder": name, **row})
            print(many[-1], flush=True)
    result: dict[str, object] = {"sound_s": round(duration_s, 1), "rounds": options.rounds, "rows": rows, "many": many}
    if options.lm:
        result["language_model"] = loading(options.lm)
        print(result["language_model"])
    write("decoding_cost", result)


if __name__ == "__main__":
    main()
