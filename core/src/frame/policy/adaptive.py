"""Adaptive batching: size and delay of batches, chosen towards a latency from what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from frame.policy.batching import BatchLimits
from frame.policy.service_times import Fit, ServiceTimes

DEFAULT_MOST = 64
"""Largest batch that is tried where `batch_size` is not set."""
_MARGIN = 0.9
"""Part of the target that is used: the rest is for the way through the server."""
_HEADROOM = 1.1
"""Requests that the workers should be able to answer for each that comes."""
_BUSY, _IDLE_AGAIN = 0.8, 0.6
"""Utilisation from which larger batches are worth a wait, and below which they are not any more."""
_WAIT_OF_BASE = 0.25
_WAIT_OF_TARGET = 0.2
"""A wait is at most these parts of what one batch less saves, and of the target."""
_CHANGE_OF_SIZE, _CHANGE_OF_DELAY = 0.15, 0.5
"""Parts by which a choice must differ from the last one."""
_LEAST_CHANGE_OF_DELAY = 0.001
_WORTHWHILE = 0.05
"""Part by which a batch must raise the throughput of half its size to be worth its time."""
_INTERVAL = 0.1
"""Seconds between two choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimits:
    """What to choose towards.

    Attributes:
        target: seconds within which 99 of 100 requests should be answered.
        most: largest batch that may be chosen, >= 1.
    """

    target: float
    most: int


@dataclass(frozen=True, slots=True)
class _Choice:
    size: int
    reason: str


class AdaptiveBatching:
    """Chooses the limits of batches for one model, from what `times` has measured of it.

    A batch that may be large costs nothing while few requests wait, because an idle worker takes what is
    there. So the size is as large as the target allows: a request may find a batch of that size running and
    then is part of one itself. Where that cannot keep up with what arrives, the smallest size that can is
    chosen, and where none can, the one with the highest throughput. Sizes with hardly more throughput than
    half of them are left out: where a batch gains nothing, its requests would only wait for each other. A
    delay is only spent when workers are nearly always busy: then it joins requests that come in one moment,
    such as those of clients that were all answered by one batch.

    Invariants: `1 <= batch_size <= most`; at most twice the largest size that was measured, so that a time is
        known before it is relied on; the delay and the batches' time keep the target together.
    """

    def __init__(self, limits: AdaptiveLimits, start: BatchLimits, times: ServiceTimes) -> None:
        self._limits = limits
        self._times = times
        self._current = replace(start, batch_size=1, max_delay=0.0)
        self._not_before = 0.0
        self.reason = ""
        """Why the last choice was made, with its figures."""

    @property
    def current(self) -> BatchLimits:
        """The limits that were chosen last."""
        return self._current

    def decide(self, now: float, *, workers: int) -> BatchLimits | None:
        """Return other limits, None when those in force are right; call it after each batch."""
        fit = self._times.fit()
        if fit is None or now < self._not_before or workers < 1:
            return None
        self._not_before = now + _INTERVAL
        rate = self._times.rate(now)
        most = self._most(fit, now)
        delay = self._delay(fit, rate, workers, most)
        choice = self._size(fit, rate, workers, most, delay)
        if not self._differs(choice.size, delay):
            return None
        self._current = replace(self._current, batch_size=choice.size, max_delay=delay)
        self.reason = (
            f"{choice.reason}; {rate:.3g} requests/s on {workers} workers, a batch of b takes "
            f"{fit.base * 1000:.3g} ms + {fit.per_item * 1000:.3g} ms * b, "
            f"one of a hundred {fit.spread:.2g} times that"
        )
        return self._current

    def _most(self, fit: Fit, now: float) -> int:
        """Return the largest size worth trying: twice as large as known ones, and no waste of time."""
        most = min(self._limits.most, 2 * self._times.largest)
        best = self._times.best_size(now)
        if best is not None:
            most = min(most, best)
        if not fit.knows_sizes:
            return min(most, 2 * self._current.batch_size)
        slower = max(1, self._current.batch_size // 2)  # not all at once: the line is drawn through noise
        return min(most, max(slower, _worthwhile(fit, most)))

    def _delay(self, fit: Fit, rate: float, workers: int, most: int) -> float:
        """Return the wait for company: none while workers are idle now and then."""
        if most == 1 or not fit.knows_sizes:
            return 0.0
        usual = _usual_size(fit, rate, workers, most)
        utilisation = rate * fit.seconds(usual) / (workers * usual)
        if utilisation < (_IDLE_AGAIN if self._current.max_delay else _BUSY):
            return 0.0
        return min(_WAIT_OF_BASE * fit.base, _WAIT_OF_TARGET * self._limits.target)

    def _size(self, fit: Fit, rate: float, workers: int, most: int, delay: float) -> _Choice:
        target = _MARGIN * self._limits.target - delay
        sizes = range(1, most + 1)
        largest = max((size for size in sizes if _slow_latency(fit, size, workers) <= target), default=0)
        needed = min(
            (size for size in sizes if _throughput(fit, size, workers) >= _HEADROOM * rate), default=most
        )
        if largest >= needed or (largest and not fit.knows_sizes):
            why = f"the largest with which a slow request takes {_ms(fit, largest, workers)}"
            return _Choice(largest, f"{why} of {self._target_ms}")
        if _throughput(fit, needed, workers) >= _HEADROOM * rate:
            why = f"the smallest that keeps up; a slow request takes {_ms(fit, needed, workers)}"
            return _Choice(needed, f"{why} of {self._target_ms}")
        return _Choice(most, f"no size keeps up: the highest throughput, not {self._target_ms}")

    def _differs(self, size: int, delay: float) -> bool:
        now = self._current
        if abs(size - now.batch_size) > _CHANGE_OF_SIZE * now.batch_size:
            return True
        change = abs(delay - now.max_delay)
        return change > max(_LEAST_CHANGE_OF_DELAY, _CHANGE_OF_DELAY * now.max_delay)

    @property
    def _target_ms(self) -> str:
        return f"the {self._limits.target * 1000:.3g} ms aimed at"


def _slow_latency(fit: Fit, size: int, workers: int) -> float:
    """Seconds of a slow request: until one of the workers is free, and in a batch of its own."""
    return fit.slow_seconds(size) + fit.seconds(size) / workers


def _throughput(fit: Fit, size: int, workers: int) -> float:
    seconds = fit.seconds(size)
    return workers * size / seconds if seconds > 0 else float("inf")


def _worthwhile(fit: Fit, most: int) -> int:
    """Return the largest size, up to `most`, that raises the throughput of half of it enough."""
    if fit.per_item <= 0:
        return most
    return int(min(most, fit.base * (1.0 - _WORTHWHILE) / (fit.per_item * _WORTHWHILE)))


def _usual_size(fit: Fit, rate: float, workers: int, most: int) -> int:
    """Return the size that batches reach while all workers are busy: what comes during one of them."""
    left = workers - rate * fit.per_item
    size = rate * fit.base / left if left > 0 else float(most)
    return max(1, min(most, round(size + sqrt(max(0.0, size)))))


def _ms(fit: Fit, size: int, workers: int) -> str:
    return f"{_slow_latency(fit, size, workers) * 1000:.3g} ms"
