"""The worker groups of one model version: start what is missing, end what is too much, pause, end all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from frame.policy.conductor import Supply
from frame.policy.growth import EndGroup, GroupSize, ResizeGroup, StartGroup, steps_to
from frame.policy.lifecycle import FailUntil, GroupState, RestartPolicy
from frame.policy.scaling import LOOK_EVERY, ScaleTo
from frame.policy.spread import PlaceCount, missing_on_places, spread
from frame.pool.deaths import GroupEnd
from frame.pool.group import WorkerGroup
from frame.pool.listeners import GroupListener
from frame.pool.placer import NoRoomError, Resources, Ticket
from frame.pool.plan import ModelPlan, Place
from frame.pool.settings import GroupSettings, Placement
from frame.pool.staffing import Staffing
from frame.pool.stoppable import unless_set

_log = logging.getLogger(__name__)
_LEAST_GRACE = 1.0
"""Seconds that an idle worker always gets to close its model."""
_ROOM_AGAIN = 5.0
"""Seconds until a worker is tried again that memory had no room for, beside others that serve."""
_ALIVE = (GroupState.STARTING, GroupState.READY)

Prepare = Callable[[ModelPlan], Coroutine[Any, Any, ModelPlan]]
Clock = Callable[[], float]
MakeGroup = Callable[[GroupSettings, Placement, GroupListener], WorkerGroup]


class Owner(GroupListener, Protocol):
    """What the supervisor asks and tells; called on the loop's thread."""

    def floor_reached(self) -> None:
        """As many workers are up as there always should be, or as can be for now."""

    def group_ended(self, group: WorkerGroup, end: GroupEnd) -> None:
        """The group's process is gone; its unfinished jobs are still in its batches."""

    def model_failed(self, cause: str, log: Sequence[str]) -> None:
        """No group works, and none is tried again before a pause; `log` is what the last one wrote last."""

    def may_try_again(self) -> None:
        """The pause after a failure is over; the next request starts a worker."""


