"""stream(x, any splits, any batch) == forward(x, context), on every part and on whole models."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavlm_live.kernels import bucket_of
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.encoder import EncoderLayer
from wavlm_live.model.errors import ConfigurationError, StreamError
from wavlm_live.model.layouts import ChunkLayout, StepLayout
from wavlm_live.model.states import StreamStates

TOLERANCE = 1e-4
contexts = st.builds(StreamingContext, st.integers(0, 30), st.integers(1, 12), st.integers(0, 9))
KINDS = {
    "layer_stable": {},
    "layer_post": {"do_stable_layer_norm": False},
    "group_post": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "group_stable": {"feat_extract_norm": "group"},
    "normalised_wave": {"stream_normalize": True, "conv_bias": True},
    "group_normalised_wave": {"feat_extract_norm": "group", "stream_normalize": True, "conv_bias": True},
    "other_convolutions": {
        "conv_dim": (8, 12, 16), "conv_kernel": (12, 3, 2), "conv_stride": (10, 8, 4), "num_conv_pos_embeddings": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(context=contexts, number=st.integers(0, 2**31))
def test_whole_model(law, kind, context, number):
    torch.manual_seed(number)
    rng = random.Random(number)
    model = law.model(**KINDS[kind])
    waves = [torch.randn(rng.choice([100, 400, 719, 3000, 16000, 25000])) * 0.3 for _ in range(5)]
    streamed = law.stream(model, waves, context, rng)
    for wave, got in zip(waves, streamed, strict=True):
        if model.config.frames_of(len(wave)) == 0:
            assert len(got) == 0
            continue
        with torch.no_grad():
            expected = model(wave[None], context=context).logits[0]
        assert law.difference(got, expected) < TOLERANCE


def test_true_sizes_of_the_position(law, seed):
    model = law.model(num_conv_pos_embeddings=128)
    wave = torch.randn(60000)
    for context in (StreamingContext(100, 16, 8), StreamingContext(40, 32, 0), StreamingContext(250, 5, 70)):
        got = law.stream(model, [wave], context, random.Random(seed))[0]
        with torch.no_grad():
            assert law.difference(got, model(wave[None], context=context).logits[0]) < TOLERANCE


def test_one_sample_at_a_time(law, seed):
    model = law.model(feat_extract_norm="group", stream_normalize=True)
    wave = torch.randn(2500)
    context = StreamingContext(4, 2, 1)
    got = law.stream(model, [wave], context, random.Random(seed), slots=1, blocks=(1,))[0]
    with torch.no_grad():
        assert law.difference(got, model(wave[None], context=context).logits[0]) < TOLERANCE


def test_bfloat16(law, seed):
    model = law.model().to(torch.bfloat16)
    context = StreamingContext(20, 8, 4)
    waves = [torch.randn(n) * 0.3 for n in (20000, 9000)]
    for wave, got in zip(waves, law.stream(model, waves, context, random.Random(seed)), strict=True):
        with torch.no_grad():
            expected = model(wave[None], context=context).logits[0].float()
        # a bfloat16 has 8 bits; both sides round at other places
        assert law.difference(got, expected) < 3e-2


@pytest.mark.parametrize("kind", ["layer_stable", "group_post", "normalised_wave"])
def test_one_chunk_that_holds_everything_is_the_whole_forward(law, seed, kind):
    model = law.model(**KINDS[kind])
    wave = torch.randn(2, 20000) * 0.2
    with torch.no_grad():
        whole = model(wave, statistics="utterance").logits
        chunk = model(wave, context=StreamingContext(0, 1000, 0), statistics="utterance").logits
        assert law.difference(chunk, whole) < TOLERANCE
        cumulative = model(wave, statistics="cumulative").logits
    got = law.stream(model, list(wave), StreamingContext(5, 1000, 0), random.Random(seed))
    assert law.difference(torch.stack(got), cumulative) < TOLERANCE


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 2**31), kind=st.sampled_from(sorted(KINDS)))
def test_front_end_alone(law, number, kind):
    """Frames that wait behind the front end equal those of the whole utterance, whatever the blocks."""
    torch.manual_seed(number)
    rng = random.Random(number)
    model = law.model(**KINDS[kind]).wavlm
    wave = torch.randn(2, 9000)
    states = model.new_states(2, StreamingContext(0, 100, 0))
    law.poison(states)
    position = [0, 0]
    while min(position) < wave.shape[1]:
        counts = [min(rng.choice([1, 3, 319, 320, 401, 2000]), wave.shape[1] - p) for p in position]
        block = torch.full((2, max(counts)), float("nan"))
        for row, count in enumerate(counts):
            block[row, :count] = wave[row, position[row] : position[row] + count]
            position[row] += count
        model.listen(states, [0, 1], block, counts)
    with torch.no_grad():
        features = model.feature_extractor(wave, cumulative=True)
        expected, _ = model.feature_projection(features)
    count = expected.shape[1]
    assert states.waiting(0) == states.waiting(1) == count
    assert law.difference(states.waiting_frames[:, :count], expected) < TOLERANCE


def frames_by_step(states: StreamStates, x: Tensor, context: StreamingContext):
    """(first, frames of the step, own) of each chunk of `[1, frames, hidden]`."""
    for first in range(0, x.shape[1], context.chunk_frames):
        piece = x[:, first : first + context.step_frames]
        yield first, piece, torch.tensor([min(context.chunk_frames, piece.shape[1])])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(context=contexts, number=st.integers(0, 2**31), frames=st.integers(1, 60))
def test_position_alone(law, context, number, frames):
    torch.manual_seed(number)
    model = law.model().wavlm
    states = model.new_states(1, context)
    law.poison(states)
    x = torch.randn(1, frames, 32)
    got = []
    for _, piece, own in frames_by_step(states, x, context):
        with torch.no_grad():
            got.append(model._step_position(states, torch.tensor([0]), piece)[:, : int(own)])
        states.waiting_count[0] = piece.shape[1]
        model._commit(states, torch.tensor([0]), piece, own)
    chunks = context.chunks_of(frames)
    pad = chunks * context.chunk_frames + context.right_frames - frames
    padded = torch.nn.functional.pad(x, (0, 0, 0, pad))
    with torch.no_grad():
        expected = model.encoder.pos_conv_embed.chunked(
            padded, context.left_frames, context.chunk_frames, context.right_frames
        )
    own_part = expected[:, :, : context.chunk_frames].flatten(1, 2)[:, :frames]
    assert law.difference(torch.cat(got, 1), own_part) < TOLERANCE


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(context=contexts, number=st.integers(0, 2**31), frames=st.integers(1, 60), stable=st.booleans())
def test_one_layer_alone(law, context, number, frames, stable):
    torch.manual_seed(number)
    model = law.model(num_hidden_layers=1, do_stable_layer_norm=stable).wavlm
    layer = model.encoder.layers[0]
    assert isinstance(layer, EncoderLayer)
    states = model.new_states(1, context)
    law.poison(states)
    x = torch.randn(1, frames, 32)
    rel = model.encoder.relative_vector(context.left_frames + context.step_frames)
    got = []
    with torch.no_grad():
        for _, piece, own in frames_by_step(states, x, context):
            layout = StepLayout(rel, states, [0], torch.tensor([piece.shape[1]]), own)
            got.append(layer(piece, layout)[0][:, : int(own)])
            states.committed_frames[0] += own[0]
        chunks = context.chunks_of(frames)
        pad = chunks * context.chunk_frames + context.right_frames - frames
        padded = torch.nn.functional.pad(x, (0, 0, 0, pad))
        copied = padded.unfold(1, context.step_frames, context.chunk_frames).transpose(2, 3)
        out, _ = layer(copied, ChunkLayout(rel, context, torch.tensor([frames])))
    own_part = out[:, :, : context.chunk_frames].flatten(1, 2)[:, :frames]
    assert law.difference(torch.cat(got, 1), own_part) < TOLERANCE


def by_definition(model: WavLMForCTC, wave: Tensor, context: StreamingContext) -> Tensor:
    """DESIGN's definition of a stream in float64, chunk by chunk, with plain formulas: the third witness.

    Shares weights and the front end with the model, but no attention, position, bias or layout code.
    """
    base, config = model.wavlm, model.config
    x = base.feature_projection(base.feature_extractor(wave[None], cumulative=True))[0][0]
    kernel, heads, size = config.num_conv_pos_embeddings, config.num_attention_heads, config.head_size
    position, table = base.encoder.pos_conv_embed, base.encoder.layers[0].attention.rel_attn_embed.weight
    memory: list[list[tuple[Tensor, Tensor]]] = [[] for _ in base.encoder.layers]  # committed (key, value)
    outputs = []
    for first in range(0, len(x), context.chunk_frames):
        low = max(0, first - context.left_frames)
        stop = min(len(x), first + context.step_frames)
        shown = torch.zeros(len(x) + 2 * kernel, x.shape[1], dtype=x.dtype)
        shown[kernel + low : kernel + stop] = x[low:stop]
        around = torch.stack([shown[kernel + t - kernel // 2 :][:kernel] for t in range(first, stop)])  # [F, K, H]
        conv = torch.nn.functional.conv1d(
            around.transpose(1, 2), position.conv.weight, position.conv.bias, groups=position.groups
        )[..., 0]
        h = x[first:stop] + torch.nn.functional.gelu(conv)
        if not config.do_stable_layer_norm:
            h = base.encoder.layer_norm(h)
        for index, layer in enumerate(base.encoder.layers):
            attention = layer.attention
            a = layer.layer_norm(h) if config.do_stable_layer_norm else h
            new_k, new_v = attention.k_proj(a), attention.v_proj(a)
            old = memory[index][low:first]
            k = torch.stack([o[0] for o in old] + list(new_k)).view(-1, heads, size)
            v = torch.stack([o[1] for o in old] + list(new_v)).view(-1, heads, size)
            q = attention.q_proj(a).view(-1, heads, size)
            z = attention.gru_rel_pos_linear(a.view(-1, heads, size)).view(-1, heads, 2, 4).sum(-1).sigmoid()
            gate = z[..., 0] * (z[..., 1] * attention.gru_rel_pos_const.view(heads) - 1) + 2  # [F, h]
            distance = torch.arange(low, stop)[None] - torch.arange(first, stop)[:, None]
            bias = table[bucket_of(distance, config.num_buckets, config.max_bucket_distance)]  # [F, K, h]
            score = torch.einsum("fhd,khd->fkh", q, k) * size**-0.5 + gate[:, None] * bias
            mixed = torch.einsum("fkh,khd->fhd", score.softmax(1), v).flatten(1)
            h = h + attention.out_proj(mixed)
            if config.do_stable_layer_norm:
                h = h + layer.feed_forward(layer.final_layer_norm(h))
            else:
                h = layer.layer_norm(h)
                h = layer.final_layer_norm(h + layer.feed_forward(h))
            own = min(context.chunk_frames, stop - first)
            memory[index] += list(zip(new_k[:own], new_v[:own], strict=True))
        if config.do_stable_layer_norm:
            h = base.encoder.layer_norm(h)
        outputs.append(model.lm_head(h[: min(context.chunk_frames, stop - first)]))
    return torch.cat(outputs)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(context=contexts, number=st.integers(0, 2**31), stable=st.booleans())
def test_forward_with_context_is_the_definition(law, context, number, stable):
    torch.manual_seed(number)
    model = law.model(do_stable_layer_norm=stable)
    wave = torch.randn(13000)
    with torch.no_grad():
        got = model(wave[None], context=context).logits[0]
        expected = by_definition(model.double(), wave.double(), context)
    assert law.difference(got, expected) < TOLERANCE


def test_rows_of_a_padded_batch(law, seed):
    model = law.model()
    context = StreamingContext(10, 4, 3)
    wave, mask = torch.randn(3, 20000), torch.ones(3, 20000, dtype=torch.long)
    mask[1, 7000:] = 0
    mask[2, 500:] = 0
    with torch.no_grad():
        batch = model(wave.masked_fill(mask == 0, 0.0), mask, context=context).logits
        for row in range(3):
            alone = model(wave[row : row + 1, : int(mask[row].sum())], context=context).logits
            assert law.difference(batch[row : row + 1, : alone.shape[1]], alone) < TOLERANCE


def test_what_a_chunk_may_not_see_does_not_matter(law, seed):
    model = law.model()
    context = StreamingContext(6, 4, 2)
    wave = torch.randn(1, 20000)
    changed = wave.clone()
    chunk = 5
    last = chunk * 4 + 4 + 2  # first frame that chunk 5 may not see
    changed[:, 320 * last + 400 - 320 :] = torch.randn(1, 20000 - 320 * last - 80)
    with torch.no_grad():
        a, b = (model(x, context=context).logits for x in (wave, changed))
    assert law.difference(b[:, : (chunk + 1) * 4], a[:, : (chunk + 1) * 4]) < 1e-6
    assert law.difference(b, a) > 1e-3


def test_a_step_without_commit_changes_nothing(law, seed):
    model = law.model(feat_extract_norm="group")
    context = StreamingContext(8, 4, 2)
    states = model.new_states(2, context)
    wave = torch.randn(2, 16000)
    model.listen(states, [0, 1], wave[:, :4000])
    model.step(states, [0, 1])
    before = {name: tensor.clone() for name, tensor in states.tensors().items()}
    first = model.step(states, [1, 0], commit=False)
    second = model.step(states, [1, 0], commit=False)
    for name, tensor in states.tensors().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(first.logits, second.logits)


def test_provisional_frames_equal_the_commit_of_a_stream_that_ends_there(law, seed):
    model = law.model()
    context = StreamingContext(8, 6, 4)
    states = model.new_states(2, context)
    wave = torch.randn(1, 7000)
    model.listen(states, [0], wave[:, :3600])
    model.step(states, [0])
    model.listen(states, [0], wave[:, 3600:4500])
    provisional = model.step(states, [0], commit=False)
    final = model.step(states, [0], final=True)
    assert provisional.frames == final.frames
    assert torch.equal(provisional.logits, final.logits)


def test_a_saved_slot_goes_on_exactly(law, seed, tmp_path):
    model = law.model(feat_extract_norm="group", stream_normalize=True)
    context = StreamingContext(8, 4, 2)
    wave = torch.randn(1, 12000)
    states, others = model.new_states(1, context), model.new_states(3, context)
    law.poison(others)
    model.listen(states, [0], wave[:, :5001])
    model.step(states, [0])
    states.save(0, tmp_path / "slot.safetensors")
    others.load(2, tmp_path / "slot.safetensors")
    for s, slot in ((states, 0), (others, 2)):
        model.listen(s, [slot], wave[:, 5001:9000])
    while states.waiting(0):
        a, b = model.step(states, [0], final=True), model.step(others, [2], final=True)
        assert torch.equal(a.logits[0, : a.own_frames[0]], b.logits[0, : b.own_frames[0]])
    with pytest.raises(StreamError, match="belongs to"):
        model.new_states(1, StreamingContext(8, 4, 1)).load(0, tmp_path / "slot.safetensors")
    with pytest.raises(StreamError, match="cannot read"):
        states.load(0, tmp_path / "nothing.safetensors")


def test_cost_does_not_grow_with_age(law, seed):
    model = law.model()
    context = StreamingContext(8, 4, 0)
    states = model.new_states(1, context)
    size = states.nbytes
    for _ in range(60):
        model.listen(states, [0], torch.randn(1, 1280))
        while states.waiting(0) >= 4:
            model.step(states, [0])
    assert states.committed(0) > 200
    assert states.nbytes == size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: m.listen(s, [2], torch.zeros(1, 10)), "do not exist"),
        (lambda m, s: m.listen(s, [0, 0], torch.zeros(2, 10)), "twice"),
        (lambda m, s: m.listen(s, [0], torch.zeros(1, 10**6)), "has room for"),
        (lambda m, s: m.listen(s, [0], torch.zeros(2, 10)), "one row for each"),
        (lambda m, s: m.step(s, [0]), "a chunk needs"),
        (lambda m, s: m.new_states(0, StreamingContext(1, 1)), "at least 1"),
    ],
)
def test_misuse_is_refused(law, call, message):
    model = law.model()
    states = model.new_states(2, StreamingContext(8, 4, 2))
    with pytest.raises(StreamError, match=message):
        call(model, states)


def test_an_adapter_refuses_to_stream(law):
    model = law.model(add_adapter=True, num_adapter_layers=1)
    with pytest.raises(ConfigurationError, match="adapter cannot stream"):
        model.new_states(1, StreamingContext(8, 4, 2))
    with pytest.raises(ConfigurationError, match="adapter cannot stream"):
        model(torch.randn(1, 4000), context=StreamingContext(8, 4, 2))


@pytest.mark.parametrize("text", ["", "3", "1,2,3,4", "a,b", "-1,2", "3,0", "3,2,-1"])
def test_bad_contexts_are_refused(text):
    with pytest.raises(ConfigurationError):
        StreamingContext.parse(text)


def test_a_context_in_milliseconds():
    context = StreamingContext.parse("250,32,8")
    assert (context.chunk_ms, context.latency_ms, str(context)) == (640, 800, "250,32,8")
