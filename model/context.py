"""`StreamingContext`: what one step of the encoder may see, in frames of 20 ms."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigurationError

FRAME_MS = 20
"""Duration of a frame: 320 samples at 16 kHz."""


@dataclass(frozen=True)
class StreamingContext:
    """Chunk n owns the frames [nC, nC + C); its step sees [nC - L, nC + C + R) and nothing else, in any layer.

    Raises:
        ConfigurationError: a number of frames that is no integer or too small.
    """

    left_frames: int
    """L: committed frames that stay visible."""
    chunk_frames: int
    """C: frames committed by one step."""
    right_frames: int = 0
    """R: frames after the chunk that its step sees; the next step computes them again."""

    def __post_init__(self) -> None:
        for name, least in (("left_frames", 0), ("chunk_frames", 1), ("right_frames", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigurationError(f"StreamingContext.{name} is {value!r}, expected an integer from {least} on")

    @classmethod
    def parse(cls, text: str) -> StreamingContext:
        """Read "left,chunk" or "left,chunk,right", in frames."""
        try:
            parts = [int(part) for part in text.split(",")]
        except ValueError:
            parts = []
        if len(parts) not in (2, 3):
            raise ConfigurationError(
                f'streaming context {text!r} not understood, expected "left,chunk,right" in frames of {FRAME_MS} ms, '
                'for example "250,32,8"'
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.left_frames},{self.chunk_frames},{self.right_frames}"

    @property
    def step_frames(self) -> int:
        """Frames that a full step computes: C + R."""
        return self.chunk_frames + self.right_frames

    @property
    def chunk_ms(self) -> int:
        """Duration of a chunk."""
        return self.chunk_frames * FRAME_MS

    @property
    def latency_ms(self) -> int:
        """Longest wait of a frame for its commit, without computing time: chunk and right context."""
        return self.step_frames * FRAME_MS

    def chunks_of(self, frames: int) -> int:
        """Chunks that cover this many frames."""
        return -(-frames // self.chunk_frames)
