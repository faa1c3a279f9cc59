"""Whether a new version does worse than the one before it, by more than chance and the margins explain."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

from frame.policy.traffic import RollbackRule

Cause = Literal["errors", "latency", "deaths", "failed"]

_Z = 2.576
"""Standard deviations: what a trial calls worse is so by chance once in 200 looks, beyond the margins."""
_KEPT = 1000
MEDIAN, TAIL = 0.5, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a version is taken back: for metrics, and in words with the figures."""

    cause: Cause
    reason: str


class Record:
    """The last requests of one version: at most 1,000, none older than the window."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._requests: deque[tuple[float, float | None]] = deque(maxlen=_KEPT)

    def add(self, outcome: str, seconds: float, now: float) -> None:
        """Note a request that ended; one that its client gave up says nothing of the version."""
        if outcome != "cancelled":
            self._requests.append((now, seconds if outcome == "ok" else None))

    def forget_old(self, now: float) -> None:
        """Forget what is older than the window."""
        while self._requests and self._requests[0][0] < now - self._window:
            self._requests.popleft()

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return sum(seconds is None for _, seconds in self._requests)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which a share of the good answers came; None when there is none."""
        times = self.times()
        return times[min(len(times) - 1, int(len(times) * share))] if times else None

    def times(self) -> list[float]:
        """Return the seconds of the good answers, shortest first."""
        return sorted(seconds for _, seconds in self._requests if seconds is not None)


class Trial:
    """A new version beside its baseline. `review` takes what both have done since the start."""

    def __init__(self, rule: RollbackRule, *, deaths: int, baseline_deaths: int) -> None:
        """Begin.

        Args:
            deaths, baseline_deaths: workers of each version that had died by now.
        """
        self._rule = rule
        self._first_deaths = deaths - baseline_deaths
        self.candidate = Record(rule.window)
        self.baseline = Record(rule.window)

    def review(self, now: float, *, failed: str | None, deaths: int, baseline_deaths: int) -> Verdict | None:
        """Return why the new version is to be taken back; None: not, by what is known.

        Args:
            failed: why it is FAILED; None: it is not.
        """
        if failed is not None:
            return Verdict(cause="failed", reason=f"it is FAILED: {failed}")
        more_deaths = deaths - baseline_deaths - self._first_deaths
        if more_deaths > self._rule.max_deaths:
            return Verdict(
                cause="deaths",
                reason=f"its workers died {more_deaths} times more than the baseline's (max_deaths "
                f"{self._rule.max_deaths})",
            )
        self.candidate.forget_old(now)
        self.baseline.forget_old(now)
        return self._errors() or self._latency()

    def _errors(self) -> Verdict | None:
        bad, count = self.candidate.failures, len(self.candidate)
        base_bad, base_count = self.baseline.failures, len(self.baseline)
        if not count or not base_count:
            return None
        surely = _least_difference(bad, count, base_bad, base_count)
        if surely <= self._rule.error_margin:
            return None
        return Verdict(
            cause="errors",
            reason=f"{bad} of its last {count} requests failed, {base_bad} of the baseline's {base_count}: "
            f"at least {surely:.3f} more (error_margin {self._rule.error_margin:g})",
        )

    def _latency(self) -> Verdict | None:
        times, base_times = self.candidate.times(), self.baseline.times()
        if min(len(times), len(base_times)) < self._rule.min_requests:
            return None
        for quantile in (MEDIAN, TAIL):
            low, high = _at_least(times, quantile), _at_most(base_times, quantile)
            if low is not None and high is not None and low > high * self._rule.latency_ratio:
                return Verdict(
                    cause="latency",
                    reason=f"percentile {quantile:.0%} of its last {len(times)} requests is at least "
                    f"{low * 1e3:.1f} ms, the baseline's at most {high * 1e3:.1f} ms (latency_ratio "
                    f"{self._rule.latency_ratio:g})",
                )
        return None


def wilson(bad: int, count: int) -> tuple[float, float]:
    """Return between which shares the true one lies (Wilson's score interval); `count` >= 1."""
    share, square = bad / count, _Z * _Z / count
    middle = share + square / 2
    half = _Z * sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding puts them beside it


def _least_difference(bad: int, count: int, base_bad: int, base_count: int) -> float:
    """Return by how much a share is larger than another at least (Newcombe's hybrid score interval)."""
    share, base = bad / count, base_bad / base_count
    low, _ = wilson(bad, count)
    _, high = wilson(base_bad, base_count)
    return share - base - sqrt((share - low) ** 2 + (high - base) ** 2)


def _at_least(times: Sequence[float], quantile: float) -> float | None:
    """Return what a quantile surely reaches, by order statistics; None when the times are too few."""
    count = len(times)
    index = int(count * quantile - _Z * sqrt(count * quantile * (1 - quantile))) - 1
    return times[index] if index >= 0 else None


def _at_most(times: Sequence[float], quantile: float) -> float | None:
    """Return what a quantile surely does not exceed; None when the times are too few."""
    count = len(times)
    index = ceil(count * quantile + _Z * sqrt(count * quantile * (1 - quantile)))
    return times[index] if index < count else None
