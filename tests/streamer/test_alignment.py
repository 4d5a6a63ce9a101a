"""Forced alignment: the best of all paths, by trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.alignment import align, align_words
from wavlm_live.streamer.alphabet import Alphabet


def random_rows(seed: int, frames: int, labels: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, labels)) * 2
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def best_by_trying(rows: np.ndarray, ids: list[int], blank: int) -> tuple[list[tuple[int, int]], float]:
    best: tuple[list[tuple[int, int]], float] = ([], -np.inf)
    for path in itertools.product(range(rows.shape[1]), repeat=len(rows)):
        runs = []  # label, first, end
        for frame, label in enumerate(path):
            if runs and runs[-1][0] == label:
                runs[-1][2] = frame + 1
            else:
                runs.append([label, frame, frame + 1])
        said = [run for run in runs if run[0] != blank]
        if [run[0] for run in said] == ids:
            score = float(rows[np.arange(len(rows)), path].sum())
            if score > best[1]:
                best = [(run[1], run[2]) for run in said], score
    return best


@pytest.mark.parametrize("ids", [[], [1], [1, 2], [1, 1], [2, 2, 1], [1, 2, 1]])
@pytest.mark.parametrize("frames", [3, 5, 7])
def test_the_best_of_all_paths(ids: list[int], frames: int, seed: int) -> None:
    rows = random_rows(seed, frames, 3)
    for blank in (0, 2) if 2 not in ids else (0,):
        if 0 in ids or frames < len(ids) + (ids[:2] in ([1, 1], [2, 2])):
            continue
        expected, score = best_by_trying(rows, ids, blank)
        found, total = align(rows, ids, blank)
        assert total == pytest.approx(score, abs=1e-9)
        assert found == expected


def test_too_few_frames_are_refused() -> None:
    rows = random_rows(0, 3, 3)
    with pytest.raises(ConfigurationError, match="do not fit into 3 frames"):
        align(rows, [1, 1, 2])
    assert align(rows[:0], []) == ([], 0.0)


def test_words_are_found_where_they_are() -> None:
    alphabet = Alphabet(("", "", "a", "b"), blank_id=0, delimiter_id=1)
    path = [0, 0, 2, 2, 0, 3, 1, 0, 3, 0, 3, 3, 0, 0]
    rows = np.full((len(path), 4), -9.0)
    rows[np.arange(len(path)), path] = -0.01
    assert align_words(rows, "ab bb", alphabet) == [(2, 6), (8, 12)]
    assert align_words(rows, "", alphabet) == []
    assert align_words(rows, "ax", alphabet) is None
    assert align_words(rows, "ab" * 8, alphabet) is None