class Supervisor:
    """The worker groups of one model version.

    Invariants: below the floor a start is under way or has a time, unless the model sleeps; what fails is
        tried again after a pause; a group starts only with a ticket for its memory; `run` returns only when
        every group's process is gone.
    """

    def __init__(
        self,
        plan: ModelPlan,
        owner: Owner,
        *,
        staffing: Staffing,
        prepare: Prepare,
        make_group: MakeGroup,
        clock: Clock,
        resources: Resources,
    ) -> None:
        self.plan = plan
        self.groups: dict[int, WorkerGroup] = {}
        self.log_tail: tuple[str, ...] = ()
        self.is_asleep = plan.starts_on_demand
        """No worker is started until `wake`."""
        self._start_seconds: float | None = None
        self._owner = owner
        self._staffing = staffing
        self._prepare = prepare
        self._is_prepared = False
        self._make_group = make_group
        self._clock = clock
        self._resources = resources
        self._restarts = RestartPolicy(plan.restarts)
        self._has_failed = False
        self._not_before = 0.0
        self._no_room_until = 0.0
        self._is_short = False
        self._next_group = 1
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self._tickets: dict[int, Ticket] = {}
        self._started: dict[int, float] = {}
        self._closing = asyncio.Event()
        self._start_nothing = asyncio.Event()
        """Set while the model closes or was unloaded: what a start waits for is given up."""
        self._is_watching = False
        self._grace = 0.0

    # --- what the owner calls -----------------------------------------------------------------

    def answered(self, group: WorkerGroup) -> None:
        """A batch was answered: past deaths are forgiven, and failed starts if this one came after them."""
        self._restarts.answered(group.key)

    def change_plan(self, plan: ModelPlan) -> None:
        """Follow another plan: other numbers of workers on the same devices."""
        self.plan = plan
        if plan.min_workers:
            self._wake()
        self._changed.set()

    def look_again(self) -> None:
        """Something changed: see whether a group is missing."""
        self._changed.set()

    def requests_wait(self) -> None:
        """Requests wait for a slot: see soon whether more workers are wanted. Cheap; called for each."""
        if self.is_asleep:
            self._wake()
            self._changed.set()
        elif not self._is_watching and self.planned_workers() < self.plan.max_workers:
            self._changed.set()

    def loaded(self, group: WorkerGroup) -> float:
        """A group is up; return the seconds since its start, that of its process included."""
        self._start_seconds = self._clock() - self._started[group.key]
        self._tickets[group.key].settle()
        if group.state is GroupState.READY:
            self._wake()
        self._changed.set()
        return self._start_seconds

    def _wake(self) -> None:
        self.is_asleep = False
        if not self._closing.is_set():
            self._start_nothing.clear()

    async def unload(self) -> None:
        """End all groups, start none until the next request, and return when they are gone."""
        self.is_asleep = True
        self._staffing.unloaded(self.plan, self.planned_workers())
        self._start_nothing.set()
        ending = list(self.groups.values())
        for group in ending:
            group.drain()
        self._changed.set()
        while any(self.groups.get(group.key) is group for group in ending):
            self._gone.clear()
            await self._gone.wait()  # a group that was told to end does, within its deadlines

    def close(self, grace: float) -> None:
        """Start nothing more, give the groups `grace` seconds at most to finish, and return from `run`."""
        self._closing.set()
        self._start_nothing.set()
        self._grace = max(_LEAST_GRACE, grace)
        self._changed.set()

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep as many workers as are wanted until closed."""
        async with asyncio.TaskGroup() as tasks:
            while not self._closing.is_set():
                self._changed.clear()
                again = await self._look(tasks)
                now = self._clock()
                await self._wait_changed(None if again is None else max(0.0, again - now))
            for group in self.groups.values():
                group.drain_within = min(group.drain_within, self._grace)
                group.drain()

    async def _look(self, tasks: asyncio.TaskGroup) -> float | None:
        """Start or end what should be; return when to look again if nothing happens before."""
        now = self._clock()
        if self._has_failed and not self.groups:
            if now < self._not_before:
                return self._not_before
            if self.is_asleep or not self.plan.min_workers:
                self._has_failed = False
                self._owner.may_try_again()
        self._has_failed = self._has_failed and not self._has_ready
        places = self.plan.places
        if self.is_asleep or all(self.ready_workers(place) >= place.minimum for place in places):
            self._owner.floor_reached()
        self._is_watching = False
        if self.is_asleep:
            return None
        decision = self._staffing.wanted(self.plan, self._supply(), self.groups.values(), now)
        again = None if decision is None else await self._follow(tasks, decision, now)
        self._is_watching = self._staffing.has_waiting and self.planned_workers() < self.plan.max_workers
        soon = now + LOOK_EVERY
        times = [soon] if self._is_watching else []
        if again is not None and again > now:
            times.append(again)
        if (later := self._staffing.next_look(now)) is not None:
            times.append(max(later, soon))
        return min(times, default=None)

    def _counts(self) -> list[PlaceCount]:
        return [
            PlaceCount(minimum=place.minimum, maximum=place.maximum, planned=self.planned_workers(place))
            for place in self.plan.places
        ]

    def _supply(self) -> Supply:
        ready = self.ready_workers()
        groups = self.groups.values()
        can_share = any(_can_grow(group) for group in groups)
        return Supply(
            up=ready,
            starting=self.planned_workers() - ready,
            missing=missing_on_places(self._counts()),
            ahead=sum(group.jobs_ahead for group in groups),
            start_seconds=0.0 if can_share else self._start_seconds,
        )

    async def _follow(self, tasks: asyncio.TaskGroup, decision: ScaleTo, now: float) -> float | None:
        """Do what brings the workers to the number decided on; return when to go on with what had to wait."""
        before, has_changed = self.planned_workers(), False
        may_overlap = self.plan.parallel_loading or before >= self.plan.min_workers
        for place, target in zip(self.plan.places, spread(decision.workers, self._counts()), strict=True):
            for step in steps_to(
                target,
                [_size(group) for group in self._alive(place)],
                slots_per_group=place.slots_per_group,
                may_overlap=may_overlap,
            ):
                match step:
                    case ResizeGroup(key, slots):
                        self.groups[key].resize(slots)
                    case EndGroup(key):
                        self.groups[key].drain()
                    case StartGroup(slots):
                        must_wait = self._is_loading and not (may_overlap and self._has_ready)
                        if must_wait or now < max(self._not_before, self._no_room_until):
                            continue
                        if not await self._start(tasks, place, slots):
                            continue
                has_changed = True
        if has_changed:
            self._staffing.followed(self.plan, before, decision)
        return max(self._not_before, self._no_room_until)

    async def _start(self, tasks: asyncio.TaskGroup, place: Place, slots: int) -> bool:
        """Start a group when there is room for it; tell whether it was."""
        if not self._is_prepared and not await self._prepared():
            return False
        ticket = await self._ticket(place)
        if ticket is None:
            return False
        placement = Placement(
            key=self._next_group,
            slots=slots,
            max_slots=place.slots_per_group,
            log_prefix=f"{self.plan.name}/{self._next_group}",
            kills=self._resources.kills,
        )
        self._next_group += 1
        settings = replace(self.plan.group, devices=place.devices)
        group = self._make_group(settings, placement, self._owner)
        self.groups[group.key] = group
        self._tickets[group.key], self._started[group.key] = ticket, self._clock()
        tasks.create_task(self._run_group(group))
        return True

    async def _prepared(self) -> bool:
        """Make the model's environment; one that cannot be made is tried again after a pause."""
        prepared, error = await unless_set(self._start_nothing, self._prepare(self.plan))
        if prepared is not None:
            self.plan, self._is_prepared = replace(self.plan, group=prepared.group), True
        elif error is not None:
            _log.debug("prepare_failed model=%s", self.plan.name, exc_info=error)
            self._fail(f"prepare: {error}")
        return self._is_prepared

    async def _ticket(self, place: Place) -> Ticket | None:
        """Return leave to start a group, None when there is no room for it now."""
        is_extra = self._has_ready and self.planned_workers(place) >= place.minimum
        asked = self._resources.admit(self.plan, place, is_extra=is_extra)
        ticket, error = await unless_set(self._start_nothing, asked)
        if ticket is not None and self._start_nothing.is_set():
            ticket.settle()
        elif ticket is not None:
            self._is_short = False
            return ticket
        elif isinstance(error, NoRoomError) and self.groups:
            self._no_room(error)
        elif error is not None:
            self._fail(str(error) if isinstance(error, NoRoomError) else f"start: {error}")
        return None

    def _no_room(self, error: NoRoomError) -> None:
        """Pause, beside groups that serve or whose end makes room."""
        if not self._is_short:  # once, not with each try
            _log.warning("worker_not_started model=%s reason=%s", self.plan.name, error)
        self._is_short = True
        self._no_room_until = self._clock() + _ROOM_AGAIN
        if self._has_ready:
            self._owner.floor_reached()

    async def _wait_changed(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    # --- what there is ------------------------------------------------------------------------

    def _alive(self, place: Place) -> list[WorkerGroup]:
        groups = self.groups.values()
        return [item for item in groups if item.state in _ALIVE and item.settings.devices == place.devices]

    def planned_workers(self, place: Place | None = None) -> int:
        """Workers that are up or on their way, by the slots they have or were asked for."""
        places = self.plan.places if place is None else (place,)
        return sum(group.plan_slots for place in places for group in self._alive(place))

    def ready_workers(self, place: Place | None = None) -> int:
        """Workers that are up, on one place or on all."""
        places = self.plan.places if place is None else (place,)
        alive = (group for place in places for group in self._alive(place))
        return sum(group.slots for group in alive if group.state is GroupState.READY)

    @property
    def _has_ready(self) -> bool:
        return any(group.state is GroupState.READY for group in self.groups.values())

    @property
    def _is_loading(self) -> bool:
        return any(group.state is GroupState.STARTING for group in self.groups.values())

    # --- ends ---------------------------------------------------------------------------------

    async def _run_group(self, group: WorkerGroup) -> None:
        try:
            end = await group.run()
        finally:
            self._tickets.pop(group.key).settle()
            del self._started[group.key]
            del self.groups[group.key]
            self._no_room_until = 0.0  # its memory is free
            self._gone.set()
        self.log_tail = tuple(group.logs.tail)
        facts = (self.plan.name, group.key, end.kind, end.cause)
        _log.info("worker_ended model=%s group=%d kind=%s cause=%s", *facts)
        if end.kind != "drained":
            # What a worker wrote that was never asked anything speaks of its own trouble and of no request.
            was_asked = end.has_answered or bool(group.batches)
            self._decide_restart(group, end, () if was_asked else self.log_tail)
        elif not self.groups and not self._has_failed:
            self._not_before = 0.0  # a pause for what failed beside it must not keep requests waiting
        self._owner.group_ended(group, end)
        self._changed.set()

    def _decide_restart(self, group: WorkerGroup, end: GroupEnd, log: Sequence[str]) -> None:
        now = self._clock()
        if end.kind == "load_failed":
            self._fail(end.cause, self._restarts.load_failed(now, group.key), log=log)
            return
        decided = self._restarts.died(now, group.key, has_answered=end.has_answered)
        if isinstance(decided, FailUntil):
            self._fail(end.cause, decided, log=log)
            return
        if self._has_failed:
            return  # the pause of that is on
        self._not_before = decided.at
        _log.info("worker_restarts model=%s in=%.1f", self.plan.name, decided.at - now)

    def _fail(self, cause: str, decided: FailUntil | None = None, *, log: Sequence[str] = ()) -> None:
        """Pause; the model is FAILED unless another group serves."""
        decision = decided or self._restarts.failed(self._clock())
        self._not_before = decision.at
        if self._has_ready:
            self._owner.floor_reached()
            return
        self._has_failed = True
        self._owner.model_failed(cause, log)
        self.is_asleep = self.plan.starts_on_demand and not self.groups  # after the pause, if it is asked


def _can_grow(group: WorkerGroup) -> bool:
    """Tell whether one worker more is a thread more."""
    most = min(group.concurrency, group.max_slots)
    return group.state is GroupState.READY and group.plan_slots < most


def _size(group: WorkerGroup) -> GroupSize:
    return GroupSize(
        key=group.key,
        slots=group.plan_slots,
        most_slots=max(group.plan_slots, group.concurrency),
        busy=min(group.sent, group.plan_slots),
        is_starting=group.state is GroupState.STARTING,
    )
