"""Going on with a stream on another machine, which has never heard it, without losing or doubling a word.

A stream remembers sound in three ways: the encoder's caches reach back a bounded number of chunks, the decoder and
the endpoint rules forget everything where a segment ends, and the grid of chunks begins with the first sample. So a
fresh stream gives the same results as the broken one if it hears the sound from an `origin` on that lies on the grid
of chunks, far enough before the end of a segment for the caches to be full of the same values, and is deaf up to that
end (`Session.deafen`). The voice detector alone forgets nothing for good: what it knows goes along (`VoiceMemory`), and
so does whether somebody is speaking and what was said about it already. The kept sound is what came since the origin:
the caches' reach and the segment that is being spoken.

Front ends with statistics over the whole stream (group norm, normalised waveforms) remember more than that, and so do
streams that slept; with them the results are as good, but not always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Any

import msgspec

from ..model.config import WavLMConfig
from ..model.context import StreamingContext
from .events import Event, Final, Partial, Word
from .stream_voice import LETTER_FRAMES, PLACE_SAMPLES


@dataclass(frozen=True)
class Reach:
    """How much of the past a stream's next results depend on.

    Args:
        history_samples: sound before a segment that has to be heard again.
        grid_samples: a stream may begin anew at multiples of this.
    """

    history_samples: int
    grid_samples: int

    @classmethod
    def of(cls, config: WavLMConfig, context: StreamingContext, padding_samples: int = 0) -> Reach:
        """The reach of a model under a context: every layer sees `left` frames before the chunk below it.

        Args:
            padding_samples: how far before a word its voice may lie.
        """
        chunk = context.chunk_frames
        chunks = config.num_hidden_layers * -(-context.left_frames // chunk) + -(
            -config.num_conv_pos_embeddings // (2 * chunk)
        )
        hop = config.hop_samples
        return cls(max(chunks * chunk * hop, padding_samples) + LETTER_FRAMES * hop, lcm(chunk * hop, PLACE_SAMPLES))

    def origin(self, segment_samples: int, grid_samples: int = 1) -> int:
        """Where to begin anew so that a segment that begins there comes out the same.

        Args:
            segment_samples: first sample of the segment.
            grid_samples: the origin is a multiple of this, too.
        """
        grid = lcm(self.grid_samples, grid_samples)
        return max(0, segment_samples - self.history_samples) // grid * grid


def shifted(event: Event, samples: int) -> Event:
    """The event of a stream that began so many samples later than its clock."""
    if samples == 0:
        return event
    changes: dict[str, object] = {
        name: getattr(event, name) + samples for name in _TIMES if getattr(event, name, None) is not None
    }
    if isinstance(event, Partial | Final):
        changes["words"] = tuple(_later(word, samples) for word in event.words)
    return msgspec.structs.replace(event, **changes) if changes else event


def _later(word: Word, samples: int) -> Word:
    def moved(thing: Any, **more: object) -> Any:
        start, end = thing.start_samples + samples, thing.end_samples + samples
        return msgspec.structs.replace(thing, start_samples=start, end_samples=end, **more)

    return moved(word, letters=tuple(moved(letter) for letter in word.letters))


_TIMES = ("at_samples", "start_samples", "end_samples")
