"""All policies of one model: what is sent where, what is learned from it, how many workers it needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from frame.policy.adaptive import AdaptiveBatching, AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.dispatch import Dispatcher, Order, Runner
from frame.policy.records import BatchRecord, ChoiceRecord, DeathRecord, Journal, ScaleRecord
from frame.policy.scaling import ModelLoad, ScaleTo, ScalingLimits, ScalingPolicy
from frame.policy.service_times import ServiceTimes
from frame.wire.hints import NO_HINT, BatchHint

JobT = TypeVar("JobT")
RunnerT = TypeVar("RunnerT", bound=Runner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Generic[RunnerT, JobT]):
    """An order, and the record of it that `Conductor.batch_ended` completes."""

    order: Order[RunnerT, JobT]
    record: BatchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What a model has of workers, for the decision how many it should have.

    Attributes:
        up, starting: workers (slots).
        missing: workers that places with fewer than their minimum lack.
        ahead: requests that wait in workers, behind the batch that runs.
        start_seconds: until one worker more is up, as measured; 0 for a thread more; None when not known.
        spare_workers: how many above the floor the CPU budget allows; None for no limit.
    """

    up: int
    starting: int
    missing: int = 0
    ahead: int = 0
    start_seconds: float | None = None
    spare_workers: int | None = None


class Conductor(Generic[RunnerT, JobT]):
    """Drives the policies of one model version; the pool and the simulator do what it says.

    Invariant: what it decides depends on its calls and on the times in them alone.
    """

    def __init__(
        self, batching: BatchLimits, scaling: ScalingLimits, adaptive: AdaptiveLimits | None = None
    ) -> None:
        self.journal = Journal()
        self.times = ServiceTimes()
        self.scaling = scaling
        self._waiting: Dispatcher[RunnerT, JobT] = Dispatcher(batching)
        self._adaptive = None if adaptive is None else AdaptiveBatching(adaptive, batching, self.times)
        self._scaler = ScalingPolicy(scaling)

    def change(self, batching: BatchLimits, scaling: ScalingLimits) -> None:
        """Use other limits from the next decision on; adaptive batches keep their own."""
        self.scaling = scaling
        self._scaler.set_limits(scaling)
        if self._adaptive is None:
            self._waiting.set_limits(batching)

    @property
    def waiting(self) -> Dispatcher[RunnerT, JobT]:
        """The jobs that no worker has."""
        return self._waiting

    # --- requests -------------------------------------------------------------------------------

    def add(self, key: int, job: JobT, now: float, *, priority: int = 3, hint: BatchHint = NO_HINT) -> None:
        """Queue a request that came just now."""
        self.times.arrived(now)
        self._waiting.add(key, job, now, priority=priority, hint=hint)

    # --- batches --------------------------------------------------------------------------------

    def next_order(self, now: float, runners: Collection[RunnerT]) -> Sent[RunnerT, JobT] | None:
        """Return what to send now; ask again, with that sent, until there is nothing."""
        order = self._waiting.next_order(now, runners)
        if order is None:
            return None
        busy, workers = _count(runners)
        busy += not order.is_ahead
        limits = self._waiting.limits
        record = BatchRecord(
            at=now,
            size=len(order.jobs),
            cost=order.cost,
            why=order.why,
            waited=now - order.arrived,
            left=len(self._waiting),
            batch_size=limits.batch_size,
            max_delay=limits.max_delay,
            busy=busy,
            workers=workers,
            is_ahead=order.is_ahead,
        )
        self.journal.batches.append(record)
        self._scaler.saw(busy, now)
        return Sent(order=order, record=record)

    def batch_ended(
        self, record: BatchRecord, seconds: float, compute: float, now: float, runners: Collection[RunnerT]
    ) -> None:
        """Learn from a batch that was answered, `seconds` after a slot had it; call it with the slot free."""
        record.seconds, record.compute = seconds, compute
        self.times.observe(record.size, seconds, now)
        busy, workers = _count(runners)
        self._scaler.saw(busy, now)
        if self._adaptive is None:
            return
        chosen = self._adaptive.decide(now, workers=workers)
        if chosen is not None:
            self._waiting.set_limits(chosen)
            self.journal.choices.append(
                ChoiceRecord(
                    at=now,
                    batch_size=chosen.batch_size,
                    max_delay=chosen.max_delay,
                    reason=self._adaptive.reason,
                )
            )

    # --- workers --------------------------------------------------------------------------------

    def wanted_workers(self, now: float, supply: Supply, runners: Collection[RunnerT]) -> ScaleTo | None:
        """Return how many workers there should be, None when it is right as it is."""
        busy, _ = _count(runners)
        load = ModelLoad(
            queued=len(self._waiting) + supply.ahead,
            batch_size=self._waiting.limits.batch_size,
            workers=supply.up,
            starting=supply.starting,
            busy=busy,
            batch_seconds=self.times.mean(self._waiting.limits.batch_size),
            start_seconds=supply.start_seconds,
            spare_threads=supply.spare_workers,
        )
        decision = self._scaler.decide(load, now)
        if (held := self._scaler.held_back) is not None:
            self.journal.held_back = ScaleRecord(
                at=now, before=held.workers, target=held.workers, reason=held.reason
            )
        if decision is None and supply.missing:  # there are enough workers, but elsewhere
            target = supply.up + supply.starting + supply.missing
            return ScaleTo(target, f"{supply.missing} are missing on devices with a floor")
        return decision

    def next_look(self, now: float) -> float | None:
        """When fewer workers may be wanted if nothing happens before."""
        return self._scaler.next_look(now)

    def scaled(self, now: float, before: int, decision: ScaleTo) -> None:
        """Record that a decision was followed."""
        self.journal.scalings.append(
            ScaleRecord(at=now, before=before, target=decision.workers, reason=decision.reason)
        )

    def group_died(self, now: float, kind: str, cause: str, jobs: int) -> None:
        """Record that a group ended without being asked."""
        self.journal.deaths.append(DeathRecord(at=now, kind=kind, cause=cause, jobs=jobs))


def _count(runners: Collection[Runner]) -> tuple[int, int]:
    """Return how many workers run a batch, and how many there are."""
    up = [runner for runner in runners if runner.slots]
    return sum(min(runner.sent, runner.slots) for runner in up), sum(runner.slots for runner in up)
