"""SpecAugment (Park et al. 2019, section 2): which frames, or which channels, a training step hides.

`span_mask` draws spans of equal length by the rules of wav2vec 2.0 as transformers wrote them down
(`_compute_mask_indices`), so that a recipe tuned there means the same here: given the same
`numpy.random.RandomState` both functions return the same mask, which a test holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigurationError


def span_mask(
    shape: tuple[int, int],
    probability: float,
    length: int,
    lengths: Sequence[int] | Tensor | None = None,
    min_masks: int = 0,
    generator: torch.Generator | np.random.RandomState | None = None,
) -> Tensor:
    """Draw a mask of spans for each row.

    A row of n valid positions gets `int(probability * n / length + e)` spans, where one e, uniform in
    [0, 1), is drawn a call; at least `min_masks`, and no more than fit. Starts are drawn without replacement
    and spans may overlap, so `probability` is an upper bound of the share that is hidden.

    Args:
        shape: rows and positions, `(batch, frames)` or `(batch, channels)`.
        probability: share of positions to hide, 0 to 1.
        length: positions of one span, 1 or more.
        lengths: valid positions of each row, [batch]; None means all. Spans begin and end inside them. In a
            shorter row that gets no span the last position of the axis, padding there, may be hidden instead.
        min_masks: smallest number of spans a row.
        generator: where the randomness comes from: a torch generator, None for torch's own default one (so
            that `torch.manual_seed` decides), or a numpy `RandomState` for the very draws of transformers.

    Returns:
        bool [rows, positions] on the CPU, True where hidden. All False where the axis is shorter than one
        span (transformers raises there; a batch of short clips should not end a training run).

    Raises:
        ConfigurationError: a probability outside 0 to 1, a length below 1 or a negative `min_masks`.
        ValueError: `lengths` does not fit `shape`.
    """
    rows, positions = shape
    if not 0.0 <= probability <= 1.0:
        raise ConfigurationError(f"the masking probability is {probability!r}, expected a value between 0 and 1")
    if length < 1:
        raise ConfigurationError(f"the length of a mask is {length!r}, expected 1 or more positions")
    if min_masks < 0:
        raise ConfigurationError(f"min_masks is {min_masks!r}, expected 0 or more spans")
    valid = _valid_positions(lengths, rows, positions)
    hidden = np.zeros((rows, positions), dtype=bool)
    if length > positions or rows == 0:
        return torch.from_numpy(hidden)

    random = _random_state(generator)
    epsilon = random.rand()
    most = _spans_in(positions, positions, probability, length, min_masks, epsilon)
    if most == 0:
        return torch.from_numpy(hidden)

    starts = np.empty((rows, most), dtype=np.int64)
    for row, room in enumerate(valid):
        spans = _spans_in(room, positions, probability, length, min_masks, epsilon)
        # All rows need as many starts: a short one repeats its first, which hides nothing more. One that has
        # none is shorter than the axis, so that the last position is padding and may be named.
        drawn = random.choice(max(room - length + 1, 0), spans, replace=False)  # moves the state on for no span too
        if spans:
            starts[row, :spans], starts[row, spans:] = drawn, drawn[0]
        else:
            starts[row] = positions - 1
    covered = (starts[:, :, None] + np.arange(length)).reshape(rows, most * length)
    np.put_along_axis(hidden, np.minimum(covered, positions - 1), True, axis=1)
    return torch.from_numpy(hidden)


def _spans_in(room: int, positions: int, probability: float, length: int, min_masks: int, epsilon: float) -> int:
    """Spans for a row of `room` valid positions on an axis of `positions`."""
    spans = max(int(probability * room / length + epsilon), min_masks)
    if spans * length > positions:
        spans = positions // length
    return min(spans, max(room - length + 1, 0))  # as many as there are different starts


def _valid_positions(lengths: Sequence[int] | Tensor | None, rows: int, positions: int) -> list[int]:
    if lengths is None:
        return [positions] * rows
    valid = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    if len(valid) != rows or any(not 0 <= n <= positions for n in valid):
        raise ValueError(
            f"lengths are {valid}, expected {rows} values between 0 and {positions}, valid positions a row"
        )
    return valid


def _random_state(generator: torch.Generator | np.random.RandomState | None) -> np.random.RandomState:
    """A numpy source of randomness that follows from the given one."""
    if isinstance(generator, np.random.RandomState):
        return generator
    device = generator.device if generator is not None else torch.device("cpu")
    seed = torch.randint(2**32, (), generator=generator, device=device, dtype=torch.int64)
    return np.random.RandomState(int(seed))
