"""Where speech begins and pauses, and where a segment ends, from the model's own outputs.

The rules are in the style of Kaldi's online endpointing: a segment without speech, silence after speech, the
longest segment. Frames are seen one by one, so the decisions do not depend on how frames are cut into calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..model.errors import ConfigurationError
from .alphabet import BLANK, BORDER, LETTER

EndpointReason = Literal["silence", "length", "nothing"]
"""Silence after speech, longest segment, or a long time without any speech."""


@dataclass(frozen=True)
class EndpointRules:
    """When a segment ends.

    Silence is every frame whose best output is the blank or the word delimiter.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    silence_ms: int = 800
    """A segment with speech ends after this much silence."""
    max_segment_s: float = 20.0
    """Longest segment. From half of it on, ever shorter pauses between two words end the segment; at the limit
    the next border of words does. A word is cut only at twice the limit, where there are no borders at all."""
    min_segment_s: float = 0.0
    """A segment, with the silence after its words, is at least this long before silence may end it."""
    no_speech_ms: int = 5000
    """A segment in which nothing was said for so long begins anew, without a result."""
    frame_ms: int = 20
    """Duration of a frame of the model."""

    def __post_init__(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise ConfigurationError(f"EndpointRules.{name} is {getattr(self, name)!r}, expected {expected}")

        for name in ("silence_ms", "max_segment_s", "min_segment_s", "no_speech_ms", "frame_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                refuse(name, "a number of at least 0")
        if self.frame_ms < 1:
            refuse("frame_ms", "at least 1 ms")
        for name in ("silence_ms", "no_speech_ms"):
            if getattr(self, name) < self.frame_ms:
                refuse(name, f"at least one frame of {self.frame_ms} ms")
        if self.max_segment_s * 1000 < 2 * self.silence_ms:
            refuse("max_segment_s", f"at least twice silence_ms ({2 * self.silence_ms} ms)")
        if self.min_segment_s > self.max_segment_s / 2:
            refuse("min_segment_s", f"at most half of max_segment_s ({self.max_segment_s})")

    def _frames(self, ms: float) -> int:
        return max(1, round(ms / self.frame_ms))

    @property
    def silence_frames(self) -> int:
        """`silence_ms` in frames."""
        return self._frames(self.silence_ms)

    @property
    def no_speech_frames(self) -> int:
        """`no_speech_ms` in frames."""
        return self._frames(self.no_speech_ms)

    @property
    def max_segment_frames(self) -> int:
        """`max_segment_s` in frames."""
        return self._frames(self.max_segment_s * 1000)

    @property
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
        self._border = False  # the pause holds a delimiter: the word before it is complete

    def scan(self, kinds: Sequence[int]) -> tuple[int, EndpointReason | None]:
        """See frames up to the next endpoint.

        Args:
            kinds: `Alphabet.kinds` of frames, in order.

        Returns:
            How many frames were seen, and why the segment ends after the last of them; None where it does not
            end. After an endpoint the watch is already on the next segment; call again with the frames left.
        """
        for seen, kind in enumerate(kinds, start=1):
            reason = self._see(kind)
            if reason:
                self.reset()
                return seen, reason
        return len(kinds), None

    def _see(self, kind: int) -> EndpointReason | None:
        rules = self.rules
        if kind == LETTER:
            if not self._spoken:
                self._spoken, self._length = True, 0
            self._pause, self._border = 0, not self._borders
        elif kind in (BLANK, BORDER):
            self._pause += 1
            self._border |= kind == BORDER
        self._length += 1
        if not self._spoken:
            return "nothing" if self._length >= rules.no_speech_frames else None
        if self._pause >= rules.silence_frames and self._length >= rules.min_segment_frames:
            return "silence"
        # The pause that is long enough falls from silence_frames at half of the longest segment to 0 at its end.
        longest, left = rules.max_segment_frames, max(0, rules.max_segment_frames - self._length)
        late = 2 * self._length >= longest
        if late and self._border and self._pause * longest >= 2 * rules.silence_frames * left:
            return "length"
        return "length" if self._length >= 2 * longest else None


@dataclass(frozen=True)
class SpeechRules:
    """When speech begins and pauses, by the probability that a frame says something.

    A CTC head is silent between most letters, so the probability is a row of peaks: speech goes on for
    `pause_ms` after each of them.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    start_probability: float = 0.5
    """Speech begins with a frame above this."""
    stay_probability: float = 0.2
    """Speech goes on with any frame above this."""
    pause_ms: int = 400
    """Speech has stopped when no frame did so for this long."""
    frame_ms: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.stay_probability <= self.start_probability < 1:
            raise ConfigurationError(
                f"SpeechRules.stay_probability is {self.stay_probability!r} and start_probability "
                f"{self.start_probability!r}, expected 0 < stay <= start < 1"
            )
        if self.pause_ms < self.frame_ms:
            raise ConfigurationError(
                f"SpeechRules.pause_ms is {self.pause_ms!r}, expected at least one frame of {self.frame_ms} ms"
            )

    @property
    def pause_frames(self) -> int:
        """`pause_ms` in frames."""
        return max(1, round(self.pause_ms / self.frame_ms))


class SpeechWatch:
    """Finds where speech starts and stops in one stream, with two thresholds and a waiting time."""

    def __init__(self, rules: SpeechRules) -> None:
        self.rules = rules
        self._frame = 0
        self._last = -1  # last frame that kept the speech going; -1: nobody speaks

    @property
    def speaking(self) -> bool:
        """Speech has started and not stopped."""
        return self._last >= 0

    def scan(self, probabilities: Sequence[float]) -> list[tuple[bool, int]]:
        """See frames.

        Args:
            probabilities: of speech, one a frame, in order.

        Returns:
            The changes: (True, first frame of speech) and (False, one past the last frame of speech).
        """
        rules, changes = self.rules, []
        for probability in probabilities:
            if probability > (rules.stay_probability if self.speaking else rules.start_probability):
                if not self.speaking:
                    changes.append((True, self._frame))
                self._last = self._frame
            elif self.speaking and self._frame - self._last >= rules.pause_frames:
                changes += self.stop()
            self._frame += 1
        return changes

    def stop(self) -> list[tuple[bool, int]]:
        """End the speech that goes on, as at the end of a stream; the change, if anybody spoke."""
        if not self.speaking:
            return []
        end, self._last = self._last + 1, -1
        return [(False, end)]
