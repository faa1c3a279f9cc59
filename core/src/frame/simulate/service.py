"""How long a worker takes for a batch: given as a line, or measured by `frame profile`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from frame.errors import ConfigError
from frame.simulate.defaults import USUAL_LOAD, USUAL_OVERHEAD

_LINE = re.compile(r"(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class SizeTimes:
    """Seconds from the moment a slot has a batch of `size` requests until the router has its answers."""

    size: int
    seconds: tuple[float, ...]


class ServiceModel:
    """Seconds per batch by its size: between the sizes known by a line, beyond them as between the last two.

    Measured times vary as they did: a batch takes what the line says times the ratio, drawn at random, of one
    measured time of the nearest size to the median there.

    Attributes:
        overhead: seconds that a request spends outside of queue and worker: HTTP, both ways.
        load_seconds: until a started worker process takes batches.
        largest: requests in the largest batch that is known; None when any size is as good.
        name: in words, for the report.
    """

    def __init__(
        self,
        times: Sequence[SizeTimes],
        *,
        overhead: float = USUAL_OVERHEAD,
        load_seconds: float = USUAL_LOAD,
        largest: int | None = None,
        name: str = "given",
    ) -> None:
        assert times
        self.overhead = overhead
        self.load_seconds = load_seconds
        self.largest = largest
        self.name = name
        ordered = sorted(times, key=lambda item: item.size)
        self._points = [(item.size, median(item.seconds)) for item in ordered]
        self._ratios = [
            tuple(value / middle if middle else 1.0 for value in item.seconds)
            for item, (_, middle) in zip(ordered, self._points, strict=True)
        ]
        self._varies = any(len(set(ratios)) > 1 for ratios in self._ratios)
        self._known: dict[int, tuple[float, tuple[float, ...]]] = {}

    def typical(self, size: int) -> float:
        """Return the median seconds of a batch of `size` requests."""
        return self._look_up(size)[0]

    def draw(self, size: int, random: Random) -> float:
        """Return the seconds of one batch."""
        typical, ratios = self._look_up(size)
        return typical * random.choice(ratios) if self._varies else typical

    def _look_up(self, size: int) -> tuple[float, tuple[float, ...]]:
        found = self._known.get(size)
        if found is None:
            nearest = min(range(len(self._points)), key=lambda index: abs(self._points[index][0] - size))
            found = self._known[size] = self._on_the_line(size), self._ratios[nearest]
        return found

    def _on_the_line(self, size: int) -> float:
        points = self._points
        if len(points) == 1:
            return points[0][1]
        above = next((index for index, (at, _) in enumerate(points) if at >= size), len(points) - 1)
        (low, at_low), (high, at_high) = points[max(0, above - 1)], points[max(1, above)]
        slope = max(0.0, (at_high - at_low) / (high - low))
        return max(0.0, at_low + slope * (size - low)) if size > low else at_low


def service_line(
    text: str, *, overhead: float = USUAL_OVERHEAD, load_seconds: float = USUAL_LOAD
) -> ServiceModel:
    """Read `BASE+PER_ITEM`, milliseconds for a batch and for each of its requests.

    Raises:
        ConfigError: it is something else.
    """
    found = _LINE.fullmatch(text)
    if found is None:
        message = (
            f"--service {text}: write BASE+PER_ITEM in milliseconds (20+1.5), or the file of frame profile"
        )
        raise ConfigError(message)
    base, per_item = float(found[1]) / 1000, float(found[2] or 0) / 1000
    times = [SizeTimes(size, (base + per_item * size,)) for size in (1, 2)]
    name = f"{base * 1000:g} ms + {per_item * 1000:g} ms a request"
    return ServiceModel(times, overhead=overhead, load_seconds=load_seconds, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What `frame profile` measured, all in seconds.

    Attributes:
        batches: for each size, every batch's time.
        overhead: of single requests, what was neither queue nor worker.
    """

    model: str
    batches: tuple[SizeTimes, ...]
    overhead: tuple[float, ...]
    load_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as `from_json` reads it."""
        return {
            "model": self.model,
            "load_seconds": self.load_seconds,
            "overhead_seconds": list(self.overhead),
            "batches": [{"size": item.size, "seconds": list(item.seconds)} for item in self.batches],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        batches = tuple(
            SizeTimes(int(item["size"]), tuple(float(value) for value in item["seconds"]))
            for item in data["batches"]
        )
        if not batches or not all(item.seconds and item.size > 0 for item in batches):
            raise ValueError("no batches in it")
        return cls(
            model=str(data["model"]),
            batches=batches,
            overhead=tuple(float(value) for value in data["overhead_seconds"]),
            load_seconds=float(data["load_seconds"]),
        )

    def service_model(self) -> ServiceModel:
        """Return the model of the times measured."""
        return ServiceModel(
            self.batches,
            overhead=median(self.overhead) if self.overhead else USUAL_OVERHEAD,
            load_seconds=self.load_seconds,
            largest=max(item.size for item in self.batches),
            name=f"profile of {self.model}",
        )


def read_profile(path: Path) -> ServiceModel:
    """Read a file of `frame profile`.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        return Profile.from_json(json.loads(path.read_text(encoding="utf-8"))).service_model()
    except OSError as error:
        raise ConfigError(f"--service {path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--service {path}: not made by frame profile: {error!r}") from error
