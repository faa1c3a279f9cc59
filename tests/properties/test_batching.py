"""The batcher: jobs leave once, in order, when they are due and never too late."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from frame.policy.batching import Batcher, BatchLimits, Taken
from frame.testing import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PRIORITIES = (1, 3, 3, 7)


def jobs_of(taken: Taken[str] | None) -> list[tuple[int, str]]:
    return [] if taken is None else taken.jobs


class Waiting(NamedTuple):
    """What the model of the batcher knows of a queued job."""

    key: int
    arrived: float
    priority: int


class Batching(RuleBasedStateMachine):
    """A batcher beside plain lists, one for each priority."""

    @initialize(batch_size=st.integers(1, 5), max_delay=st.sampled_from([0.0, 0.5, 2.0]))
    def begin(self, batch_size: int, max_delay: float) -> None:
        self.clock = FakeClock(100.0)
        self.batcher: Batcher[str] = Batcher(BatchLimits(batch_size=batch_size, max_delay=max_delay))
        self.lanes: dict[int, list[Waiting]] = {priority: [] for priority in PRIORITIES}
        self.last: list[Waiting] = []
        self.left: set[int] = set()
        self.removed: list[float] = []
        self.next_key = 1
        self.is_closing = False

    def waiting(self) -> list[Waiting]:
        """Jobs in the order in which they must leave."""
        return [job for _, lane in sorted(self.lanes.items()) for job in lane]

    def true_due(self) -> float:
        """When the next batch must be due at the latest; without removed jobs, just then."""
        limits = self.batcher.limits
        if not self.waiting():
            return math.inf
        if len(self.waiting()) >= limits.batch_size or self.is_closing or limits.max_delay <= 0:
            return self.clock.now
        return min(lane[0].arrived for lane in self.lanes.values() if lane) + limits.max_delay

    def leave(self, batch: list[tuple[int, str]], limit: int) -> None:
        """Check a batch that was taken, and follow it."""
        expected = self.waiting()[:limit]
        assert batch == [(job.key, f"job {job.key}") for job in expected]
        assert not {job.key for job in expected} & self.left
        self.left |= {job.key for job in expected}
        for job in expected:
            self.lanes[job.priority].remove(job)
        self.last = expected

    # --- what happens -------------------------------------------------------------------------

    @rule(priority=st.sampled_from(PRIORITIES))
    def add(self, priority: int) -> None:
        key, self.next_key = self.next_key, self.next_key + 1
        self.batcher.add(key, f"job {key}", self.clock.now, priority=priority)
        self.lanes[priority].append(Waiting(key, self.clock.now, priority))

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def take(self) -> None:
        due = self.batcher.next_due(self.clock.now)
        batch = jobs_of(self.batcher.take(self.clock.now))
        assert bool(batch) == (due is not None and due <= self.clock.now)
        self.leave(batch, self.batcher.limits.batch_size if batch else 0)

    @rule(at_most=st.integers(0, 3))
    def take_for_a_sequence(self, at_most: int) -> None:
        self.leave(jobs_of(self.batcher.take_some(self.clock.now, at_most)), at_most)

    @precondition(lambda self: self.last)
    @rule()
    def put_back_what_was_taken_last(self) -> None:
        for job in reversed(self.last):
            self.batcher.put_back(job.key, f"job {job.key}", job.arrived, priority=job.priority)
            self.lanes[job.priority].insert(0, job)
            self.left.remove(job.key)
        self.last = []

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.waiting()))
        assert self.batcher.remove(job.key) == f"job {job.key}"
        assert self.batcher.remove(job.key) is None
        self.lanes[job.priority].remove(job)
        self.left.add(job.key)
        self.removed.append(job.arrived)

    @precondition(lambda self: self.left)
    @rule()
    def remove_one_that_has_left(self) -> None:
        assert self.batcher.remove(min(self.left)) is None

    @rule()
    def close(self) -> None:
        self.batcher.close()
        self.is_closing = True

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def the_batcher_holds_just_the_waiting_jobs(self) -> None:
        assert len(self.batcher) == len(self.waiting())
        assert sorted(self.batcher) == sorted(f"job {job.key}" for job in self.waiting())

    @invariant()
    def whatever_waits_has_a_wake_up_neither_late_nor_early(self) -> None:
        due = self.batcher.next_due(self.clock.now)
        assert (due is None) == (not self.waiting())
        if due is not None:
            left_early = [arrived + self.batcher.limits.max_delay for arrived in self.removed]
            assert min([self.true_due(), *left_early]) <= due <= self.true_due()

    def teardown(self) -> None:
        """Liveness: at each wake-up there is a batch, and following them empties the queue."""
        while (due := self.batcher.next_due(self.clock.now)) is not None:
            self.clock.advance(max(0.0, due - self.clock.now))
            before = len(self.batcher)
            self.take()
            assert len(self.batcher) < before


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def batcher(*keys: int, batch_size: int = 3, max_delay: float = 1.0) -> Batcher[str]:
    made: Batcher[str] = Batcher(BatchLimits(batch_size=batch_size, max_delay=max_delay))
    for key in keys:
        made.add(key, str(key), now=float(key))
    return made


def test_a_batch_waits_for_company_until_its_oldest_job_has_waited_long_enough():
    queue = batcher(1, 2)
    assert queue.next_due(2.0) == 2.0  # job 1 came at 1.0
    assert jobs_of(queue.take(1.99)) == []
    assert jobs_of(queue.take(2.0)) == [(1, "1"), (2, "2")]


def test_a_full_batch_does_not_wait():
    assert jobs_of(batcher(1, 2, 3, 4).take(4.0)) == [(1, "1"), (2, "2"), (3, "3")]


def test_a_removed_job_neither_fills_a_batch_nor_leaves_with_one():
    queue = batcher(1, 2, 3)
    assert queue.remove(2) == "2"
    assert queue.next_due(3.0) == 2.0
    assert jobs_of(queue.take(1.5)) == []
    assert jobs_of(queue.take(3.0)) == [(1, "1"), (3, "3")]


def test_removing_the_oldest_job_gives_the_next_one_its_own_wait():
    queue = batcher(1, 3)
    queue.remove(1)
    assert queue.next_due(3.0) == 4.0
    assert jobs_of(queue.take(3.5)) == []


def test_a_key_is_queued_once():
    queue = batcher(1)
    with pytest.raises(AssertionError):
        queue.add(1, "again", 2.0)
    with pytest.raises(AssertionError):
        queue.put_back(1, "again", 1.0)
