"""Keep the floor of worker groups of one model version: start what is missing, pause, end all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from frame.policy.lifecycle import FailUntil, GroupState, RestartPolicy
from frame.pool.group import GroupEnd, GroupListener, Placement, WorkerGroup
from frame.pool.plan import ModelPlan
from frame.pool.settings import GroupSettings

_log = logging.getLogger(__name__)
_LEAST_GRACE = 1.0
"""Seconds that an idle worker always gets to close its model."""
_ALIVE = (GroupState.STARTING, GroupState.READY)

Prepare = Callable[[ModelPlan], Coroutine[Any, Any, ModelPlan]]
Clock = Callable[[], float]
MakeGroup = Callable[[GroupSettings, Placement, GroupListener], WorkerGroup]


class Owner(GroupListener, Protocol):
    """What the supervisor tells; called on the loop's thread."""

    def group_ended(self, group: WorkerGroup, end: GroupEnd) -> None:
        """The group's process is gone; its unfinished jobs are still in its batches."""

    def model_failed(self, cause: str) -> None:
        """No group works, and none is tried again before a pause."""


class Supervisor:
    """The worker groups of one model version.

    Invariants: below `min_workers` a start is under way or has a time at which it will be; what fails is
        tried again after a pause; `run` returns only when every group's process is gone.
    """

    def __init__(
        self,
        plan: ModelPlan,
        owner: Owner,
        *,
        prepare: Prepare,
        make_group: MakeGroup,
        clock: Clock,
    ) -> None:
        self.plan = plan
        self.groups: dict[int, WorkerGroup] = {}
        self.log_tail: tuple[str, ...] = ()
        self._owner = owner
        self._prepare = prepare
        self._make_group = make_group
        self._clock = clock
        self._restarts = RestartPolicy(plan.restarts)
        self._not_before = 0.0
        self._next_group = 1
        self._changed = asyncio.Event()
        self._is_closing = False
        self._grace = 0.0

    # --- what the owner calls -----------------------------------------------------------------

    def answered(self) -> None:
        """A batch was answered: past deaths are forgiven."""
        self._restarts.answered()

    def look_again(self) -> None:
        """Something changed: see whether a group is missing."""
        self._changed.set()

    def close(self, grace: float) -> None:
        """Start nothing more, give the groups `grace` seconds at most to finish, and return from `run`."""
        self._is_closing = True
        self._grace = max(_LEAST_GRACE, grace)
        self._changed.set()

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the floor until closed."""
        await self._prepare_until_done()
        async with asyncio.TaskGroup() as tasks:
            while not self._is_closing:
                self._changed.clear()
                now = self._clock()
                self._start_missing(tasks, now)
                await self._wait_changed(self._not_before - now if self._not_before > now else None)
            for group in self.groups.values():
                group.drain_within = min(group.drain_within, self._grace)
                group.drain()

    async def _prepare_until_done(self) -> None:
        """Make the model's environment; one that cannot be made is tried again after a pause."""
        while not self._is_closing:
            self._changed.clear()
            work = asyncio.ensure_future(self._prepare(self.plan))
            closing = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait((work, closing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                closing.cancel()
                if not work.done():
                    work.cancel()
                    await asyncio.wait((work,))  # its processes end with it
            if work.cancelled():
                continue
            error = work.exception()
            if error is None:
                self.plan = work.result()
                return
            _log.debug("prepare_failed model=%s", self.plan.name, exc_info=error)
            now = self._clock()
            decision = self._restarts.failed(now)
            self._owner.model_failed(f"prepare: {error}")
            await self._wait_changed(decision.at - now)

    async def _wait_changed(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _start_missing(self, tasks: asyncio.TaskGroup, now: float) -> None:
        """Start groups until the floor is reached, one after another unless loads may overlap."""
        while now >= self._not_before:
            devices = min(self.plan.devices, key=self.planned_workers)
            missing = self.plan.min_workers - self.planned_workers(devices)
            states = [group.state for group in self.groups.values()]
            may_overlap = self.plan.parallel_loading and GroupState.READY in states
            if missing <= 0 or (GroupState.STARTING in states and not may_overlap):
                return
            placement = Placement(
                key=self._next_group,
                slots=min(missing, self.plan.slots_per_group),
                log_prefix=f"{self.plan.name}/{self._next_group}",
            )
            self._next_group += 1
            settings = replace(self.plan.group, devices=devices)
            group = self._make_group(settings, placement, self._owner)
            self.groups[group.key] = group
            tasks.create_task(self._run_group(group))

    def planned_workers(self, devices: tuple[str, ...]) -> int:
        """Workers on these devices that are up or on their way, by the slots they have or were asked for."""
        groups = (group for group in self.groups.values() if group.settings.devices == devices)
        return sum(group.plan_slots for group in groups if group.state in _ALIVE)

    async def _run_group(self, group: WorkerGroup) -> None:
        end = await group.run()
        del self.groups[group.key]
        self.log_tail = tuple(group.logs.tail)
        facts = (self.plan.name, group.key, end.kind, end.cause)
        _log.info("worker_ended model=%s group=%d kind=%s cause=%s", *facts)
        if end.kind != "drained":
            self._decide_restart(end)
        self._owner.group_ended(group, end)
        self._changed.set()

    def _decide_restart(self, end: GroupEnd) -> None:
        now = self._clock()
        if end.kind == "load_failed":
            decision = self._restarts.failed(now)
        else:
            decided = self._restarts.died(now, has_answered=end.has_answered)
            if not isinstance(decided, FailUntil):
                self._not_before = decided.at
                _log.info("worker_restarts model=%s in=%.1f", self.plan.name, decided.at - now)
                return
            decision = decided
        self._not_before = decision.at
        if not any(group.state is GroupState.READY for group in self.groups.values()):
            self._owner.model_failed(end.cause)
