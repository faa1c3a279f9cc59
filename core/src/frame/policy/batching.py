"""Which queued jobs go to a free slot, and when the next look is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, Literal, TypeVar

from frame.policy.ranking import SLACK, Ranking
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
        jobs: keys and jobs, the first in order first.
        arrived: when its oldest job came.
        cost: elements, padding included.
    """

    jobs: list[tuple[int, JobT]]
    why: WhyNow
    arrived: float
    cost: int


AGEING_SPAN = 20.0
"""Seconds. No request is overtaken by one that came more than twice this later; the first step of priority
(3 to 2) is worth 1.8 s of waiting."""
_USUAL_PRIORITY = 3  # DJL Serving's, of requests without x-priority


def lead(priority: int) -> float:
    """Return the seconds by which a priority moves a job's arrival for the order in which jobs leave.

    It grows strictly with `priority`, is 0 for the usual one, and stays within `AGEING_SPAN` either way. So
    the order of two jobs is known when they come and never changes, and yet nothing starves: what comes
    later has a later arrival to make up for.
    """
    steps = priority - _USUAL_PRIORITY
    return AGEING_SPAN * (steps / (10 + abs(steps)))


_Rank = tuple[float, int, int]
"""Where a job stands: its arrival moved by `lead`, the order of coming, its key."""


@dataclass(slots=True)
class _Queued(Generic[JobT]):
    job: JobT
    rank: _Rank
    arrived: float
    cost: int


