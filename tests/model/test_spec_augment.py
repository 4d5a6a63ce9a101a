"""Masks of SpecAugment: the same draws as transformers, and the rules one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.spec_augment import span_mask


def runs(row: np.ndarray) -> list[tuple[int, int]]:
    """Start and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    rows, positions = draw(st.integers(1, 5)), draw(st.integers(1, 60))
    lengths = st.lists(st.integers(0, positions), min_size=rows, max_size=rows)
    return {
        "shape": (rows, positions),
        "probability": draw(st.floats(0.0, 1.0)),
        "length": draw(st.integers(1, positions)),
        "lengths": draw(st.none() | lengths),
        "min_masks": draw(st.integers(0, 4)),
    }


@settings(max_examples=200, deadline=None)
@given(request=requests(), seed=st.integers(0, 2**32 - 1))
def test_equals_transformers_given_the_same_random_state(request: dict[str, Any], seed: int) -> None:
    reference = pytest.importorskip("transformers.models.wavlm.modeling_wavlm")
    mask = None
    if request["lengths"] is not None:
        mask = (torch.arange(request["shape"][1]) < torch.tensor(request["lengths"])[:, None]).long()
    before = np.random.get_state()
    try:
        np.random.seed(seed)
        expected = reference._compute_mask_indices(
            request["shape"], request["probability"], request["length"], mask, request["min_masks"]
        )
        expected_next = np.random.rand()
    finally:
        np.random.set_state(before)
    generator = np.random.RandomState(seed)
    ours = span_mask(**request, generator=generator)
    assert ours.dtype == torch.bool
    np.testing.assert_array_equal(ours.numpy(), expected)
    assert generator.rand() == expected_next  # what is drawn afterwards, such as the other axis, agrees too


@settings(max_examples=100, deadline=None)
@given(request=requests(), seed=st.integers(0, 1000))
def test_spans_lie_inside_the_valid_part(request: dict[str, Any], seed: int) -> None:
    hidden = span_mask(**request, generator=torch.Generator().manual_seed(seed)).numpy()
    positions, length = request["shape"][1], request["length"]
    for row, room in zip(hidden, request["lengths"] or [positions] * len(hidden), strict=True):
        spans = runs(row)
        if room < positions and spans in ([], [(positions - 1, 1)]):  # no span, or its dummy in the padding
            assert request["min_masks"] == 0 or room < length
            continue
        assert not row[room:].any()
        assert all(size >= length for _, size in spans)
        assert len(spans) >= min(1, request["min_masks"])


def test_number_of_spans_follows_the_probability() -> None:
    # Spans of one position never overlap, so that the hidden positions are the spans: 0.3 * 25 = 7.5, which
    # the epsilon of a call rounds to 7 or 8, the same for every row of that call.
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(400):
        hidden = span_mask((3, 25), 0.3, 1, generator=generator).sum(1).tolist()
        assert len(set(hidden)) == 1
        counts.append(hidden[0])
    assert set(counts) == {7, 8}
    assert abs(np.mean(counts) - 7.5) < 0.1


def test_every_start_is_as_likely() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = span_mask((20000, 6), 0.0, 2, min_masks=1, generator=generator)
    expected = np.array([1, 2, 2, 2, 2, 1]) / 5  # five starts; an inner position is under two of them
    np.testing.assert_allclose(hidden.float().mean(0).numpy(), expected, atol=0.02)


def test_nothing_is_hidden_without_probability_or_room() -> None:
    assert not span_mask((2, 30), 0.0, 5).any()
    assert not span_mask((2, 4), 1.0, 5, min_masks=2).any()  # shorter than one span
    assert span_mask((0, 4), 1.0, 2).shape == (0, 4)


def test_min_masks_hides_even_at_probability_zero() -> None:
    hidden = span_mask((4, 30), 0.0, 3, min_masks=2, generator=torch.Generator().manual_seed(3))
    assert all(4 <= n <= 6 for n in hidden.sum(1).tolist())  # two different starts of three, overlapping or not


def test_the_generator_decides() -> None:
    draw = lambda seed: span_mask((4, 200), 0.3, 5, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(7), draw(7))
    assert not torch.equal(draw(7), draw(8))
    torch.manual_seed(5)
    first = span_mask((4, 200), 0.3, 5)
    second = span_mask((4, 200), 0.3, 5)
    torch.manual_seed(5)
    assert torch.equal(first, span_mask((4, 200), 0.3, 5))
    assert not torch.equal(first, second)


def test_lengths_may_be_a_tensor() -> None:
    given_list = span_mask((2, 30), 0.5, 4, [30, 12], generator=np.random.RandomState(0))
    given_tensor = span_mask((2, 30), 0.5, 4, torch.tensor([30, 12]), generator=np.random.RandomState(0))
    assert torch.equal(given_list, given_tensor)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"probability": 1.5}, "probability is 1.5"),
        ({"length": 0}, "length of a mask is 0"),
        ({"min_masks": -1}, "min_masks is -1"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        span_mask(**({"shape": (2, 10), "probability": 0.5, "length": 2} | arguments))


@pytest.mark.parametrize("lengths", [[10], [10, 11], [10, -1]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 2 values between 0 and 10"):
        span_mask((2, 10), 0.5, 2, lengths)
