"""The batcher: nothing changes with the batch, nothing is lost, and one stream's trouble is its own."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from wavlm_live.model import AudioError, ConfigurationError, StreamError, StreamingContext
from wavlm_live.streamer import Final, Marker, Partial, Problem
from wavlm_live.streamer.admission import ALONE, BatcherRules, QueueFull
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.stream_slots import StreamSlots

FREE = BatcherRules(calibrate=False, most_load=10, late_s=3600)


@pytest.fixture
def batcher(recogniser, clock):
    """Driven by the test, on a clock that the test sets."""
    made = Batcher(recogniser, FREE, clock=clock)
    yield made
    made.close()


@pytest.mark.parametrize(("count", "at_once", "longest_s"), [(80, 65, 2.5), (530, 513, 1.0)])
def test_the_same_alone_or_among_many_others_of_other_ages(
    recogniser, batcher, clock, noise, heard, same, alone, settings_of, seed, count, at_once, longest_s
):
    """Streams of two contexts come and go, with and without partial results, in blocks of any size."""
    rng = random.Random(seed)
    low = StreamingContext(8, 2, 0)
    sounds = [noise(rng.uniform(longest_s / 3, longest_s), rng.randrange(10**6)) for _ in range(count)]
    wanted = [
        settings_of(partial_hop_ms=rng.choice([0, 40, 100]), activity=n % 3 == 0, context=low if n % 4 == 1 else None)
        for n in range(count)
    ]
    results = [heard() for _ in sounds]
    waiting, running, most = list(range(count)), {}, 0
    while waiting or running:
        clock.now_s += 0.1
        while waiting and len(running) < at_once and (count > 500 or rng.random() < 0.8):
            index = waiting.pop()
            running[index] = batcher.open(wanted[index], results[index]), 0
        most = max(most, len(running))
        for index, (stream, fed) in list(running.items()):
            block = sounds[index][fed : fed + rng.choice([1, 800, 1600, 5000])]
            stream.feed(block)
            running[index] = stream, fed + len(block)
            if fed + len(block) == len(sounds[index]):
                stream.finish()
                del running[index]
        if rng.random() < 0.7:
            batcher.settle()
    batcher.settle()
    told = batcher.statistics()
    assert (told.opened, told.finished, told.sessions, told.ended_failed) == (count, count, 0, 0)
    assert told.batch_largest > at_once / 4
    assert most > (512 if count > 512 else 32)
    words = 0
    for index in [1, *rng.sample(range(count), 10)]:
        expected = alone(sounds[index], wanted[index])
        same(results[index].lasting, expected.lasting)
        words += sum(len(final.words) for final in expected.finals)
    assert words > 10


@pytest.mark.parametrize("static", [False, True], ids=["eager", "static"])
def test_streams_with_a_beam_and_without_share_steps(
    recogniser, clock, decided, heard, same, alone, settings_of, monkeypatch, seed, static
):
    """Greedy streams, three with beams of other settings, looks, growing room; static as on CUDA, but not captured."""
    monkeypatch.setattr("wavlm_live.streamer.stream_slots.wants_static", lambda device: static)
    batcher = Batcher(recogniser, FREE, clock=clock)
    rng = random.Random(seed)
    beams = {
        1: DecodingSettings(method="beam", token_cutoff=9.0, hotwords=(("abba", 2.0),)),
        3: DecodingSettings(method="beam", beam_width=4),
        4: DecodingSettings(method="beam", blank_skip=0.999),
    }
    wanted = [
        settings_of(partial_hop_ms=rng.choice([0, 40]), **({"decoding": beams[n]} if n in beams else {}))
        for n in range(6)
    ]
    sounds = [decided(rng.uniform(1.5, 3), settings, seed + n) for n, settings in enumerate(wanted)]
    results, streams = [heard() for _ in range(6)], []
    for number in range(60):
        clock.now_s += 0.1
        if number < 6:
            streams.append(batcher.open(wanted[number], results[number]))
        for stream, sound in zip(streams, sounds, strict=False):
            if stream.samples_taken < len(sound):
                stream.feed(sound[stream.samples_taken :][: rng.choice([700, 1600, 4000])])
                if stream.samples_taken == len(sound):
                    stream.finish()
        batcher.settle()
    group = next(iter(batcher.groups.values()))
    if static:
        assert len(group.slots.ladder._steps) > 4  # sizes, commits and looks, greedy and not
    for result, sound, settings in zip(results, sounds, wanted, strict=True):
        expected = alone(sound, settings)
        assert expected.finals
        same(result.lasting, expected.lasting)


def test_sound_that_completes_nothing_is_not_looked_at(recogniser, clock, noise, heard, settings_of):
    """A block is looked at when something can come of it, and no order waits behind sound that does not."""
    batcher, result = Batcher(recogniser, FREE, clock=clock), heard()
    stream = batcher.open(settings_of(partial_hop_ms=0), result)
    batcher.settle()
    sound, context = noise(1, 5), recogniser.contexts["default"]
    first = (context.step_frames - 1) * 320 + 400  # samples of the first chunk with its right context
    most = min(first, context.chunk_frames * 320)  # a chunk is looked at whatever comes of it
    for start in range(0, most - 100, 100):
        stream.feed(sound[start : start + 100])
        assert not batcher.listed
        assert stream.queued_samples == 0  # it waits for its speaker, not for us
        assert not batcher.tick()
    stream.feed(sound[most - most % 100 - 100 : most])
    assert batcher.listed
    assert 0 < stream.queued_samples <= 200  # what was heard before does not become unheard
    batcher.settle()
    assert stream.queued_samples == 0
    stream.feed(sound[:100])
    stream.mark("here")  # needs the sound before it
    batcher.settle()
    assert stream.session.samples_taken == stream.samples_taken
    stream.feed(sound[:100])
    stream.finish()
    batcher.settle()
    assert stream.ended
    assert result.events[-1] is not None
    assert batcher.statistics().audio_s * 16_000 == stream.samples_taken


def test_the_bundled_model_alone_or_among_others(audio_folder, heard, clock):
    import soundfile

    sound, _ = soundfile.read(audio_folder / "digits_and_commands.flac", dtype="float32")
    sound = sound[: 8 * 16_000]
    bundled = Recogniser.load(device="cpu")
    session, expected = bundled.open(), heard()
    expected.events += [*session.feed(sound), *session.finish()]
    batcher = Batcher(bundled, FREE, clock=clock)
    results, streams = [heard() for _ in range(5)], []
    for number in range(5):  # each begins later than the one before
        for stream in streams:
            stream.feed(sound[stream.samples_taken :][:7000])
        streams.append(batcher.open(None, results[number]))
        batcher.settle()
    for stream in streams:
        stream.feed(sound[stream.samples_taken :])
        stream.finish()
    batcher.settle()
    assert expected.text
    for result in results:
        assert [(f.text, f.start_samples, f.end_samples, f.reason) for f in result.finals] == [
            (f.text, f.start_samples, f.end_samples, f.reason) for f in expected.finals
        ]
        for a, b in zip(result.finals, expected.finals, strict=True):
            assert [w.confidence for w in a.words] == pytest.approx([w.confidence for w in b.words], abs=1e-3)


def test_a_slot_tells_nothing_of_its_former_stream(recogniser, batcher, noise, heard, alone, settings_of, monkeypatch):
    release = StreamSlots.release

    def poisoned(slots, encoder):
        if encoder.slots is slots:
            for tensor in slots.states.tensors().values():
                if tensor.is_floating_point():
                    tensor[encoder.slot] = float("nan")
        release(slots, encoder)

    monkeypatch.setattr(StreamSlots, "release", poisoned)
    settings = settings_of()
    slots = set()
    for seed in range(4):
        sound, result = noise(1.5, seed), heard()
        stream = batcher.open(settings, result)
        stream.feed(sound)
        batcher.settle()
        slots.add(stream.encoder.slot)
        stream.finish() if seed % 2 else stream.abort()
        batcher.settle()
        assert stream.ended
        if seed % 2:
            assert result.finals == alone(sound, settings).finals
    assert slots == {0}


def test_orders_are_followed_in_their_order(batcher, noise, heard, settings_of):
    sound, result = noise(3, 1), heard()
    stream = batcher.open(settings_of(partial_hop_ms=100), result)
    stream.feed(sound[:20_000])
    stream.flush()
    stream.mark("here")
    stream.feed(sound[20_000:])
    stream.mark("there")
    stream.finish()
    assert stream.queued_samples == len(sound) == stream.samples_taken
    assert not stream.ended
    assert stream.wait(0)  # drives it
    kinds = [type(e) for e in result.lasting]
    marks = [e for e in result.events if isinstance(e, Marker)]
    assert marks == [Marker("here", 20_000), Marker("there", len(sound))]
    flushed = [e for e in result.finals if e.reason == "flush"]
    assert flushed
    assert result.events.index(flushed[0]) < result.events.index(marks[0])
    assert kinds[-1] is not Problem
    assert stream.queued_samples == 0
    assert stream.decided_samples == len(sound)
    assert stream.problem is None


def test_provisional_passes_give_partial_results(batcher, clock, noise, heard, settings_of):
    sound, result = noise(2, 2), heard()
    stream = batcher.open(settings_of(partial_hop_ms=40), result)
    for start in range(0, len(sound), 640):
        clock.now_s += 0.04
        stream.feed(sound[start : start + 640])
        batcher.settle()
    told = batcher.statistics()
    assert told.provisional > 20
    assert sum(isinstance(e, Partial) for e in result.events) > 5
    assert told.latency_p99_ms == 0  # the clock stands still while steps are computed


def test_sound_is_refused_aloud_or_taken_whole(recogniser, clock, settings_of):
    batcher = Batcher(recogniser, BatcherRules(calibrate=False, queue_s=4), clock=clock)
    stream = batcher.open(settings_of())
    with pytest.raises(AudioError, match="not finite"):
        stream.feed(np.array([0, np.nan], np.float32))
    with pytest.raises(AudioError, match="float32"):
        stream.feed(np.zeros(10))
    bound = batcher.queue_samples
    assert bound == 4 * 16_000
    stream.feed(np.zeros(bound - 5, np.float32))
    with pytest.raises(QueueFull, match="6 samples do not fit"):
        stream.feed(np.zeros(6, np.float32))
    assert (stream.samples_taken, stream.room_samples) == (bound - 5, 5)
    stream.feed(np.zeros(5, np.float32))
    batcher.settle()
    assert stream.queued_samples == 0
    assert batcher.statistics().audio_s == bound / 16_000
    stream.finish()
    stream.finish()
    with pytest.raises(StreamError, match="finished"):
        stream.feed(np.zeros(5, np.float32))
    batcher.settle()
    with pytest.raises(StreamError, match="has ended"):
        stream.flush()


def test_a_block_belongs_to_its_caller(batcher, noise, heard, alone, settings_of):
    sound, result = noise(1.5, 6), heard()
    stream = batcher.open(settings_of(), result)
    block = sound.copy()
    stream.feed(block)
    block[:] = 0
    stream.finish()
    batcher.settle()
    assert result.finals == alone(sound, settings_of()).finals


def test_a_failing_step_ends_only_its_own_streams(batcher, noise, heard, same, alone, settings_of, monkeypatch):
    compute, guilty = StreamSlots.compute, []

    def failing(slots, rows, *, commit=True):
        if any(row.encoder in guilty for row in rows):
            raise RuntimeError("out of memory")
        return compute(slots, rows, commit=commit)

    monkeypatch.setattr(StreamSlots, "compute", failing)
    sound, results = noise(2, 7), [heard() for _ in range(4)]
    streams = [batcher.open(settings_of(), result) for result in results[:3]]
    streams.append(batcher.open(settings_of(context=StreamingContext(12, 3, 1)), results[3]))
    for stream in streams:
        stream.feed(sound[:9000])
    batcher.settle()
    guilty.append(streams[3].encoder)
    for stream in streams:
        stream.feed(sound[9000:])
        stream.finish()
    batcher.settle()
    problem = results[3].events[-1]
    assert isinstance(problem, Problem)
    assert (problem.code, problem.fatal) == ("device", True)
    assert "out of memory" in problem.message
    assert f"sample {streams[3].decided_samples}" in problem.message
    assert batcher.statistics().ended_failed == 1
    for result in results[:3]:
        same(result.finals, alone(sound, settings_of()).finals)


def test_a_failing_callback_ends_its_own_stream(batcher, noise, heard, settings_of, caplog):
    def careless(events):
        raise ValueError("no such window")

    result = heard()
    bad, good = batcher.open(settings_of(), careless), batcher.open(settings_of(), result)
    for stream in (bad, good):
        stream.feed(noise(3, 8))
    batcher.settle()
    assert bad.ended
    assert "no such window" in caplog.text
    good.finish()
    batcher.settle()
    assert result.finals


def test_a_session_that_fails_ends_alone(batcher, noise, heard, settings_of, caplog):
    bad_result, result = heard(), heard()
    bad, good = batcher.open(settings_of(), bad_result), batcher.open(settings_of(), result)
    bad.session._segmenter.decoder = None
    for stream in (bad, good):
        stream.feed(noise(3, 9))
        stream.finish()
    batcher.settle()
    assert bad_result.events[-1].code == "internal"
    assert good.problem is None
    assert result.finals


def test_closing_tells_everybody(recogniser, heard, noise, settings_of):
    result, ended = heard(), []
    batcher = Batcher(recogniser, FREE)
    stream = batcher.open(settings_of(), result, on_end=ended.append)
    stream.feed(noise(1, 1))
    batcher.settle()
    batcher.close("maintenance")
    assert result.events[-1].code == "closed"
    assert "maintenance" in result.events[-1].message
    assert ended == [stream]
    with pytest.raises(StreamError, match="maintenance"):
        stream.feed(noise(0.1, 1))


def test_many_threads_feed_one_batcher(recogniser, noise, heard, same, alone, settings_of):
    """The batcher's own thread, callers in theirs: nothing lost, nothing doubled, the texts of each alone."""
    settings = settings_of(partial_hop_ms=100)
    sounds, results = [noise(2, 40 + n) for n in range(8)], [heard() for _ in range(8)]
    ends = threading.Semaphore(0)

    def speak(index):
        stream = batcher.open(settings, results[index], on_end=lambda _: ends.release())
        for start in range(0, len(sounds[index]), 999):
            stream.feed(sounds[index][start : start + 999])
        stream.finish()
        assert stream.wait(60)

    with Batcher(recogniser, FREE) as batcher:
        threads = [threading.Thread(target=speak, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(ends.acquire(timeout=10) for _ in range(8))
    for sound, result in zip(sounds, results, strict=True):
        same(result.lasting, alone(sound, settings).lasting)


def test_hotwords_are_checked_at_once(batcher, settings_of):
    beam = batcher.open(settings_of(decoding=DecodingSettings(method="beam")))
    beam.set_hotwords((("abba", 2.0),))
    with pytest.raises(ConfigurationError, match="never writes"):
        beam.set_hotwords((("zebra", 2.0),))
    with pytest.raises(ConfigurationError, match="greedily"):
        batcher.open(settings_of()).set_hotwords((("abba", 2.0),))
    batcher.settle()
    assert beam.problem is None


def test_one_stream_alone_needs_no_other_path(recogniser, noise, heard, alone, settings_of):
    sound, result = noise(2, 3), heard()
    batcher = Batcher(recogniser, ALONE)
    stream = batcher.open(settings_of(), result)
    for start in range(0, len(sound), 16_000):
        stream.feed(sound[start : start + 16_000])
        batcher.settle()
    stream.finish()
    assert stream.wait(0)
    assert result.finals == alone(sound, settings_of()).finals
    assert [e for e in result.events if isinstance(e, Final)]
