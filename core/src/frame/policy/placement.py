"""Where a worker group may start: memory, devices and CPU threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one place (`cpu`, `gpu0`, ...) in MB (2**20 bytes), other programs' use counted.

    Attributes:
        free_mb: what a new process may take; on the CPU within the cgroup's limit. None: it cannot be read.
        total_mb: all that there is; None: it cannot be read.
    """

    free_mb: int | None
    total_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What a group takes on a place and what must be left there, in MB.

    Attributes:
        required_mb: `required_memory_mb`; 0 means that it was not given.
        reserved_mb: `reserved_memory_mb`.
    """

    required_mb: int
    reserved_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """A group that is to start.

    Attributes:
        key: its model's, as in `Loaded`; a model never makes room for itself.
        devices: `("cpu",)` or GPUs. A group on GPUs is checked on each of them and on the CPU, as DJL Serving
            does.
        needs: for one place, by the kind of place: `cpu`, `gpu`. A kind that is not named needs nothing.
        measured_mb: by place, what such a group took when it ran before; it counts where nothing is required.
    """

    key: str
    devices: tuple[str, ...]
    needs: Mapping[str, Need]
    measured_mb: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A start under way and the MB that it is still expected to take, by place."""

    devices: tuple[str, ...]
    expected_mb: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that has workers.

    Attributes:
        measured_mb: what all of its groups take, by place.
        last_used: when its last request ended.
        leases: requests between admission and answer.
        may_unload: it is loaded again by its next request.
        is_leaving: it is being unloaded and has not given its memory back yet.
    """

    key: str
    devices: tuple[str, ...]
    measured_mb: Mapping[str, int]
    last_used: float
    leases: int
    may_unload: bool
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Admit:
    """Start it now; `expected_mb` by place is what its `InFlight` has."""

    expected_mb: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload these models in this order, then ask again."""

    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class WaitForStarts:
    """Ask again when a start under way has settled or a model that is being unloaded is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """There is no room and nothing under way that makes some."""

    reason: str


def decide_start(
    start: StartRequest,
    memory: Mapping[str, Memory],
    in_flight: Iterable[InFlight],
    loaded: Iterable[Loaded],
) -> Admit | Unload | WaitForStarts | Refuse:
    """Return whether the group may start, by the memory of all of its places.

    Args:
        memory: by place; one that is missing cannot be read.
        loaded: models that may make room; give none for a start that is not worth unloading another.
    """
    check = _Check(start, memory, list(in_flight))
    if blind := check.blind():
        return Refuse(f"needs {check.expected(blind)} MB on {blind}, whose memory cannot be read")
    short = check.short()
    if not short:
        return Admit(check.all_expected())
    others = [model for model in loaded if model.key != start.key and _holds_any(model, short)]
    return _make_room(check, short, others)


def _make_room(
    check: _Check, short: Mapping[str, int], holders: Sequence[Loaded]
) -> Unload | WaitForStarts | Refuse:
    """Return what to do about places that are short, of which `holders` hold a part."""
    why = "; ".join(check.figures(place) for place in short)
    if any(check.exceeds_total(place) for place in short):
        return Refuse(why)
    leaving = [model for model in holders if model.is_leaving]
    still_short = _less(short, [model.measured_mb for model in leaving])
    idle = [model for model in holders if model.may_unload and not model.leases and not model.is_leaving]
    if victims := _victims(idle, still_short):
        return Unload(tuple(model.key for model in victims), why)
    if leaving:
        return WaitForStarts(f"{why}; being unloaded: {', '.join(model.key for model in leaving)}")
    gains = [*(item.expected_mb for item in check.in_flight), *(model.measured_mb for model in idle)]
    if check.in_flight and not _less(short, gains):
        return WaitForStarts(f"{why}; it may be enough when those have settled")
    in_use = sum(model.may_unload and model.leases > 0 for model in holders)
    return Refuse(f"{why}; models in use that could be unloaded otherwise: {in_use}" if in_use else why)


def share_threads(wanted: int, budget: int, workers: int) -> int:
    """Return the CPU threads of each worker, >= 1, so that all together have at most `budget` if possible.

    Args:
        wanted: threads that one worker was configured for.
        budget: threads that all `workers` may use together.
    """
    return max(1, min(wanted, budget // max(1, workers)))


@dataclass(frozen=True, slots=True)
class _Check:
    """One start beside the memory that is there."""

    start: StartRequest
    memory: Mapping[str, Memory]
    in_flight: Sequence[InFlight]

    def places(self) -> list[str]:
        return list(dict.fromkeys((*self.start.devices, CPU)))

    def need(self, place: str) -> Need:
        return self.start.needs.get(place.rstrip("0123456789"), Need(0, 0))

    def expected(self, place: str) -> int:
        """Return the MB that it takes: the configured figure is its owner's word, else the measured one."""
        return self.need(place).required_mb or self.start.measured_mb.get(place, 0)

    def all_expected(self) -> dict[str, int]:
        return {place: figure for place in self.places() if (figure := self.expected(place))}

    def free(self, place: str) -> int | None:
        return self.memory[place].free_mb if place in self.memory else None

    def blind(self) -> str | None:
        """Return a place where it requires memory that cannot be read."""
        needed = (place for place in self.places() if self.need(place).required_mb)
        return next((place for place in needed if self.free(place) is None), None)

    def taken(self, place: str) -> int:
        return sum(item.expected_mb.get(place, 0) for item in self.in_flight)

    def short(self) -> dict[str, int]:
        """Return the missing MB of each place that has too little."""
        left = {
            place: free - self.taken(place) - self.expected(place) - self.need(place).reserved_mb
            for place in self.places()
            if (free := self.free(place)) is not None
        }
        return {place: -rest for place, rest in left.items() if rest < 0}

    def exceeds_total(self, place: str) -> bool:
        total = self.memory[place].total_mb
        return total is not None and self.expected(place) + self.need(place).reserved_mb > total

    def figures(self, place: str) -> str:
        reserved = self.need(place).reserved_mb
        text = (
            f"needs {self.expected(place)} MB on {place} and {reserved} MB must stay free; "
            f"{self.free(place)} MB are free"
        )
        if taken := self.taken(place):
            text += f", of which starts under way will take {taken} MB"
        if self.exceeds_total(place):
            text += f", there are {self.memory[place].total_mb} MB in all"
        return text


def _holds_any(model: Loaded, places: Iterable[str]) -> bool:
    return any(model.measured_mb.get(place, 0) > 0 for place in places)


def _less(short: Mapping[str, int], gains: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return what is still missing once these have been given back."""
    left = {place: missing - sum(gain.get(place, 0) for gain in gains) for place, missing in short.items()}
    return {place: missing for place, missing in left.items() if missing > 0}


def _victims(idle: Iterable[Loaded], short: Mapping[str, int]) -> list[Loaded]:
    """Return which of them to unload, least recently used first; none if all are too few."""
    chosen: list[Loaded] = []
    left = dict(short)
    for model in sorted(idle, key=lambda item: (item.last_used, item.key)):
        if _holds_any(model, left):
            chosen.append(model)
            left = _less(left, [model.measured_mb])
    if left:
        return []
    # A large one at the end may have made others needless; keep those that were used last.
    for model in reversed(chosen):
        rest = [item for item in chosen if item is not model]
        if not _less(short, [item.measured_mb for item in rest]):
            chosen = rest
    return chosen
