"""Attention of a step over rings, by torch and by the Triton kernels, against float64 from the raw table."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wavlm_live.kernels import new_ring, relative_vector, ring_room, streaming_attention, streaming_bias
from wavlm_live.kernels.rings import quantise
from wavlm_live.kernels.streaming_attention_torch import step_bias, together

FARTHEST, LAYERS, LAYER = 800, 2, 1

SHAPES = {
    # width, ring, committed of each row, new of each row, heads, size
    "mixed ages, one empty": (16, 100, (0, 5, 250, 100), (16, 3, 16, 1), 2, 64),
    "12 heads": (8, 24, (17, 90), (8, 5), 12, 8),
    "16 heads, step of one": (1, 33, (40,), (1,), 16, 8),
    "two tiles of frames": (40, 70, (71, 0), (40, 33), 1, 32),
    "no ring": (8, 0, (10, 0), (8, 8), 2, 16),
    "step longer than the ring": (70, 64, (1000,), (70,), 1, 16),
    "keys at tile +- 1": (17, 65, (63, 64, 65), (17, 17, 16), 1, 16),
    "beyond the last bucket": (16, 830, (5000,), (16,), 1, 16),
}


def integers(values) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


class Streams:
    """Rings full of NaN in which some streams have a past, and that past as plain lists."""

    def __init__(self, oracle, shape: str, dtype: torch.dtype, ring_dtype: torch.dtype, in_place: bool = False):
        self.width, self.ring, committed, frames, self.heads, self.size = SHAPES[shape]
        self.oracle, self.dtype, self.ring_dtype = oracle, dtype, ring_dtype
        rows = len(committed)
        self.committed, self.frames = list(committed), list(frames)
        self.slots = torch.randperm(rows + 2)[:rows].to(torch.int32)
        place = (rows + 2, LAYERS, self.ring)
        empty = 99 if ring_dtype == torch.int8 else math.nan
        self.room = ring_room(self.width, dtype, ring_dtype) if in_place else 0
        shape_of = (*place, self.heads, self.size)
        self.rings = [new_ring(*shape_of, room=self.room, dtype=ring_dtype).fill_(empty) for _ in range(2)]
        for ring in self.rings:  # the room too
            torch.empty(0, dtype=ring_dtype).set_(ring.untyped_storage()).fill_(empty)
        self.scales: list[Tensor | None] = [None, None]
        if ring_dtype == torch.int8:
            self.scales = [torch.full((*place, self.heads), math.nan) for _ in range(2)]
        self.past = []
        for row, count in enumerate(committed):
            kept = min(count, self.ring)
            pair = [torch.randn(kept, self.heads, self.size).to(dtype) for _ in range(2)]
            self.past.append(tuple(self.put(row, count - kept, x, which) for which, x in enumerate(pair)))

    def put(self, row: int, first: int, x: Tensor, which: int) -> Tensor:
        """Frames into a ring, one by one; returns them as the ring holds them."""
        held = []
        for n, frame in enumerate(x):
            at = (int(self.slots[row]), LAYER, (first + n) % self.ring)
            if self.ring_dtype == torch.int8:
                largest = frame.float().abs().amax(-1, keepdim=True)
                whole = (frame.float() / largest * 127).round()
                self.rings[which][at] = whole.to(torch.int8)
                self.scales[which][at] = largest[:, 0] / 127
                held.append((whole * largest / 127).to(self.dtype))
            else:
                self.rings[which][at] = frame.to(self.ring_dtype)
                held.append(frame.to(self.ring_dtype).to(self.dtype))
        return torch.stack(held) if held else x

    def call(self, new: tuple[Tensor, ...], own: list[int] | None = None) -> Tensor:
        q, k, v, gate, table = new
        rel = relative_vector(table, self.ring + self.width, FARTHEST)
        return streaming_attention(
            q, k, v, gate, rel, *self.rings, LAYER, self.slots, integers(self.committed), integers(self.frames),
            None if own is None else integers(own), key_scales=self.scales[0], value_scales=self.scales[1],
            sheared=streaming_bias(rel, q, self.ring), room=self.room,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        return [x.clone() for x in (*self.rings, *self.scales) if x is not None]


TYPES = {
    "float32": (torch.float32, torch.float32),
    "float32 in place": (torch.float32, torch.float32, True),
    "float16": (torch.float16, torch.float16),
    "float32, half ring": (torch.float32, torch.float16),
    "float16 in place": (torch.float16, torch.float16, True),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16 in place": (torch.bfloat16, torch.bfloat16, True),
    "int8 ring": (torch.float32, torch.int8),
}


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("poisoned_memory")
def test_steps(seed, oracle, path, shape, types):
    """A look without commit, the same with it, and the next step, which reads what the second wrote."""
    if "float32" not in types and shape in ("beyond the last bucket", "16 heads, step of one"):
        pytest.skip("float32 says it all")
    if "bfloat16" in types and path == "interpreter":
        pytest.skip("Triton's interpreter computes bfloat16 wrongly")
    if "in place" in types and path == "interpreter":
        pytest.skip("kernels read every ring where it stands")
    dtype = TYPES[types][0]
    streams = Streams(oracle, shape, *TYPES[types])
    assert (streams.room > 0) == ("in place" in types)
    new = oracle.inputs(len(streams.frames), streams.width, streams.heads, streams.size, dtype)
    q, k, v, gate, table = new
    for row, frames in enumerate(streams.frames):  # frames that are not there may hold anything
        for x in (q, k, v, gate):
            x[row, frames:] = math.nan
    expected = oracle.step(q, k, v, gate, table, streams.past, streams.frames)
    plain = oracle.error(oracle.step(q, k, v, gate, table, streams.past, streams.frames, dtype), expected)
    allowed = max(2 * plain, 1e-6)
    before = streams.state()
    out = streams.call(new)
    assert oracle.error(out, expected) <= allowed
    assert all(
        torch.equal(a, b) or torch.equal(a.isnan(), b.isnan()) for a, b in zip(before, streams.state(), strict=True)
    )

    own = [max(0, frames - 2) for frames in streams.frames]
    assert torch.equal(streams.call(new, own), out)  # what is written is not read
    past = []
    for row, count in enumerate(own):
        pair = []
        for which, x in enumerate((k, v)):
            held = streams.put(row, streams.committed[row], x[row, :count], which) if streams.ring else x[row, :0]
            pair.append(torch.cat([streams.past[row][which], held])[-streams.ring or len(held) :])
        past.append(tuple(pair))
    streams.committed = [a + b for a, b in zip(streams.committed, own, strict=True)]
    expected = oracle.step(q, k, v, gate, table, past, streams.frames)
    assert oracle.error(streams.call(new), expected) <= allowed


@pytest.mark.parametrize(
    ("shape", "types", "processors"),
    [
        ("mixed ages, one empty", "float32", 1000), ("mixed ages, one empty", "int8 ring", 16),
        ("keys at tile +- 1", "float16", 1000), ("step longer than the ring", "float32", 7),
        ("two tiles of frames", "float32", 1000), ("no ring", "float16", 1000),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("interpreter", "poisoned_memory")
def test_keys_shared_by_programs(seed, oracle, monkeypatch, shape, types, processors):
    """On a GPU with so many multiprocessors: some shares stay empty, some streams have none to share; reruns equal."""
    kernel = importlib.import_module("wavlm_live.kernels.streaming_attention_kernel")
    monkeypatch.setattr(kernel, "multiprocessors", lambda device: processors)
    dtype = TYPES[types][0]
    streams = Streams(oracle, shape, *TYPES[types])
    streams.frames[0] = 0  # a row of the batch that has nothing new
    new = oracle.inputs(len(streams.frames), streams.width, streams.heads, streams.size, dtype)
    for row, frames in enumerate(streams.frames):
        for x in new[:4]:
            x[row, frames:] = math.nan
    taken = []
    monkeypatch.setattr(kernel, "shares_of", lambda *a, of=kernel.shares_of: taken.append(of(*a)) or taken[-1])
    expected = oracle.step(*new, streams.past, streams.frames)
    plain = oracle.error(oracle.step(*new, streams.past, streams.frames, dtype), expected)
    out = streams.call(new)
    assert oracle.error(out, expected) <= max(2 * plain, 1e-6)
    assert torch.equal(streams.call(new), out)
    assert taken[0] > 1 or streams.ring == 0


@pytest.mark.parametrize("types", ["float32", "float32 in place", "int8 ring"])
def test_a_commit_writes_the_right_places_and_no_other(seed, oracle, path, types):
    streams = Streams(oracle, "mixed ages, one empty", *TYPES[types])
    new = oracle.inputs(4, streams.width, streams.heads, streams.size)
    expected = streams.state()
    for which in range(2):
        for row, count in enumerate((16, 0, 7, 1)):
            for n in range(count):
                at = (int(streams.slots[row]), LAYER, (streams.committed[row] + n) % streams.ring)
                frame = new[1 + which][row, n]
                if types == "int8 ring":
                    whole, scale = quantise(frame)
                    expected[which][at], expected[2 + which][at] = whole, scale
                else:
                    expected[which][at] = frame
    streams.call(new, [16, 0, 7, 1])
    for got, wanted in zip(streams.state(), expected, strict=True):
        assert torch.equal(got.isnan(), wanted.isnan())
        close = torch.allclose(got.nan_to_num().float(), wanted.nan_to_num().float(), rtol=1e-6, atol=0)
        assert close or (got.dtype == torch.int8 and int((got.int() - wanted.int()).abs().max()) <= 1)


def test_permuted_streams_give_the_same_bits(seed, oracle, path):
    streams = Streams(oracle, "mixed ages, one empty", torch.float32, torch.float32)
    *new, table = oracle.inputs(4, streams.width, streams.heads, streams.size)
    out = streams.call((*new, table))
    order = torch.randperm(4)
    streams.slots = streams.slots[order]
    streams.committed = [streams.committed[i] for i in order]
    streams.frames = [streams.frames[i] for i in order]
    again = streams.call((*(x[order] for x in new), table))
    tolerance = 0 if path == "interpreter" else 1e-6  # torch's products may depend on where memory begins
    assert torch.allclose(again, out[order], rtol=tolerance, atol=tolerance)


def test_error_of_an_int8_ring(seed, oracle, path):
    """Against the exact keys and values, not those that the ring holds: the price of the option, below 1%."""
    streams = Streams(oracle, "mixed ages, one empty", torch.float32, torch.int8)
    pairs = []
    for row, count in enumerate(streams.committed):
        exact = [torch.randn(min(count, streams.ring), streams.heads, streams.size) for _ in range(2)]
        for which, x in enumerate(exact):
            streams.put(row, count - len(x), x, which)
        pairs.append(tuple(exact))
    new = oracle.inputs(4, streams.width, streams.heads, streams.size)
    error = oracle.error(streams.call(new), oracle.step(*new, pairs, streams.frames))
    print(f"int8 ring, {path}: relative error {error:.1e}")  # noqa: T201
    assert 1e-4 < error < 1e-2


def test_opcheck_and_one_graph(seed, oracle, path):
    streams = Streams(oracle, "no ring", torch.float32, torch.float32)
    streams.ring = 12
    streams.rings = [torch.randn(4, LAYERS, 12, streams.heads, streams.size) for _ in range(2)]
    q, k, v, gate, table = oracle.inputs(2, streams.width, streams.heads, streams.size)
    rel = relative_vector(table, 20, FARTHEST)
    sheared = streaming_bias(rel, q, 12)
    assert sheared.numel() > 0
    torch.library.opcheck(torch.ops.wavlm_live.streaming_bias, (rel, q, 12))
    arguments = (
        q, k, v, gate, rel, sheared, *streams.rings, None, None, LAYER, streams.slots, integers([10, 0]),
        integers([8, 8]), integers([4, 8]), True, 0,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.wavlm_live.streaming_attention, arguments)

    def call(q, k, v, gate, keys, values):
        return streaming_attention(
            q,
            k,
            v,
            gate,
            rel,
            keys,
            values,
            LAYER,
            streams.slots,
            integers([10, 0]),
            integers([8, 8]),
            integers([4, 8]),
        )

    rings = [x.clone() for x in streams.rings]
    expected = call(q, k, v, gate, *rings)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(q, k, v, gate, *streams.rings), expected, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(rings, streams.rings, strict=True))  # written by the graph too


@pytest.mark.parametrize("shape", ["mixed ages, one empty", "two tiles of frames", "no ring"])
@pytest.mark.parametrize("types", ["float32", "int8 ring"])
def test_all_streams_in_one_call(seed, oracle, shape, types):
    """What torch's path does on devices other than the CPU."""
    streams = Streams(oracle, shape, *TYPES[types])
    q, k, v, gate, table = new = oracle.inputs(len(streams.frames), streams.width, streams.heads, streams.size)
    for row, frames in enumerate(streams.frames):
        for x in (k, v):
            x[row, frames:] = math.nan
    bias = step_bias(relative_vector(table, streams.ring + streams.width, FARTHEST), streams.width, streams.ring)
    counters = streams.slots, integers(streams.committed), integers(streams.frames)
    out = together(q, k, v, gate, bias, *streams.rings, *streams.scales, LAYER, *counters)
    assert oracle.error(out, oracle.step(*new, streams.past, streams.frames)) < 1e-6


