"""`align`: where a known text lies in the frames of a CTC model, by its best path.

The path of outputs that writes the text and has the highest probability (Viterbi over the labels with blanks between
them, Graves et al. 2006, section 4.1, with the maximum in place of the sum). Decoders do not need it; it is for texts
that are known: to measure word times, and to cut recordings at words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..model.errors import ConfigurationError
from .alphabet import Alphabet

Ends = tuple[int, int]
"""First frame, and one past the last frame."""


def align(logprobs: np.ndarray, ids: Sequence[int], blank_id: int = 0) -> tuple[list[Ends], float]:
    """Frames of each label on the best path that writes them.

    Args:
        logprobs: natural log-probabilities `[frames, labels]`.
        ids: labels to write, without blanks.
        blank_id: of the blank.

    Returns:
        Ends of each label, and the natural log-probability of the path.

    Raises:
        ConfigurationError: there are too few frames for the labels.
    """
    frames = len(logprobs)
    repeats = sum(a == b for a, b in pairwise(ids))
    if frames < len(ids) + repeats:
        raise ConfigurationError(f"{len(ids)} labels with {repeats} repeats do not fit into {frames} frames")
    if not frames:
        return [], 0.0
    states = np.full(2 * len(ids) + 1, blank_id)
    states[1::2] = ids
    skips = np.zeros(len(states), dtype=bool)  # a blank may be left out between two different labels
    skips[3::2] = states[3::2] != states[1:-2:2]
    emissions = logprobs[:, states].astype(np.float64)  # [frames, states]
    score = np.full(len(states), -np.inf)
    score[:2] = emissions[0, :2]
    came = np.zeros((frames, len(states)), dtype=np.int8)  # states back: 0, 1 or 2
    for frame in range(1, frames):
        one = np.concatenate(([-np.inf], score[:-1]))
        two = np.where(skips, np.concatenate(([-np.inf, -np.inf], score[:-2]))[: len(score)], -np.inf)
        choices = np.stack([score, one, two])
        came[frame] = choices.argmax(axis=0)
        score = choices.max(axis=0) + emissions[frame]
    at = len(states) - 1
    if len(states) > 1 and score[-2] > score[-1]:
        at -= 1
    total = float(score[at])
    path = np.zeros(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = at
        at -= int(came[frame, at])
    ends: list[Ends] = []
    for index in range(len(ids)):
        where = np.flatnonzero(path == 2 * index + 1)
        ends.append((int(where[0]), int(where[-1]) + 1))
    return ends, total


def align_words(logprobs: np.ndarray, text: str, alphabet: Alphabet) -> list[Ends] | None:
    """Frames of each word of a text, from the first frame of its first letter to the last one of its last.

    Args:
        logprobs: natural log-probabilities `[frames, labels]`.
        text: words with spaces between; each of its letters is a label.
        alphabet: of the outputs.

    Returns:
        Ends of each word; None where the alphabet cannot write the text or there are too few frames for it.
    """
    id_of = {label: index for index, label in enumerate(alphabet.labels) if label}
    ids: list[int] = []
    firsts: list[int] = []
    lasts: list[int] = []
    for number, word in enumerate(text.split()):
        if number and alphabet.delimiter_id is not None:
            ids.append(alphabet.delimiter_id)
        if any(letter not in id_of for letter in word):
            return None
        firsts.append(len(ids))
        ids += [id_of[letter] for letter in word]
        lasts.append(len(ids) - 1)
    try:
        ends, _ = align(logprobs, ids, alphabet.blank_id)
    except ConfigurationError:
        return None
    return [(ends[first][0], ends[last][1]) for first, last in zip(firsts, lasts, strict=True)]
