"""Adaptive batching under any arrivals, batches and workers: its limits hold, and in the end it is right."""

from __future__ import annotations

import math
from statistics import median

import pytest
from frame.policy.adaptive import AdaptiveBatching, AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.service_times import Fit, ServiceTimes
from frame.testing import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

PAUSE = 0.1
FORGOTTEN = 61.0
USED = 0.9  # of the target
HEADROOM = 1.1
STEPS = 800  # half of them forget the longest and largest batch that was
SECONDS = st.sampled_from([0.0, 1e-6, 0.0004, 0.003, 0.02, 0.3, 9.0]) | st.floats(1e-5, 2.0)


class Adaptive(RuleBasedStateMachine):
    """A model's batches and requests; the policy is asked after each batch, as the conductor does."""

    @initialize(
        aim=st.sampled_from([0.002, 0.05, 0.15, 2.0]),
        most=st.sampled_from([1, 2, 7, 64]),
        start=st.integers(1, 100),
        max_cost=st.sampled_from([None, 512]),
        workers=st.integers(0, 4),
        later=st.tuples(
            st.sampled_from([0.0, 0.005, 0.02]), st.sampled_from([0.0005, 0.002, 0.01]), st.floats(0.0, 1.0)
        ),
    )
    def begin(
        self,
        aim: float,
        most: int,
        start: int,
        max_cost: int | None,
        workers: int,
        later: tuple[float, float, float],
    ) -> None:
        self.later = later
        self.target, self.most, self.workers = aim, most, workers
        self.clock = FakeClock(1000.1)
        self.times = ServiceTimes()
        self.start = BatchLimits(batch_size=start, max_delay=0.1, max_cost=max_cost, is_padded=True)
        self.policy = AdaptiveBatching(AdaptiveLimits(target=aim, most=most), self.start, self.times)
        self.largest = 0
        self.chosen_at = -math.inf

    # --- what happens -------------------------------------------------------------------------

    @rule(count=st.integers(1, 60), seconds=st.sampled_from([0.0, 0.001, 0.3]))
    def requests_come(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.clock.advance(seconds)
            self.times.arrived(self.clock.now)

    @rule(count=st.integers(1, 40), part=st.floats(0.0, 1.0), seconds=SECONDS)
    def batches_end(self, count: int, part: float, seconds: float) -> None:
        """Some of one size, up to the one that is allowed, each after the same time."""
        for _ in range(count):
            self.clock.advance(seconds)
            self.batch_ends(max(1, round(part * self.policy.current.batch_size)), seconds)

    @rule(size=st.integers(1, 80), seconds=SECONDS)
    def batch_of_other_limits_ends(self, size: int, seconds: float) -> None:
        self.batch_ends(size, seconds)

    @rule(base=SECONDS, per_item=SECONDS, parts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
    def batches_on_a_line_end(self, base: float, per_item: float, parts: list[float]) -> None:
        for part in parts:
            size = max(1, round(part * self.policy.current.batch_size))
            self.clock.advance(base + per_item * size)
            self.batch_ends(size, base + per_item * size)

    @rule(
        part=st.sampled_from([0.03, 0.15, 0.6]),
        share=st.sampled_from([0.01, 0.1]),
        load=st.sampled_from([0.5, 0.9, 1.5]),
    )
    def workers_are_busy(self, part: float, share: float, load: float) -> None:
        """As many requests come as are answered, or half of them, or more; the target is in reach."""
        base, due = part * self.target, 0.0
        for step in range(60):
            size = max(1, self.policy.current.batch_size - step % 3)
            seconds = base * (1 + share * size)
            due += load * size * self.workers
            while due >= 1:
                self.times.arrived(self.clock.now)
                due -= 1
            self.clock.advance(seconds)
            self.batch_ends(size, seconds)

    @rule(workers=st.integers(0, 6))
    def workers_change(self, workers: int) -> None:
        self.workers = workers

    @rule(seconds=st.sampled_from([0.01, 0.1, 7.0, FORGOTTEN]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def batch_ends(self, size: int, seconds: float) -> None:
        """Measure a batch, ask for a choice, and hold it to its promises."""
        self.largest = max(self.largest, size)
        self.times.observe(size, seconds, self.clock.now)
        before = self.policy.current
        chosen = self.policy.decide(self.clock.now, workers=self.workers)
        if chosen is None:
            assert self.policy.current is before
        else:
            self.check(before, chosen)

    # --- what a choice must keep --------------------------------------------------------------

    def check(self, before: BatchLimits, chosen: BatchLimits) -> None:
        assert chosen == self.policy.current
        assert (chosen.batch_size, chosen.max_delay) != (before.batch_size, before.max_delay)
        assert self.workers >= 1
        assert self.clock.now >= self.chosen_at + PAUSE - 1e-9, "a pause between two choices"
        self.chosen_at = self.clock.now
        assert chosen.batch_size <= 2 * self.largest, "its time is known, or nearly"
        fit = self.times.fit()
        assert fit is not None
        self.check_delay(fit, chosen)
        self.check_reason(fit, chosen)

    def check_delay(self, fit: Fit, chosen: BatchLimits) -> None:
        assert chosen.max_delay <= 0.2 * self.target + 1e-9
        assert chosen.max_delay <= 0.25 * fit.base + 1e-9, "no more than what one batch less saves"
        if chosen.max_delay:
            assert fit.knows_sizes
            rate = self.times.rate(self.clock.now)
            one_by_one = rate * (fit.base + fit.per_item) / self.workers
            assert one_by_one >= 0.5, "no wait while workers are idle now and then"

    def check_reason(self, fit: Fit, chosen: BatchLimits) -> None:
        reason, size = self.policy.reason, chosen.batch_size
        assert "nan" not in reason
        assert f"on {self.workers} workers" in reason
        seconds = fit.base + fit.per_item * size
        keeps_up = self.workers * size >= HEADROOM * self.times.rate(self.clock.now) * seconds * (1 - 1e-9)
        if reason.startswith("the largest"):
            slow = fit.spread * seconds + seconds / self.workers
            assert slow + chosen.max_delay <= USED * self.target + 1e-9
        elif reason.startswith("the smallest"):
            assert keeps_up
        else:
            assert reason.startswith("no size keeps up")
            assert not keeps_up

    @invariant()
    def the_limits_are_sound(self) -> None:
        if not hasattr(self, "policy"):
            return
        current = self.policy.current
        assert 1 <= current.batch_size <= self.most
        assert math.isfinite(current.max_delay)
        assert current.max_delay >= 0
        assert (current.max_cost, current.is_padded) == (self.start.max_cost, True)

    @invariant()
    def what_was_measured_is_sound(self) -> None:
        fit = self.times.fit() if hasattr(self, "times") else None
        if fit is not None:
            assert 0 <= fit.base < math.inf
            assert 0 <= fit.per_item < math.inf
            assert 1 <= fit.spread <= 5
            assert 0 <= self.times.rate(self.clock.now) < math.inf

    # --- what must come in the end ------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "policy"):
            self.steady_batches_are_given_the_largest_size_that_is_right(*self.later)

    def steady_batches_are_given_the_largest_size_that_is_right(
        self, base: float, per_item: float, part: float
    ) -> None:
        """Few requests come, so that any size keeps up, and batches take what they take."""
        self.clock.advance(FORGOTTEN)
        self.workers = max(1, self.workers)
        found = []
        for step in range(STEPS):
            size = max(1, round((1.0, 0.5, part)[step % 3] * self.policy.current.batch_size))
            self.clock.advance(0.5 + base + per_item * size)
            self.batch_ends(size, base + per_item * size)
            found.append(self.policy.current.batch_size)
        share = 1 + 1 / self.workers
        meets = (USED * self.target / share - base) / per_item  # slow latency of that size is the limit
        pays = 19 * base / per_item  # it has 5 % more throughput than half of it
        wanted = max(1.0, min(self.most, meets, pays))
        usual = median(found[STEPS // 2 :])  # now and then a larger one is tried again
        assert 0.8 * wanted - 1 <= usual <= 1.2 * wanted + 1, (usual, wanted, self.policy.reason)
        assert self.policy.current.max_delay == pytest.approx(0.0, abs=0.001)


TestAdaptive = Adaptive.TestCase
TestAdaptive.settings = settings(max_examples=120, stateful_step_count=20, deadline=None)
