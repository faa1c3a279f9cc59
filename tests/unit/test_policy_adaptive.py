"""Adaptive batching keeps its target where fixed settings miss it, and costs nothing where they hold."""

from __future__ import annotations

from itertools import pairwise

import pytest
from frame.policy.adaptive import AdaptiveBatching, AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.service_times import ServiceTimes

from tests.unit.batching_world import DJL_DEFAULTS, ServiceSeconds, World, line

SERVICE = line(0.020, 0.002)
"""45 requests/s one by one, 430 in batches of 64."""
TARGET = 0.150
LIMITS = AdaptiveLimits(target=TARGET, most=64)


def under(
    rate: float, *, adaptive: AdaptiveLimits | None, service: ServiceSeconds = SERVICE, **more
) -> World:
    return World(service, adaptive=adaptive, **more).open_loop(rate, 40.0)


def test_at_a_light_load_the_defaults_throughput_and_target_are_kept():
    fixed, adaptive = (under(10.0, adaptive=limits) for limits in (None, LIMITS))
    assert fixed.p99 <= TARGET
    assert adaptive.p99 <= TARGET
    assert adaptive.throughput >= 0.95 * fixed.throughput


@pytest.mark.parametrize("rate", [60.0, 250.0])
def test_where_the_defaults_miss_the_target_it_is_met(rate):
    fixed, adaptive = (under(rate, adaptive=limits) for limits in (None, LIMITS))
    assert fixed.p99 > TARGET
    assert adaptive.p99 <= TARGET
    assert adaptive.throughput >= 0.97 * rate


def test_several_workers_share_the_load():
    assert under(500.0, adaptive=LIMITS, workers=2).p99 <= TARGET


def test_a_target_that_cannot_be_met_leaves_the_highest_throughput():
    world = under(700.0, adaptive=AdaptiveLimits(target=0.01, most=64))
    assert world.policies.waiting.limits.batch_size == 64
    assert world.throughput >= 0.9 * 64 / SERVICE(64, 0.0)
    assert "highest throughput" in world.policies.journal.choices[-1].reason


def test_what_keeps_up_comes_before_the_target():
    world = under(200.0, adaptive=AdaptiveLimits(target=0.04, most=64))
    assert "the smallest that keeps up" in world.policies.journal.choices[-1].reason
    assert world.throughput >= 0.97 * 200.0


def test_batches_that_get_slower_the_larger_they_are_stay_small():
    def service(size: int, now: float) -> float:
        return 0.005 + 0.0004 * size * size

    world = under(250.0, adaptive=LIMITS, service=service)
    assert world.p99 <= TARGET
    assert world.throughput >= 0.97 * 250.0
    assert world.policies.waiting.limits.batch_size < 16


def test_where_batches_gain_nothing_requests_run_one_by_one():
    service = line(0.0, 0.010)
    adaptive = World(service, adaptive=AdaptiveLimits(target=1.0, most=64)).closed_loop(32, 40.0)
    fixed = World(service).closed_loop(32, 40.0)
    assert adaptive.policies.waiting.limits.batch_size == 1
    assert adaptive.throughput >= 0.97 * fixed.throughput
    assert adaptive.p99 <= 1.05 * fixed.p99


def test_large_batches_that_stop_paying_are_left():
    times = ServiceTimes()
    policy = AdaptiveBatching(AdaptiveLimits(target=1.0, most=16), DJL_DEFAULTS, times)
    now, sizes = 0.0, []
    for service in (line(0.02, 0.0), line(0.0, 0.01)):  # batches cost one request, then all of theirs
        for _ in range(200):
            now += 0.2
            for size in (1, policy.current.batch_size):
                times.observe(size, service(size, now), now)
            policy.decide(now, workers=1)
            sizes.append(policy.current.batch_size)
    assert max(sizes) == 16
    assert sizes[-1] == 1


def test_without_a_known_slope_the_size_is_doubled_at_most():
    times = ServiceTimes()
    policy = AdaptiveBatching(LIMITS, DJL_DEFAULTS, times)
    times.observe(32, 0.02, 0.0)
    for index in range(200):
        times.observe(1, 0.02, 100.0 + index)
    chosen = policy.decide(300.0, workers=1)
    assert chosen is not None
    assert chosen.batch_size == 2


def test_no_batch_is_larger_than_allowed():
    world = under(300.0, adaptive=AdaptiveLimits(target=TARGET, most=8))
    assert max(record.size for record in world.policies.journal.batches) == 8


def test_times_that_triple_midway_are_noticed():
    def service(size: int, now: float) -> float:
        return SERVICE(size, now) * (1.0 if now < 20.0 else 3.0)

    world = under(30.0, adaptive=AdaptiveLimits(target=0.4, most=64), service=service)
    fit = world.policies.times.fit()
    assert fit is not None
    assert fit.seconds(4) == pytest.approx(3 * SERVICE(4, 0.0), rel=0.15)
    assert world.p99 <= 0.4


def test_clients_that_are_answered_together_are_joined_again():
    adaptive = World(SERVICE, adaptive=AdaptiveLimits(target=0.2, most=64)).closed_loop(32, 20.0)
    fixed = World(SERVICE).closed_loop(32, 20.0)
    assert adaptive.throughput >= 5 * fixed.throughput


def test_larger_sizes_are_tried_one_doubling_at_a_time():
    world = under(300.0, adaptive=LIMITS)
    sizes = [1, *(choice.batch_size for choice in world.policies.journal.choices)]
    assert all(after <= 2 * before for before, after in pairwise(sizes[:5]))


def test_the_choice_settles():
    world = under(30.0, adaptive=LIMITS)
    assert [choice for choice in world.policies.journal.choices if choice.at > 20.0] == []


def test_nothing_is_chosen_before_something_was_measured():
    times = ServiceTimes()
    policy = AdaptiveBatching(LIMITS, DJL_DEFAULTS, times)
    assert policy.decide(1.0, workers=1) is None
    times.observe(1, 0.02, 1.0)
    assert policy.decide(1.0, workers=0) is None
    chosen = policy.decide(1.0, workers=1)
    assert chosen is not None
    assert (chosen.batch_size, chosen.max_delay) == (2, 0.0)
    assert policy.current == chosen
    assert policy.decide(1.05, workers=1) is None, "two choices have a pause between them"


def test_a_choice_keeps_the_budget_of_elements():
    times = ServiceTimes()
    start = BatchLimits(batch_size=1, max_delay=0.1, max_cost=512, is_padded=True)
    times.observe(1, 0.02, 1.0)
    chosen = AdaptiveBatching(LIMITS, start, times).decide(1.0, workers=1)
    assert chosen is not None
    assert (chosen.max_cost, chosen.is_padded) == (512, True)


def test_a_reason_has_the_figures_it_was_made_from():
    reason = under(60.0, adaptive=LIMITS).policies.journal.choices[-1].reason
    assert "of the 150 ms aimed at" in reason
    assert "requests/s on 1 workers" in reason
