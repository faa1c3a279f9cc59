"""The dispatcher: each job goes to one free group, a suspect alone, and nothing waits for nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from frame.policy.batching import BatchLimits
from frame.policy.dispatch import Dispatcher, Order
from frame.testing import FakeClock
from frame.wire.hints import BatchHint
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

LIMITS = st.builds(BatchLimits, batch_size=st.sampled_from([2, 3, 1]), max_delay=st.sampled_from([1.0, 0.0]))
DEADLY = 2  # deaths after which a job is not queued again


@dataclass(frozen=True, slots=True)
class Work:
    """A request and what it needs to be queued again."""

    key: int
    arrived: float
    priority: int
    hint: BatchHint


@dataclass(slots=True, eq=False)
class FakeRunner:
    """A worker group: the batches that it was sent, the first `slots` of which run."""

    slots: int
    capacity: int
    takes_work: bool = True
    batches: list[Order[FakeRunner, Work]] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return len(self.batches)

    @property
    def runs_suspect(self) -> bool:
        return any(order.is_suspect for order in self.batches)

    @property
    def room(self) -> int:
        return (self.capacity or self.slots) - self.sent


class Dispatching(RuleBasedStateMachine):
    """A dispatcher, its groups, and where each job is."""

    @initialize(
        limits=LIMITS,
        capacity=st.sampled_from([0, 0, 0, 2]),
        slots=st.sampled_from([1, 1, 2]),
        count=st.sampled_from([1, 2, 3, 0]),
    )
    def begin(self, limits: BatchLimits, capacity: int, slots: int, count: int) -> None:
        self.clock = FakeClock(50.0)
        self.limits = limits
        self.dispatcher: Dispatcher[FakeRunner, Work] = Dispatcher(limits)
        self.capacity, self.slots = capacity, slots
        self.runners: list[FakeRunner] = []
        self.waiting: dict[int, Work] = {}
        self.deaths: dict[int, int] = {}
        self.came = 0
        for _ in range(count):
            self.start_a_group()

    def pump(self) -> list[Order[FakeRunner, Work]]:
        """Send all that the dispatcher wants sent."""
        orders = []
        while (order := self.dispatcher.next_order(self.clock.now, self.runners)) is not None:
            self.check(order)
            for job in order.jobs:
                del self.waiting[job.key]
            order.runner.batches.append(order)
            orders.append(order)
        return orders

    def check(self, order: Order[FakeRunner, Work]) -> None:
        """Look at an order before it is followed."""
        runner = order.runner
        assert runner in self.runners
        assert runner.takes_work
        assert order.jobs
        assert all(self.waiting[job.key] is job for job in order.jobs), "a job leaves twice"
        assert order.arrived == min(job.arrived for job in order.jobs)
        assert not runner.runs_suspect, "a suspect has its group for itself"
        if order.is_suspect:
            assert (len(order.jobs), runner.sent, order.why) == (1, 0, "alone")
            assert not any(other.runs_suspect for other in self.runners), "one suspect at a time"
            return
        assert not any(self.deaths.get(job.key) for job in order.jobs), "a suspect runs alone"
        assert len(order.jobs) <= (1 if runner.capacity else self.limits.batch_size)
        assert len({job.hint.key for job in order.jobs}) == 1
        if order.is_ahead:
            assert self.runners == [runner]
            assert (runner.capacity, runner.slots, runner.sent, order.why) == (0, 1, 1, "full")
        else:
            assert runner in self.open_to_all(), "it is kept for a suspect"
            assert runner.room == max(other.room for other in self.open_to_all()) > 0

    def suspects(self) -> list[Work]:
        return [job for job in self.waiting.values() if self.deaths.get(job.key)]

    def open_to_all(self) -> list[FakeRunner]:
        """Groups that may get any job: all but the one that runs a suspect or is kept for the next one."""
        ready = [runner for runner in self.runners if runner.takes_work]
        closed = [runner for runner in self.runners if runner.runs_suspect]
        if self.suspects() and not closed:
            closed = sorted(ready, key=lambda runner: runner.sent)[:1]
        return [runner for runner in ready if runner not in closed]

    # --- what happens ---------------------------------------------------------------------------

    @rule(
        priority=st.sampled_from([3, 1]), name=st.sampled_from([b"a", b"b"]), count=st.sampled_from([1, 2, 4])
    )
    def add(self, priority: int, name: bytes, count: int) -> None:
        for _ in range(count):
            self.add_one(priority, name)

    def add_one(self, priority: int, name: bytes) -> None:
        self.came += 1
        self.pump()
        matters = self.dispatcher.waits_for_jobs(self.runners)
        job = Work(self.came, self.clock.now, priority, BatchHint(name))
        self.waiting[job.key] = job
        self.dispatcher.add(job.key, job, job.arrived, priority=priority, hint=job.hint)
        assert not self.pump() or matters, "a new job made a difference, and nobody would have looked"

    @rule(seconds=st.sampled_from([0.25, 1.0, 50.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pump()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[key]
        assert self.dispatcher.remove(key)
        assert not self.dispatcher.remove(key)
        self.pump()

    @precondition(lambda self: any(runner.batches for runner in self.runners))
    @rule(data=st.data())
    def end_a_batch(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from([runner for runner in self.runners if runner.batches]))
        running = len(runner.batches) if runner.capacity else min(runner.slots, len(runner.batches))
        runner.batches.pop(data.draw(st.integers(0, running - 1)))
        self.pump()

    @rule()
    def end_a_batch_of_each_group(self) -> None:
        for runner in self.runners:
            del runner.batches[:1]
        self.pump()

    @precondition(lambda self: any(runner.batches for runner in self.runners))
    @rule(data=st.data(), is_blamed=st.sampled_from([True, True, False]))
    def end_a_group(self, data: st.DataObject, is_blamed: bool) -> None:
        runner = data.draw(st.sampled_from([runner for runner in self.runners if runner.batches]))
        self.runners.remove(runner)
        for order in reversed(runner.batches):
            for job in reversed(order.jobs):
                self.queue_again(job, is_blamed=is_blamed and not order.is_ahead)
        self.pump()

    def queue_again(self, job: Work, *, is_blamed: bool) -> None:
        deaths = self.deaths[job.key] = self.deaths.get(job.key, 0) + is_blamed
        if deaths >= DEADLY:
            return
        self.waiting[job.key] = job
        if deaths:
            self.dispatcher.suspect(job.key, job, job.arrived)
        else:
            self.dispatcher.put_back(job.key, job, job.arrived, priority=job.priority, hint=job.hint)

    @precondition(lambda self: len(self.runners) > 2)
    @rule(data=st.data())
    def drain_a_group(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.runners)).takes_work = False
        self.pump()

    @precondition(lambda self: len(self.runners) < 4)
    @rule()
    def start_a_group(self) -> None:
        self.runners.append(FakeRunner(self.slots, self.capacity))
        self.pump()

    @rule(limits=LIMITS)
    def set_limits(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.dispatcher.set_limits(limits)
        assert self.dispatcher.limits == limits
        self.pump()

    @precondition(lambda self: self.came > 20)
    @rule()
    def close(self) -> None:
        self.dispatcher.close()
        self.pump()

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def it_has_just_the_jobs_that_wait(self) -> None:
        assert len(self.dispatcher) == len(self.waiting)
        assert sorted(job.key for job in self.dispatcher) == sorted(self.waiting)

    @invariant()
    def who_waits_beside_a_free_slot_has_a_wake_up(self) -> None:
        self.pump()
        now = self.clock.now
        at = self.dispatcher.wake_at(now, self.runners)
        is_free = any(runner.room > 0 for runner in self.open_to_all())
        queued = len(self.waiting) - len(self.suspects())
        assert (at is not None) == (is_free and queued > 0)
        if at is not None:
            assert now < at <= now + self.limits.max_delay
            assert not self.capacity, "a sequence model waits for nothing"
        assert not is_free or self.dispatcher.waits_for_jobs(self.runners)

    @invariant()
    def no_group_idles_while_a_suspect_waits_for_its_turn(self) -> None:
        self.pump()
        if self.suspects() and not any(runner.runs_suspect for runner in self.runners):
            assert all(runner.batches for runner in self.runners if runner.takes_work)

    def teardown(self) -> None:
        """Liveness: when batches end and a group is there, everything that waits is sent."""
        if not hasattr(self, "dispatcher"):
            return
        self.runners = [runner for runner in self.runners if runner.takes_work]
        if not self.runners:
            self.start_a_group()
        for _ in range(2 * len(self.waiting) + 8):
            self.pump()
            for runner in self.runners:
                del runner.batches[:1]
            self.pump()
            at = self.dispatcher.wake_at(self.clock.now, self.runners)
            if at is not None:
                self.clock.advance(at - self.clock.now)
        assert not self.waiting


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_shape_that_fills_its_batches_does_not_starve_another_one_on_a_single_worker():
    dispatcher: Dispatcher[FakeRunner, int] = Dispatcher(BatchLimits(batch_size=2, max_delay=1.0))
    runner = FakeRunner(slots=1, capacity=0)
    dispatcher.add(0, 0, 0.0, hint=BatchHint(b"rare"))
    for key in range(1, 41, 2):
        now = 0.5 * key
        dispatcher.add(key, key, now, hint=BatchHint(b"common"))
        dispatcher.add(key + 1, key + 1, now, hint=BatchHint(b"common"))
        while (order := dispatcher.next_order(now, [runner])) is not None:
            runner.batches.append(order)
        if runner.batches.pop(0).jobs == [0]:
            break
    assert now <= 2.5, "it is due at 1.0 and two batches are before it"
