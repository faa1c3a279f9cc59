"""The batcher: jobs leave once, in order, with their like, when they are due and never too late."""

from __future__ import annotations

import math
from dataclasses import dataclass

from frame.policy.batching import AGEING_SPAN, Batcher, BatchLimits, Taken, lead
from frame.testing import FakeClock
from frame.wire.hints import BatchHint
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PRIORITIES = (3, 3, 1, 7)
NAMES = st.sampled_from([b"a", b"a", b"b", b"c"])
LIMITS = st.builds(
    BatchLimits,
    batch_size=st.sampled_from([4, 1, 2, 9]),
    max_delay=st.sampled_from([2.0, 0.5, 0.0]),
    max_cost=st.sampled_from([None, None, 4, 10]),
    is_padded=st.booleans(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the model of the batcher knows of a queued job."""

    key: int
    arrived: float
    priority: int
    sequence: int
    hint: BatchHint

    @property
    def rank(self) -> tuple[float, int]:
        return self.arrived + lead(self.priority), self.sequence


def cost_of(batch: list[Waiting], limits: BatchLimits) -> int:
    costs = [job.hint.cost for job in batch]
    return max(costs) * len(costs) if limits.is_padded else sum(costs)


def batch_of(line: list[Waiting], limits: BatchLimits) -> list[Waiting]:
    """Return the longest beginning of a line that is within the limits; a single job always is."""
    count = 1
    while count < min(len(line), limits.batch_size):
        if limits.max_cost is not None and cost_of(line[: count + 1], limits) > limits.max_cost:
            break
        count += 1
    return line[:count]


def is_full(line: list[Waiting], limits: BatchLimits) -> bool:
    """Whether the smallest job, come last, would not be in the line's first batch."""
    smallest = Waiting(key=0, arrived=math.inf, priority=3, sequence=0, hint=BatchHint(b"", 1))
    return smallest not in batch_of([*line, smallest], limits)


class Batching(RuleBasedStateMachine):
    """A batcher beside a plain list that is sorted and searched each time."""

    @initialize(limits=LIMITS)
    def begin(self, limits: BatchLimits) -> None:
        self.clock = FakeClock(100.0)
        self.limits = limits
        self.batcher: Batcher[str] = Batcher(limits)
        self.jobs: list[Waiting] = []
        self.last: list[Waiting] = []
        self.left: set[int] = set()
        self.came = 0
        self.returned = 0
        self.is_closing = False

    # --- what must be ---------------------------------------------------------------------------

    def lines(self) -> list[list[Waiting]]:
        """Jobs by hint key, each line in the order of leaving, the line that has the first job first."""
        ordered = sorted(self.jobs, key=lambda job: job.rank)
        names = dict.fromkeys(job.hint.key for job in ordered)
        return [[job for job in ordered if job.hint.key == name] for name in names]

    def due(self, line: list[Waiting]) -> float:
        if is_full(line, self.limits) or self.is_closing or self.limits.max_delay <= 0:
            return -math.inf
        return min(job.arrived for job in line) + self.limits.max_delay

    def first_due(self) -> list[Waiting] | None:
        return next((line for line in self.lines() if self.due(line) <= self.clock.now), None)

    def why(self, line: list[Waiting]) -> str:
        if is_full(line, self.limits):
            return "full"
        if self.is_closing:
            return "closing"
        return "no delay" if self.limits.max_delay <= 0 else "delay over"

    def leave(self, taken: Taken[str] | None, expected: list[Waiting]) -> None:
        """Check a batch that was taken, and follow it."""
        assert (taken is None) == (not expected)
        if taken is None:
            return
        assert taken.jobs == [(job.key, f"job {job.key}") for job in expected]
        assert taken.arrived == min(job.arrived for job in expected)
        assert not {job.key for job in expected} & self.left
        self.left |= {job.key for job in expected}
        for job in expected:
            self.jobs.remove(job)
        self.last = expected

    def check_batch(self, taken: Taken[str] | None, expected: list[Waiting]) -> None:
        """Check what a batch of one line promises beyond its order."""
        if taken is None:
            return
        assert len({job.hint.key for job in expected}) == 1
        assert taken.cost == cost_of(expected, self.limits)
        oldest = min(job.arrived for job in expected)
        for line in self.lines():
            if self.due(line) <= self.clock.now:
                newest_that_may_pass = min(job.arrived for job in line) + 2 * AGEING_SPAN
                assert oldest <= newest_that_may_pass, "a job starves"

    # --- what happens ---------------------------------------------------------------------------

    @rule(
        priority=st.sampled_from(PRIORITIES),
        hint=st.builds(BatchHint, NAMES, st.integers(1, 6)),
        on_the_way=st.sampled_from([0.0, 0.0, 0.3]),
        count=st.sampled_from([1, 1, 3]),
    )
    def add(self, priority: int, hint: BatchHint, on_the_way: float, count: int) -> None:
        for _ in range(count):
            self.add_one(priority, hint, on_the_way)

    def add_one(self, priority: int, hint: BatchHint, on_the_way: float) -> None:
        self.came += 1
        key, arrived = self.came, self.clock.now - on_the_way
        self.batcher.add(key, f"job {key}", arrived, priority=priority, hint=hint)
        self.jobs.append(Waiting(key=key, arrived=arrived, priority=priority, sequence=key, hint=hint))

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 45.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(only_full=st.booleans())
    def take(self, only_full: bool) -> None:
        line = self.first_due()
        if line is None or (only_full and not is_full(line, self.limits)):
            assert self.batcher.take(self.clock.now, only_full=only_full) is None
            return
        why, expected = self.why(line), batch_of(line, self.limits)
        taken = self.batcher.take(self.clock.now, only_full=only_full)
        assert taken is not None
        assert taken.why == why
        self.check_batch(taken, expected)
        self.leave(taken, expected)

    @rule(at_most=st.integers(0, 3))
    def take_for_a_sequence(self, at_most: int) -> None:
        expected = sorted(self.jobs, key=lambda job: job.rank)[:at_most]
        taken = self.batcher.take_some(self.clock.now, at_most)
        assert taken is None or taken.why == "joins"
        assert taken is None or taken.cost == sum(job.hint.cost for job in expected)
        self.leave(taken, expected)

    @precondition(lambda self: self.last)
    @rule()
    def put_back_what_was_taken_last(self) -> None:
        for job in reversed(self.last):
            self.returned -= 1
            self.batcher.put_back(
                job.key, f"job {job.key}", job.arrived, priority=job.priority, hint=job.hint
            )
            self.left.remove(job.key)
            self.jobs.append(
                Waiting(
                    key=job.key,
                    arrived=job.arrived,
                    priority=job.priority,
                    sequence=self.returned,
                    hint=job.hint,
                )
            )
        self.last = []

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def remove_any(self, data: st.DataObject) -> None:
        self.remove(data.draw(st.sampled_from(self.jobs)))

    @precondition(lambda self: self.jobs)
    @rule()
    def remove_the_oldest(self) -> None:
        self.remove(min(self.jobs, key=lambda job: job.arrived))

    def remove(self, job: Waiting) -> None:
        assert self.batcher.remove(job.key) == f"job {job.key}"
        assert self.batcher.remove(job.key) is None
        self.jobs.remove(job)
        self.left.add(job.key)

    @precondition(lambda self: self.left)
    @rule()
    def remove_one_that_has_left(self) -> None:
        assert self.batcher.remove(min(self.left)) is None

    @precondition(lambda self: self.left)
    @rule(priority=st.sampled_from(PRIORITIES), name=NAMES)
    def use_a_key_again(self, priority: int, name: bytes) -> None:
        key = max(self.left)
        self.left.remove(key)
        self.last = [job for job in self.last if job.key != key]
        self.came += 1
        hint = BatchHint(name)
        self.batcher.add(key, f"job {key}", self.clock.now, priority=priority, hint=hint)
        self.jobs.append(
            Waiting(key=key, arrived=self.clock.now, priority=priority, sequence=self.came, hint=hint)
        )

    @rule(limits=LIMITS)
    def set_limits(self, limits: BatchLimits) -> None:
        self.batcher.set_limits(limits)
        self.limits = limits

    @precondition(lambda self: self.came > 15)
    @rule()
    def close(self) -> None:
        self.batcher.close()
        self.is_closing = True

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_batcher_holds_just_the_waiting_jobs(self) -> None:
        assert len(self.batcher) == len(self.jobs)
        assert sorted(self.batcher) == sorted(f"job {job.key}" for job in self.jobs)
        assert set(self.batcher._lines) == {job.hint.key for job in self.jobs}

    @invariant()
    def whatever_waits_has_a_wake_up_neither_late_nor_early(self) -> None:
        expected = min((self.due(line) for line in self.lines()), default=None)
        if expected is not None:
            expected = max(self.clock.now, expected)
        assert self.batcher.next_due(self.clock.now) == expected

    @invariant()
    def a_batch_that_cannot_grow_is_known(self) -> None:
        assert self.batcher.has_full() == any(is_full(line, self.limits) for line in self.lines())

    def teardown(self) -> None:
        """Liveness: at each wake-up there is a batch, and following them empties the queue."""
        while (due := self.batcher.next_due(self.clock.now)) is not None:
            self.clock.advance(due - self.clock.now)
            before = len(self.batcher)
            self.take(only_full=False)
            assert len(self.batcher) < before


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@given(st.integers(-1000, 1000))
def test_each_step_of_priority_counts_and_all_together_are_bounded(priority: int):
    assert lead(priority) < lead(priority + 1)
    assert abs(lead(priority)) < AGEING_SPAN


@given(st.integers())
def test_any_whole_number_is_a_priority(priority: int):
    assert abs(lead(priority * 10**400)) <= AGEING_SPAN
