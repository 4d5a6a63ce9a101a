"""Packed weights give the same numbers; what is chosen was fastest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wavlm_live.model import StreamingContext, WavLMConfig, WavLMForCTC
from wavlm_live.model.packed_linear import PackedLinear, pack_linears, packing_works
from wavlm_live.streamer import cpu_choice
from wavlm_live.streamer.cpu_choice import CpuChoice, adopt, choose_for_cpu
from wavlm_live.streamer.recogniser import Recogniser

packed = pytest.mark.skipif(not packing_works(torch.float32), reason="this torch has no packed linear layers")
CONTEXT = StreamingContext(8, 4, 2)


def small(**changes: object) -> WavLMForCTC:
    config = WavLMConfig(
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=320, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, vocab_size=12, **{"hidden_size": 256, **changes},
    )  # fmt: skip
    return WavLMForCTC(config).eval().requires_grad_(False)


@packed
@pytest.mark.parametrize("gelu", [False, True], ids=["plain", "gelu"])
@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
def test_packed_linear_is_linear(gelu, bias, seed):
    linear = nn.Linear(96, 40, bias).double()
    x = torch.randn(3, 7, 96, dtype=torch.float64)
    expected = nn.functional.gelu(linear(x)) if gelu else linear(x)
    got = PackedLinear(linear.float(), gelu)(x.float())
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@packed
@pytest.mark.parametrize("stable", [False, True], ids=["post_norm", "stable"])
def test_a_packed_model_gives_the_same_logits(stable, seed):
    model = small(do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group")
    sound = torch.randn(2, 16_000) * 0.1
    expected = model(sound, context=CONTEXT).logits
    assert pack_linears(model.wavlm.encoder) == 2 * 6
    assert (model(sound, context=CONTEXT).logits - expected).abs().max() < 1e-4
    states = model.new_states(2, CONTEXT)
    model.listen(states, [0, 1], sound[:, :5000])
    assert (model.step(states, [0, 1]).logits[:, :4] - expected[:, :4]).abs().max() < 1e-4


@packed
@pytest.mark.parametrize(
    ("times", "dtype", "is_packed"),
    [
        ({"float32": 3.0, "packed float32": 2.0, "packed bfloat16": 1.0}, torch.bfloat16, True),
        ({"float32": 3.0, "packed float32": 2.0, "packed bfloat16": 1.9}, torch.float32, True),
        ({"float32": 1.0, "packed float32": 2.0}, torch.float32, False),
    ],
)
def test_the_fastest_is_chosen_and_digits_are_given_up_for_a_reason_only(times, dtype, is_packed, monkeypatch):
    monkeypatch.setattr(cpu_choice, "has_bfloat16", lambda: "packed bfloat16" in times)
    monkeypatch.setattr(cpu_choice, "_alternate", lambda ways: {name: times[name] for name in ways})
    model = small(hidden_size=512)
    choice = choose_for_cpu(model)
    assert (choice.dtype, choice.packed) == (dtype, is_packed)
    assert "1000.00 ms" in str(choice) or "2000.00 ms" in str(choice)
    adopt(model, choice)
    assert model.lm_head.weight.dtype == dtype
    assert isinstance(model.wavlm.encoder.layers[0].feed_forward.output_dense, PackedLinear) == is_packed


def test_a_model_that_loses_in_bfloat16_stays_in_float32(monkeypatch):
    monkeypatch.setattr(cpu_choice, "has_bfloat16", lambda: True)
    choice = choose_for_cpu(small())
    assert choice.dtype == torch.float32
    assert "packed bfloat16" not in choice.times_ms


def test_narrow_models_are_left_as_they_are(recogniser):
    assert choose_for_cpu(recogniser.model) == CpuChoice(torch.float32, False, {})


def test_bfloat16_says_the_same_words(audio_folder):
    """On recordings that the bundled model understands; the others are counted by a benchmark."""
    import soundfile

    sound, _ = soundfile.read(audio_folder / "digits_and_commands.flac", dtype="float32")
    exact, fast = Recogniser.load(device="cpu"), Recogniser.load(device="cpu")
    adopt(fast.model, CpuChoice(torch.bfloat16, packing_works(torch.bfloat16), {}))
    said = []
    for recogniser in (exact, fast):
        offline = recogniser.offline()
        events = offline.feed(sound) + offline.finish()
        said.append([e.text for e in events if type(e).__name__ == "Final"])
    exact_words, fast_words = (" ".join(texts).split() for texts in said)
    assert len(said[0]) == len(said[1])
    assert len(exact_words) == len(fast_words) > 15
    # one of twenty may be misheard with two letters nearly as likely, and rounding decides between them
    assert sum(a != b for a, b in zip(exact_words, fast_words, strict=True)) <= 1
