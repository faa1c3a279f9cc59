"""Whether a new version does worse than the one before it, by more than chance and the margins explain."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, lgamma, log, sqrt
from typing import Literal

from frame.policy.traffic import RollbackRule

Cause = Literal["errors", "latency", "deaths", "failed"]

_CHANCE = 0.001
"""How often a single bound may be wrong."""
_Z = 3.09
"""Standard deviations that are exceeded as often."""
_KEPT = 1000
_NEW_SHARE = 0.05
"""A look is worth it when so much of what is known is new: many looks would find chance at last."""
_STEPS = 40
MEDIAN, TAIL = 0.5, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a version is taken back: for metrics, and in words with the figures."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """A request that ended; `seconds` until then."""

    at: float
    outcome: Literal["good", "failed", "left"]
    seconds: float


class Record:
    """The last requests and deaths of one version: at most 1,000 of each, none older than the window."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._requests: deque[_Ended] = deque(maxlen=_KEPT)
        self._deaths: deque[float] = deque(maxlen=_KEPT)
        self.total = 0
        """Requests that were noted, forgotten ones included."""

    def add(self, outcome: str, seconds: float, now: float) -> None:
        """Note a request that ended."""
        self.total += 1
        kind: Literal["good", "failed", "left"] = "failed"
        if outcome in {"ok", "cancelled"}:
            kind = "good" if outcome == "ok" else "left"
        self._requests.append(_Ended(now, kind, seconds))

    def died(self, times: int, now: float) -> None:
        """Note workers that died."""
        self._deaths.extend([now] * min(times, _KEPT))

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()
        self._deaths.clear()

    def forget_old(self, now: float) -> None:
        """Forget what is older than the window."""
        while self._requests and self._requests[0].at < now - self._window:
            self._requests.popleft()
        while self._deaths and self._deaths[0] < now - self._window:
            self._deaths.popleft()

    def __len__(self) -> int:
        """Requests whose clients waited for the end."""
        return sum(item.outcome != "left" for item in self._requests)

    @property
    def asked(self) -> int:
        """All requests."""
        return len(self._requests)

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return sum(item.outcome == "failed" for item in self._requests)

    @property
    def deaths(self) -> int:
        """Workers that died."""
        return len(self._deaths)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which a share of the good answers came; None when there is none."""
        times = sorted(item.seconds for item in self._requests if item.outcome == "good")
        return times[min(len(times) - 1, int(len(times) * share))] if times else None

    def shortest(self) -> list[float]:
        """Return the least that good answers took, or would have taken whose clients left; shortest first."""
        return sorted(item.seconds for item in self._requests if item.outcome != "failed")

    def longest(self) -> list[float]:
        """Return the most that they took or would have taken: without end where the client left."""
        kept = (item for item in self._requests if item.outcome != "failed")
        return sorted(inf if item.outcome == "left" else item.seconds for item in kept)


class Trial:
    """A new version beside its baseline."""

    def __init__(self, rule: RollbackRule) -> None:
        self._rule = rule
        self._looked_at = 0
        self.candidate = Record(rule.window)
        self.baseline = Record(rule.window)

    def review(self, now: float, *, failed: str | None) -> Verdict | None:
        """Return why the new version is to be taken back; None: not, by what is known.

        Args:
            failed: why it is FAILED; None: it is not.
        """
        if failed is not None:
            return Verdict(cause="failed", reason=f"it is FAILED: {failed}")
        self.candidate.forget_old(now)
        self.baseline.forget_old(now)
        if (verdict := self._deaths()) is not None:
            return verdict
        new = self.candidate.total - self._looked_at
        if new < max(1.0, self.candidate.asked * _NEW_SHARE):
            return None
        self._looked_at = self.candidate.total
        return self._errors() or self._latency()

    def _deaths(self) -> Verdict | None:
        """Compare deaths for each request: of all, as many were the new version's by chance once in 1,000."""
        deaths, others = self.candidate.deaths, self.baseline.deaths
        if deaths <= self._rule.max_deaths:
            return None
        asked = self.candidate.asked + self.baseline.asked
        share = self.candidate.asked / asked if asked else 0.5
        if _tail(deaths, deaths + others, share) > _CHANCE:
            return None
        return Verdict(
            cause="deaths",
            reason=f"its workers died {deaths} times, the baseline's {others} times (max_deaths "
            f"{self._rule.max_deaths}); it had {share:.0%} of the requests",
        )

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
        times, base_times = self.candidate.shortest(), self.baseline.longest()
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


def interval(bad: int, count: int) -> tuple[float, float]:
    """Return between which shares the true one lies, by Chernoff's bound; it holds for any `count` >= 1."""
    share = bad / count
    most = -log(_CHANCE) / count
    return _edge(share, 0.0, most), _edge(share, 1.0, most)


def _edge(share: float, end: float, most: float) -> float:
    """Return how far a share may be moved to an end before it diverges by more than `most`."""
    inside, outside = share, end
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _divergence(share, middle) > most:
            outside = middle
        else:
            inside = middle
    return inside


def _divergence(share: float, other: float) -> float:
    """Return the Kullback-Leibler divergence of two shares."""
    if not 0.0 < other < 1.0:
        return 0.0 if share == other else inf
    first = share * log(share / other) if share > 0.0 else 0.0
    return first + ((1 - share) * log((1 - share) / (1 - other)) if share < 1.0 else 0.0)


def _least_difference(bad: int, count: int, base_bad: int, base_count: int) -> float:
    """Return by how much a share is larger than another at least (both intervals, as Newcombe joins them)."""
    share, base = bad / count, base_bad / base_count
    low, _ = interval(bad, count)
    _, high = interval(base_bad, base_count)
    return share - base - sqrt((share - low) ** 2 + (high - base) ** 2)


def _tail(at_least: int, count: int, share: float) -> float:
    """Return how probable it is that so many of `count` fall to a share."""
    if not 0.0 < share < 1.0:
        return float(share >= 1.0 or not at_least)
    whole = lgamma(count + 1)
    return sum(
        exp(
            whole
            - lgamma(hits + 1)
            - lgamma(count - hits + 1)
            + hits * log(share)
            + (count - hits) * log(1 - share)
        )
        for hits in range(at_least, count + 1)
    )


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
