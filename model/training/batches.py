"""Batches of similar length, each a function of seed, stage and step alone, so that a run resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augment import RATE, augment
from .cache import SoundCache
from .frame_labels import NO_LABEL, FrameLabels, follow
from .letters import encode, frames_needed
from .manifest import Utterance, frames_of
from .rooms import draw_responses
from .settings import EVERY, Pool, Stage

_SHORTEST_SAMPLES = 1600
_ROOMS = 64


@dataclass
class Batch:
    """Utterances of similar length, padded."""

    input_values: Tensor
    """float32 [batch, samples], zeros after each row's end."""
    attention_mask: Tensor
    """int64 [batch, samples], 1 for sound."""
    labels: Tensor
    """int64 [batch, characters], -100 after each row's end."""
    sample_lengths: Tensor
    """int64 [batch]."""
    label_lengths: Tensor
    """int64 [batch]."""
    keys: list[tuple[str, ...]]
    """Recordings in each row."""
    characters: int
    """Characters of the whole batch, of which this may be one process's part."""
    weight: float = 1.0
    """0 where the rows are another process's and only keep this one in step."""
    frame_labels: Tensor | None = None
    """int64 [batch, frames], `NO_LABEL` where nothing is known; None where the task has none."""
    labelled_frames: int = 0
    """Frames with labels in the recordings of the whole batch, each at its own speed."""

    @property
    def seconds(self) -> float:
        """Seconds of sound, without padding."""
        return self.weight * float(self.sample_lengths.sum()) / RATE

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(
            self.input_values.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.sample_lengths.to(device, non_blocking=True),
            self.label_lengths.to(device, non_blocking=True),
            self.keys,
            self.characters,
            self.weight,
            None if self.frame_labels is None else self.frame_labels.to(device, non_blocking=True),
            self.labelled_frames,
        )


