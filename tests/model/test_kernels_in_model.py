"""Models with every attention through the Triton kernels, in the interpreter: the same numbers as through torch."""

from __future__ import annotations

import pytest
import torch

from wavlm_live.kernels import dispatch
from wavlm_live.model.context import StreamingContext

pytestmark = pytest.mark.skipif(not dispatch.triton_present(), reason="Triton's interpreter needs triton (Linux)")


@pytest.fixture
def kernels(monkeypatch):
    """A switch: True for the interpreter."""
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernels run on it: pytest -m gpu")

    def switch(on: bool) -> None:
        for op in ("full_attention", "streaming_attention"):
            monkeypatch.setenv(dispatch.variable(op), "triton" if on else "torch")

    return switch


def both(kernels, function):
    """What a function gives with torch's path, and with the kernels."""
    kernels(False)
    plain = function()
    kernels(True)
    assert {c.path for c in dispatch.report("cpu") if c.op.endswith("attention")} == {"triton"}
    return plain, function()


def test_whole_and_chunks_with_gradients(seed, law, kernels):
    model = law.model()
    wave, mask = torch.randn(2, 9_000) * 0.1, torch.ones(2, 9_000, dtype=torch.long)
    mask[1, 6_000:] = 0
    for context in (None, StreamingContext(9, 6, 3)):

        def run(context=context):
            model.zero_grad()
            out = model(wave, attention_mask=mask, context=context).logits
            out.square().mean().backward()
            grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            return out.detach(), grads

        (out, grads), (out_kernel, grads_kernel) = both(kernels, run)
        assert law.difference(out_kernel, out) < 1e-5
        assert grads.keys() == grads_kernel.keys()
        table = "wavlm.encoder.layers.0.attention.rel_attn_embed.weight"
        assert grads[table].any()
        for name, grad in grads.items():
            if grad.norm() > 1e-6:
                assert law.difference(grads_kernel[name], grad) < 1e-3, name


def test_the_law_of_streaming(seed, law, kernels):
    """stream == forward(context), both through the kernels, with NaN in everything that must not be read."""
    model, context = law.model(), StreamingContext(10, 6, 2)
    kernels(True)
    wave = torch.randn(1, 8_000) * 0.1
    states = model.new_states(2, context)
    law.poison(states)
    frames = []
    for block in wave.split(1_700, dim=1):
        model.listen(states, [1], block)
        model.step(states, [1], commit=False)
        while states.waiting(1) >= context.step_frames:
            out = model.step(states, [1])
            frames.append(out.logits[0, : out.own_frames[0]])
    while states.waiting(1):
        out = model.step(states, [1], final=True)
        frames.append(out.logits[0, : out.own_frames[0]])
    with torch.no_grad():
        whole = model(wave, context=context).logits[0]
    assert law.difference(torch.cat(frames), whole) < 1e-4


@pytest.mark.parametrize("ring", [torch.bfloat16, torch.float16, torch.int8])
def test_smaller_rings(seed, law, monkeypatch, ring, tmp_path):
    """Cached keys and values in fewer bytes: a small error, a saved slot goes on exactly."""
    model, context = law.model(), StreamingContext(10, 6, 2)
    wave = torch.randn(1, 12_000) * 0.1
    exact, small = model.new_states(1, context), model.new_states(2, context, ring_dtype=ring)
    law.poison(small)
    rings = small.keys.nbytes + small.values.nbytes
    assert rings * (4 if ring == torch.int8 else 2) == 2 * (exact.keys.nbytes + exact.values.nbytes)
    logits = []
    for states in (exact, small):
        model.listen(states, [0], wave)
        logits.append(torch.cat([model.step(states, [0]).logits[0, :6] for _ in range(4)]))
    error = law.difference(logits[1], logits[0])
    print(f"ring of {ring}: relative error of the logits {error:.1e}")  # noqa: T201
    assert 0 < error < 0.03
    small.save(0, tmp_path / "slot.safetensors")
    small.load(1, tmp_path / "slot.safetensors")
    assert torch.equal(model.step(small, [1], final=True).logits, model.step(small, [0], final=True).logits)
