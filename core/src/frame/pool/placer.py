"""Leave to start worker groups: memory is read, reserved during starts, and made by unloading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol, assert_never

from frame.errors import OutOfMemoryError
from frame.policy import placement as policy
from frame.policy.placement import InFlight, Loaded, StartRequest
from frame.pool.deaths import OutOfMemoryKills
from frame.pool.memory import read_memory
from frame.pool.plan import ModelPlan, Place

_log = logging.getLogger(__name__)
_UNLOAD_SECONDS = 30.0
"""How long models that make room may take to end."""
_WAIT_SECONDS = 300.0
"""How long a start waits for others that are under way; a load has a deadline of its own."""
_IN_USE_SECONDS = 5.0
"""How long a start waits for models that could make room to be without requests for a moment."""
_IN_USE_LOOK = 0.1
"""Seconds between two looks whether they are."""

ReadMemory = Callable[[Sequence[str]], Coroutine[Any, Any, dict[str, policy.Memory]]]
Clock = Callable[[], float]


class NoRoomError(OutOfMemoryError):
    """Memory is not enough for another copy: the operator can fix it, or time."""

    status = 507


@dataclass(frozen=True, slots=True)
class _Wait:
    """There is no room now: look again after `pause` seconds or a change, for `longest` seconds in all."""

    reason: str
    longest: float
    pause: float


class Ticket:
    """Leave for one start; the memory it is expected to take is reserved until `settle`."""

    def __init__(self, placer: Placer | None = None, in_flight: InFlight | None = None) -> None:
        self._placer = placer
        self._in_flight = in_flight

    def settle(self) -> None:
        """What is free has changed: the copy is loaded, and what it takes shows, or has ended. Idempotent."""
        if self._placer is not None:
            self._placer.settled(self._in_flight)
        self._in_flight = None


class Resources(Protocol):
    """What a model asks before it starts a worker; `kills` are counted for all models together."""

    kills: OutOfMemoryKills

    async def admit(self, plan: ModelPlan, place: Place, *, is_extra: bool) -> Ticket:
        """Return leave to load a copy of a model on a place, once there is room; raises `NoRoomError`."""

    def spare_workers(self, plan: ModelPlan) -> int | None:
        """How many workers above its floor a model may have now; None for no limit but its own."""


class Unlimited:
    """Lets every worker start: for pools without a server around them."""

    def __init__(self) -> None:
        self.kills = OutOfMemoryKills()

    async def admit(self, plan: ModelPlan, place: Place, *, is_extra: bool) -> Ticket:  # noqa: ARG002  # the protocol's
        """Let a group start."""
        return Ticket()

    def spare_workers(self, plan: ModelPlan) -> int | None:  # noqa: ARG002  # the protocol's
        """Leave the number of workers to the model's own limits."""
        return None


class Placer:
    """Decides on starts one after another; two that are read the same free memory would both take it.

    Invariant: who waits for room lets others ask meanwhile, and looks again at each start that has settled,
        at each copy that has ended, and for as long as models in use are in the way, now and then.
    """

    def __init__(
        self,
        *,
        loaded: Callable[[], Iterable[Loaded]],
        unload: Callable[[str], Coroutine[Any, Any, None]],
        measured: Callable[[ModelPlan, Place], dict[str, int]],
        spare_workers: Callable[[ModelPlan], int | None],
        read: ReadMemory = read_memory,
        clock: Clock = monotonic,
    ) -> None:
        """Wire the placer to the models.

        Args:
            loaded: the copies that are in memory.
            unload: ends an idle model's workers and returns when they are gone.
            measured: megabytes that a copy of a model took when it was loaded last, by place.
            spare_workers: what the CPU budget leaves.
        """
        self._loaded = loaded
        self._unload = unload
        self._measured = measured
        self.spare_workers = spare_workers
        self.kills = OutOfMemoryKills()
        self._read = read
        self._clock = clock
        self._in_flight: list[InFlight] = []
        self.short: set[str] = set()
        """Models, by their labels, for whose last start there was no room."""
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def settled(self, in_flight: InFlight | None) -> None:
        """What is free has changed; a start that is given is no longer under way."""
        if in_flight is not None:
            self._in_flight.remove(in_flight)
        self._changed.set()
        self._changed = asyncio.Event()  # who waits has the one that was set

    async def admit(self, plan: ModelPlan, place: Place, *, is_extra: bool) -> Ticket:
        """Return leave to load a copy of a model on a place, once there is room.

        Args:
            is_extra: the model can serve without this copy, so that no other makes room for it, and it does
                not wait.

        Raises:
            NoRoomError: there is none, and none can be made.
        """
        start = StartRequest(
            key=label_of(plan),
            devices=place.devices,
            needs=place.needs,
            measured_mb=self._measured(plan, place),
        )
        began = self._clock()
        while True:
            changed = self._changed
            async with self._turn:
                found = await self._try(start, is_extra=is_extra)
            if isinstance(found, Ticket):
                self.short.discard(start.key)
                return found
            left = began + found.longest - self._clock()
            if left <= 0.0:
                self.short.add(start.key)
                raise NoRoomError(f"no room for another copy: {found.reason}")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(found.pause, left)):
                    await changed.wait()

    async def _try(self, start: StartRequest, *, is_extra: bool) -> Ticket | _Wait:
        """Return leave, if need be after idle models have made room, or for how long to wait for it."""
        while True:
            memory = await self._read(("cpu", *(name for name in start.devices if name != "cpu")))
            loaded = [] if is_extra else list(self._loaded())
            match policy.decide_start(start, memory, self._in_flight, loaded):
                case policy.Admit(expected_mb=expected):
                    in_flight = InFlight(start.devices, expected)
                    self._in_flight.append(in_flight)
                    return Ticket(self, in_flight)
                case policy.Unload(keys=keys):
                    await self._make_room(keys, start.key)
                case policy.WaitForStarts(reason=reason):
                    return _Wait(reason, 0.0 if is_extra else _WAIT_SECONDS, _WAIT_SECONDS)
                case policy.Refuse(reason=reason):
                    is_in_use = self._is_in_use(start, memory, loaded)
                    return _Wait(reason, _IN_USE_SECONDS if is_in_use else 0.0, _IN_USE_LOOK)
                case decision:
                    assert_never(decision)

    def _is_in_use(
        self, start: StartRequest, memory: Mapping[str, policy.Memory], loaded: Iterable[Loaded]
    ) -> bool:
        """Tell whether there were room, or soon, if no model had requests."""
        idle = [replace(model, leases=0) for model in loaded]
        decision = policy.decide_start(start, memory, self._in_flight, idle)
        return not isinstance(decision, policy.Refuse)

    async def _make_room(self, keys: Sequence[str], wanted_by: str) -> None:
        for key in keys:
            _log.info("model_unloaded model=%s room_for=%s", key, wanted_by)
        try:
            async with asyncio.timeout(_UNLOAD_SECONDS):
                await asyncio.gather(*(self._unload(key) for key in keys))
        except TimeoutError:
            message = f"models that make room did not end within {_UNLOAD_SECONDS:g} s"
            raise NoRoomError(message) from None


def label_of(plan: ModelPlan) -> str:
    """Return what names a model version in logs and in decisions."""
    return plan.name if plan.version is None else f"{plan.name}:{plan.version}"