def collate(
    waves: Sequence[np.ndarray],
    texts: Sequence[str],
    keys: list[tuple[str, ...]],
    characters: int | None = None,
    *,
    multiple: int = 1,
) -> Batch:
    """Pad waveforms (float32 [samples]) and normalised texts to a batch, to a `multiple` of samples."""
    lengths = [len(wave) for wave in waves]
    inputs = np.zeros((len(waves), -(-max(lengths) // multiple) * multiple), np.float32)
    for row, wave in zip(inputs, waves, strict=True):
        row[: len(wave)] = wave
    tokens = [encode(text) for text in texts]
    label_lengths = [len(t) for t in tokens]
    labels = np.full((len(tokens), max(label_lengths)), -100, np.int64)
    for row, t in zip(labels, tokens, strict=True):
        row[: len(t)] = t
    sample_lengths = torch.tensor(lengths)
    mask = (torch.arange(inputs.shape[1])[None] < sample_lengths[:, None]).long()
    return Batch(
        torch.from_numpy(inputs),
        mask,
        torch.from_numpy(labels),
        sample_lengths,
        torch.tensor(label_lengths),
        keys,
        sum(label_lengths) if characters is None else characters,
    )


def by_length(seconds: np.ndarray, batch_s: float, most_clips: int) -> list[np.ndarray]:
    """Cut items into batches of similar length: each at most `batch_s` seconds when padded to its longest.

    Args:
        seconds: length of each item [items]; the order of sorting.

    Returns:
        Indices of the items of each batch. An item longer than `batch_s` is a batch of its own.
    """
    batches: list[np.ndarray] = []
    order = np.argsort(seconds, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        # Sorted upwards, the newest item is the longest and sets the padded length of all.
        if end == len(order) or end + 1 - start > most_clips or seconds[order[end]] * (end + 1 - start) > batch_s:
            batches.append(order[start:end])
            start = end
    return batches


class BatchPlan:
    """What each step of one stage is made of.

    A pool is gone through in epochs: every recording once (times its corpus's share), joined at random where
    the pool says so, sorted by length, cut into batches, the batches shuffled.

    Raises:
        ConfigurationError: a pool that no recording fits.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: SoundCache,
        stage: Stage,
        *,
        seed: int,
        number: int = 0,
        noises: Sequence[np.ndarray] = (),
        frame_labels: FrameLabels | None = None,
    ) -> None:
        self.cache = cache
        self.stage = stage
        self.frame_labels = frame_labels
        self.noises = noises
        self.responses = draw_responses(_ROOMS, seed) if stage.augment.rooms else []
        self._seed = [seed, number]
        self._utterances = utterances
        self._seconds = np.array([cache.samples(u.file) / RATE for u in utterances])
        self._members = [self._select(pool) for pool in stage.pools]
        self._epochs: dict[int, tuple[int, list[list[tuple[int, ...]]]]] = {}
        self._epoch_starts: list[list[int]] = [[0] for _ in stage.pools]
        weights = np.array([pool.weight for pool in stage.pools])
        self._weights = weights / weights.sum()
        self._choices = np.zeros(0, np.int64)

    def _select(self, pool: Pool) -> dict[str, np.ndarray]:
        found: dict[str, list[int]] = {corpus: [] for corpus in pool.corpora if corpus != EVERY}
        for i, utterance in enumerate(self._utterances):
            if pool.share(utterance.corpus) is not None and pool.min_s <= self._seconds[i] <= pool.max_s:
                found.setdefault(utterance.corpus, []).append(i)
        if not any(found.values()):
            named = "any corpus" if EVERY in pool.corpora else ", ".join(found)
            raise ConfigurationError(
                f"stage {self.stage.name!r}, pool {pool.name!r}: no recording of {named} lasts "
                f"{pool.min_s:g} to {pool.max_s:g} s; check the manifest and the recipe"
            )
        return {corpus: np.array(indices, np.int64) for corpus, indices in found.items() if indices}

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, *purpose])

    def _epoch(self, p: int, epoch: int) -> list[list[tuple[int, ...]]]:
        """Batches of one epoch of pool `p`; each item is the indices of the recordings it joins."""
        if (held := self._epochs.get(p)) and held[0] == epoch:
            return held[1]
        pool, rng = self.stage.pools[p], self._rng(1, p, epoch)
        drawn: list[np.ndarray] = []
        for corpus, members in self._members[p].items():
            whole, part = divmod(pool.share(corpus) or 0.0, 1.0)
            drawn += [members] * int(whole)
            if part:
                drawn.append(rng.choice(members, max(1, round(part * len(members))), replace=False))
        order = rng.permutation(np.concatenate(drawn))
        items: list[tuple[int, ...]] = []
        at = 0
        while at < len(order):
            wanted = int(rng.integers(pool.join[0], pool.join[1] + 1))
            taken = 1
            total_s = self._seconds[order[at]]
            while taken < wanted and at + taken < len(order):
                total_s += self._seconds[order[at + taken]] + sum(pool.gap_s) / 2
                if total_s > pool.max_s:
                    break
                taken += 1
            items.append(tuple(order[at : at + taken].tolist()))
            at += taken
        gap = sum(pool.gap_s) / 2
        seconds = np.array([self._seconds[list(item)].sum() + gap * (len(item) - 1) for item in items])
        # A little disorder, so that the same recordings do not always meet.
        cut = by_length(seconds * rng.uniform(0.95, 1.05, len(seconds)), self.stage.batch_s, self.stage.most_clips)
        batches = [[items[i] for i in cut[b]] for b in rng.permutation(len(cut))]
        self._epochs[p] = (epoch, batches)
        return batches

    def epoch_batches(self, p: int) -> int:
        """Batches of the first epoch of pool `p`."""
        return len(self._epoch(p, 0))

    def items(self, step: int) -> tuple[int, list[tuple[int, ...]]]:
        """Number of the pool, and the recordings joined in each row, of a step (0 is the stage's first)."""
        while step >= len(self._choices):
            more = self._rng(2, len(self._choices)).choice(len(self._weights), 4096, p=self._weights)
            self._choices = np.concatenate([self._choices, more])
        p = int(self._choices[step])
        draw = int(np.count_nonzero(self._choices[:step] == p))
        starts = self._epoch_starts[p]
        # Epochs differ in their number of batches: walk from the last one known.
        epoch = int(np.searchsorted(starts, draw, side="right")) - 1
        while draw >= starts[epoch] + len(self._epoch(p, epoch)):
            if epoch + 1 == len(starts):
                starts.append(starts[epoch] + len(self._epoch(p, epoch)))
            epoch += 1
        return p, self._epoch(p, epoch)[draw - starts[epoch]]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch | None:
        """The batch of a step, decoded, changed and padded; of `parts` processes, the rows of number `part`.

        Neighbouring rows, which are of similar length, go to different processes. None: no row is left for this one.
        """
        p, items = self.items(step)
        pool = self.stage.pools[p]
        if part >= len(items):
            return None
        characters = sum(sum(len(self._utterances[i].text) + 1 for i in item) - 1 for item in items)
        waves, texts, keys, frames = [], [], [], []
        for row in range(part, len(items), parts):
            rng = self._rng(3, step, row)
            members = [self._utterances[i] for i in items[row]]
            recordings = [self.cache.wave(u.file) for u in members]
            text = " ".join(u.text for u in members)
            placed: list[tuple[int, float]] = []
            wave = augment(
                recordings,
                self.stage.augment,
                rng,
                self.noises,
                gap_s=pool.gap_s,
                most_samples_faster=_fastest(members, recordings),
                responses=self.responses,
                placed=placed,
            )
            if len(wave) < _SHORTEST_SAMPLES:
                wave = np.pad(wave, (0, _SHORTEST_SAMPLES - len(wave)))
            waves.append(wave)
            texts.append(text)
            keys.append(tuple(u.file for u in members))
            if self.frame_labels is not None:
                known = [self._known(u) for u in members]
                frames.append(follow(known, placed, [len(r) for r in recordings], len(wave)))
        multiple = max(1, round(self.stage.pad_s * RATE))
        batch = collate(waves, texts, keys, characters, multiple=multiple)
        if self.frame_labels is not None:
            longest = frames_of(batch.input_values.shape[1])
            padded = [np.pad(row, (0, longest - len(row)), constant_values=NO_LABEL) for row in frames]
            batch.frame_labels = torch.from_numpy(np.stack(padded))
            files = (self._utterances[i].file for item in items for i in item)
            batch.labelled_frames = sum(map(self.frame_labels.frames, files))
        return batch

    def _known(self, utterance: Utterance) -> np.ndarray | None:
        """Labels of a recording's frames at its own speed, where it has any."""
        labels = self.frame_labels
        return labels[utterance.file] if labels is not None and utterance.file in labels else None


def _fastest(members: Sequence[Utterance], recordings: Sequence[np.ndarray]) -> float:
    """Highest speed at which every text still fits into its frames, at least 1."""
    limits = [
        (len(wave) - 400) / max(1, (frames_needed(encode(u.text)) + 1) * 320)
        for u, wave in zip(members, recordings, strict=True)
    ]
    return max(1.0, min(limits))
