"""A small model that writes words, sound for it, a clock that stands still, and what one stream alone gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from wavlm_live.model import CTCTokenizer, StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.streamer import EndpointRules, Event, Final, Partial, Problem, SessionSettings
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.stream_slots import StreamSlots

RULES = EndpointRules(silence_ms=200, max_segment_s=1.0, no_speech_ms=400)
VOCABULARY = {"<pad>": 0, "|": 1} | {letter: 2 + n for n, letter in enumerate("abcdefgh")}


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


def tiny_recogniser() -> Recogniser:
    """Random weights, scaled so that every letter comes up, and pauses between words."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = WavLMConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
            do_stable_layer_norm=True, vocab_size=len(VOCABULARY), pad_token_id=0,
        )  # fmt: skip
        model = WavLMForCTC(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
        model.lm_head.weight.normal_(std=1.0)
        context = StreamingContext(12, 5, 2)
        logits = model(torch.from_numpy(sound_of(5))[None], context=context).logits[0]
        model.lm_head.bias -= logits.mean(0)
        model.lm_head.bias[:2] += logits.std() * torch.tensor([0.8, 0.3])
    contexts = {"default": context, "low": StreamingContext(8, 2, 0)}
    return Recogniser(model, CTCTokenizer(VOCABULARY), "tiny", contexts)


@dataclass
class Clock:
    """Seconds that pass when somebody says so."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Heard:
    """Collects the events of a stream."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, events: list[Event]) -> None:
        assert events
        self.events += events

    @property
    def lasting(self) -> list[Event]:
        """All but partial results, which depend on when somebody looked."""
        return [e for e in self.events if not isinstance(e, Partial)]

    @property
    def finals(self) -> list[Final]:
        return [e for e in self.events if isinstance(e, Final)]

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals)


def assert_same(got: list[Event], expected: list[Event]) -> None:
    """The same events; confidences and probabilities up to rounding."""
    assert [type(e) for e in got] == [type(e) for e in expected], [e for e in got if isinstance(e, Problem)]
    for a, b in zip(got, expected, strict=True):
        if isinstance(a, Final):
            assert (a.text, a.start_samples, a.end_samples, a.reason) == (
                b.text,
                b.start_samples,
                b.end_samples,
                b.reason,
            )
            for v, w in zip(a.words, b.words, strict=True):
                assert (v.text, v.start_samples, v.end_samples) == (w.text, w.start_samples, w.end_samples)
                assert v.confidence == pytest.approx(w.confidence, abs=1e-4)
        elif hasattr(a, "probabilities"):
            assert a.start_samples == b.start_samples
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
        else:
            assert a == b


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    return tiny_recogniser()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def noise() -> Callable[[float, int], np.ndarray]:
    return sound_of


@pytest.fixture(scope="session")
def heard() -> type[Heard]:
    return Heard


@pytest.fixture(scope="session")
def same() -> Callable[[list[Event], list[Event]], None]:
    return assert_same


@pytest.fixture(scope="session")
def alone(recogniser: Recogniser) -> Callable[..., Heard]:
    """What one session gives that nobody computes together with others."""

    def run(sound: np.ndarray, settings: SessionSettings) -> Heard:
        session, result = recogniser.open(settings), Heard()
        for start in range(0, len(sound), 1600):
            result.events += session.feed(sound[start : start + 1600])
        result.events += session.finish()
        return result

    return run


@pytest.fixture(scope="session")
def decided(alone: Callable[..., Heard]) -> Callable[..., np.ndarray]:
    """Sound whose result does not hang on the last bits, as it may among random outputs that a beam weighs."""

    def find(seconds: float, settings: SessionSettings, seed: int) -> np.ndarray:
        for seed_of_sound in range(seed, seed + 100_000, 1000):
            sound = sound_of(seconds, seed_of_sound)
            grain = np.random.default_rng(seed_of_sound).normal(size=(2, len(sound))) * 1e-5
            results = [alone(s.astype(np.float32), settings).lasting for s in (sound, *(sound * (1 + grain)))]
            try:
                for other in results[1:]:
                    assert_same(other, results[0])
            except AssertionError:
                continue
            return sound
        raise AssertionError("no sound with a clear result among 100")

    return find


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., SessionSettings]:
    """Settings with short segments."""

    def make(**changes: object) -> SessionSettings:
        return SessionSettings(**{"endpoint": RULES, "partial_hop_ms": 0, **changes})

    return make


@pytest.fixture
def slow(monkeypatch, clock):
    """Every step takes 20 ms and 10 ms for each stream on the test's clock; the factor can be changed."""
    compute, pace = StreamSlots.compute, {"factor": 1.0}

    def timed(slots, rows, *, commit=True):
        clock.now_s += pace["factor"] * (0.02 + 0.01 * len(rows))
        return compute(slots, rows, commit=commit)

    monkeypatch.setattr(StreamSlots, "compute", timed)
    return pace


class Crowd:
    """People who speak at the pace of speech on the test's clock, in blocks of 50 ms."""

    def __init__(self, batchers, clock):
        self.batchers, self.clock = batchers, clock
        self.speaking = {}  # stream -> (sound, when it began)

    def join(self, stream, sound):
        self.speaking[stream] = sound, self.clock.now_s

    def pass_time(self, seconds):
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            before_s = self.clock.now_s
            for stream, (sound, began_s) in list(self.speaking.items()):
                if stream.ended:
                    del self.speaking[stream]
                    continue
                spoken = int((self.clock.now_s - began_s) * 20) * 800
                while stream.samples_taken < min(spoken, len(sound)) and not stream.ended:
                    stream.feed(sound[stream.samples_taken :][:800])
                if stream.samples_taken >= len(sound):
                    stream.finish()
                    del self.speaking[stream]
            worked = [batcher.tick() for batcher in self.batchers]
            if not any(worked) and self.clock.now_s == before_s:
                self.clock.now_s += 0.01


@pytest.fixture
def crowd_of(clock) -> Callable[..., Crowd]:
    """`crowd_of(batcher, ...)`: people who speak to batchers that take turns."""
    return lambda *batchers: Crowd(batchers, clock)
