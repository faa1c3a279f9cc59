"""What is measured of a model: how long a batch takes by its size, and how fast requests come."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MEMORY = 0.97
"""Weight of all that was measured before, at each new batch: the last 30 or so count."""
_SIZED_MEMORY = 0.9
"""The same for batches of about one size; before there are ten, all of them count alike."""
_FIRST = 0.05
"""Weight of a first batch: it often pays for caches and lazy starts."""
_OUTLIER = 4.0
"""A batch that took more than this many times what was expected counts as this many times."""
_ENOUGH = 5
"""Batches before one may count as an outlier."""
_LEAST_VARIANCE = 0.05
"""Variance of the sizes (requests squared) from which the time of one more request can be told."""
_LEAST_VARIATION = 0.1
"""The same for their standard deviation as a part of their mean: below it the slope is noise."""
_RATE_SECONDS = 5.0
"""Requests of about this long count for the rate."""
_REMEMBERED = 60.0
"""Seconds for which what was learned from sizes that do not occur any more is remembered."""
_BETTER = 1.05
"""Times the throughput of the largest batches that smaller ones must have to be better."""
_Z99 = 2.33
"""Standard deviations between the mean and the 99th percentile of a normal distribution."""
_MOST_SPREAD = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Seconds of a batch of b requests: `base + per_item * b`, both >= 0.

    Attributes:
        spread: how many times longer the slowest of a hundred batches takes, >= 1.
        knows_sizes: batches of different sizes were measured; if not, `per_item` is 0 and not known.
    """

    base: float
    per_item: float
    spread: float
    knows_sizes: bool

    def seconds(self, size: int) -> float:
        """Return the mean time of a batch."""
        return self.base + self.per_item * size

    def slow_seconds(self, size: int) -> float:
        """Return the time that one of a hundred batches takes."""
        return self.spread * self.seconds(size)


@dataclass(slots=True)
class _Sized:
    """Means of batches of about one size, how many there were, and when the last one was."""

    size: float
    seconds: float
    at: float
    count: int = 0


class ServiceTimes:
    """Batches and arrivals in, a line through the batches' times and a rate out; each call is O(1).

    The line is one of least squares in which old batches fade away. When only batches of one size are left,
    its slope is remembered for a while. Requests fade by time.
    """

    def __init__(self) -> None:
        self._count = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._ratio_variance = 0.0
        self._slope = 0.0
        self._slope_until = self._observed = -math.inf
        self._largest = 0
        self._by_size: dict[int, _Sized] = {}
        self._rate = 0.0
        self._rated = self._first_arrival = -math.inf

    @property
    def largest(self) -> int:
        """The largest batch that was measured, 0 when none was."""
        return self._largest

    def observe(self, size: int, seconds: float, now: float) -> None:
        """Count a batch of `size` requests that was answered after `seconds` in its slot."""
        expected = self.mean(size)
        if expected and self._count >= _ENOUGH:
            seconds = min(seconds, _OUTLIER * expected)
            ratio = seconds / expected - 1.0
            self._ratio_variance += (1.0 - _MEMORY) * (ratio * ratio - self._ratio_variance)
        self._count += 1
        self._largest = max(self._largest, size)
        self._remember(size, seconds, now)
        weight = _FIRST if self._count == 1 else 1.0
        self._weight = self._weight * _MEMORY + weight
        self._x = self._x * _MEMORY + weight * size
        self._y = self._y * _MEMORY + weight * seconds
        self._xx = self._xx * _MEMORY + weight * size * size
        self._xy = self._xy * _MEMORY + weight * size * seconds
        self._observed = now
        self._remember_slope(now)

    def _remember_slope(self, now: float) -> None:
        """Keep the time of one more request while batches of different sizes tell it."""
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance >= max(_LEAST_VARIANCE, (_LEAST_VARIATION * mean_x) ** 2):
            self._slope = (self._xy / self._weight - mean_x * mean_y) / variance
            self._slope_until = now + _REMEMBERED

    def _remember(self, size: int, seconds: float, now: float) -> None:
        """Keep the means of batches of about this size: from one power of 2 to the next they count as one."""
        key = size.bit_length()
        known = self._by_size.get(key)
        if known is None or now - known.at > _REMEMBERED:
            known = self._by_size[key] = _Sized(float(size), seconds, now)
        known.count += 1
        weight = max(1.0 - _SIZED_MEMORY, 1.0 / known.count)
        known.size += (size - known.size) * weight
        known.seconds += (seconds - known.seconds) * weight
        known.at = now

    def best_size(self, now: float) -> int | None:
        """Return the size with the highest measured throughput, if it is clearly above that of the largest.

        None when it is not: then larger ones may be better still.
        """
        known = [item for _, item in sorted(self._by_size.items()) if now - item.at <= _REMEMBERED]
        if not known:
            return None
        best = min(known, key=lambda item: item.seconds / item.size)
        if best.size * known[-1].seconds <= _BETTER * known[-1].size * best.seconds:
            return None
        return max(1, round(best.size))

    def arrived(self, now: float) -> None:
        """Count a request."""
        if self._first_arrival == -math.inf:
            self._first_arrival = now
        self._rate = self._faded(now) + 1.0 / _RATE_SECONDS
        self._rated = now

    def rate(self, now: float) -> float:
        """Return the requests per second, over the last seconds."""
        if self._first_arrival == -math.inf:
            return 0.0
        seen = 1.0 - math.exp(-max(now - self._first_arrival, 0.1) / _RATE_SECONDS)
        return self._faded(now) / seen

    def _faded(self, now: float) -> float:
        return self._rate * math.exp(-max(0.0, now - self._rated) / _RATE_SECONDS) if self._rate else 0.0

    def fit(self) -> Fit | None:
        """Return what the times are like, None before the first batch."""
        if not self._count:
            return None
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = min(_MOST_SPREAD, 1.0 + _Z99 * math.sqrt(self._ratio_variance))
        if self._observed > self._slope_until:
            return Fit(base=mean_y, per_item=0.0, spread=spread, knows_sizes=False)
        slope = min(max(0.0, self._slope), mean_y / mean_x)  # neither part of the time is negative
        return Fit(base=max(0.0, mean_y - slope * mean_x), per_item=slope, spread=spread, knows_sizes=True)

    def mean(self, size: int) -> float | None:
        """Return the seconds that a batch of this size takes on average, None before the first batch."""
        fit = self.fit()
        return None if fit is None else fit.seconds(size)
