"""Leave to start worker groups: memory is read, reserved during starts, and made by unloading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol, assert_never

from frame.errors import FrameError
from frame.policy import placement as policy
from frame.policy.placement import InFlight, Loaded, StartRequest
from frame.pool.memory import read_memory
from frame.pool.plan import ModelPlan, Place

_log = logging.getLogger(__name__)
_UNLOAD_SECONDS = 30.0
"""How long models that make room may take to end."""
_WAIT_SECONDS = 300.0
"""How long a start waits for others that are under way; a load has a deadline of its own."""

ReadMemory = Callable[[Sequence[str]], Coroutine[Any, Any, dict[str, policy.Memory]]]
Clock = Callable[[], float]


class NoRoomError(FrameError):
    """Memory is not enough for another copy: the operator can fix it, or time."""

    status = 507


class Ticket:
    """Leave for one start; the memory it is expected to take is reserved until `settle`."""

    def __init__(self, placer: Placer | None = None, in_flight: InFlight | None = None) -> None:
        self._placer = placer
        self._in_flight = in_flight

    def settle(self) -> None:
        """The copy is loaded, so that what it takes shows in what is free, or has ended. Idempotent."""
        if self._placer is not None and self._in_flight is not None:
            self._placer.forget(self._in_flight)
        self._in_flight = None


Admit = Callable[[ModelPlan, Place], Coroutine[Any, Any, Ticket]]


class Resources(Protocol):
    """What a model asks before it starts a worker."""

    async def admit(self, plan: ModelPlan, place: Place) -> Ticket:
        """Return leave to load a copy of a model on a place, once there is room; raises `NoRoomError`."""

    def spare_workers(self, plan: ModelPlan) -> int | None:
        """How many workers above its floor a model may have now; None for no limit but its own."""


class Unlimited:
    """Lets every worker start: for pools without a server around them."""

    async def admit(self, plan: ModelPlan, place: Place) -> Ticket:  # noqa: ARG002  # the protocol's
        """Let a group start."""
        return Ticket()

    def spare_workers(self, plan: ModelPlan) -> int | None:  # noqa: ARG002  # the protocol's
        """Leave the number of workers to the model's own limits."""
        return None


UNLIMITED = Unlimited()


class Placer:
    """Decides on starts one after another; two that are read the same free memory would both take it."""

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
        self._read = read
        self._clock = clock
        self._in_flight: list[InFlight] = []
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def forget(self, in_flight: InFlight) -> None:
        """A start is no longer under way."""
        self._in_flight.remove(in_flight)
        self._changed.set()

    async def admit(self, plan: ModelPlan, place: Place) -> Ticket:
        """Return leave to load a copy of a model on a place, once there is room.

        Raises:
            NoRoomError: there is none, and none can be made.
        """
        start = StartRequest(
            key=label_of(plan),
            devices=place.devices,
            needs=place.needs,
            measured_mb=self._measured(plan, place),
        )
        deadline = self._clock() + _WAIT_SECONDS
        async with self._turn:
            while True:
                self._changed.clear()
                memory = await self._read(("cpu", *(name for name in place.devices if name != "cpu")))
                decision = policy.decide_start(start, memory, self._in_flight, list(self._loaded()))
                match decision:
                    case policy.Admit(expected_mb=expected):
                        in_flight = InFlight(place.devices, expected)
                        self._in_flight.append(in_flight)
                        return Ticket(self, in_flight)
                    case policy.Refuse(reason=reason):
                        raise NoRoomError(f"no room for another copy: {reason}")
                    case policy.Unload(keys=keys):
                        await self._make_room(keys, start.key)
                    case policy.WaitForStarts(reason=reason):
                        await self._wait(deadline, reason)
                    case _:
                        assert_never(decision)

    async def _make_room(self, keys: Sequence[str], wanted_by: str) -> None:
        for key in keys:
            _log.info("model_unloaded model=%s room_for=%s", key, wanted_by)
        try:
            async with asyncio.timeout(_UNLOAD_SECONDS):
                await asyncio.gather(*(self._unload(key) for key in keys))
        except TimeoutError:
            message = f"models that make room did not end within {_UNLOAD_SECONDS:g} s"
            raise NoRoomError(message) from None

    async def _wait(self, deadline: float, reason: str) -> None:
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await self._changed.wait()
        except TimeoutError:
            raise NoRoomError(f"no room for another copy: {reason}") from None


def label_of(plan: ModelPlan) -> str:
    """Return what names a model version in logs and in decisions."""
    return plan.name if plan.version is None else f"{plan.name}:{plan.version}"
