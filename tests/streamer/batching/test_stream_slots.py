"""Slots: what a stream is told does not depend on who shares its steps, nor on who had its slot before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from wavlm_live.model import StreamError, StreamingContext
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.chosen_frames import ChosenFrames
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.stream_slots import Row, StreamSlots

CONTEXT = StreamingContext(12, 5, 2)
FIRST = 6 * 320 + 400  # samples of the first chunk with its right context
NEXT = 5 * 320


@pytest.fixture(params=[False, True], ids=["eager", "static"])
def slots_of(request):
    """Makes `StreamSlots` that compute in the shapes of the moment, or in static steps."""

    def make(*arguments, **rest) -> StreamSlots:
        return StreamSlots(*arguments, **rest, static=request.param)

    return make


def pieces_of(sound: np.ndarray) -> list[np.ndarray]:
    return [sound[:FIRST], *(sound[n : n + NEXT] for n in range(FIRST, len(sound) - NEXT + 1, NEXT))]


def steps_alone(model, sound: np.ndarray) -> list[np.ndarray]:
    encoder, found = LocalEncoder(model, CONTEXT), []
    for piece in pieces_of(sound):
        encoder.listen(piece)
        found.append(encoder.step().logprobs)
    return found


def poison(slots: StreamSlots, slot: int) -> None:
    for tensor in slots.states.tensors().values():
        if tensor.is_floating_point():
            tensor[slot] = float("nan")


def test_alone_or_among_64_others_of_other_ages(recogniser, noise, seed, slots_of):
    """The same frames within 1e-4, in slots that streams come to and leave, full of NaN when they are taken."""
    rng = random.Random(seed)
    sounds = [noise(rng.uniform(0.8, 2.5), rng.randrange(10**6)) for _ in range(90)]
    slots = slots_of(recogniser.model, CONTEXT, 4, most=65)
    waiting, running, done = list(range(len(sounds))), {}, {}
    while waiting or running:
        while waiting and len(running) < 65 and rng.random() < 0.9:
            encoder = slots.open()
            poison(slots, encoder.slot)
            index = waiting.pop()
            running[index] = encoder, iter(pieces_of(sounds[index])), []
        batch = [index for index in running if rng.random() < 0.7]
        rng.shuffle(batch)
        rows = []
        for index in list(batch):
            encoder, pieces, _ = running[index]
            piece = next(pieces, None)
            if piece is None:
                done[index] = running.pop(index)[2]
                encoder.close()
                batch.remove(index)
                continue
            for part in np.array_split(piece, rng.randrange(1, 4)):
                encoder.listen(part)
            rows.append(Row(encoder))
        for index, step in zip(batch, slots.compute(rows) if rows else [], strict=True):
            running[index][2].append(step.logprobs)
    assert slots.states.slots - slots.static == 65
    for index in rng.sample(range(len(sounds)), 8):
        expected = steps_alone(recogniser.model, sounds[index])
        assert len(done[index]) == len(expected)
        for got, want in zip(done[index], expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4)


def test_looking_changes_nothing_for_the_others(recogniser, noise, slots_of):
    slots = slots_of(recogniser.model, CONTEXT, 2)
    one, two = slots.open(), slots.open()
    sound = noise(1.0, 3)
    one.listen(sound[:FIRST])
    two.listen(sound[:FIRST])
    before = slots.compute([Row(one)], commit=False)[0]
    again = slots.compute([Row(two), Row(one)], commit=False)
    np.testing.assert_allclose(before.logprobs, again[1].logprobs, atol=1e-5)
    commit = slots.compute([Row(one)])[0]
    np.testing.assert_allclose(before.logprobs, commit.logprobs, atol=1e-5)
    assert (one.waiting_frames, two.waiting_frames) == (2, 7)


def test_beams_are_told_what_they_look_at(recogniser, noise, slots_of):
    """To the last bit what the log-probabilities of the same step say, for streams of other ages and settings."""
    alphabet = recogniser.alphabet
    slots = slots_of(recogniser.model, CONTEXT, 4, silent=alphabet.silent_ids)
    encoders = [slots.open() for _ in range(4)]
    for n, encoder in enumerate(encoders):
        encoder.listen(noise(1.0, n)[: FIRST - 400 * n])
    wanted = [DecodingSettings("beam"), DecodingSettings("beam", token_cutoff=1.0, blank_skip=0.5), None, None]
    wanted[3] = DecodingSettings("beam", beam_width=3)
    decoders = [make_decoder(alphabet, setting) for setting in wanted]
    readings = [getattr(decoder, "reading", None) for decoder in decoders]
    rows = [Row(encoder, greedy=r is None, reading=r) for encoder, r in zip(encoders, readings, strict=True)]
    plain = slots.compute([Row(encoder) for encoder in encoders], commit=False)
    told = slots.compute(rows, commit=False)
    assert [isinstance(step.logprobs, ChosenFrames) for step in told] == [True, True, False, True]
    for decoder, one, other in zip(decoders, plain, told, strict=True):
        assert len(one.logprobs) == len(other.logprobs) > 0
        assert alphabet.speech_probabilities(one.logprobs).tolist() == pytest.approx(
            alphabet.speech_probabilities(other.logprobs).tolist(), abs=0
        )
        assert decoder.peek(one.logprobs) == decoder.peek(other.logprobs)
        if isinstance(decoder, BeamDecoder):
            assert list(decoder.frames_of(one.logprobs)) == list(other.logprobs.chosen)


def test_read_and_written_elsewhere_it_goes_on_exactly(recogniser, noise, slots_of):
    sound = noise(1.5, 4)
    here, there = (slots_of(recogniser.model, CONTEXT, n) for n in (1, 3))
    first = here.open()
    pieces = pieces_of(sound)
    for piece in pieces[:4]:
        first.listen(piece)
        first.step()
    first.listen(pieces[4][:700])  # what was not convolved yet goes along
    there.open()
    second = there.open()
    poison(there, second.slot)
    there.write(second, here.read(first))
    assert (second.heard_samples, second.committed_frames) == (first.heard_samples, first.committed_frames)
    for encoder in (first, second):
        encoder.listen(pieces[4][700:])
    np.testing.assert_allclose(first.step().logprobs, second.step().logprobs, atol=0 if not here.static else 1e-5)
    other = slots_of(recogniser.model, StreamingContext(12, 4, 2), 1)
    with pytest.raises(StreamError, match="does not fit"):
        other.write(other.open(), here.read(first))


def test_no_slot_is_given_twice(recogniser, slots_of):
    slots = slots_of(recogniser.model, CONTEXT, 1, most=3)
    encoders = [slots.open() for _ in range(3)]
    assert len({e.slot for e in encoders}) == len(slots) == 3
    with pytest.raises(StreamError, match="all 3 slots are taken"):
        slots.open()
    encoders[1].close()
    encoders[1].close()
    assert len(slots) == 2
    fresh = slots.open()
    assert fresh.slot not in (encoders[0].slot, encoders[2].slot)
    with pytest.raises(StreamError, match="closed"):
        encoders[1].step()
    with pytest.raises(StreamError, match="a chunk needs"):
        fresh.step()


def test_growing_keeps_what_the_streams_have(recogniser, noise, slots_of):
    sound = noise(1.0, 5)
    slots, expected = slots_of(recogniser.model, CONTEXT, 1, most=4), steps_alone(recogniser.model, sound)
    encoder = slots.open()
    for number, piece in enumerate(pieces_of(sound)):
        encoder.listen(piece)
        np.testing.assert_allclose(encoder.step().logprobs, expected[number], atol=1e-5)
        if len(slots) < 4:
            slots.open()
    assert slots.states.slots - slots.static == 4
    assert torch.isfinite(slots.states.keys[encoder.slot]).all()
