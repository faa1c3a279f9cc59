"""What explanations are made from and of: the records of one model, sentences with their figures, advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from frame.policy.batching import BatchLimits
from frame.policy.records import BatchRecord, Journal
from frame.policy.scaling import ScalingLimits

RECENT = 50
"""Batches that an explanation is about."""

Figures = Mapping[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """How long a batch takes, as measured.

    Attributes:
        measured: mean seconds by number of requests.
        base, per_item: of the line `base + per_item * size` through them, seconds; `per_item` is None as long
            as batches of one size only were measured.
    """

    measured: Mapping[int, float] = field(default_factory=dict)
    base: float = 0.0
    per_item: float | None = None

    @property
    def sizes(self) -> str:
        """The sizes that were measured, in words: `1`, `1-4`."""
        smallest, largest = min(self.measured), max(self.measured)
        return str(smallest) if smallest == largest else f"{smallest}-{largest}"

    def seconds(self, size: float) -> float | None:
        """Return the seconds that a batch of this size takes; None when that is not known."""
        if self.per_item is not None:
            return self.base + self.per_item * size
        return self.measured.get(int(size)) if size == int(size) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainView:
    """One model version at one moment. Times are seconds, `now` and those of the records of the same clock.

    Attributes:
        limits: how large a batch gets and how long it waits now.
        is_adaptive: `batching=adaptive` chooses the limits.
        workers, starting: that are up, and on their way.
        queued: requests that wait now.
        cpu_workers: how many workers have a CPU thread of their own (or as many as each computes with); None
            when the model does not compute on the CPU.
        requests: that ended since the start, with their mean seconds, and the mean of those in the queue.
        ends: workers that ended without being asked since the start, by kind.
        held: contents in quarantine, each for `quarantine_time` seconds.
        failure: why the model is FAILED; None when it is not.
    """

    now: float
    journal: Journal
    times: BatchTimes
    limits: BatchLimits
    is_adaptive: bool
    scaling: ScalingLimits
    workers: int
    starting: int
    queued: int
    cpu_workers: int | None
    requests: int
    request_seconds: float
    queue_seconds: float
    ends: Mapping[str, int]
    held: int
    quarantine_time: float
    failure: str | None

    @property
    def recent(self) -> Sequence[BatchRecord]:
        """The last batches, oldest first."""
        return tuple(self.journal.batches)[-RECENT:]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement, what it is about (`batches`, `workers`, `deaths`, `time`), the figures it is made from."""

    about: str
    text: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Advice:
    """Settings to change, why, and what is predicted of it.

    Attributes:
        predicted: `requests_per_second`, `seconds` (from admission to answer), `workers`; empty when the
            change is a trial.
    """

    change: Mapping[str, str]
    text: str
    predicted: Mapping[str, float]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was done and why, and what would change it."""

    sentences: tuple[Sentence, ...]
    advice: tuple[Advice, ...]


# --- words ----------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    """Return the mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def span(seconds: float) -> str:
    """Write a time: `20.4 ms`, `1.5 s`, `240 s`."""
    if seconds < 1:
        return f"{_short(seconds * 1000)} ms"
    return f"{_short(seconds)} s"


def count(number: float, what: str, plural: str | None = None) -> str:
    """Write a number of things: `1 request`, `2.4 requests`."""
    text = _short(number)
    return f"{text} {what if text == '1' else plural or what + 's'}"


def rate(per_second: float) -> str:
    """Write requests per second."""
    return f"{_short(per_second)} requests/s"


def _short(value: float) -> str:
    """Write three digits, no more than one of them after the point from 10 on."""
    if value >= 100:  # noqa: PLR2004  # no digits after the point
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 1 else f"{value:.2g}"
