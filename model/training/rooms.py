"""Simulated rooms: impulse responses of rectangular rooms by the image source method (Allen and Berkley 1979).

Each wall mirrors the source; the mirrored sources, mirrored again, make a lattice. The response is the sum over the
lattice of a delayed, attenuated impulse: delay by distance, 1/distance, and a loss at each wall passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError

RATE = 16000
SPEED_M_S = 343.0
_TAPS = 40  # half the width of the windowed sinc that places an impulse between samples


@dataclass(frozen=True)
class Room:
    """A rectangular room with a source and a microphone in it; lengths in metres."""

    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    decay_s: float
    """Time in which the level falls by 60 dB (RT60), by Eyring's formula; with the size it decides how much the walls
    absorb. The formula takes sound for evenly spread; between bare parallel walls it lasts about a third longer."""

    def __post_init__(self) -> None:
        for name in ("source", "microphone"):
            if not all(0 < at < length for at, length in zip(getattr(self, name), self.size, strict=True)):
                raise ConfigurationError(f"the {name} at {getattr(self, name)} is outside the room {self.size}")
        if not self.decay_s > 0:
            raise ConfigurationError(f"the room's decay is {self.decay_s} s, expected above 0")

    @property
    def reflection(self) -> float:
        """Share of the pressure that a wall gives back, from the decay by Eyring's formula (1930)."""
        x, y, z = self.size
        surface, volume = 2 * (x * y + y * z + z * x), x * y * z
        absorbed = 1.0 - np.exp(-24.0 * np.log(10.0) * volume / (SPEED_M_S * surface * self.decay_s))
        return float(np.sqrt(1.0 - absorbed))


def impulse_response(room: Room, length_s: float | None = None) -> np.ndarray:
    """What the microphone hears of a click at the source: float32 [samples].

    The direct sound comes first, scaled to 1 and moved to the response's first sample, so that nothing is delayed.

    Args:
        room: where.
        length_s: how long; by default until the level has fallen by 40 dB, at most 1 s.
    """
    length_s = min(1.0, room.decay_s * 40.0 / 60.0) if length_s is None else length_s
    source, microphone, size = (np.array(v) for v in (room.source, room.microphone, room.size))
    direct_m = max(float(np.linalg.norm(source - microphone)), 0.05)
    reach_m = direct_m + length_s * SPEED_M_S
    axes = []  # for each axis: distances along it of all images, and the walls passed by each
    for axis in range(3):
        most = int(np.ceil(reach_m / (2 * size[axis]))) + 1
        n = np.arange(-most, most + 1)
        even, odd = 2 * n * size[axis] + source[axis], 2 * n * size[axis] - source[axis]
        distance = np.concatenate([even, odd]) - microphone[axis]
        walls = np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)])
        near = np.abs(distance) <= reach_m
        axes.append((distance[near] ** 2, walls[near]))
    (x, wx), (y, wy), (z, wz) = axes
    distance = np.sqrt(x[:, None, None] + y[None, :, None] + z[None, None, :]).ravel()
    walls = (wx[:, None, None] + wy[None, :, None] + wz[None, None, :]).ravel()
    heard = distance <= reach_m
    distance, walls = np.maximum(distance[heard], 0.05), walls[heard]
    strength = room.reflection**walls * direct_m / distance
    delay = (distance - direct_m) / SPEED_M_S * RATE
    whole = np.floor(delay).astype(int)
    response = np.zeros(int(length_s * RATE) + 2 * _TAPS + 2)
    early = walls <= 2
    taps = np.arange(-_TAPS + 1, _TAPS + 1)
    for at, fraction, level in zip(whole[early], (delay - whole)[early], strength[early], strict=True):
        if at == 0 and fraction < 1e-9:
            response[_TAPS] += level
            continue
        window = 0.5 * (1 + np.cos(np.pi * (taps - fraction) / _TAPS))
        response[at + _TAPS + taps] += level * np.sinc(taps - fraction) * window
    # Late images are too many and too close to each other for fractions of a sample to be heard.
    np.add.at(response, np.rint(delay[~early]).astype(int) + _TAPS, strength[~early])
    response = response[_TAPS : _TAPS + int(length_s * RATE)]
    return response.astype(np.float32)


def draw_room(rng: np.random.Generator, decay_s: tuple[float, float] = (0.15, 0.6)) -> Room:
    """A living room or an office at random: 3 to 8 m wide, 2.4 to 3.5 m high, the speaker 0.3 to 3 m away."""
    size = (float(rng.uniform(3, 8)), float(rng.uniform(2.5, 6)), float(rng.uniform(2.4, 3.5)))
    inner = [length - 0.6 for length in size]
    microphone = tuple(0.3 + float(rng.random()) * length for length in inner)
    for _ in range(100):
        source = tuple(0.3 + float(rng.random()) * length for length in inner)
        apart = float(np.linalg.norm(np.subtract(source, microphone)))
        if 0.3 <= apart <= 3.0:
            break
    decay = float(rng.uniform(*decay_s))
    return Room(size, source, microphone, decay)  # type: ignore[arg-type]


def draw_responses(count: int, seed: int, decay_s: tuple[float, float] = (0.15, 0.6)) -> list[np.ndarray]:
    """Responses of `count` random rooms, the same for the same seed."""
    return [impulse_response(draw_room(np.random.default_rng([seed, 77, i]), decay_s)) for i in range(count)]
