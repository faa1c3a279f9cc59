"""One timer for all the deadlines of a model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

_CHECK_INTERVAL = 0.05
"""Seconds between two looks at the deadlines: each one goes over all jobs."""


class Deadlines:
    """Calls `check` when the earliest deadline it was told of is over, at most every `_CHECK_INTERVAL`.

    Invariant: after `at(t)`, a check begins at `t`, or an interval after the last one when that is later.
    """

    def __init__(self, clock: Callable[[], float], check: Callable[[float], Iterable[float]]) -> None:
        """Wrap `check`, which takes the time, ends what is late, and returns the deadlines that are left."""
        self._clock = clock
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf
        self._not_before = 0.0

    def at(self, deadline: float) -> None:
        """Look at the deadlines when this one is over, or earlier."""
        at = max(deadline, self._not_before)
        if at < self._next:
            if self._timer is not None:
                self._timer.cancel()
            self._next = at
            self._timer = self._loop.call_at(at, self._due)

    def check(self) -> None:
        """Look now."""
        self._look(self._clock())

    def _due(self) -> None:
        self._look(max(self._clock(), self._next))  # the loop may run a timer its clock's resolution early

    def _look(self, now: float) -> None:
        self._not_before = now + _CHECK_INTERVAL
        earliest = min(self._check(now), default=math.inf)
        self._next = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if earliest < math.inf:
            self.at(earliest)
