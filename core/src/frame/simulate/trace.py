"""What clients send and when, read from a file or made up from a seed; and when workers are killed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from frame.errors import ConfigError
from frame.wire.hints import NO_HINT, BatchHint

_COLUMNS = ("arrived_seconds", "cost", "key", "priority")
_USUAL_PRIORITY = 3


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request; `at` is in seconds from the start of the trace."""

    at: float
    hint: BatchHint = NO_HINT
    priority: int = _USUAL_PRIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in the order in which they come.

    Attributes:
        seconds: how long clients send, > 0.
        kills: when a worker process is killed, in order.
        name: in words, for the report.
    """

    arrivals: tuple[Arrival, ...]
    seconds: float
    kills: tuple[float, ...] = ()
    name: str = "trace"

    @property
    def rate(self) -> float:
        """Mean requests per second."""
        return len(self.arrivals) / self.seconds


@dataclass(frozen=True, slots=True)
class Burst:
    """`rate` requests/s for `off` seconds, then `peak` requests/s for `on` seconds, and again."""

    rate: float
    peak: float
    on: float
    off: float


def parse_burst(text: str) -> Burst:
    """Read `RATE,PEAK,ON,OFF`.

    Raises:
        ConfigError: it is not four numbers that make a load.
    """
    try:
        rate, peak, on, off = (float(word) for word in text.split(","))
    except ValueError:
        message = (
            f"--burst {text}: write RATE,PEAK,ON,OFF (requests/s, requests/s, seconds, seconds): 20,200,1,4"
        )
        raise ConfigError(message) from None
    if rate < 0 or peak <= 0 or on <= 0 or off < 0:
        raise ConfigError(f"--burst {text}: PEAK and ON must be above 0, RATE and OFF not below it")
    return Burst(rate, peak, on, off)


def poisson_trace(rate: float, seconds: float, seed: int) -> Trace:
    """Return requests that come independently of each other, `rate` a second on average."""
    arrivals = tuple(Arrival(at) for at in _poisson(rate, 0.0, seconds, Random(seed)))  # noqa: S311  # a load
    return Trace(arrivals=arrivals, seconds=seconds, name=f"Poisson, {rate:g} requests/s")


def burst_trace(burst: Burst, seconds: float, seed: int) -> Trace:
    """Return requests whose rate jumps to a peak and back, again and again."""
    random = Random(seed)  # noqa: S311  # a load
    arrivals: list[Arrival] = []
    start = 0.0
    while start < seconds:
        middle = min(seconds, start + burst.off)
        end = min(seconds, middle + burst.on)
        arrivals += (Arrival(at) for at in _poisson(burst.rate, start, middle, random))
        arrivals += (Arrival(at) for at in _poisson(burst.peak, middle, end, random))
        start += burst.off + burst.on
    name = f"{burst.rate:g} requests/s, every {burst.on + burst.off:g} s {burst.peak:g} for {burst.on:g} s"
    return Trace(arrivals=tuple(arrivals), seconds=seconds, name=name)


def kill_times(every: float | None, at: tuple[float, ...], seconds: float) -> tuple[float, ...]:
    """Return when workers are killed within a trace, in order."""
    times = [time for time in at if time < seconds]
    if every is not None:
        times += [every * count for count in range(1, int(seconds / every) + 1) if every * count < seconds]
    return tuple(sorted(times))


def read_trace(path: Path) -> Trace:
    """Read a CSV file with the columns `arrived_seconds[,cost[,key[,priority]]]`, sorted here.

    Raises:
        ConfigError: it cannot be read, or a line of it; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            arrivals = sorted(_read_rows(csv.DictReader(file), path), key=lambda arrival: arrival.at)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not arrivals:
        raise ConfigError(f"{path}: no requests in it")
    # From the first request on, and to the end of the mean gap after the last.
    first, last = arrivals[0].at, arrivals[-1].at
    seconds = (last - first) * len(arrivals) / max(1, len(arrivals) - 1) or 1.0
    moved = tuple(Arrival(item.at - first, item.hint, item.priority) for item in arrivals)
    return Trace(arrivals=moved, seconds=seconds, name=path.name)


def _read_rows(rows: csv.DictReader[str], path: Path) -> Iterator[Arrival]:
    names = rows.fieldnames or ()
    if _COLUMNS[0] not in names or not set(names) <= set(_COLUMNS):
        message = f"{path}: the first line names the columns: arrived_seconds[,cost[,key[,priority]]]"
        raise ConfigError(message)
    try:
        for row in rows:
            hint = BatchHint((row.get("key") or "").encode(), int(row.get("cost") or 1))
            yield Arrival(float(row[_COLUMNS[0]]), hint, int(row.get("priority") or _USUAL_PRIORITY))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}:{rows.line_num}: {error}") from None


def _poisson(rate: float, start: float, end: float, random: Random) -> Iterator[float]:
    at = start
    while rate > 0:
        at += random.expovariate(rate)
        if at >= end:
            return
        yield at
