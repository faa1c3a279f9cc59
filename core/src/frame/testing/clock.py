"""A clock that moves only when told to."""

from __future__ import annotations


class FakeClock:
    """Seconds for code that takes `now` as an argument, or a callable that returns it.

    Invariant: time never goes back.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> float:
        """Move on by `seconds` >= 0 and return the new time."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self.now += seconds
        return self.now
