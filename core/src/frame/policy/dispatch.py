"""Which group gets which jobs, and when: the batcher, the suspects, and the slots that are free."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from frame.policy.batching import Batcher, BatchLimits, WhyNow
from frame.wire.hints import NO_HINT, BatchHint

JobT = TypeVar("JobT")


class Runner(Protocol):
    """A worker group as the dispatcher sees it.

    Attributes:
        takes_work: it is up and may be sent batches.
        slots: batches that it runs at once.
        capacity: jobs that its `SequenceModel` runs at once; 0 for other models.
        sent: batches that it has, the one that waits behind the running one included.
        runs_suspect: it runs a job that may have ended another group.
    """

    @property
    def takes_work(self) -> bool: ...  # noqa: D102
    @property
    def slots(self) -> int: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    @property
    def sent(self) -> int: ...  # noqa: D102
    @property
    def runs_suspect(self) -> bool: ...  # noqa: D102


RunnerT = TypeVar("RunnerT", bound=Runner)
WhySent = WhyNow | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Generic[RunnerT, JobT]):
    """Send these jobs to that group as one batch.

    Attributes:
        is_ahead: the batch waits in the worker for the one that runs.
        is_suspect: its only job was in a group that died.
        why: why now: one of `WhyNow`, or `alone` for a suspect.
        arrived: when its oldest job came.
        cost: elements, padding included.
    """

    runner: RunnerT
    jobs: list[JobT]
    is_ahead: bool = False
    is_suspect: bool = False
    why: str
    arrived: float
    cost: int


class Dispatcher(Generic[RunnerT, JobT]):
    """The jobs of one model that no worker has, and the decision where each goes.

    Invariants:
      * a job leaves once: in one order, or by `remove`;
      * a suspect runs alone in a group that runs nothing else, one suspect at a time;
      * when jobs wait and a slot is free, `next_order` gives an order or `wake_at` a time.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._batcher: Batcher[JobT] = Batcher(limits)
        self._suspects: deque[tuple[int, JobT, float]] = deque()

    @property
    def limits(self) -> BatchLimits:
        """How large a batch gets and how long it waits."""
        return self._batcher.limits

    def __len__(self) -> int:
        return len(self._batcher) + len(self._suspects)

    def __iter__(self) -> Iterator[JobT]:
        yield from self._batcher
        yield from (job for _, job, _ in self._suspects)

    def set_limits(self, limits: BatchLimits) -> None:
        """Use other limits from now on."""
        self._batcher.set_limits(limits)

    # --- jobs come and go -----------------------------------------------------------------------

    def add(self, key: int, job: JobT, now: float, *, priority: int = 3, hint: BatchHint = NO_HINT) -> None:
        """Queue a job that came just now, under a key that no waiting job has."""
        self._batcher.add(key, job, now, priority=priority, hint=hint)

    def put_back(
        self, key: int, job: JobT, arrived: float, *, priority: int = 3, hint: BatchHint = NO_HINT
    ) -> None:
        """Queue a job of an ended group, that is not to blame, in front."""
        self._batcher.put_back(key, job, arrived, priority=priority, hint=hint)

    def suspect(self, key: int, job: JobT, arrived: float) -> None:
        """Queue a job that was in a group when it died: it runs alone."""
        self._suspects.append((key, job, arrived))

    def remove(self, key: int) -> bool:
        """Forget a job; tell whether it waited here."""
        if self._batcher.remove(key) is not None:
            return True
        for entry in self._suspects:
            if entry[0] == key:
                self._suspects.remove(entry)
                return True
        return False

    def close(self) -> None:
        """Say that no more jobs will come: nothing waits for company any more."""
        self._batcher.close()

    # --- decisions ------------------------------------------------------------------------------

    def next_order(self, now: float, runners: Collection[RunnerT]) -> Order[RunnerT, JobT] | None:
        """Return what to send now; ask again, with that sent, until there is nothing."""
        reserved = self._reserved(runners)
        if reserved is not None and self._suspects and not reserved.sent:
            _, job, arrived = self._suspects.popleft()
            return Order(runner=reserved, jobs=[job], is_suspect=True, why="alone", arrived=arrived, cost=1)
        runner = _freest(runners, reserved)
        if runner is None:
            return self._order_ahead(now, runners, reserved)
        taken = self._batcher.take_some(now, 1) if runner.capacity else self._batcher.take(now)
        if taken is None:
            return None
        jobs = [job for _, job in taken.jobs]
        return Order(runner=runner, jobs=jobs, why=taken.why, arrived=taken.arrived, cost=taken.cost)

    def wake_at(self, now: float, runners: Collection[RunnerT]) -> float | None:
        """When to ask again if nothing happens before: None when only an event can make a difference."""
        if _freest(runners, self._reserved(runners)) is None:
            return None
        return self._batcher.next_due(now)

    def waits_for_jobs(self, runners: Collection[RunnerT]) -> bool:
        """Whether a new job alone could lead to an order: a slot is free, or the next batch may go ahead."""
        reserved = self._reserved(runners)
        return _freest(runners, reserved) is not None or _ahead(runners, reserved) is not None

    def _reserved(self, runners: Collection[RunnerT]) -> RunnerT | None:
        """Return the group that runs a suspect, or that is kept free for the next one."""
        for runner in runners:
            if runner.runs_suspect:
                return runner
        if not self._suspects:
            return None
        ready = [runner for runner in runners if runner.takes_work]
        return min(ready, key=lambda item: item.sent, default=None)

    def _order_ahead(
        self, now: float, runners: Collection[RunnerT], reserved: RunnerT | None
    ) -> Order[RunnerT, JobT] | None:
        """Send the next full batch to the only worker before it is done.

        It saves the worker the wait for the router after each batch. With several workers it would bind
        requests to one that may take long while another becomes free, so it is not done then.
        """
        only = _ahead(runners, reserved)
        taken = self._batcher.take(now, only_full=True) if only is not None else None
        if only is None or taken is None:
            return None
        jobs = [job for _, job in taken.jobs]
        return Order(
            runner=only, jobs=jobs, is_ahead=True, why=taken.why, arrived=taken.arrived, cost=taken.cost
        )


def _free(runner: Runner) -> int:
    return (runner.capacity or runner.slots) - runner.sent if runner.takes_work else 0


def _freest(runners: Collection[RunnerT], reserved: RunnerT | None) -> RunnerT | None:
    """Return the group with the most free slots, None when there is none."""
    best: RunnerT | None = None
    most = 0
    for runner in runners:
        if runner is not reserved and (free := _free(runner)) > most:
            best, most = runner, free
    return best


def _ahead(runners: Collection[RunnerT], reserved: RunnerT | None) -> RunnerT | None:
    """Return the only worker when a batch may wait in it behind the one that runs."""
    if len(runners) != 1:
        return None
    only = next(iter(runners))
    if only is reserved or not only.takes_work or only.capacity or only.slots != 1:
        return None
    return only if only.sent < 2 * only.slots else None