class Followed(TorchDispatchMode):
    """Names of the operations that torch's registry runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("types", ["float32", "float32 in place"])
def test_past_the_registry_and_through_it(seed, oracle, path, types):
    """Without autograd the registry is passed by, unless a mode follows operations; the bits are the same."""
    streams = Streams(oracle, "mixed ages, one empty", *TYPES[types])
    new, own = oracle.inputs(4, streams.width, streams.heads, streams.size), [16, 0, 7, 1]
    before = streams.state()
    results = []
    for kind in ("autograd", "no autograd", "followed"):
        for held, kept in zip(streams.rings, before, strict=True):
            held.copy_(kept)
        with torch.set_grad_enabled(kind == "autograd"):
            if kind != "followed":
                results.append([streams.call(new, own), *streams.state()])
                continue
            with Followed() as mode:
                results.append([streams.call(new, own), *streams.state()])
            assert "wavlm_live.streaming_attention.default" in mode.names
    for other in results[1:]:
        assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(results[0], other, strict=True))


def test_what_does_not_fit_is_told(oracle):
    q, k, v, gate, table = oracle.inputs(2, 8, 2, 16)
    rel = relative_vector(table, 27, FARTHEST)
    rings = [torch.zeros(3, LAYERS, 20, 32) for _ in range(2)]
    counters = [integers([0, 1]), integers([5, 0]), integers([8, 8])]
    with pytest.raises(ValueError, match="expected 2 heads and 27 frames"):
        streaming_attention(q, k, v, gate, rel[:, 1:-1], *rings, 0, *counters)
    with pytest.raises(ValueError, match="layer 2 of rings with 2 layers"):
        streaming_attention(q, k, v, gate, rel, *rings, 2, *counters)
    with pytest.raises(ValueError, match=r"rings of torch\.int8 need scales"):
        streaming_attention(q, k, v, gate, rel, *(x.to(torch.int8) for x in rings), 0, *counters)
    with pytest.raises(ValueError, match=r"expected two \[slots, layers, ring, 2, 16\]"):
        streaming_attention(q, k, v, gate, rel, rings[0], rings[1][:, :, :5], 0, *counters)
    with pytest.raises(ValueError, match=r"committed has shape .* expected int32"):
        streaming_attention(q, k, v, gate, rel, *rings, 0, counters[0], counters[1].long(), counters[2])


def test_a_bias_in_other_strides_is_read_as_what_it_is(seed, oracle, path):
    streams = Streams(oracle, "no ring", torch.float32, torch.float32)
    q, k, v, gate, table = oracle.inputs(2, streams.width, streams.heads, streams.size)
    rel = relative_vector(table, streams.width, FARTHEST)
    counters = integers([0, 1]), integers([0, 0]), integers([8, 8])
    sheared = streaming_bias(rel, q, 0)
    strange = sheared.transpose(-1, -2).contiguous().transpose(-1, -2)
    both = [
        streaming_attention(q, k, v, gate, rel, *streams.rings, 0, *counters, sheared=x) for x in (sheared, strange)
    ]
    assert torch.equal(*both)
