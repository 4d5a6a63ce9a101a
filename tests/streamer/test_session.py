"""Sessions: any blocks, the same finals; bad blocks refused; nothing grows; nothing cut at the end."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavlm_live.model import (
    AudioError,
    ConfigurationError,
    StreamError,
    StreamingContext,
    WavLMConfig,
    WavLMForCTC,
)
from wavlm_live.streamer import EndpointRules, Event, Final, Partial, Ready, Session, SessionSettings
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.encoder import EncoderStep, LocalEncoder

ALPHABET = Alphabet(("", "", *"abcdefgh"), blank_id=0, delimiter_id=1)
RULES = EndpointRules(silence_ms=200, max_segment_s=1.0, no_speech_ms=400)
CONTEXT = StreamingContext(12, 5, 2)


class ScriptedEncoder:
    """An encoder whose frames read as `text`, one character a frame, and blank after it; keeps what it was asked."""

    hop_samples, receptive_samples = 320, 400

    def __init__(self, text: str, context: StreamingContext = CONTEXT) -> None:
        self.ids = [{".": 0, "|": 1}.get(c, ord(c) - ord("a") + 2) for c in text]
        self.context = context
        self.heard = self.committed = 0
        self.steps: list[tuple[int, bool]] = []  # samples heard at each step, committing
        self.closed = False

    @property
    def waiting_frames(self) -> int:
        return max(0, (self.heard - 80) // 320) - self.committed

    def listen(self, samples: np.ndarray) -> None:
        assert samples.dtype == np.float32
        assert len(samples)
        self.heard += len(samples)

    def step(self, *, commit: bool = True, final: bool = False) -> EncoderStep:
        frames = min(self.waiting_frames, self.context.step_frames)
        own = min(frames, self.context.chunk_frames)
        assert final or not commit or frames == self.context.step_frames
        ids = [*self.ids, *[0] * (self.committed + frames)][self.committed : self.committed + frames]
        rows = np.full((frames, len(ALPHABET)), 0.01, dtype=np.float32)
        rows[np.arange(frames), ids] = 0.91
        self.steps.append((self.heard, commit))
        self.committed += own if commit else 0
        return EncoderStep(np.log(rows), own)

    def close(self) -> None:
        self.closed = True


def settings_of(**options: Any) -> SessionSettings:
    """Every look at the frames is shown: what two looks make of it is tested in test_steady.py."""
    return SessionSettings(**{"endpoint": RULES, "decoding": DecodingSettings(looks=1), **options})


def scripted(text: str, **options: Any) -> tuple[Session, ScriptedEncoder]:
    encoder = ScriptedEncoder(text)
    return Session(encoder, ALPHABET, CONTEXT, settings_of(**options)), encoder


@pytest.fixture(scope="module")
def model() -> WavLMForCTC:
    """A small model with random weights that writes words, and pauses between them."""
    torch.manual_seed(7)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(ALPHABET),
    )  # fmt: skip
    model = WavLMForCTC(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += torch.randn_like(parameter) * 0.1
    model.lm_head.weight.normal_(std=1.0)
    logits = model(torch.from_numpy(sound_of(5))[None], context=CONTEXT).logits[0]
    model.lm_head.bias -= logits.mean(0)  # every output comes up
    model.lm_head.bias[:2] += logits.std() * torch.tensor([0.8, 0.3])
    return model


def sound_of(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level and colour change every tenth of a second, with pauses."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(int(seconds * 10)):
        noise = rng.normal(size=1600 + 8)
        width = rng.integers(1, 8)
        level = rng.choice([0.0, 0.02, 0.2], p=[0.2, 0.3, 0.5])
        parts.append(level * np.convolve(noise, np.ones(width) / width)[8 : 8 + 1600])
    return np.concatenate(parts).astype(np.float32)


def open_session(model: WavLMForCTC, **options: Any) -> Session:
    return Session(LocalEncoder(model, CONTEXT), ALPHABET, CONTEXT, settings_of(**options))


def run(session: Session, sound: np.ndarray, sizes: list[int]) -> list[Event]:
    events: list[Event] = []
    for size in itertools.chain(sizes, itertools.repeat(max(1, len(sound)))):
        if not len(sound):
            break
        events += session.feed(sound[:size])
        sound = sound[size:]
    return events + session.finish()


def finals(events: list[Event]) -> list[Final]:
    return [e for e in events if isinstance(e, Final)]


def lasting(events: list[Event]) -> list[Event]:
    return [e for e in events if not isinstance(e, Partial)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([1, 7, 160, 320, 1111, 1600, 5000, 20_000]), max_size=40),
    hop=st.sampled_from([0, 100, 30]),
    seed=st.integers(0, 99),
)
def test_file_and_microphone_agree(model: WavLMForCTC, sizes: list[int], hop: int, seed: int) -> None:
    sound = sound_of(4, seed)[: 64_000 - seed * 37]
    options = {"partial_hop_ms": hop, "activity": True}
    whole = run(open_session(model, **options), sound, [])
    assert lasting(run(open_session(model, **options), sound, sizes)) == lasting(whole)  # to the last bit
    found = finals(whole)
    assert sum(len(f.words) for f in found) > 5
    assert found[-1].end_samples <= len(sound)


def test_provisional_passes_change_no_final(model: WavLMForCTC) -> None:
    sound = sound_of(6, 1)
    plain = run(open_session(model, partial_hop_ms=0), sound, [1600] * 60)
    eager_session = open_session(model, partial_hop_ms=40)
    eager = run(eager_session, sound, [640] * 150)
    assert sum(isinstance(e, Partial) for e in eager) > 2 * sum(isinstance(e, Partial) for e in plain)
    for a, b in zip(finals(plain), finals(eager), strict=True):
        assert (a.text, a.start_samples, a.end_samples, a.reason) == (b.text, b.start_samples, b.end_samples, b.reason)
        assert [w.confidence for w in a.words] == pytest.approx([w.confidence for w in b.words], rel=1e-3)


def test_finals_are_the_offline_text(model: WavLMForCTC) -> None:
    """The stream's letters are those of one parallel pass over the same sound."""
    from wavlm_live.streamer.greedy import GreedyDecoder
    from wavlm_live.streamer.session import TAIL_SAMPLES

    sound = sound_of(6, 2)
    padded = np.concatenate([sound, np.zeros(TAIL_SAMPLES, np.float32)])
    logits = model(torch.from_numpy(padded)[None], context=CONTEXT).logits[0]
    decoder = GreedyDecoder(ALPHABET)
    decoder.accept(logits.log_softmax(-1).numpy())
    expected = [w for w in decoder.words if w.start_samples < len(sound)]
    words = [w for f in finals(run(open_session(model), sound, [])) for w in f.words]
    assert "".join(w.text for w in words)[: len(words)] == "".join(w.text for w in expected)[: len(words)]
    assert words[0].start_samples == expected[0].start_samples


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 8000), min_size=1, max_size=12))
def test_a_flush_does_not_disturb_what_follows(model: WavLMForCTC, sizes: list[int]) -> None:
    sound = sound_of(4, 3)
    rules = replace(RULES, max_segment_s=20.0)  # where a long word is cut depends on where its segment began
    plain = finals(run(open_session(model, activity=True, endpoint=rules), sound, []))
    session, events, at = open_session(model, activity=True, endpoint=rules), [], 0
    for size in sizes:
        events += session.feed(sound[at : at + size])
        at = min(len(sound), at + size)
        said = session.flush()
        assert all(e.reason == "flush" for e in finals(said))
        assert not any(isinstance(e, Partial) for e in said)
        assert all(e.end_samples <= at for e in finals(said))
        events += said
        assert session.flush() == []  # all was said
    after = session.decided_samples
    events += session.feed(sound[at:]) + session.finish()
    ends = [0]
    for final in finals(events):
        assert ends[-1] <= final.start_samples < final.end_samples
        ends.append(final.end_samples)
    # what begins a while after the last flush is said as if there had been none
    late = after + 20 * 320
    tail = [w.text for f in finals(events) for w in f.words if w.start_samples > late]
    assert tail == [w.text for f in plain for w in f.words if w.start_samples > late]


