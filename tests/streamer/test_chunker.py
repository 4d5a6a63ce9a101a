"""The chunker: every sample once, in order, in pieces that end where something can be done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavlm_live.model.context import StreamingContext
from wavlm_live.streamer.chunker import Chunker, Piece

contexts = st.builds(StreamingContext, st.just(10), st.integers(1, 5), st.integers(0, 3))
hops = st.sampled_from([0, 160, 320, 1600, 1700])


def pushed(chunker: Chunker, sound: np.ndarray, sizes: list[int]) -> list[Piece]:
    pieces, at = [], 0
    for size in [*sizes, len(sound)]:
        pieces += chunker.push(sound[at : at + size])
        at = min(len(sound), at + size)
    return pieces


@given(contexts, hops, st.integers(0, 9000), st.lists(st.integers(0, 3000), max_size=20))
def test_no_sample_lost_or_repeated_and_the_same_pieces_for_any_blocks(
    context: StreamingContext, hop: int, length: int, sizes: list[int]
) -> None:
    sound = np.arange(length, dtype=np.float32)
    chunker, whole = Chunker(context, hop), Chunker(context, hop)
    pieces, expected = pushed(chunker, sound, sizes), whole.push(sound)
    assert [(len(p.samples), p.commit, p.provisional) for p in pieces] == [
        (len(p.samples), p.commit, p.provisional) for p in expected
    ]
    assert chunker.taken_samples == length
    assert chunker.waiting_samples == length - sum(len(p.samples) for p in pieces)
    assert np.array_equal(np.concatenate([*(p.samples for p in pieces), chunker.rest()]), sound)
    assert chunker.waiting_samples == 0
    assert not len(chunker.rest())


@given(contexts, hops, st.integers(0, 20_000), st.integers(0, 20_000))
def test_chunks_are_due_when_their_last_frame_is_whole(
    context: StreamingContext, hop: int, before: int, after: int
) -> None:
    chunker = Chunker(context, hop)
    at, commits = 0, 0
    pieces = chunker.push(np.zeros(before, np.float32))
    rest = chunker.rest()  # as a flush does: the places stay
    pieces += [Piece(rest, False, False)] if len(rest) else []
    pieces += chunker.push(np.zeros(after, np.float32))
    for piece in pieces:
        assert len(piece.samples)
        at += len(piece.samples)
        frames = 0 if at < 400 else (at - 400) // 320 + 1
        due = max(0, (frames - context.right_frames) // context.chunk_frames)
        commits += piece.commit
        assert commits == due  # neither late nor early, and never two at once
        assert piece.provisional == (hop > 0 and at % hop == 0 and piece.samples is not rest)


def test_the_callers_buffer_may_change() -> None:
    chunker = Chunker(StreamingContext(10, 2, 0))
    buffer = np.ones(300, np.float32)
    for value in (1, 2, 3):
        buffer[:] = value
        pieces = chunker.push(buffer)
    assert [len(p.samples) for p in pieces] == [720]
    buffer[:] = -1
    assert pieces[0].samples.tolist() == [1] * 300 + [2] * 300 + [3] * 120
    assert chunker.rest().tolist() == [3] * 180


@pytest.mark.parametrize("hop", [0, 1600])
def test_what_waits_is_bounded(hop: int) -> None:
    chunker = Chunker(StreamingContext(10, 4, 1), hop)
    most = 0
    for _ in range(3000):
        chunker.push(np.zeros(7, np.float32))
        most = max(most, sum(len(block) for block in chunker._waiting))
    assert most < (hop or 4 * 320 + 720)
