"""When a dead worker group starts again, and when its model counts as FAILED."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum


class GroupState(Enum):
    """States of a worker group."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class GroupEvent(Enum):
    """What moves a group from state to state."""

    LOADED = "loaded"
    DRAIN = "drain"
    ENDED = "ended"


TRANSITIONS: dict[tuple[GroupState, GroupEvent], GroupState] = {
    (GroupState.STARTING, GroupEvent.LOADED): GroupState.READY,
    (GroupState.STARTING, GroupEvent.DRAIN): GroupState.DRAINING,
    (GroupState.STARTING, GroupEvent.ENDED): GroupState.ENDED,
    (GroupState.READY, GroupEvent.DRAIN): GroupState.DRAINING,
    (GroupState.READY, GroupEvent.ENDED): GroupState.ENDED,
    (GroupState.DRAINING, GroupEvent.DRAIN): GroupState.DRAINING,
    (GroupState.DRAINING, GroupEvent.ENDED): GroupState.ENDED,
}


def next_state(state: GroupState, event: GroupEvent) -> GroupState:
    """Return the state after `event`; an event that the table does not have leaves the state."""
    return TRANSITIONS.get((state, event), state)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimits:
    """How often a model's groups may die.

    Attributes:
        retry_threshold: deaths within `window` without a successful batch in between that are tolerated, and
            starts in a row that answer nothing.
        window: seconds that a death counts.
        first_delay, longest_delay: seconds; the back-off doubles from the one to the other.
        cool_down: seconds until a FAILED model is tried again.
    """

    retry_threshold: int = 5
    window: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 30.0
    cool_down: float = 30.0


@dataclass(frozen=True, slots=True)
class RestartAt:
    """Start a replacement at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class FailUntil:
    """The model is FAILED; try one group again at this time."""

    at: float


class RestartPolicy:
    """Deaths in, decisions out, for all groups of one model.

    Invariants: a group that answered since its start restarts at once; delays grow only over starts that
        answered nothing; more than `retry_threshold` deaths within the window without an answer in between
        fail the model, and so do as many starts in a row that answered nothing, however long they took;
        an answer says nothing of starts that failed after its group's; every decision names a time at which
        something is started again. Groups have rising numbers in the order of their starts.
    """

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._newest_failed = 0
        self._deaths: deque[float] = deque()
        self._barren_starts = 0
        self._failures = 0

    def answered(self, group: int) -> None:
        """A batch of this group succeeded: past deaths are forgiven, and failed starts before its own."""
        if self._deaths:
            self._deaths.clear()
        if group > self._newest_failed:
            self._barren_starts = self._failures = 0

    def died(self, now: float, group: int, *, has_answered: bool) -> RestartAt | FailUntil:
        """A group died; `has_answered` says whether it answered anything since its start."""
        if not has_answered:
            self._newest_failed = max(self._newest_failed, group)
        self._deaths.append(now)
        while self._deaths[0] <= now - self._limits.window:
            self._deaths.popleft()
        self._barren_starts += not has_answered
        if max(len(self._deaths), self._barren_starts) > self._limits.retry_threshold:
            return self.failed(now)
        if has_answered:
            return RestartAt(now)
        return RestartAt(now + self._delay(self._barren_starts, self._limits.first_delay))

    def load_failed(self, now: float, group: int) -> FailUntil:
        """A group reported that it cannot load."""
        self._newest_failed = max(self._newest_failed, group)
        return self.failed(now)

    def failed(self, now: float) -> FailUntil:
        """The model cannot work as it is (it did not load, or died too often): cool down."""
        self._failures += 1
        self._deaths.clear()
        self._barren_starts = 0
        return FailUntil(now + self._limits.cool_down * 2 ** min(self._failures - 1, 4))

    def _delay(self, count: int, first: float) -> float:
        return float(min(self._limits.longest_delay, first * 2 ** min(count - 1, 20)))