def test_when_the_encoder_is_asked() -> None:
    session, encoder = scripted("abc|" * 20, partial_hop_ms=100)
    for _ in range(20):
        session.feed(np.zeros(400, np.float32))  # a quarter of a hop
    # the first chunk needs 7 frames: 2320 samples; the next ones 1600 more each
    assert encoder.steps == [(1600, False), (2320, True), (3200, False), (3920, True), (4800, False), (5520, True),
                             (6400, False), (7120, True), (8000, False)]  # fmt: skip
    session, encoder = scripted("abc|" * 20, partial_hop_ms=100)
    session.feed(np.zeros(5520 + 1700, np.float32))
    assert [commit for _, commit in encoder.steps] == [True] * 4  # a chunk is news enough
    session, encoder = scripted("abc|" * 20, partial_hop_ms=0)
    for _ in range(100):
        session.feed(np.zeros(20, np.float32))
    assert encoder.steps == []


def test_partials_come_early_and_only_when_something_changed() -> None:
    session, _ = scripted("abb|........cc...", partial_hop_ms=100)
    events: list[Event] = []
    for _ in range(20):
        events += session.feed(np.zeros(320, np.float32))
    partials = [e for e in events if isinstance(e, Partial)]
    assert [(p.stable, p.unstable) for p in partials] == [("", "ab"), ("ab", ""), ("ab", "c")]
    assert session.finish() != []


