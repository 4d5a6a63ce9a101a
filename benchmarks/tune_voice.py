"""The thresholds of the voice detector: found on dev, held against those in use on test.

    python benchmarks/tune_voice.py --manifest SPEECH/utterances.tsv --noise NOISE.tar

The scenes of `voice_detection.py`. Silero hears each once; then every choice of thresholds and durations is tried on
what it found. Of the choices that start no more often in noise alone than the defaults do, two are held against them:
the one with the least mean error (missed speech and pauses called speech, over the conditions), and the one that misses
least and calls no more of the pauses speech.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from machine import write
from noise import sections
from voice_detection import RATE, errors, scenes

from wavlm_live.streamer import SpeechRules
from wavlm_live.streamer.silero import WINDOW_SAMPLES
from wavlm_live.streamer.voice_activity import SpeechWatch
from wavlm_live.streamer.voice_detector import VoiceDetector

START, STAY = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.65)
MIN_SPEECH_MS, MIN_SILENCE_MS, PADDING_MS = (60, 100, 160, 250), (200, 300, 400), (0, 30, 60, 90)
TUNED = ("start_probability", "stay_probability", "min_speech_ms", "min_silence_ms", "padding_ms")


def probabilities(sound: np.ndarray) -> list[float]:
    """Of every window of a sound."""
    detector, found = VoiceDetector(), []
    for start in range(0, len(sound), RATE):
        found += detector.push(sound[start : start + RATE])
    return found


def stretches(rules: SpeechRules, heard: list[float]) -> list[tuple[int, int]]:
    """Speech by these rules, as samples."""
    watch = SpeechWatch(rules, WINDOW_SAMPLES)
    ats = [at for _, at in [*watch.scan(heard), *watch.stop()]]
    return list(zip(ats[::2], ats[1::2], strict=True))


class Split:
    """What Silero makes of one split."""

    def __init__(self, options: argparse.Namespace, split: str, noise_seed: int) -> None:
        found = scenes(options.manifest, options.noise, split, options.utterances)
        self.truth = found.truth
        self.heard = {name: probabilities(sound) for name, sound in found.sounds.items()}
        self.minutes = options.noise_minutes
        parts = [sound for _, sound in sections(options.noise, self.minutes, noise_seed)]
        self.noise = probabilities(np.concatenate(parts))

    def judge(self, rules: SpeechRules) -> dict[str, Any]:
        """Errors in each condition, their mean, and starts a minute in noise."""
        found = {name: errors(stretches(rules, heard), self.truth) for name, heard in self.heard.items()}
        missed, false = (sum(pair[n] for pair in found.values()) / len(found) for n in (0, 1))
        return {
            **{name: value for name, value in asdict(rules).items() if name in TUNED},
            "missed": {name: pair[0] for name, pair in found.items()},
            "false": {name: pair[1] for name, pair in found.items()},
            "mean_missed": round(missed, 2),
            "mean_false": round(false, 2),
            "mean_error": round((missed + false) / 2, 2),
            "starts_in_noise_a_minute": round(len(stretches(rules, self.noise)) / self.minutes, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--noise", required=True, help="a tar of recordings in which nobody speaks")
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--noise-minutes", type=float, default=8)
    options = parser.parse_args()
    sys.argv = ["benchmarks/tune_voice.py", "--manifest", "SPEECH/utterances.tsv", "--noise", "NOISE.tar"]
    dev = Split(options, "dev", 3)
    default = dev.judge(SpeechRules())
    tried = [
        dev.judge(SpeechRules("silero", start, stay, speech, silence, padding))
        for start, stay, speech, silence, padding in itertools.product(
            START, STAY, MIN_SPEECH_MS, MIN_SILENCE_MS, PADDING_MS
        )
        if stay <= start
    ]
    quiet = [row for row in tried if row["starts_in_noise_a_minute"] <= default["starts_in_noise_a_minute"]]
    as_calm = [row for row in quiet if row["mean_false"] <= default["mean_false"]]
    choices = {
        "default": default,
        "least error": min(quiet, key=lambda row: row["mean_error"]),
        "misses least": min(as_calm, key=lambda row: row["mean_missed"]),
    }
    test = Split(options, "test", 4)
    rules = {name: SpeechRules(**{field: row[field] for field in TUNED}) for name, row in choices.items()}
    judged = {name: test.judge(rule) for name, rule in rules.items()}
    result: dict[str, Any] = {"tried": len(tried), "dev": choices, "test": judged}
    for split in ("dev", "test"):
        for name, row in result[split].items():
            print(split, name, row)
    write("tune_voice", result)


if __name__ == "__main__":
    main()
