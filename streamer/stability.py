"""`StabilityRule`: when the words of a beam no longer change."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.errors import ConfigurationError


@dataclass(frozen=True)
class StabilityRule:
    """A word is stable when enough of the beam agrees on it and on all words before it, and it ended long enough ago.

    Two texts that sound alike keep their shares for good unless a language model tells them apart, and that looks a
    few words ahead at most. So there is a longest wait, after which the better text is taken.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    doubt: float = 0.005
    """Share of the beam's posterior mass that may say something else; 0: all hypotheses agree."""
    age_frames: int = 12
    """Frames since the end of the word."""
    wait_frames: int = 62
    """So many frames after the end of a word the best text decides, whatever the doubt."""

    def __post_init__(self) -> None:
        if not 0 <= self.doubt <= 0.5:
            raise ConfigurationError(f"StabilityRule.doubt is {self.doubt!r}, expected a share from 0 to 0.5")
        if type(self.age_frames) is not int or self.age_frames < 0:
            raise ConfigurationError(f"StabilityRule.age_frames is {self.age_frames!r}, expected frames from 0")
        if type(self.wait_frames) is not int or self.wait_frames < self.age_frames:
            raise ConfigurationError(
                f"StabilityRule.wait_frames is {self.wait_frames!r}, expected at least age_frames ({self.age_frames})"
            )

    @classmethod
    def of(cls, stability: float) -> StabilityRule:
        """The rule between eager and careful.

        Args:
            stability: 0 (eager): the best text decides when the word ends; 0.5: all but 0.5 % of the mass agrees
                after a quarter of a second, or the best text decides after 1.25 s; 1 (careful): every hypothesis
                agrees after a second, or the best text decides after 5 s. Between them the doubt falls by powers
                of ten and the times rise with the square.

        Raises:
            ConfigurationError: not from 0 to 1.
        """
        if isinstance(stability, bool) or not isinstance(stability, int | float) or not 0 <= stability <= 1:
            raise ConfigurationError(f"stability is {stability!r}, expected a number from 0 (eager) to 1 (careful)")
        doubt = 0.0 if stability == 1 else 0.5 * 10 ** (-4 * stability)
        return cls(doubt, round(50 * stability**2), round(250 * stability**2))
