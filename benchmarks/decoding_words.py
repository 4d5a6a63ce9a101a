"""Decodes frames of `speech_logits` in several processes; holds the words against the texts: errors, confidences."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from wavlm_live.model.training.evaluate import error_rates
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.confidence import logit
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.events import Word
from wavlm_live.streamer.language_model import load_language_model

_given: tuple[Alphabet, DecodingSettings, Sequence[np.ndarray]]


def decode(alphabet: Alphabet, settings: DecodingSettings, frames: Sequence[np.ndarray]) -> list[tuple[Word, ...]]:
    """The words of each recording, by as many processes as there are cores."""
    global _given
    if settings.lm_path is not None:
        load_language_model(settings.lm_path)  # before the fork: the processes share its memory
    _given = alphabet, settings, frames
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        return pool.map(_decode_one, range(len(frames)), chunksize=8)


def _decode_one(index: int) -> tuple[Word, ...]:
    alphabet, settings, frames = _given
    decoder = make_decoder(alphabet, settings)
    decoder.accept(frames[index])
    return decoder.words


def text_of(words: Sequence[Word]) -> str:
    """Words as text."""
    return " ".join(word.text for word in words)


def rates_of(utterances: Sequence[Utterance], said: Sequence[Sequence[Word]]) -> dict[str, dict[str, float]]:
    """Error rates by corpus, and for "all"."""
    return error_rates(utterances, [text_of(words) for words in said])


def right_words(text: str, words: Sequence[Word]) -> list[int | None]:
    """For each word that was said: which word of the true text it is, None where it is wrong (fewest errors in all)."""
    found: list[int | None] = [None] * len(words)
    if text and words:
        (chunks,) = jiwer.process_words(text, text_of(words)).alignments
        for chunk in chunks:
            if chunk.type == "equal":
                for step in range(chunk.hyp_end_idx - chunk.hyp_start_idx):
                    found[chunk.hyp_start_idx + step] = chunk.ref_start_idx + step
    return found


@dataclass(frozen=True)
class Confidences:
    """What was said with which confidence, and whether it was right."""

    confidence: np.ndarray
    """float64 `[words]`."""
    right: np.ndarray
    """bool `[words]`."""

    @classmethod
    def of(cls, utterances: Sequence[Utterance], said: Sequence[Sequence[Word]]) -> Confidences:
        """Of all words that were said."""
        pairs = [
            (word.confidence, at is not None)
            for utterance, words in zip(utterances, said, strict=True)
            for word, at in zip(words, right_words(utterance.text, words), strict=True)
        ]
        confidence, right = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(np.array(confidence, dtype=np.float64), np.array(right, dtype=bool))

    def table(self) -> list[dict[str, Any]]:
        """Reliability: words, mean confidence and share of right ones in each tenth of the scale."""
        rows = []
        bins = np.minimum((self.confidence * 10).astype(int), 9)
        for low in range(10):
            chosen = bins == low
            n = int(chosen.sum())
            row: dict[str, Any] = {"from": low / 10, "to": (low + 1) / 10, "words": n}
            if n:
                row["confidence"] = round(float(self.confidence[chosen].mean()), 3)
                row["right"] = round(float(self.right[chosen].mean()), 3)
                row["error"] = round(math.sqrt(max(row["right"] * (1 - row["right"]), 1 / n) / n), 3)
            rows.append(row)
        return rows

    def calibration_error(self) -> float:
        """Mean distance of confidence and share of right words over the tenths, by their words (ECE)."""
        total = len(self.right)
        return sum(r["words"] * abs(r["confidence"] - r["right"]) for r in self.table() if r["words"]) / max(1, total)


def fit(right: np.ndarray, *features: np.ndarray) -> tuple[list[float], float]:
    """The likeliest calibration: logistic regression on the logarithms of odds, by Newton's method.

    Args:
        right: bool `[words]`.
        features: confidences `[words]` of one or more kinds.

    Returns:
        Factors of the features, none below 0, and the shift.
    """
    used = list(range(len(features)))
    while True:
        design = np.stack([np.array([logit(c) for c in features[i]]) for i in used] + [np.ones(len(right))], axis=1)
        beta = np.zeros(design.shape[1])
        pull = 1e-3  # towards 0, for words that are all right or all wrong
        for _ in range(100):
            p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
            gradient = design.T @ (right - p) - pull * beta
            hessian = (design * (p * (1 - p))[:, None]).T @ design + pull * np.eye(len(beta))
            step = np.clip(np.linalg.solve(hessian, gradient), -1, 1)
            beta = beta + step
            if np.abs(step).max() < 1e-8:
                break
        if (beta[:-1] >= 0).all() or len(used) == 1:
            factors = [0.0] * len(features)
            for i, value in zip(used, beta, strict=False):
                factors[i] = max(0.0, float(value))
            return factors, float(np.clip(beta[-1], -20, 20))
        used.pop(int(beta[:-1].argmin()))  # a sure word must not count as a doubtful one