class _Line(Generic[JobT]):
    """The jobs of one hint key.

    The rank of a job that leaves out of turn stays in the heap until it comes to the front, or until such
    ranks are most of it.
    """

    __slots__ = ("_jobs", "_largest", "_oldest", "_ranks", "cost", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.cost = 0
        """The sum over all jobs."""
        self._jobs: dict[int, _Queued[JobT]] = {}
        self._ranks: list[_Rank] = []
        self._oldest: float | None = None
        self._largest: int | None = None
        """Their earliest arrival and highest cost; None when not known."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[_Queued[JobT]]:
        return iter(self._jobs.values())

    def add(self, key: int, queued: _Queued[JobT]) -> None:
        """Queue a job."""
        if self._oldest is not None and queued.arrived < self._oldest:
            self._oldest = queued.arrived
        if self._largest is not None and queued.cost > self._largest:
            self._largest = queued.cost
        self._jobs[key] = queued
        self.cost += queued.cost
        heappush(self._ranks, queued.rank)

    def pop(self, key: int) -> _Queued[JobT]:
        """Take out a job that is here."""
        queued = self._jobs.pop(key)
        self.cost -= queued.cost
        if queued.arrived == self._oldest:
            self._oldest = None
        if queued.cost == self._largest:
            self._largest = None
        if len(self._ranks) > 2 * len(self._jobs) + SLACK:
            self._ranks = sorted(queued.rank for queued in self)
        return queued

    def front(self) -> tuple[_Rank, _Queued[JobT]]:
        """Return the job that leaves first, of a line with jobs, and where it stands."""
        while True:
            rank = self._ranks[0]
            queued = self._jobs.get(rank[2])
            if queued is not None and queued.rank is rank:  # it may have left and been put back since
                return rank, queued
            heappop(self._ranks)

    def oldest(self) -> float:
        """Return the earliest arrival of a line with jobs.

        It is asked of lines that are not full: if it must be searched, then in less than a batch.
        """
        if self._oldest is None:
            self._oldest = min(queued.arrived for queued in self)
        return self._oldest

    def is_full(self, limits: BatchLimits) -> bool:
        """Whether one more job, however small, would leave this line's first batch as it is."""
        count = len(self._jobs)
        if count >= limits.batch_size or limits.max_cost is None:
            return count >= limits.batch_size
        if self.cost >= limits.max_cost or not limits.is_padded:
            return self.cost >= limits.max_cost
        if self._largest is None:
            self._largest = max(queued.cost for queued in self)
        return self._largest * (count + 1) > limits.max_cost


class Batcher(Generic[JobT]):
    """Jobs waiting for one model: a line for each hint key, a batch from one line.

    A lower priority number goes first, first in first out within a priority, and waiting makes up for
    priority (`lead`). Every call costs O(log n) in the jobs and lines that wait, but for `set_limits` and
    `close`, which look at every line.

    Invariants:
      * a job leaves once: in one batch, or by `remove`;
      * a batch has one hint key, at most `batch_size` jobs and, if it has several, costs at most `max_cost`;
      * jobs of a line leave in order: by arrival moved by `lead`, then as they came, those put back in front;
      * of the batches that are due the one goes first whose first job is;
      * when jobs wait, either a batch is due now or `next_due` gives the time when the first one will be.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._is_closing = False
        self._came = 0
        self._put_back = 0
        self._line_of: dict[int, _Line[JobT]] = {}
        self._lines: dict[bytes, _Line[JobT]] = {}
        self._full: set[bytes] = set()
        self._ready: Ranking[bytes, _Rank] = Ranking()
        """Lines known to be due, by their first jobs."""
        self._waiting: Ranking[bytes, float] = Ranking()
        """The other lines, by the time when they will be due."""
        self._fronts: Ranking[bytes, _Rank] | None = None
        """All lines, by their first jobs; kept from the first `take_some` on, few models need it."""

    def __len__(self) -> int:
        return len(self._line_of)

    def __iter__(self) -> Iterator[JobT]:
        return (queued.job for line in self._lines.values() for queued in line)

    # --- jobs come and go -----------------------------------------------------------------------

    def add(self, key: int, job: JobT, now: float, *, priority: int = 3, hint: BatchHint = NO_HINT) -> None:
        """Queue a job that came at `now`, under a key that no queued job has."""
        self._came += 1
        self._queue(key, _Queued(job, (now + lead(priority), self._came, key), now, hint.cost), hint.key)

    def put_back(
        self, key: int, job: JobT, arrived: float, *, priority: int = 3, hint: BatchHint = NO_HINT
    ) -> None:
        """Queue a job that was taken before, with its first arrival time: in front of its equals."""
        self._put_back -= 1
        rank = (arrived + lead(priority), self._put_back, key)
        self._queue(key, _Queued(job, rank, arrived, hint.cost), hint.key)

    def _queue(self, key: int, queued: _Queued[JobT], name: bytes) -> None:
        assert key not in self._line_of
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name)
        self._line_of[key] = line
        line.add(key, queued)
        self._place(line)

    def remove(self, key: int) -> JobT | None:
        """Take a job out of the queue; None when it is not in it."""
        line = self._line_of.pop(key, None)
        if line is None:
            return None
        queued = line.pop(key)
        self._place(line)
        return queued.job

    def close(self) -> None:
        """Say that no more jobs will come: nothing waits for company any more."""
        self._is_closing = True
        self._place_all()

    def set_limits(self, limits: BatchLimits) -> None:
        """Use other limits from now on, for the jobs that wait as well."""
        self.limits = limits
        self._place_all()

    # --- batches leave --------------------------------------------------------------------------

    def has_full(self) -> bool:
        """Tell whether a batch waits that cannot grow any more."""
        return bool(self._full)

    def next_due(self, now: float) -> float | None:
        """When the next batch is due if a slot is free: `now` when one is, None when nothing waits."""
        if self._first_ready(now) is not None:
            return now
        waiting = self._waiting.first()
        return None if waiting is None else waiting[0]

    def take(self, now: float, *, only_full: bool = False) -> Taken[JobT] | None:
        """Return the first of the batches that are due, or nothing.

        Args:
            only_full: nothing if that one could still grow. A full one behind it would make it wait, and the
                next full one again.
        """
        line = self._first_ready(now)
        if line is None:
            return None
        is_full = line.name in self._full
        if only_full and not is_full:
            return None
        batch, cost = self._fill(line)
        return _taken(batch, self._why(is_full=is_full), cost)

    def take_some(self, now: float, at_most: int) -> Taken[JobT] | None:  # noqa: ARG002 - `now` as in `take`
        """Return up to `at_most` jobs without delay, whatever their hints: they join a `SequenceModel`."""
        if self._fronts is None:
            self._fronts = Ranking()
            self._place_all()
        batch: list[_Queued[JobT]] = []
        while len(batch) < at_most and (first := self._fronts.first()) is not None:
            line = self._lines[first[1]]
            batch.append(self._pop_front(line))
            self._place(line)
        return _taken(batch, "joins", sum(queued.cost for queued in batch)) if batch else None

    def _fill(self, line: _Line[JobT]) -> tuple[list[_Queued[JobT]], int]:
        """Take a line's first batch out of it; return it and what it costs."""
        limits = self.limits
        batch: list[_Queued[JobT]] = []
        cost = largest = 0
        while len(line) and len(batch) < limits.batch_size:
            size = line.front()[1].cost
            largest = max(largest, size)
            grown = largest * (len(batch) + 1) if limits.is_padded else cost + size
            if batch and limits.max_cost is not None and grown > limits.max_cost:
                break  # a smaller one behind it must not overtake it: it could do so for ever
            cost = grown
            batch.append(self._pop_front(line))
        self._place(line)
        return batch, cost

    def _pop_front(self, line: _Line[JobT]) -> _Queued[JobT]:
        """Take a line's first job out; the caller places the line anew."""
        key = line.front()[0][2]
        del self._line_of[key]
        return line.pop(key)

    def _why(self, *, is_full: bool) -> WhyNow:
        """Return why a batch that is due is."""
        if is_full:
            return "full"
        if self._is_closing:
            return "closing"
        return "no delay" if self.limits.max_delay <= 0 else "delay over"

    # --- which line is due ----------------------------------------------------------------------

    def _first_ready(self, now: float) -> _Line[JobT] | None:
        """Return the line with the first of the batches that are due."""
        while (waiting := self._waiting.first()) is not None and waiting[0] <= now:
            name = waiting[1]
            self._waiting.drop(name)
            self._ready.put(name, self._lines[name].front()[0])
        ready = self._ready.first()
        return None if ready is None else self._lines[ready[1]]

    def _place(self, line: _Line[JobT]) -> None:
        """Put a line where it belongs after its jobs or the limits have changed; forget it when empty.

        One whose delay is over goes through `_waiting` again: its oldest job may be another one.
        """
        name = line.name
        if not len(line):
            self._forget(name)
            return
        rank, _ = line.front()
        if self._fronts is not None:
            self._fronts.put(name, rank)
        is_full = line.is_full(self.limits)
        if is_full:
            self._full.add(name)
        else:
            self._full.discard(name)
        if is_full or self._is_closing or self.limits.max_delay <= 0:
            self._ready.put(name, rank)
            self._waiting.drop(name)
        else:
            self._waiting.put(name, line.oldest() + self.limits.max_delay)
            self._ready.drop(name)

    def _place_all(self) -> None:
        for line in self._lines.values():
            self._place(line)

    def _forget(self, name: bytes) -> None:
        del self._lines[name]
        self._full.discard(name)
        if self._fronts is not None:
            self._fronts.drop(name)
        self._ready.drop(name)
        self._waiting.drop(name)


def _taken(batch: list[_Queued[JobT]], why: WhyNow, cost: int) -> Taken[JobT]:
    """Return a batch as the caller sees it."""
    jobs = [(queued.rank[2], queued.job) for queued in batch]
    return Taken(jobs=jobs, why=why, arrived=min(queued.arrived for queued in batch), cost=cost)
