"""Which queued jobs go to a free slot, and when the next look is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from frame.wire.hints import NO_HINT, BatchHint

JobT = TypeVar("JobT")
WhyNow = Literal["full", "delay over", "no delay", "closing", "joins"]
"""Why a batch leaves: it cannot grow, its oldest job has waited long enough, nothing is waited for, no more
jobs will come, or it joins a running `SequenceModel`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How large a batch may get and how long it may wait.

    Attributes:
        batch_size: most jobs in one batch, >= 1.
        max_delay: seconds that the oldest job may wait for others, from its arrival. 0 with `batch_size` 1:
            nothing to wait for.
        max_cost: most elements in one batch, the first job excepted; None for no such limit.
        is_padded: jobs are padded to the largest: a batch costs its largest job times its jobs, not the sum.
    """

    batch_size: int
    max_delay: float
    max_cost: int | None = None
    is_padded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Generic[JobT]):
    """A batch that leaves the queue.

    Attributes:
        jobs: keys and jobs, the one that has waited longest first.
        arrived: when its oldest job came.
        cost: elements, padding included.
    """

    jobs: list[tuple[int, JobT]]
    why: WhyNow
    arrived: float
    cost: int


@dataclass(slots=True)
class _Queued(Generic[JobT]):
    key: int
    job: JobT
    arrived: float
    is_dropped: bool = False


class Batcher(Generic[JobT]):
    """Jobs waiting for one model, first in first out within a priority (a lower number goes first).

    Invariants:
      * a job leaves once: in one batch, or by `remove`;
      * within one priority jobs leave in the order in which they came, but for those put back at the front;
      * when jobs wait and a slot is free, either a batch is due now or `next_due` gives the time of the next
        look.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._lanes: dict[int, deque[_Queued[JobT]]] = {}
        self._entries: dict[int, _Queued[JobT]] = {}
        self._is_closing = False

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[JobT]:
        return (entry.job for entry in self._entries.values())

    def add(self, key: int, job: JobT, now: float, *, priority: int = 3, hint: BatchHint = NO_HINT) -> None:
        """Queue a job under a key that no queued job has."""
        assert key not in self._entries
        entry = _Queued(key, job, now)
        self._entries[key] = entry
        self._lane(priority).append(entry)

    def put_back(
        self, key: int, job: JobT, arrived: float, *, priority: int = 3, hint: BatchHint = NO_HINT
    ) -> None:
        """Queue a job that was taken before in front of all of its priority, with its first arrival time."""
        assert key not in self._entries
        entry = _Queued(key, job, arrived)
        self._entries[key] = entry
        self._lane(priority).appendleft(entry)

    def remove(self, key: int) -> JobT | None:
        """Take a job out of the queue; None when it is not in it."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        entry.is_dropped = True
        return entry.job

    def close(self) -> None:
        """Say that no more jobs will come: nothing waits for company any more."""
        self._is_closing = True

    def next_due(self, now: float) -> float | None:
        """When the next batch is due if a slot is free: at or before `now` for at once, None when empty."""
        if self._first_lane() is None:
            return None
        is_full = len(self._entries) >= self.limits.batch_size
        if is_full or self._is_closing or self.limits.max_delay <= 0:
            return now
        return self._oldest_arrival() + self.limits.max_delay

    def set_limits(self, limits: BatchLimits) -> None:
        """Use other limits from now on, for the jobs that wait as well."""
        self.limits = limits

    def has_full(self) -> bool:
        """Tell whether a batch waits that cannot grow any more."""
        return len(self._entries) >= self.limits.batch_size

    def take(self, now: float, *, only_full: bool = False) -> Taken[JobT] | None:
        """Return the batch that is due now, or nothing.

        Args:
            only_full: return none that could still grow.
        """
        due = self.next_due(now)
        if due is None or due > now or (only_full and not self.has_full()):
            return None
        why: WhyNow = "no delay" if self.limits.max_delay <= 0 else "delay over"
        if self.has_full():
            why = "full"
        elif self._is_closing:
            why = "closing"
        arrived = self._oldest_arrival()
        jobs = self._fill(self.limits.batch_size)
        return Taken(jobs=jobs, why=why, arrived=arrived, cost=len(jobs))

    def take_some(self, now: float, at_most: int) -> Taken[JobT] | None:
        """Return up to `at_most` jobs without delay, whatever their hints: they join a `SequenceModel`."""
        if self._first_lane() is None or at_most < 1:
            return None
        arrived = self._oldest_arrival()
        jobs = self._fill(at_most)
        return Taken(jobs=jobs, why="joins", arrived=min(arrived, now), cost=len(jobs))

    def _fill(self, limit: int) -> list[tuple[int, JobT]]:
        batch: list[tuple[int, JobT]] = []
        while len(batch) < limit and (lane := self._first_lane()) is not None:
            entry = lane.popleft()
            del self._entries[entry.key]
            batch.append((entry.key, entry.job))
        return batch

    def _oldest_arrival(self) -> float:
        """Return the earliest arrival in any lane; a removed job at a lane's front only makes it earlier."""
        return min(lane[0].arrived for lane in self._lanes.values() if lane)

    def _lane(self, priority: int) -> deque[_Queued[JobT]]:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = deque()
        return lane

    def _first_lane(self) -> deque[_Queued[JobT]] | None:
        """Return the lane of the lowest priority number that has a job.

        Forget removed jobs and empty lanes.
        """
        for priority in sorted(self._lanes):
            lane = self._lanes[priority]
            while lane and lane[0].is_dropped:
                lane.popleft()
            if lane:
                return lane
            del self._lanes[priority]
        return None
