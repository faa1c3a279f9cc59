"""What a simulated load saw: answers, refusals, batches, workers over time, and figures of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from frame.policy.records import ChoiceRecord, ScaleRecord


class Answered(NamedTuple):
    """One answer: when its request came, and the seconds until its client had it."""

    arrived: float
    latency: float


class Workers(NamedTuple):
    """From `at` on so many workers are up and on their way."""

    at: float
    up: int
    starting: int


@dataclass(slots=True)
class Outcome:
    """All that happened. Times are seconds of the trace.

    Attributes:
        answers: in the order in which they were given.
        refusals: how many requests got a 503, by its reason.
        batches: how many batches had how many requests.
        busy_seconds: of all workers together.
        waiting: requests that waited, whenever a batch left.
        deaths: worker processes that ended without being asked.
        seconds: from the start to the last answer, or to the end of the trace.
        events: steps of the simulation.
    """

    answers: list[Answered] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    batches: Counter[int] = field(default_factory=Counter)
    workers: list[Workers] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    scalings: list[ScaleRecord] = field(default_factory=list)
    choices: list[ChoiceRecord] = field(default_factory=list)
    busy_seconds: float = 0.0
    deaths: int = 0
    seconds: float = 0.0
    events: int = 0

    @property
    def refused(self) -> int:
        """Requests that got a 503."""
        return self.refusals.total()

    @property
    def requests(self) -> int:
        """Requests that ended in one way or the other."""
        return len(self.answers) + self.refused

    def latencies(self) -> list[float]:
        """Return the seconds of all answers, shortest first."""
        return sorted(answer.latency for answer in self.answers)

    def share_within(self, seconds: float) -> float:
        """Return the share of all requests that had their answer within `seconds`; a 503 is none."""
        return bisect_right(self.latencies(), seconds) / self.requests if self.requests else 1.0

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.answers) / self.seconds if self.seconds else 0.0

    @property
    def mean_batch(self) -> float:
        """Requests in a batch on average; 0 when there was none."""
        batches = self.batches.total()
        return sum(size * count for size, count in self.batches.items()) / batches if batches else 0.0

    @property
    def worker_seconds(self) -> float:
        """Seconds that workers were there, those that load included: what the run cost."""
        ends = [*self.workers, Workers(max(self.seconds, self.workers[-1].at), 0, 0)] if self.workers else []
        return sum((after.at - item.at) * (item.up + item.starting) for item, after in pairwise(ends))

    @property
    def utilisation(self) -> float:
        """Share of their time for which the workers ran batches."""
        return self.busy_seconds / self.worker_seconds if self.worker_seconds else 0.0

    @property
    def most_workers(self) -> int:
        """Most workers that were up at once."""
        return max((item.up for item in self.workers), default=0)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which this share of ordered values lies; None when there are none."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
