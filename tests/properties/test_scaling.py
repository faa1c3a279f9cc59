"""The scaler with workers that start, work, idle and die: within limits, up in time, down in the end."""

from __future__ import annotations

import math

from frame.policy.scaling import ModelLoad, ScaleTo, ScalingLimits, ScalingPolicy
from frame.testing import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

MOST = 6
HOT_LOOP = 3000


class Scaling(RuleBasedStateMachine):
    """Workers and a queue; the scaler is asked after each event and when it wanted to be."""

    @initialize(
        minimum=st.integers(0, 3),
        extra=st.integers(0, 4),
        max_idle=st.sampled_from([0.0, 0.7, 5.0, 60.0]),
        batch_size=st.sampled_from([1, 4]),
        batch_seconds=st.sampled_from([0.01, 0.3, 3.0]),
        start_seconds=st.sampled_from([0.0, 0.1, 10.0]),
        spare=st.sampled_from([None, 0, 2]),
    )
    def begin(self, minimum: int, extra: int, max_idle: float, **world: float) -> None:
        self.limits = ScalingLimits(minimum=minimum, maximum=max(1, minimum + extra), max_idle=max_idle)
        self.policy = ScalingPolicy(self.limits)
        self.batch_size: int = int(world["batch_size"])
        self.batch_seconds, self.start_seconds = world["batch_seconds"], world["start_seconds"]
        self.spare = world["spare"]
        self.clock = FakeClock(1000.1)
        self.queued = self.idle = 0
        self.batches: list[float] = []  # when each of those that run ends
        self.starts: list[float] = []
        self.has_batch = self.has_start = False
        self.busy_since: list[tuple[float, int]] = []  # every level of busy workers and when it began
        self.last_up = self.clock.now
        self.settle()

    # --- the world ----------------------------------------------------------------------------

    @property
    def up(self) -> int:
        return self.idle + len(self.batches)

    @property
    def have(self) -> int:
        return self.up + len(self.starts)

    def cap(self) -> int:
        spare = math.inf if self.spare is None else self.spare
        return int(min(self.limits.maximum, max(1, self.limits.minimum + spare)))

    def settle(self) -> None:
        """Dispatch what can be, then ask the scaler and follow it."""
        while self.queued and self.idle:
            self.queued -= min(self.queued, self.batch_size)
            self.idle -= 1
            self.batches.append(self.clock.now + self.batch_seconds)
            self.policy.saw(len(self.batches), self.clock.now)
        self.busy_since.append((self.clock.now, len(self.batches)))
        load = ModelLoad(
            queued=self.queued,
            batch_size=self.batch_size,
            workers=self.up,
            starting=len(self.starts),
            busy=len(self.batches),
            batch_seconds=self.batch_seconds if self.has_batch else None,
            start_seconds=self.start_seconds if self.has_start else None,
            spare_threads=self.spare,
        )
        choice = self.policy.decide(load, self.clock.now)
        if choice is not None:
            self.check(choice)
            self.follow(choice)
        self.look = self.policy.next_look(self.clock.now)
        assert self.look is None or self.look > self.clock.now

    def follow(self, choice: ScaleTo) -> None:
        if choice.workers > self.have:
            self.last_up = self.clock.now
            missing = choice.workers - self.have
            self.starts += [self.clock.now + max(self.start_seconds, 0.001)] * missing
            return
        while self.have > choice.workers:  # those that run end later: they are no workers of ours any more
            if self.idle:
                self.idle -= 1
            elif self.starts:
                self.starts.pop()
            else:
                self.batches.pop()

    def check(self, choice: ScaleTo) -> None:
        """Check one decision against the promises."""
        assert choice.workers != self.have
        assert choice.reason
        assert self.limits.minimum <= choice.workers <= self.limits.maximum
        if choice.workers > self.have:
            assert choice.workers <= self.cap()
            assert self.queued or choice.workers == self.limits.minimum
        elif self.have <= self.limits.maximum:
            assert not self.queued
            assert not self.starts
            assert self.clock.now >= self.last_up + self.limits.max_idle
            assert choice.workers == max(self.limits.minimum, self.busiest())

    def busiest(self) -> int:
        """Return the most workers busy at once within `max_idle`, from the whole history."""
        ends = [at for at, _ in self.busy_since[1:]] + [math.inf]
        spans = zip(self.busy_since, ends, strict=True)
        return max(busy for (_, busy), end in spans if end + self.limits.max_idle > self.clock.now)

    def next_event(self) -> float:
        look = math.inf if self.look is None else self.look
        return min([look, *self.batches, *self.starts])

    def run_until(self, end: float, refill: int = 0) -> None:
        """Let events happen; `refill`: the queue is full again, with so many, whenever it was taken from."""
        for _ in range(HOT_LOOP):
            while refill > self.queued:
                self.queued = refill
                self.settle()
            at = self.next_event()
            if at > end or at == math.inf:
                break
            self.clock.advance(at - self.clock.now)
            self.happen(max(at, self.clock.now))
        else:
            raise AssertionError("the scaler asked to be asked again and again")
        if math.isfinite(end):
            self.clock.advance(max(0.0, end - self.clock.now))

    def happen(self, now: float) -> None:
        """One event: a batch ends, or a start, or it was the scaler's own look."""
        if any(at <= now for at in self.batches):
            self.batches.remove(min(self.batches))
            self.idle += 1
            self.has_batch = True
            self.policy.saw(len(self.batches), self.clock.now)
        elif any(at <= now for at in self.starts):
            self.starts.remove(min(self.starts))
            self.idle += 1
            self.has_start = True
        self.settle()

    # --- what happens -------------------------------------------------------------------------

    @rule(count=st.sampled_from([1, 2, 5, 40]))
    def arrive(self, count: int) -> None:
        self.queued += count
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.5, 4.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.run_until(self.clock.now + seconds)

    @rule(is_busy=st.booleans())
    def worker_dies(self, is_busy: bool) -> None:
        if self.batches and is_busy:
            self.batches.pop()
            self.queued += self.batch_size
            self.policy.saw(len(self.batches), self.clock.now)
        elif self.idle:
            self.idle -= 1
        elif self.starts:
            self.starts.pop()
        self.settle()

    @rule()
    def clients_leave(self) -> None:
        self.queued = 0
        self.settle()

    @rule(spare=st.sampled_from([None, 0, 1, 3]))
    def other_models_take_threads(self, spare: int | None) -> None:
        self.spare = spare
        self.settle()

    @rule(minimum=st.integers(0, MOST), maximum=st.integers(1, MOST))
    def limits_are_changed(self, minimum: int, maximum: int) -> None:
        self.limits = ScalingLimits(
            minimum=min(minimum, maximum), maximum=maximum, max_idle=self.limits.max_idle
        )
        self.policy.set_limits(self.limits)
        self.settle()

    # --- what must come in the end ------------------------------------------------------------

    @rule()
    def without_requests_it_goes_to_the_floor(self) -> None:
        began = self.clock.now
        self.run_until(math.inf)
        assert self.queued == 0
        assert self.have == self.limits.minimum
        quiet_since = max([began, self.last_up, *(at for at, busy in self.busy_since if busy)])
        slack = self.batch_seconds + self.start_seconds + 1.0  # a start that ends late, a look now and then
        assert self.clock.now <= quiet_since + 2 * self.limits.max_idle + slack

    @rule(bound=st.sampled_from([1, 3, 30]))
    def a_queue_that_stays_full_gets_all_workers(self, bound: int) -> None:
        self.batch_seconds = max(0.3, self.batch_seconds, self.start_seconds / 10)  # not too many events
        one_round = max(self.start_seconds, 1.0, 5 * self.batch_seconds) + 2 * self.batch_seconds
        rounds = self.limits.maximum + 1
        end = self.clock.now + rounds * (one_round + self.start_seconds + 0.01)
        self.run_until(end + rounds * 2.0, refill=bound)
        assert self.have >= self.cap()

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def the_floor_is_there_and_who_waits_has_a_worker(self) -> None:
        if hasattr(self, "clock"):
            assert self.limits.minimum <= self.have <= self.limits.maximum
            assert not self.queued or self.have

    @invariant()
    def an_extra_worker_has_a_look_that_ends_it(self) -> None:
        if hasattr(self, "clock") and self.have > self.limits.minimum and not self.batches:
            assert self.starts or self.look is not None


TestScaling = Scaling.TestCase
TestScaling.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
