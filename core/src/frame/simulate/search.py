"""Try settings on a trace: which answer 99 of 100 requests in time, and which of them costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, inf

from frame.simulate.outcome import quantile
from frame.simulate.service import ServiceModel
from frame.simulate.settings import PlaceLimits, Settings
from frame.simulate.simulation import Simulation
from frame.simulate.trace import Trace

IN_TIME = 0.99
"""Share of the requests that must be answered within the target."""
MOST_WORKERS = 64
"""Where nobody set a maximum."""
_LARGEST = 64
"""Requests in the largest batch that is tried, when the service model knows no limit."""
_DELAYS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Settings and what came of them.

    Attributes:
        max_batch_delay_ms: as in serving.properties.
        workers: always up.
        p50, p99: seconds, of the answers.
        in_time: share of the requests that were answered within the target.
        worker_seconds: what it cost.
        meets: at least `IN_TIME` were in time. If not, the run was given up and the figures are of a part.
    """

    batch_size: int
    max_batch_delay_ms: int
    workers: int
    p50: float | None
    p99: float | None
    in_time: float
    throughput: float
    worker_seconds: float
    meets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for: settings that answer within `target` seconds, with at most `most_workers`."""

    settings: Settings
    service: ServiceModel
    trace: Trace
    target: float
    most_workers: int
    seed: int = 1


def search(question: Question) -> list[Candidate]:
    """Return the best found for each batch size and delay: those that meet the target, the cheapest first.

    No more workers are tried than the cheapest found so far has.
    """
    found: list[Candidate] = []
    most = question.most_workers
    for size, delay_ms in _choices(question.service, question.target):
        low = min(_fewest_workers(question, size), question.most_workers)
        if low > most:
            continue
        best = fewest_that_meet(lambda workers: _try(question, size, delay_ms, workers), low, most)  # noqa: B023
        found.append(best)
        if best.meets:
            most = min(most, best.workers)
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, float, float]:
    # Workers and not their seconds, which differ by the time of the last answer alone.
    cost = candidate.workers if candidate.meets else -candidate.in_time
    return not candidate.meets, cost, candidate.p99 or inf


def _choices(service: ServiceModel, target: float) -> Iterator[tuple[int, int]]:
    """Yield batch sizes and delays (ms) that leave time for the batch itself."""
    size = 1
    while size <= (service.largest or _LARGEST):
        slack_ms = (target - service.overhead - service.typical(size)) * 1000
        delays = [0, *(step for step in _DELAYS_MS if step <= slack_ms)] if size > 1 else [0]
        yield from ((size, delay) for delay in delays if slack_ms >= 0 or size == 1)
        size *= 2


def _fewest_workers(question: Question, size: int) -> int:
    """Return how many workers full batches alone would keep busy."""
    return max(1, ceil(question.trace.rate * question.service.typical(size) / size * IN_TIME))


def fewest_that_meet(attempt: Callable[[int], Candidate], low: int, high: int) -> Candidate:
    """Return the attempt with the fewest workers that meets the target, or that with the most.

    Goes up in growing steps, since attempts that fail are given up early, then halves the last step.
    """
    step, best = 1, attempt(low)
    while not best.meets and best.workers < high:
        low = best.workers + 1
        best = attempt(min(high, best.workers + step))
        step *= 2
    while best.meets and low < best.workers:
        middle = (low + best.workers) // 2
        tried = attempt(middle)
        if tried.meets:
            best = tried
        else:
            low = middle + 1
    return best


def _try(question: Question, size: int, delay_ms: int, workers: int) -> Candidate:
    settings, requests = question.settings, len(question.trace.arrivals)
    slots = max(place.slots_per_group for place in settings.places)
    limits = replace(settings.batching, batch_size=size, max_delay=delay_ms / 1000)
    place = PlaceLimits(workers, workers, slots)
    tried = replace(settings, adaptive=None, starts_on_demand=False, batching=limits, places=(place,))
    run = Simulation(tried, question.service, question.trace, question.seed)
    outcome = run.run(target=question.target, may_miss=requests - ceil(requests * IN_TIME))
    ordered = outcome.latencies()
    in_time = outcome.share_within(question.target)
    return Candidate(
        batch_size=size,
        max_batch_delay_ms=delay_ms,
        workers=workers,
        p50=quantile(ordered, 0.5),
        p99=quantile(ordered, IN_TIME),
        in_time=in_time,
        throughput=outcome.throughput,
        worker_seconds=outcome.worker_seconds,
        meets=outcome.requests == requests and in_time >= IN_TIME,
    )
