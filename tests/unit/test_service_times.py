"""A line through the times of batches, and the rate of arrivals."""

from __future__ import annotations

import random

import pytest
from frame.policy.service_times import ServiceTimes


def measured(*batches: tuple[int, float]) -> ServiceTimes:
    times = ServiceTimes()
    for index, (size, seconds) in enumerate(batches):
        times.observe(size, seconds, float(index))
    return times


def seconds_of(size: int) -> float:
    return 0.010 + 0.002 * size


def test_before_the_first_batch_nothing_is_known():
    assert ServiceTimes().fit() is None
    assert ServiceTimes().mean(1) is None
    assert ServiceTimes().largest == 0


def test_the_line_is_found_through_noise():
    chance = random.Random(1)
    sizes = [chance.randint(1, 16) for _ in range(200)]
    times = measured(*((size, seconds_of(size) * chance.uniform(0.9, 1.1)) for size in sizes))
    fit = times.fit()
    assert fit is not None
    assert fit.knows_sizes
    assert fit.base == pytest.approx(0.010, rel=0.2)
    assert fit.per_item == pytest.approx(0.002, rel=0.2)
    assert times.mean(32) == pytest.approx(seconds_of(32), rel=0.15)
    assert 1.05 < fit.spread < 1.5
    assert times.largest == max(sizes)


def test_one_size_alone_tells_nothing_of_others():
    fit = measured(*[(4, 0.03)] * 20).fit()
    assert fit is not None
    assert not fit.knows_sizes
    assert (fit.base, fit.per_item) == (pytest.approx(0.03), 0.0)


def test_the_time_of_one_more_request_is_remembered_for_a_minute():
    times = measured(*((size, seconds_of(size)) for size in (1, 8) * 10))
    for index in range(500):
        times.observe(8, seconds_of(8), 20.0 + index / 10)
    fit = times.fit()
    assert fit is not None
    assert fit.knows_sizes
    assert (fit.base, fit.per_item) == (pytest.approx(0.010, rel=0.05), pytest.approx(0.002, rel=0.05))
    times.observe(8, seconds_of(8), 120.0)
    fit = times.fit()
    assert fit is not None
    assert not fit.knows_sizes


def test_sizes_that_hardly_differ_do_not_tell_the_time_of_one_more():
    chance = random.Random(3)
    fit = measured(*((chance.choice([39, 40, 41]), chance.uniform(0.9, 1.1)) for _ in range(100))).fit()
    assert fit is not None
    assert not fit.knows_sizes


def test_a_slow_first_batch_hardly_counts():
    assert measured((1, 5.0), *[(1, 0.02)] * 10).mean(1) == pytest.approx(0.02, rel=1.5)


def test_an_outlier_counts_as_four_times_what_was_expected():
    usual, hiccup = ([(1, 0.02)] * 30, [(1, 10.0)])
    assert measured(*usual, *hiccup).mean(1) < 0.03


def test_lasting_change_is_followed():
    assert measured(*[(1, 0.02)] * 50, *[(1, 0.2)] * 100).mean(1) == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize("batches", [[(1, 0.9), (8, 0.1)] * 10, [(1, 0.01), (8, 0.9)] * 10])
def test_neither_part_of_the_time_is_negative(batches):
    fit = measured(*batches).fit()
    assert fit is not None
    assert fit.base >= 0
    assert fit.per_item >= 0


def test_the_spread_has_a_bound():
    chance = random.Random(2)
    fit = measured(*((1, chance.choice([0.001, 1.0])) for _ in range(100))).fit()
    assert fit is not None
    assert 1 < fit.spread <= 5
    assert fit.slow_seconds(1) == fit.spread * fit.seconds(1)


def test_the_rate_is_that_of_the_last_seconds():
    times = ServiceTimes()
    assert times.rate(0.0) == 0.0
    for index in range(1000):
        times.arrived(index * 0.02)
    assert times.rate(20.0) == pytest.approx(50.0, rel=0.1)
    assert times.rate(40.0) < 1.5


def test_the_rate_is_right_soon_after_the_start():
    times = ServiceTimes()
    for index in range(50):
        times.arrived(100.0 + index * 0.02)
    assert times.rate(101.0) == pytest.approx(50.0, rel=0.15)


def test_the_best_size_is_told_when_larger_ones_were_worse():
    times = measured((1, 0.01), (4, 0.02), (32, 1.0))
    assert times.best_size(3.0) == 4
    assert times.best_size(100.0) is None, "what was measured long ago may be different now"
    assert measured((1, 0.01), (4, 0.02)).best_size(2.0) is None, "larger ones may be better still"


def test_an_old_measure_of_a_size_is_replaced():
    times = measured((1, 0.01), (32, 10.0))
    times.observe(1, 0.01, 200.0)
    times.observe(32, 0.05, 200.0)
    assert times.best_size(200.0) is None
