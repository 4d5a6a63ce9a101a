"""The beams of many streams in one vectorised step: an experiment that `decoding_cost.py` measures, not the product.

The hypotheses of all streams stand in one block of arrays, `[streams, width]`, and a frame of each moves all of them.
Arithmetic is that of `PrefixSearch.read`, number by number and in the same order, so a stream's result is the one that
it has alone, to the last bit; the benchmark checks it. What is no arithmetic stays with each stream: the texts and
paths that are new, gains of language model and hotwords, looks for stable words. That is most of the work once texts
that cannot be kept are not scored, and the arrays score all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.hypotheses import Hypothesis, Path
from wavlm_live.streamer.prefix_search import FIRST_SYMBOL, LARGE, SMALL, Heard, PrefixSearch

NOBODY, NOTHING = -1, -2
"""Number of a text that is not there, and of the text before one that is not there."""

Reading = tuple[BeamDecoder, np.ndarray]
"""A decoder and the frames `[frames, labels]` that it shall accept."""


def read_together(group: Sequence[Reading]) -> None:
    """Have each decoder accept its frames; all of one width and alphabet, each there once."""
    block = Block([decoder.search for decoder, _ in group])
    lanes = [_Lane(block, row, decoder, logprobs) for row, (decoder, logprobs) in enumerate(group)]
    while lanes := [lane for lane in lanes if lane.skip()]:
        block.read(
            [lane.row for lane in lanes], [lane.decoder.frames for lane in lanes], [lane.heard for lane in lanes]
        )
        for lane in lanes:
            lane.went_on(changed=True)
    for row in range(len(group)):
        block.store(row)


class _Lane:
    """One stream on its way through its frames."""

    def __init__(self, block: Block, row: int, decoder: BeamDecoder, logprobs: np.ndarray) -> None:
        self.block, self.row, self.decoder = block, row, decoder
        self.search = block.searches[row]
        self.heard: Heard
        self._frames = decoder.frames_of(logprobs)

    def skip(self) -> bool:
        """Go on to the next frame that is to be read; False where there is none."""
        for blank, outputs, values in self._frames:
            if outputs:
                self.heard = self.search.heard(outputs, values)
                self.search.listened(self.heard)
                return True
            self.block.rest(self.row)
            self.search.rested(blank)
            self.went_on(changed=False)
        return False

    def went_on(self, *, changed: bool) -> None:
        """A frame was read; as `BeamDecoder.accept` does behind each."""
        if self.decoder.went_on(changed=changed) and self.decoder.unsettled(self.block.texts[self.row, 0]):
            before = self.block.store(self.row)
            self.decoder.settle()
            if self.search.beam is not before:
                self.block.load(self.row)


class Block:
    """The beams of some searches as arrays `[searches, width]`, the best text first; beams may be shorter.

    Args:
        searches: of one width and alphabet; they hold their beams again after `store`.
    """

    def __init__(self, searches: Sequence[PrefixSearch]) -> None:
        self.searches = searches
        first = searches[0]
        self._labels, delimiter = len(first.alphabet), first.alphabet.delimiter_id
        self._delimiter = NOBODY if delimiter is None else delimiter
        rows, self._width = len(searches), first.rules.width
        shape = rows, self._width
        # Blank, letter, and the best path of each, as in `Hypothesis`; 0 where there is no text.
        self._weights = np.zeros((4, *shape))
        self.texts = np.empty(shape, object)
        """`Hypothesis`; weights and paths of it stand in the other arrays."""
        self._paths = np.empty((2, *shape), object)  # the best path of each kind when it was last made longer,
        self._ends = np.zeros((2, *shape), np.int64)  # one past the last frame of its open word since,
        self._peaks = np.zeros((2, *shape))  # and the highest probability of its last letter
        self._last = np.zeros(shape, np.int64)  # output that a repeat of writes nothing
        self._symbol = np.zeros(shape, np.int64)  # last output of the text
        self._open = np.zeros(shape, bool)  # a word is open
        self._number = np.zeros(shape, np.int64)  # of the text among those of its stream,
        self._before = np.zeros(shape, np.int64)  # and of the text without its last output
        self._most = np.ones(shape)  # no letter has a larger gain
        self._count = np.zeros(rows, np.int64)
        self._merged = np.zeros(rows, bool)
        self._resting = np.zeros(rows, bool)  # silent frames were read that the arrays do not know of
        self._numbers: list[dict[str, int]] = [{} for _ in searches]
        self._floor = np.array([search.floor for search in searches])
        self._fused = np.array([bool(search.fusion) for search in searches])
        for row in range(rows):
            self.load(row)

    def load(self, row: int) -> None:
        """Take over the beam that a search has."""
        search = self.searches[row]
        self._clear(row)
        self._numbers[row] = {}
        self._count[row], self._merged[row] = len(search.beam), search.merged
        for at, h in enumerate(search.beam):
            self._put(row, at, h)

    def store(self, row: int) -> list[Hypothesis]:
        """Give a search its beam back; the list is its own."""
        if self._resting[row]:
            self._rest_now(np.array([row]))
        search, count = self.searches[row], int(self._count[row])
        beam: list[Hypothesis] = self.texts[row, :count].tolist()
        weights = self._weights[:, row, :count].T.tolist()
        paths, ends, peaks = (part[:, row, :count].T.tolist() for part in (self._paths, self._ends, self._peaks))
        for h, weight, path, end, peak in zip(beam, weights, paths, ends, peaks, strict=True):
            h.blank, h.letter, h.blank_best, h.letter_best = weight
            h.blank_path, h.letter_path = _path(path[0], end[0], peak[0]), _path(path[1], end[1], peak[1])
        search.beam, search.merged = beam, bool(self._merged[row])
        return beam

    def rest(self, row: int) -> None:
        """`PrefixSearch.rest`, but for what the search itself keeps account of."""
        self._resting[row] = True

    def _rest_now(self, rows: np.ndarray) -> None:
        """All paths end with a blank now."""
        self._resting[rows] = False
        rows = rows[~self._merged[rows]]
        if not len(rows):
            return
        self._merged[rows] = True
        blank, letter, blank_best, letter_best = self._weights[:, rows]
        silent = blank_best >= letter_best
        for part in (self._paths, self._ends, self._peaks):
            part[0, rows] = np.where(silent, part[0, rows], part[1, rows])
        self._paths[1, rows] = _no_paths(silent.shape)
        self._weights[:, rows] = (
            blank + letter,
            np.zeros_like(blank),
            np.maximum(blank_best, letter_best),
            np.zeros_like(blank),
        )

    def read(self, chosen: Sequence[int], frames: Sequence[int], heard: Sequence[Heard]) -> None:
        """One frame of each of these rows; see `PrefixSearch.read`, which this follows line by line.

        Args:
            chosen: rows.
            frames: index of the frame in each stream.
            heard: what it says.
        """
        rows = np.array(chosen)
        if self._resting[rows].any():
            self._rest_now(rows[self._resting[rows]])
        count, width = len(rows), self._width
        here = np.arange(count)[:, None]
        quiet, quiet_best, border = np.array([h[:3] for h in heard])[:, :, None].transpose(1, 0, 2)
        most_tokens = max(len(h.tokens) for h in heard)
        token = np.full((count, most_tokens), self._labels)  # [rows, tokens]; one that no alphabet has fills up
        p = np.zeros((count, most_tokens))
        for at, h in enumerate(heard):
            if h.tokens:
                token[at, : len(h.tokens)], p[at, : len(h.tokens)] = zip(*h.tokens, strict=True)
        place = np.full((count, self._labels + 2), -1)  # where among the tokens an output is; -1 is the last column
        place[here, token] = np.arange(most_tokens)
        place[:, self._labels :] = -1
        of = np.zeros((count, self._labels + 2))  # probability of a letter
        of[here, token] = p
        of[:, self._labels :] = 0.0
        if self._delimiter != NOBODY:
            of[:, self._delimiter] = 0.0

        blank, letter, blank_best, letter_best = self._weights[:, rows]
        last, symbol, open_word = self._last[rows], self._symbol[rows], self._open[rows]
        total, best = blank + letter, np.maximum(blank_best, letter_best)
        sounding = of[here, last]
        again = np.where(letter > 0, sounding, 0.0)
        stays = np.empty((4, count, width))
        stays[0] = np.where(open_word, quiet, quiet + border) * total
        stays[1] = again * letter
        stays[2] = np.where(open_word, quiet_best, np.maximum(quiet_best, border)) * best
        stays[3] = again * letter_best

        # What grows into a text of the beam.
        shorter = self._number[rows][:, :, None] == self._before[rows][:, None, :]  # [rows, shorter, longer]
        parent, column = shorter.argmax(1), place[here, symbol]
        joins = shorter.any(1) & (column >= 0)
        at, j = np.nonzero(joins)
        i, k = parent[at, j], column[at, j]
        taken = np.zeros((count, width, most_tokens), bool)
        taken[at, i, k] = True
        moved: dict[tuple[int, int, int], tuple[int, int]] = {}  # row, text and kind: the text before, the output
        if len(at):
            factor = p[at, k]
            fused = self._fused[rows][at]
            if fused.any():
                factor[fused] *= self._gains(rows[at[fused]], i[fused], token[at[fused], k[fused]])
            repeats = symbol[at, j] == last[at, i]
            kind = np.where(symbol[at, j] == self._delimiter, 0, 1)
            stays[kind, at, j] += factor * np.where(repeats, blank[at, i], total[at, i])
            path_weight = factor * np.where(repeats, blank_best[at, i], best[at, i])
            better = path_weight > stays[kind + 2, at, j]
            stays[kind[better] + 2, at[better], j[better]] = path_weight[better]
            for a, b, c, d in zip(*(x[better].tolist() for x in (at, j, kind, i)), strict=True):
                moved[a, b, c] = d, int(symbol[a, b])

        # What is new.
        sums = stays[0] + stays[1]
        floor, full = self._floor[rows], self._count[rows] == width
        least = floor * sums.max(1)
        least[full] = np.maximum(least[full], sums[full].min(1))
        bound = total * self._most[rows]
        closing = token == self._delimiter
        possible = (p[:, None, :] * bound[:, :, None] > least[:, None, None]) | closing[:, None, :]
        possible &= open_word[:, :, None] | ~closing[:, None, :]
        possible &= ~taken
        possible &= (np.arange(width) < self._count[rows][:, None])[:, :, None]
        at, i, k = np.nonzero(possible)
        factor = p[at, k]
        fused = self._fused[rows][at]
        if fused.any():
            factor[fused] *= self._gains(rows[at[fused]], i[fused], token[at[fused], k[fused]])
        new = factor * np.where(token[at, k] == last[at, i], blank[at, i], total[at, i])
        enough = new > least[at]
        at, i, k, factor, new = at[enough], i[enough], k[enough], factor[enough], new[enough]

        # The best of both; texts that are there already stand in front.
        starts = np.searchsorted(at, np.arange(count + 1))
        weights = np.zeros((count, width + int(np.diff(starts).max(initial=0))))
        weights[:, :width] = sums
        weights[at, width + np.arange(len(at)) - starts[at]] = new
        order = np.argsort(-weights, axis=1, kind="stable")[:, :width]
        ranked = np.take_along_axis(weights, order, axis=1)
        top = ranked[:, 0]
        kept = (ranked > (floor * top)[:, None]) & (top > 0)[:, None]
        stay = kept & (order < width)
        source = np.where(stay, order, 0)

        # Texts and paths that are new, while the arrays still say what was before.
        found = list(zip(*(x.tolist() for x in np.nonzero(kept & ~stay)), strict=True))
        births: list[tuple[int, int, Hypothesis]] = []
        for a, q in found:
            n = int(starts[a] + order[a, q] - width)
            before = int(rows[a]), int(i[n])
            born = self._child(*before, int(token[a, k[n]]), float(factor[n]), float(new[n]), frames[a], heard[a])
            births.append((int(rows[a]), q, born))
        places = np.full((count, width), -1)
        a_of, q_of = np.nonzero(stay)
        places[a_of, source[a_of, q_of]] = q_of
        detours = [
            (int(rows[a]), int(places[a, b]), c, self._longer(int(rows[a]), d, output, frames[a], heard[a]))
            for (a, b, c), (d, output) in moved.items()
            if places[a, b] >= 0
        ]

        alive = np.flatnonzero(top > 0)  # a frame that is impossible for all texts is as if it had not been
        self._stay(rows[alive], source[alive], stay[alive], stays[:, alive], sounding[alive], np.array(frames)[alive])
        self._count[rows[alive]] = kept[alive].sum(1)
        self._merged[rows[alive]] = False
        for row, q, h in births:
            self._put(row, q, h)
        for row, q, c, path in detours:
            self._set_path(c, row, q, path)
        for a in np.flatnonzero((top > 0) & ~((top > SMALL) & (top < LARGE))).tolist():
            self._weights[:, rows[a]] *= 1.0 / float(top[a])
            self.searches[rows[a]].scale += math.log(float(top[a]))

    def _stay(
        self,
        rows: np.ndarray,
        source: np.ndarray,
        stay: np.ndarray,
        stays: np.ndarray,
        sounding: np.ndarray,
        frames: np.ndarray,
    ) -> None:
        """Put the texts that stay in their new order, with their new weights and paths."""
        at, here = rows[:, None], np.arange(len(rows))[:, None]
        silent = self._weights[2][at, source] >= self._weights[3][at, source]
        for part in (self._paths, self._ends, self._peaks):
            spoken = part[1][at, source]
            part[0, rows] = np.where(silent, part[0][at, source], spoken)
            part[1, rows] = spoken
        self._ends[1, rows] = frames[:, None] + 1  # a letter that sounds on ends later
        self._peaks[1, rows] = np.maximum(self._peaks[1, rows], sounding[here, source])
        self._weights[:, rows] = np.where(stay, stays[:, here, source], 0.0)
        for part in (self.texts, self._last, self._symbol, self._open, self._most):
            part[rows] = part[at, source]
        self._number[rows] = np.where(stay, self._number[at, source], NOBODY)
        self._before[rows] = np.where(stay, self._before[at, source], NOTHING)

    def _gains(self, rows: np.ndarray, texts: np.ndarray, outputs: np.ndarray) -> list[float]:
        """What fusion makes of texts with one more output."""
        gains = []
        for row, text, output in zip(rows.tolist(), texts.tolist(), outputs.tolist(), strict=True):
            search, context = self.searches[row], self.texts[row, text].context
            gains.append(search.fusion.gain(context, search.labels[output]))
        return gains

    def _child(
        self, row: int, text: int, output: int, factor: float, weight: float, frame: int, heard: Heard
    ) -> Hypothesis:
        """A text with one more output."""
        search, h = self.searches[row], self.texts[row, text]
        blank_best, letter_best = self._weights[2:, row, text].tolist()
        best = blank_best if output == h.last else max(blank_best, letter_best)
        context = None if h.context is None else search.fusion.step(h.context, search.labels[output])[1]
        return search.child(h, output, weight, factor * best, context, self._longer(row, text, output, frame, heard))

    def _longer(self, row: int, text: int, output: int, frame: int, heard: Heard) -> Path:
        """The best path of a text with one more output."""
        h = self.texts[row, text]
        silent = output == h.last or self._weights[2, row, text] >= self._weights[3, row, text]
        at = (0 if silent else 1), row, text
        path = _path(self._paths[at], int(self._ends[at]), float(self._peaks[at]))
        return self.searches[row].longer(h, path, output, frame, heard.of.get(output, 0.0))

    def _put(self, row: int, at: int, h: Hypothesis) -> None:
        """A text in its place."""
        self._weights[:, row, at] = h.blank, h.letter, h.blank_best, h.letter_best
        self.texts[row, at] = h
        self._set_path(0, row, at, h.blank_path)
        self._set_path(1, row, at, h.letter_path)
        self._last[row, at] = h.last if h.last >= 0 else self._labels
        self._symbol[row, at] = ord(h.key[-1]) - FIRST_SYMBOL if h.key else self._labels + 1
        self._open[row, at] = bool(h.word)
        numbers = self._numbers[row]
        self._number[row, at] = numbers.setdefault(h.key, len(numbers))
        self._before[row, at] = numbers.setdefault(h.key[:-1], len(numbers)) if h.key else NOTHING
        self._most[row, at] = 1.0 if h.context is None else self.searches[row].most(h.context)

    def _set_path(self, kind: int, row: int, at: int, path: Path) -> None:
        self._paths[kind, row, at] = path
        if path[0] is not None:
            self._ends[kind, row, at], self._peaks[kind, row, at] = path[0][1], path[0][2].peak

    def _clear(self, row: int) -> None:
        """No texts."""
        self._weights[:, row] = 0.0
        self._number[row], self._before[row] = NOBODY, NOTHING
        self._last[row] = self._labels
        self._symbol[row] = self._labels + 1
        self._open[row] = False
        self._most[row] = 1.0
        self._paths[:, row] = _no_paths((2, self._width))


def _no_paths(shape: tuple[int, ...]) -> np.ndarray:
    """Paths of which nothing is known."""
    paths = np.empty(shape, object)
    paths.fill((None, None))
    return paths


def _path(path: Path, end: int, peak: float) -> Path:
    """A path whose last letter sounded on to another end, with another peak."""
    frames = path[0]
    if frames is None or (frames[1] == end and frames[2].peak == peak):
        return path
    return (frames[0], end, frames[2]._replace(peak=peak)), path[1]
