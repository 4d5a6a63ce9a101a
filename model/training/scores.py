"""Scores of detectors, verifiers and diarizers: ROC, EER, minimum detection cost, diarization error."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigurationError


def operating_points(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False alarm and miss rates at every threshold that makes a difference.

    Args:
        scores: [trials], higher means more likely positive.
        positive: bool [trials].

    Returns:
        False alarm rates (rising), miss rates (falling), and the thresholds ("positive from here up").

    Raises:
        ConfigurationError: trials of one kind only, or scores that are not finite.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if not positive.any() or positive.all() or not np.isfinite(scores).all():
        raise ConfigurationError(
            f"{len(scores)} trials with {int(positive.sum())} positive ones: expected both kinds, and finite scores"
        )
    order = np.argsort(-scores, kind="stable")
    hits, alarms = np.cumsum(positive[order]), np.cumsum(~positive[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores are decided together
    hits, alarms = np.append(0, hits[last]), np.append(0, alarms[last])
    thresholds = np.append(np.inf, scores[order][last])
    return alarms / alarms[-1], 1.0 - hits / hits[-1], thresholds


def equal_error_rate(scores: np.ndarray, positive: np.ndarray) -> float:
    """Rate at which misses equal false alarms, between two operating points by a straight line."""
    alarms, misses, _ = operating_points(scores, positive)
    i = int(np.argmax(alarms >= misses))
    if i == 0:
        return float(alarms[0])
    rise, fall = alarms[i] - alarms[i - 1], misses[i - 1] - misses[i]
    share = (misses[i - 1] - alarms[i - 1]) / (rise + fall)
    return float(alarms[i - 1] + share * rise)


def minimum_cost(scores: np.ndarray, positive: np.ndarray, prior: float = 0.01) -> float:
    """Smallest detection cost over thresholds, by that of the best answer without scores (NIST SRE; costs 1)."""
    alarms, misses, _ = operating_points(scores, positive)
    cost = prior * misses + (1.0 - prior) * alarms
    return float(cost.min() / min(prior, 1.0 - prior))


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve."""
    alarms, misses, _ = operating_points(scores, positive)
    hits = 1.0 - misses
    return float(np.sum((alarms[1:] - alarms[:-1]) * (hits[1:] + hits[:-1]) / 2.0))


def thinned(curve: Sequence[np.ndarray], points: int = 200) -> list[list[float]]:
    """A curve's columns with at most so many points, for a report."""
    chosen = np.unique(np.linspace(0, len(curve[0]) - 1, points).round().astype(int))
    return [[round(float(v), 5) for v in column[chosen]] for column in curve]


def diarization_error(reference: np.ndarray, guess: np.ndarray, collar_frames: int = 0) -> dict[str, float]:
    """Parts of the diarization error of one recording under the best naming of speakers (NIST RT, with overlap).

    Args:
        reference: bool [speakers, frames].
        guess: bool [speakers it has found, frames].
        collar_frames: frames left out on each side of a boundary of the reference.

    Returns:
        "missed", "false_alarm" and "confusion" in frames, "speech" of the reference in frames (overlap counts for
        each speaker); DER is the sum of the first three by the fourth.
    """
    from scipy.optimize import linear_sum_assignment

    if reference.shape[1] != guess.shape[1]:
        raise ConfigurationError(f"{guess.shape[1]} frames were given for a reference of {reference.shape[1]}")
    reference, guess = np.asarray(reference, bool), np.asarray(guess, bool)
    if collar_frames:
        keep = np.ones(reference.shape[1], bool)
        for boundary in np.flatnonzero((reference[:, 1:] != reference[:, :-1]).any(axis=0)) + 1:
            keep[max(0, boundary - collar_frames) : boundary + collar_frames] = False
        reference, guess = reference[:, keep], guess[:, keep]
    common = reference.astype(int) @ guess.astype(int).T
    rows, columns = linear_sum_assignment(-common)
    there, found = reference.sum(axis=0), guess.sum(axis=0)
    right = sum((reference[r] & guess[c]).astype(int) for r, c in zip(rows, columns, strict=True))
    return {
        "missed": float(np.maximum(there - found, 0).sum()),
        "false_alarm": float(np.maximum(found - there, 0).sum()),
        "confusion": float((np.minimum(there, found) - right).sum()),
        "speech": float(there.sum()),
    }


def verification_trials(names: Sequence[str], embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of recordings: cosines [pairs], and whether they are of one speaker, bool [pairs]."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    first, second = np.triu_indices(len(names), 1)
    labels = np.unique(list(names), return_inverse=True)[1]
    return np.einsum("nd,nd->n", unit[first], unit[second]), labels[first] == labels[second]


def permutations(speakers: int) -> list[tuple[int, ...]]:
    """Every order of the speakers."""
    return list(itertools.permutations(range(speakers)))
