"""The search finds what trying everything finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from frame.policy.batching import BatchLimits
from frame.simulate.search import Candidate, Question, fewest_that_meet, search
from frame.simulate.service import ServiceModel, SizeTimes, service_line
from frame.simulate.settings import PlaceLimits
from frame.simulate.simulation import Simulation
from frame.simulate.trace import poisson_trace

from tests.unit.simulate_rig import settings

LOAD = poisson_trace(250, 2, seed=5)


def ask(target: float, service: ServiceModel | None = None, most: int = 8) -> list[Candidate]:
    return search(
        Question(
            settings=settings(),
            service=service or service_line("10+2"),
            trace=LOAD,
            target=target,
            most_workers=most,
        )
    )


def meets(workers: int, size: int, delay: float, target: float) -> bool:
    given = replace(
        settings(),
        batching=BatchLimits(batch_size=size, max_delay=delay),
        places=(PlaceLimits(workers, workers, 1),),
    )
    outcome = Simulation(given, service_line("10+2"), LOAD).run()
    return outcome.share_within(target) >= 0.99


@pytest.mark.parametrize("target", [0.025, 0.05])
def test_the_best_has_the_fewest_workers_that_meet_the_target(target: float) -> None:
    best = ask(target)[0]
    assert best.meets
    assert meets(best.workers, best.batch_size, best.max_batch_delay_ms / 1000, target)
    fewer = [
        (size, delay)
        for size in (1, 2, 4, 8, 16, 32)
        for delay in (0.0, 0.01)
        if best.workers > 1 and meets(best.workers - 1, size, delay, target)
    ]
    assert fewer == []


def test_a_target_that_nothing_meets_is_missed_by_all() -> None:
    found = ask(0.001)
    assert found
    assert not any(item.meets for item in found)


def test_no_more_workers_are_tried_than_allowed() -> None:
    assert {item.workers for item in ask(0.013, most=2)} == {2}


def test_batches_larger_than_those_measured_are_not_tried() -> None:
    service = ServiceModel([SizeTimes(1, (0.01,)), SizeTimes(4, (0.014,))], largest=4)
    assert {item.batch_size for item in ask(0.1, service)} == {1, 2, 4}


@pytest.mark.parametrize("enough", range(1, 24))
def test_the_fewest_workers_are_found_wherever_they_are(enough: int) -> None:
    tried: list[int] = []

    def attempt(workers: int) -> Candidate:
        tried.append(workers)
        return replace(MISSED, workers=workers, meets=workers >= enough)

    best = fewest_that_meet(attempt, 1, 20)
    assert best.workers == min(enough, 20)
    assert best.meets == (enough <= 20)
    assert len(tried) == len(set(tried)) <= 10


MISSED = Candidate(
    batch_size=1, max_batch_delay_ms=0, workers=0, p50=None, p99=None, in_time=0.0, throughput=0.0,
    worker_seconds=0.0, meets=False,
)  # fmt: skip
