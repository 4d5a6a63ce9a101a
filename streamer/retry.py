"""How often and for how long a client tries again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """How stubborn a client is."""

    first_s: float = 0.2
    """Pause before the first new try; each one after it is twice as long."""
    longest_s: float = 5.0
    give_up_s: float = 60.0
    """So long without a connection, and the client gives up; 0: it does not try again."""
