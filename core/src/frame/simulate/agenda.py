"""What happens when: events in the order of their times, and the time of the one that happens now."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush


class Agenda:
    """Events to come.

    Invariant: time never goes back; events of one time happen in the order in which they were added.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0

    @property
    def next_at(self) -> float:
        """Time of the next event; infinite when there is none."""
        return self._events[0][0] if self._events else math.inf

    def add(self, at: float, event: Callable[[], None]) -> None:
        """Let something happen at a time; at once when that is over."""
        self._added += 1
        heappush(self._events, (max(at, self.now), self._added, event))

    def run_next(self) -> None:
        """Let the next event happen."""
        self.now, _, event = heappop(self._events)
        event()


class Alarm:
    """One event that can be moved: the last time that was set counts."""

    def __init__(self, agenda: Agenda, event: Callable[[], None]) -> None:
        self._agenda = agenda
        self._event = event
        self._at: float | None = None

    def set(self, at: float | None) -> None:
        """Ring at this time and at no other; None: do not ring."""
        if at != self._at:
            self._at = at
            if at is not None:
                self._agenda.add(at, self._ring)

    def _ring(self) -> None:
        if self._at is not None and self._at <= self._agenda.now:
            self._at = None
            self._event()
