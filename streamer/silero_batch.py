"""The voice detector's network for many streams at once, with torch, on the device of the model.

`silero.py` hears each stream for itself, in the thread that drives all of them: far more work than all else that is
done there for thousands of streams. Here the windows of all streams are one batch up to the network's memory
(`features`), and the memory goes through them window by window for all streams together. The arithmetic is that of
`SileroNetwork`, in float32; products of many rows differ in their last bits from those of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.errors import ConfigurationError
from . import stream_slots
from .silero import HIDDEN, PLACES, SileroNetwork, load_silero, taps
from .voice_detector import QUIET_PROBABILITY, QUIET_WINDOWS, RESET_WINDOWS, Hearing

MOST_WINDOWS = 8192
"""Windows whose features are one call: some hundred megabytes on their way."""


class SileroBatch:
    """The network's weights on a device.

    Args:
        network: with the weights as numpy arrays.
        device: to compute on.
    """

    def __init__(self, network: SileroNetwork, device: torch.device | str) -> None:
        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.device = torch.device(device)
        self._places, self._basis = there(PLACES), there(network.basis)
        self._layers, frames = [], len(PLACES)
        for weight, bias, stride in network.layers:
            rows = taps(frames, len(weight) // 3, stride)
            self._layers.append((there(rows), there(weight), there(bias)))
            frames = len(rows)
        self._gates, self._gate_bias = there(network.gates), there(network.gate_bias)
        self._out, self._out_bias = there(network.out), network.out_bias

    @torch.no_grad()
    def hear(self, streams: Sequence[Hearing]) -> list[tuple[list[float], np.ndarray]]:
        """Hear the windows of some streams.

        Returns:
            For each stream the probabilities that somebody speaks, one a window, and the states after each, float32
            `[windows, 2, 128]`: hidden and cell, reset where `VoiceDetector` resets them.
        """
        counts = [len(stream.windows) for stream in streams]
        features = self._features(np.concatenate([stream.windows for stream in streams]))  # [windows of all, 128]
        first = np.cumsum([0, *counts[:-1]])
        # those with the most windows first: window n is that of the first so many streams
        order = sorted(range(len(streams)), key=lambda n: -counts[n])
        longest = counts[order[0]]
        numbers = np.array([[streams[n].since for n in order], [streams[n].quiet for n in order]], np.int64)
        rows = np.stack([(streams[n].state.hidden, streams[n].state.cell) for n in order], axis=1)  # [2, streams, 128]
        since, quiet = torch.from_numpy(numbers).to(self.device)
        hidden, cell = torch.from_numpy(rows).to(self.device)
        starts = torch.from_numpy(first[order]).to(self.device)
        told = torch.zeros(len(streams), longest, 1 + 2 * HIDDEN, device=self.device)
        for window in range(longest):
            some = sum(count > window for count in counts)
            hidden, cell, since, quiet = hidden[:some], cell[:some], since[:some], quiet[:some]
            probability, hidden, cell = self._follow(features[starts[:some] + window], hidden, cell)
            since = (since + 1) % RESET_WINDOWS
            quiet = torch.where(probability < QUIET_PROBABILITY, quiet + 1, 0)
            fresh = ((since == 0) & (quiet >= QUIET_WINDOWS))[:, None]
            hidden, cell = hidden.masked_fill(fresh, 0), cell.masked_fill(fresh, 0)
            told[:some, window] = torch.cat([probability[:, None], hidden, cell], 1)
        found = told.cpu().numpy()  # the one fetch
        place = {n: row for row, n in enumerate(order)}
        results = []
        for n, count in enumerate(counts):
            row = found[place[n], :count]
            results.append((row[:, 0].tolist(), row[:, 1:].reshape(count, 2, HIDDEN)))
        return results

    def _features(self, windows: np.ndarray) -> Tensor:
        """See `SileroNetwork.features`."""
        parts = []
        for start in range(0, len(windows), MOST_WINDOWS):
            some = torch.from_numpy(windows[start : start + MOST_WINDOWS]).to(self.device)
            spectrum = some[:, self._places] @ self._basis
            x = torch.sqrt(spectrum[..., :129].square() + spectrum[..., 129:].square())
            for rows, weight, bias in self._layers:
                wide = F.pad(x, (0, 0, 1, 1)).flatten(1)
                x = torch.relu(wide[:, rows] @ weight + bias)
            parts.append(x[:, 0])
        return torch.cat(parts)

    def _follow(self, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `SileroNetwork.follow`; `[streams, 128]` each."""
        gates = torch.addmm(self._gate_bias, torch.cat([features, hidden], 1), self._gates)
        enter, forget, value, leave = gates.chunk(4, 1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(value)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        return torch.sigmoid(torch.relu(hidden) @ self._out + self._out_bias), hidden, cell


def voices_together(device: torch.device) -> SileroBatch | None:
    """What hears the voices of many streams together on a device: where streams are computed in static steps, as on
    CUDA. On a CPU the detectors hear one by one, which gives the same bits alone and among others. None also where no
    detector is installed."""
    if not stream_slots.wants_static(device):
        return None
    try:
        return SileroBatch(load_silero(), device)
    except ConfigurationError:
        return None
