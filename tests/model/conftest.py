"""The law of streaming as a helper: stream(x, any splits, any batch) == forward(x, context)."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from wavlm_live.model.config import WavLMConfig
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.states import StreamStates


class Law:
    """Models with random weights, and streams that are fed and batched as unpleasantly as possible."""

    @staticmethod
    def config(**changes: object) -> WavLMConfig:
        values: dict[str, object] = {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
            "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": "layer", "do_stable_layer_norm": True, "vocab_size": 12,
        }  # fmt: skip
        return WavLMConfig(**{**values, **changes})  # type: ignore[arg-type]

    @staticmethod
    def shake(model: nn.Module, amount: float = 0.1) -> None:
        """Make every weight matter: fresh models have gates and biases that do nothing."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * amount)

    @classmethod
    def model(cls, **changes: object) -> WavLMForCTC:
        model = WavLMForCTC(cls.config(**changes)).eval()
        cls.shake(model)
        return model

    @staticmethod
    def poison(states: StreamStates, slot: int | None = None) -> None:
        """NaN into everything that a fresh stream must not read."""
        for tensor in states.tensors().values():
            if tensor.is_floating_point():
                tensor[slice(None) if slot is None else slot] = float("nan")

    @staticmethod
    def difference(got: Tensor, expected: Tensor) -> float:
        """Relative error; NaN counts as infinite."""
        assert got.shape == expected.shape, (got.shape, expected.shape)
        error = float((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))
        return error if error == error else float("inf")

    @classmethod
    @torch.no_grad()
    def stream(
        cls,
        model: WavLMForCTC,
        waves: list[Tensor],
        context: StreamingContext,
        rng: random.Random,
        *,
        slots: int = 3,
        blocks: tuple[int, ...] = (1, 7, 160, 320, 1111, 5000, 12000),
    ) -> list[Tensor]:
        """Logits of the committed frames of each wave, streamed side by side in too few slots.

        Streams start when a slot is free, so their ages differ; blocks have random sizes and ragged rows padded
        with NaN; provisional steps come in between; streams move to other slots; left slots are poisoned.
        """
        states = model.new_states(slots, context)
        cls.poison(states)
        need = context.step_frames
        queue = list(range(len(waves)))
        at: dict[int, int] = {}  # slot -> wave
        fed = dict.fromkeys(queue, 0)
        results: list[list[Tensor]] = [[] for _ in waves]
        while queue or at:
            free = [s for s in range(slots) if s not in at]
            while queue and free and rng.random() < 0.7:
                slot = free.pop(rng.randrange(len(free)))
                cls.poison(states, slot)
                states.reset(slot)
                at[slot] = queue.pop(0)
            active = [s for s in sorted(at, key=lambda _: rng.random()) if rng.random() < 0.8]
            if active:
                counts = []
                for s in active:
                    rest = len(waves[at[s]]) - fed[at[s]]
                    counts.append(min(rng.choice(blocks), rest, states.room_samples(s)))
                block = torch.full((len(active), max(counts)), float("nan"))
                for row, (s, count) in enumerate(zip(active, counts, strict=True)):
                    start = fed[at[s]]
                    block[row, :count] = waves[at[s]][start : start + count]
                    fed[at[s]] += count
                model.listen(states, active, block, counts)
                if rng.random() < 0.4:
                    model.step(states, active, commit=False)
            ended = {s for s in at if fed[at[s]] == len(waves[at[s]])}
            ready = [s for s in at if states.waiting(s) >= need or (s in ended and states.waiting(s))]
            if ready:
                finals = [s in ended for s in ready]
                out = model.step(states, ready, final=finals)
                assert out.logits is not None
                for row, s in enumerate(ready):
                    results[at[s]].append(out.logits[row, : out.own_frames[row]])
            for s in list(at):
                if s in ended and not states.waiting(s):
                    del at[s]
            free = [s for s in range(slots) if s not in at]
            if at and free and rng.random() < 0.2:
                source, target = rng.choice(sorted(at)), rng.choice(free)
                states.copy(source, target)
                cls.poison(states, source)
                states.reset(source)
                at[target] = at.pop(source)
        return [torch.cat(r) if r else torch.zeros(0, model.config.vocab_size) for r in results]


@pytest.fixture(scope="session")
def law() -> type[Law]:
    """The helper above."""
    return Law