def test_the_right_context_of_a_chunk_is_shown_at_no_cost() -> None:
    session, encoder = scripted("ab|..cde", partial_hop_ms=0)
    (partial,) = (e for e in session.feed(np.zeros(2320, np.float32)) if isinstance(e, Partial))
    assert (partial.stable, partial.unstable) == ("ab", "cd")
    assert encoder.steps == [(2320, True)]


def test_a_flush_reads_every_sample_that_was_fed() -> None:
    session, _ = scripted("ab|..cde", partial_hop_ms=100)
    assert session.feed(np.zeros(1500, np.float32)) == []
    (final,) = session.flush()
    assert isinstance(final, Final)
    assert (final.text, final.start_samples, final.end_samples) == ("ab", 0, 640)
    assert session.decided_samples == 640


def test_the_last_word_is_whole_to_its_last_letter() -> None:
    for length in (400, 401, 719, 720, 3333, 320 * 9, 320 * 9 + 399):
        frames = -(-length // 320)  # the last samples make no frame of their own
        session, encoder = scripted("a" * (frames - 1) + "b")
        (final,) = finals(run(session, np.zeros(length, np.float32), [177] * 99))
        assert final.text == "ab"
        assert final.end_samples == length  # not a sample after the sound
        assert final.reason == "end"
        assert encoder.closed
    session, _ = scripted("." * 10 + "c")
    assert finals(run(session, np.zeros(320 * 10, np.float32), [])) == []  # only the silence we added says c


def test_nothing_and_almost_nothing() -> None:
    session, encoder = scripted("ab")
    assert session.feed(np.zeros(0, np.float32)) == []
    assert session.flush() == []
    assert session.finish() == []
    assert encoder.steps == []
    assert encoder.closed
    session, _ = scripted("ab")
    session.feed(np.zeros(1, np.float32))
    (final,) = finals(session.finish())
    assert (final.text, final.start_samples, final.end_samples) == ("ab", 0, 1)


def test_the_session_says_who_listens() -> None:
    session, _ = scripted("")
    assert session.ready == Ready("", "12,5,2", 7 * 320)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (np.zeros(4, np.int16), r"int16.*\[4\].*expected float32.*32768"),
        (np.zeros((4, 2), np.float32), r"\[4, 2\].*mix channels down"),
        (np.zeros(4, np.float64), "float64"),
        ([0.0, 0.0], "list"),
        (b"\0\0", "bytes"),
        (np.array([0, np.nan, 1, np.inf], np.float32), r"2 of 4 samples are not finite.*sample 11 of the stream"),
    ],
)
def test_bad_blocks_are_refused_and_not_taken(block: Any, words: str) -> None:
    session, encoder = scripted("abc")
    session.feed(np.zeros(10, np.float32))
    with pytest.raises(AudioError, match=words):
        session.feed(block)
    assert session.samples_taken == 10
    session.feed(np.zeros(390, np.float32))
    session.finish()
    assert encoder.heard == 400 + 4800


def test_a_finished_session_takes_no_more() -> None:
    session, _ = scripted("abc")
    session.feed(np.zeros(1000, np.float32))
    assert session.finish()
    assert session.finish() == []
    for call in (lambda: session.feed(np.zeros(1, np.float32)), session.flush):
        with pytest.raises(StreamError, match="finished"):
            call()
    assert session.samples_taken == session.decided_samples == 1000


@pytest.mark.parametrize("hop", [-1, 5, 99.5, True, "100"])
def test_bad_settings_are_refused_by_name(hop: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"SessionSettings\.partial_hop_ms"):
        SessionSettings(partial_hop_ms=hop)


def held_bytes(thing: Any, seen: set[int] | None = None) -> int:
    """Memory of an object and all it holds, but for models and settings that are shared."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, torch.nn.Module | type):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, torch.Tensor | np.ndarray):
        return size + thing.nbytes
    inside = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    if isinstance(thing, dict):
        inside += [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set):
        inside += thing
    return size + sum(held_bytes(part, seen) for part in inside)


def test_half_an_hour_costs_no_memory() -> None:
    torch.manual_seed(5)
    config = WavLMConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=1, feat_extract_norm="layer",
        do_stable_layer_norm=True, vocab_size=len(ALPHABET),
    )  # fmt: skip
    model = WavLMForCTC(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=5.0)
    context = StreamingContext(20, 300, 0)
    session = Session(LocalEncoder(model, context), ALPHABET, context, SessionSettings(partial_hop_ms=0))
    minute = sound_of(60, 8)
    sizes, words = [], 0
    for n in range(30):
        words += sum(len(f.words) for f in finals(session.feed(minute[: len(minute) - n])))
        sizes.append(held_bytes(session))
    assert words > 300
    assert session.samples_taken == 30 * len(minute) - sum(range(30))
    assert max(sizes) < 2_000_000
    assert max(sizes[20:]) < 1.1 * max(sizes[:10])


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, wavlm_live.streamer, wavlm_live.streamer.events\n"
        "print(*[m for m in ('torch', 'av', 'sounddevice', 'soundfile', 'typer') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
