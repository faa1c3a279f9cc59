"""Clients, workers with a known service time, and the policies between them, in made-up time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from frame.policy.adaptive import AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.conductor import Conductor
from frame.policy.scaling import ScalingLimits

DJL_DEFAULTS = BatchLimits(batch_size=1, max_delay=0.1)
ServiceSeconds = Callable[[int, float], float]


def line(base: float, per_item: float) -> ServiceSeconds:
    """Return a service time of `base + per_item * size` seconds."""
    return lambda size, now: base + per_item * size


@dataclass(eq=False)
class Worker:
    """One worker of one slot."""

    sent: int = 0
    free_at: float = 0.0
    slots: int = 1
    capacity: int = 0
    takes_work: bool = True
    runs_suspect: bool = False


@dataclass
class World:
    """A model under load; `latencies` are seconds of those that came after a quarter of the time."""

    service: ServiceSeconds
    workers: int = 1
    adaptive: AdaptiveLimits | None = None
    limits: BatchLimits = DJL_DEFAULTS
    seed: int = 1
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        scaling = ScalingLimits(minimum=self.workers, maximum=self.workers, max_idle=60.0)
        self.policies: Conductor[Worker, int] = Conductor(self.limits, scaling, self.adaptive)
        self._crew = [Worker() for _ in range(self.workers)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self._arrived: dict[int, float] = {}
        self._clients = 0
        self.seconds = 0.0

    def open_loop(self, rate: float, seconds: float) -> World:
        """Run with requests that come at random, on average `rate` a second, for so many seconds."""
        self._at(0.0, lambda now: self._poisson(rate, now))
        return self._run(seconds)

    def closed_loop(self, clients: int, seconds: float) -> World:
        """Run with clients that send their next request within a millisecond of an answer."""
        self._clients = clients
        for _ in range(clients):
            self._at(self.random.uniform(0, 0.001), self._arrive)
        return self._run(seconds)

    @property
    def p99(self) -> float:
        """Return the 99th percentile of the latencies."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * len(ordered))]

    @property
    def throughput(self) -> float:
        """Return the answers per second."""
        return len(self.latencies) / (0.75 * self.seconds)

    def _at(self, time: float, event: Callable[[float], None]) -> None:
        heappush(self._events, (time, next(self._numbers), event))

    def _run(self, seconds: float) -> World:
        self.seconds = seconds
        while self._events and self._events[0][0] <= seconds:
            now, _, event = heappop(self._events)
            event(now)
            while (sent := self.policies.next_order(now, self._crew)) is not None:
                self._begin(sent, now)
            wake = self.policies.waiting.wake_at(now, self._crew)
            if wake is not None and wake > now:
                self._at(wake, lambda _: None)
        return self

    def _poisson(self, rate: float, now: float) -> None:
        self._arrive(now)
        self._at(now + self.random.expovariate(rate), lambda then: self._poisson(rate, then))

    def _arrive(self, now: float) -> None:
        job = next(self._numbers)
        self._arrived[job] = now
        self.policies.add(job, job, now)

    def _begin(self, sent: Any, now: float) -> None:
        worker, jobs = sent.order.runner, sent.order.jobs
        start = max(now, worker.free_at)
        seconds = self.service(len(jobs), start) * self.random.uniform(0.97, 1.06)
        worker.sent, worker.free_at = worker.sent + 1, start + seconds
        self._at(start + seconds, lambda then: self._end(worker, sent.record, seconds, jobs, then))

    def _end(self, worker: Worker, record: Any, seconds: float, jobs: list[int], now: float) -> None:
        worker.sent -= 1
        self.policies.batch_ended(record, seconds, seconds, now, self._crew)
        for job in jobs:
            if now > self.seconds / 4:
                self.latencies.append(now - self._arrived.pop(job))
            if self._clients:
                self._at(now + self.random.uniform(0, 0.001), self._arrive)
