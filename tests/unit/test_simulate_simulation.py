"""A simulated model behaves as arithmetic, queueing theory and the server's promises say."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
from frame.policy.lifecycle import RestartLimits
from frame.simulate.outcome import Outcome, Workers
from frame.simulate.service import service_line
from frame.simulate.settings import PlaceLimits
from frame.simulate.simulation import DIED, FAILED, TIMED_OUT, Simulation
from frame.simulate.trace import poisson_trace
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from tests.unit.simulate_rig import latencies_ms, run, settings, trace


def test_a_request_takes_its_batch_and_the_overhead() -> None:
    outcome = run(settings(), trace(0.5), "10+2", overhead=0.003)
    assert latencies_ms(outcome) == [15.0]
    assert outcome.batches == {1: 1}


def test_requests_of_one_moment_run_as_one_batch() -> None:
    outcome = run(settings(batch_size=4), trace(0.5, 0.5, 0.5), "10+2")
    assert latencies_ms(outcome) == [16.0] * 3


def test_a_batch_waits_for_its_delay() -> None:
    outcome = run(settings(batch_size=4, max_delay=0.1), trace(0.5, 0.55))
    assert latencies_ms(outcome) == [110.0, 60.0]


def test_a_full_batch_does_not_wait() -> None:
    outcome = run(settings(batch_size=2, max_delay=0.1), trace(0.5, 0.51))
    assert latencies_ms(outcome) == [20.0, 10.0]


def test_waiting_in_line_costs_the_batches_before() -> None:
    assert latencies_ms(run(settings(), trace(0.1, 0.1, 0.1))) == [10.0, 20.0, 30.0]


def test_two_workers_halve_a_line() -> None:
    assert latencies_ms(run(settings((2, 2)), trace(*[0.1] * 4))) == [10.0, 10.0, 20.0, 20.0]


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_worker_waits_as_queueing_theory_says(utilisation: float) -> None:
    """Pollaczek and Khinchine: Poisson arrivals, constant times, one at a time: rho * s / (2 * (1 - rho))."""
    outcome = run(settings(), poisson_trace(utilisation / 0.01, 100, seed=4))
    waited = mean(item.latency for item in outcome.answers) - 0.01
    assert waited == pytest.approx(utilisation * 0.01 / (2 * (1 - utilisation)), rel=0.15)
    assert outcome.utilisation == pytest.approx(utilisation, rel=0.05)


def test_a_full_queue_refuses() -> None:
    outcome = run(settings(queue_size=2), trace(0.1, 0.11, 0.111, 0.112, 0.113), "1000")
    assert len(outcome.answers) == 3  # one runs; two wait, be it in the queue or behind the first
    assert outcome.refusals == {"queue full": 2}


def test_a_request_that_waits_too_long_is_refused() -> None:
    outcome = run(settings(request_timeout=0.5), trace(0.1, 0.1, 0.1), "400")
    assert latencies_ms(outcome) == [400.0]
    assert outcome.refusals == {TIMED_OUT: 2}


def test_each_request_has_a_time_of_its_own() -> None:
    outcome = run(settings(request_timeout=0.5), trace(0.1, 0.1, 0.3), "2000")
    assert outcome.refusals == {TIMED_OUT: 3}


def test_a_refusal_is_not_in_time() -> None:
    outcome = run(settings(queue_size=1), trace(0.1, 0.1, 0.1), "10")
    assert outcome.share_within(1.0) == pytest.approx(len(outcome.answers) / 3)
    assert outcome.refused


def test_a_killed_worker_is_replaced_and_its_requests_run_again_alone() -> None:
    outcome = run(settings(batch_size=2), trace(0.1, 0.1, kills=(0.105,)))
    # It has answered nothing, so the next start waits half a second.
    assert latencies_ms(outcome) == pytest.approx([5 + 500 + 1000 + 10, 5 + 500 + 1000 + 20])
    assert outcome.deaths == 1
    assert outcome.batches == {2: 1, 1: 2}


def test_a_worker_that_has_answered_is_replaced_at_once() -> None:
    outcome = run(settings(), trace(0.1, 0.5, kills=(0.505,)))
    assert latencies_ms(outcome) == pytest.approx([10, 5 + 1000 + 10])


def test_a_request_that_dies_twice_is_refused() -> None:
    outcome = run(settings(), trace(0.1, kills=(0.105, 1.61)))
    assert outcome.refusals == {DIED: 1}


def test_a_request_that_must_not_run_again_is_refused() -> None:
    outcome = run(settings(retries_on_crash=False), trace(0.1, kills=(0.105,)))
    assert outcome.refusals == {DIED: 1}


def test_a_model_that_dies_too_often_fails_and_comes_back() -> None:
    given = settings(restarts=RestartLimits(retry_threshold=0, cool_down=2.0))
    outcome = run(given, trace(0.1, 0.15, 1.0, 5.0, kills=(0.105,)), "50")
    assert outcome.refusals == {FAILED: 1, "not ready": 2}
    assert len(outcome.answers) == 1


def test_what_waits_is_refused_when_the_model_fails() -> None:
    given = settings((2, 2), restarts=RestartLimits(retry_threshold=0))
    outcome = run(given, trace(*[0.1] * 5, kills=(0.105, 0.106), seconds=2), "50")
    assert outcome.refusals == {FAILED: 5}


def test_a_batch_that_takes_too_long_ends_its_worker() -> None:
    outcome = run(settings(predict_timeout=0.03), trace(0.1), "50")
    assert outcome.deaths == 2
    assert outcome.refusals == {DIED: 1}


def test_only_the_batch_that_took_too_long_is_blamed() -> None:
    given = settings(predict_timeout=0.03, batch_size=2, shares_model=True, places=(PlaceLimits(2, 2, 2),))
    outcome = run(given, trace(0.1, 0.1, 0.12), "15+10")  # two take 35 ms, one takes 25
    assert outcome.deaths == 1
    assert len(outcome.answers) == 3  # each alone
    assert outcome.refused == 0


def test_a_request_whose_time_is_over_while_it_waits_to_run_alone_is_forgotten() -> None:
    outcome = run(settings((2, 2), request_timeout=0.2), trace(0.1, 0.1, 0.1, kills=(0.15,)), "300")
    assert outcome.refusals == {TIMED_OUT: 3}


def test_a_request_that_is_answered_too_late_is_refused_once() -> None:
    outcome = run(settings(request_timeout=0.2), trace(0.1, 1.0), "300")
    assert outcome.refusals == {TIMED_OUT: 2}
    assert outcome.answers == []


def test_a_model_that_sleeps_again_after_it_failed_is_tried_by_a_request() -> None:
    given = settings((0, 1), restarts=RestartLimits(retry_threshold=0, cool_down=2.0))
    outcome = run(given, trace(0.1, 2.0, 6.0, kills=(1.105,)), "50")
    assert outcome.refusals == {FAILED: 1, "not ready": 1}
    assert len(outcome.answers) == 1


def test_a_killed_worker_is_nobody_when_none_is_up() -> None:
    assert run(settings((0, 1)), trace(1.0, kills=(0.5,))).deaths == 0


def test_a_model_that_sleeps_is_started_by_a_request() -> None:
    outcome = run(settings((0, 1)), trace(1.0))
    assert latencies_ms(outcome) == [1010.0]
    assert outcome.workers[0] == Workers(0.0, 0, 0)


def test_a_model_on_demand_is_started_by_a_request() -> None:
    assert latencies_ms(run(settings(starts_on_demand=True), trace(1.0))) == [1010.0]


def test_workers_come_with_a_backlog_and_go_when_idle() -> None:
    times = [index / 200 for index in range(1000)]  # 200 a second for 5 s; one worker can do 100
    outcome = run(settings((1, 4), max_idle=2.0), trace(*times, 30.0), load_seconds=0.2)
    assert outcome.most_workers >= 2
    assert outcome.workers[-1].up == 1
    assert outcome.scalings
    assert len(outcome.answers) == 1001


def test_another_worker_of_a_shared_model_is_there_at_once() -> None:
    given = settings((1, 4), shares_model=True, places=(PlaceLimits(1, 4, 4),))
    times = [index / 200 for index in range(1000)]
    outcome = run(given, trace(*times), load_seconds=1000.0)
    assert outcome.most_workers >= 2
    assert all(item.starting == 0 for item in outcome.workers[2:])


def test_places_have_their_own_limits() -> None:
    outcome = run(settings(places=(PlaceLimits(1, 1, 1), PlaceLimits(2, 2, 1))), trace(*[0.1] * 3))
    assert latencies_ms(outcome) == [10.0] * 3


def test_a_run_is_the_same_each_time() -> None:
    load = replace(poisson_trace(150, 10, seed=1), kills=(2.0, 5.0))
    first, second = (run(settings((1, 3), batch_size=4), load) for _ in range(2))
    assert first.answers == second.answers
    assert first.workers == second.workers


def test_a_run_is_given_up_when_too_many_are_late() -> None:
    load = poisson_trace(300, 10, seed=1)
    simulation = Simulation(settings(), service_line("10"), load)
    outcome = simulation.run(target=0.05, may_miss=20)
    assert 20 < outcome.requests < len(load.arrivals)


def test_nothing_is_an_outcome() -> None:
    outcome = Outcome()
    assert (outcome.throughput, outcome.mean_batch, outcome.utilisation) == (0.0, 0.0, 0.0)
    assert (outcome.most_workers, outcome.worker_seconds, outcome.share_within(1.0)) == (0, 0.0, 1.0)


@budget(max_examples=40, deadline=None)
@given(
    times=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    kills=st.lists(st.floats(0, 6), max_size=6),
    low=st.integers(0, 3),
    more=st.integers(0, 3),
    batch_size=st.integers(1, 8),
    max_delay=st.sampled_from([0.0, 0.01, 0.5]),
    queue_size=st.sampled_from([3, 1000]),
    request_timeout=st.sampled_from([0.3, 1000.0]),
    predict_timeout=st.sampled_from([0.06, 1000.0]),
    shares=st.booleans(),
)
def test_every_request_ends_once(
    times: list[float], kills: list[float], low: int, more: int, batch_size: int, max_delay: float,
    queue_size: int, request_timeout: float, predict_timeout: float, shares: bool,
) -> None:  # fmt: skip
    """Whatever is set, killed and sent: sent = answered + refused, and no worker is busier than it can be."""
    most = max(1, low + more)
    given = settings(
        batch_size=batch_size, max_delay=max_delay, queue_size=queue_size, max_idle=1.0,
        request_timeout=request_timeout, predict_timeout=predict_timeout, shares_model=shares,
        places=(PlaceLimits(low, most, 2),),
    )  # fmt: skip
    load = trace(*sorted(times), kills=tuple(sorted(kills)), seconds=5)
    outcome = run(given, load, "50+3", load_seconds=0.4)
    assert outcome.requests == len(times)
    assert outcome.utilisation <= 1 + 1e-9
    assert all(item.up >= 0 and item.up + item.starting <= most for item in outcome.workers)
    assert all(item.latency >= 0.053 - 1e-9 for item in outcome.answers)
    assert not outcome.batches or max(outcome.batches) <= batch_size
