"""Where a segment ends: `EndpointRules` and `Endpointer`, from the model's own outputs and from detected voice.

The rules are in the style of Kaldi's online endpointing: a segment without speech, silence after speech, the
longest segment. Frames are seen one by one, so the decisions do not depend on how frames are cut into calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Literal

from ..model.errors import ConfigurationError
from .alphabet import BORDER, LETTER

EndpointReason = Literal["silence", "length", "nothing"]
"""Silence after speech, longest segment, or a long time without any speech."""
MOST = 1e9
"""The highest number in the rules, eleven days in milliseconds."""


@dataclass(frozen=True)
class EndpointRules:
    """When a segment ends.

    A silent frame is one whose best output is the blank or the word delimiter. A pause is a row of them; with
    `by_voice`, it begins anew with every frame in which the voice detector hears somebody.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    silence_ms: int = 800
    """A segment with speech ends after a pause of this length."""
    by_voice: bool = True
    """A voice that says nothing readable, a hesitation or a hummed tune, is no pause."""
    blank_ms: int = 2000
    """Without any text for so long, or for `silence_ms` if that is longer, a segment ends though a voice goes on: a
    noise that is taken for a voice must not keep it open."""
    max_segment_s: float = 20.0
    """Longest segment: no final is longer. From half of it on, ever shorter pauses between two words end the segment,
    from seven eighths on any border of words does. Only where the last eighth has none, the limit cuts a word between
    two letters; the others begin the next segment."""
    min_segment_s: float = 0.0
    """A segment, with the silence after its words, is at least this long before silence may end it."""
    no_speech_ms: int = 5000
    """A segment in which nothing was said for so long begins anew, without a result."""
    frame_ms: int = 20
    """Duration of a frame of the model."""

    def __post_init__(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise ConfigurationError(f"EndpointRules.{name} is {getattr(self, name)!r}, expected {expected}")

        for name in ("silence_ms", "blank_ms", "max_segment_s", "min_segment_s", "no_speech_ms", "frame_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST:
                refuse(name, f"a number from 0 to {MOST:g}")
        if self.frame_ms < 1:
            refuse("frame_ms", "at least 1 ms")
        if type(self.by_voice) is not bool:
            refuse("by_voice", "True or False")
        for name in ("silence_ms", "blank_ms", "no_speech_ms"):
            if getattr(self, name) < self.frame_ms:
                refuse(name, f"at least one frame of {self.frame_ms} ms")
        if self.max_segment_s * 1000 < 2 * self.silence_ms:
            refuse("max_segment_s", f"at least twice silence_ms ({2 * self.silence_ms} ms)")
        if self.min_segment_s > self.max_segment_s / 2:
            refuse("min_segment_s", f"at most half of max_segment_s ({self.max_segment_s})")

    def _frames(self, ms: float) -> int:
        return max(1, round(ms / self.frame_ms))

    @cached_property
    def silence_frames(self) -> int:
        """`silence_ms` in frames."""
        return self._frames(self.silence_ms)

    @cached_property
    def blank_frames(self) -> int:
        """`blank_ms`, or `silence_ms` if longer, in frames."""
        return self._frames(max(self.blank_ms, self.silence_ms))

    @cached_property
    def no_speech_frames(self) -> int:
        """`no_speech_ms` in frames."""
        return self._frames(self.no_speech_ms)

    @cached_property
    def max_segment_frames(self) -> int:
        """`max_segment_s` in frames."""
        return self._frames(self.max_segment_s * 1000)

    @cached_property
    def min_segment_frames(self) -> int:
        """`min_segment_s` in frames."""
        return self._frames(self.min_segment_s * 1000)


class Endpointer:
    """Watches the kinds of frames of one stream and says after which frame the segment ends.

    Args:
        rules: when it ends.
        borders: False for a model without a word delimiter, whose words end wherever it is silent.
    """

    def __init__(self, rules: EndpointRules, borders: bool = True) -> None:
        self.rules = rules
        self._borders = borders
        self.reset()

    def reset(self) -> None:
        """Begin a new segment at the next frame."""
        self._spoken = False
        self._length = 0  # frames since the first letter of the segment, or since its start without one
        self._pause = 0  # frames since the last letter
        self._quiet = 0  # frames since the last letter or detected voice
        self._border = False  # the pause holds a delimiter: the word before it is complete
        self._age = 0  # frames since the segment's words begin, as early as any reading has them
        self.fresh = False
        """The first letter was just seen, and nobody said yet how long ago the words began."""

    def began(self, frames: int) -> None:
        """The first letter was seen: the words of the segment begin no longer ago than so many frames.

        A beam may have found a word before the first frame whose best output is a letter.
        """
        self._age, self.fresh = max(1, frames), False

    def scan(self, kinds: Sequence[int], voiced: Sequence[bool] = ()) -> tuple[int, EndpointReason | None]:
        """See frames up to the next endpoint.

        Args:
            kinds: `Alphabet.kinds` of frames, in order.
            voiced: for each of them, whether a voice is heard in it; none at all: nobody knows.

        Returns:
            How many frames were seen, and why the segment ends after the last of them; None where it does not
            end. After an endpoint the watch is already on the next segment; call again with the frames left, as
            after the first letter of a segment (`fresh`).
        """
        heeded = voiced if self.rules.by_voice and voiced else repeat(False)
        for seen, (kind, heard) in enumerate(zip(kinds, heeded, strict=False), start=1):
            self._length += 1
            self._age += 1
            if kind == LETTER:
                if not self._spoken:
                    self._spoken, self._length, self._age, self.fresh = True, 1, 1, True
                self._pause, self._quiet, self._border = 0, 0, not self._borders
            else:
                self._pause += 1
                self._quiet = 0 if heard else self._quiet + 1
                if kind == BORDER:
                    self._border = True
            if reason := self._over():
                self.reset()
                return seen, reason
            if self.fresh:
                return seen, None
        return len(kinds), None

    def _over(self) -> EndpointReason | None:
        """Why the segment ends behind the frame that was just seen; None: it goes on."""
        rules = self.rules
        if not self._spoken:
            return "nothing" if self._length >= rules.no_speech_frames else None
        silent = self._quiet >= rules.silence_frames or self._pause >= rules.blank_frames
        if silent and self._length >= rules.min_segment_frames:
            return "silence"
        longest = rules.max_segment_frames
        if self._border:
            if 2 * self._length >= longest:
                # The pause that is long enough falls from silence_frames at half of the longest segment to 0 at 7/8.
                left = max(0, 7 * longest - 8 * self._length)
                if 3 * self._pause * longest >= rules.silence_frames * left:
                    return "length"
            if 8 * self._age >= 7 * longest:
                return "length"
        return "length" if self._age >= longest else None
