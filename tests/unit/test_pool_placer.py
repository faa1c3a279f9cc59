"""Leave to start: memory is reserved while a start is under way, and idle models make room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from frame.policy.placement import Loaded, Memory
from frame.pool.placer import NoRoomError, Placer, Ticket
from frame.testing import FakeClock

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import TimedLoop

NEEDS = "required_memory_mb=400\nreserved_memory_mb=100"


class World:
    """Memory of a machine, and models that can be unloaded."""

    def __init__(self, free_mb: int) -> None:
        self.free_mb = free_mb
        self.loaded: list[Loaded] = []
        self.unloaded: list[str] = []
        self.hangs = False
        self.placer = Placer(
            loaded=lambda: self.loaded,
            unload=self.unload,
            measured=lambda plan, place: {},
            spare_workers=lambda plan: None,
            read=self.read,
            clock=asyncio.get_running_loop().time,
        )

    def load(
        self,
        key: str,
        size_mb: int,
        *,
        last_used: float = 0.0,
        leases: int = 0,
        is_leaving: bool = False,
    ) -> None:
        self.loaded.append(
            Loaded(
                key=key,
                devices=("cpu",),
                measured_mb={"cpu": size_mb},
                last_used=last_used,
                leases=leases,
                may_unload=True,
                is_leaving=is_leaving,
            )
        )
        self.free_mb -= size_mb

    async def read(self, places: Sequence[str]) -> dict[str, Memory]:
        assert "cpu" in places
        return {"cpu": Memory(self.free_mb, 10_000)}

    def change(self, key: str, **changes: Any) -> None:
        """A model is used, or not any more."""
        self.loaded = [replace(item, **changes) if item.key == key else item for item in self.loaded]

    async def unload(self, key: str) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        model = next(item for item in self.loaded if item.key == key)
        self.loaded.remove(model)
        self.unloaded.append(key)
        self.free_mb += model.measured_mb["cpu"]

    async def admit(self, *, is_extra: bool = False) -> Ticket:
        made = plan(NEEDS)
        return await self.placer.admit(made, made.places[0], is_extra=is_extra)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = TimedLoop(FakeClock(1000.0))
    running = loop.create_task(scenario())
    try:
        loop.advance(1000.0)
        running.result()
    finally:
        loop.close()


def test_memory_of_a_start_under_way_is_not_given_twice():
    async def scenario() -> None:
        world = World(850)
        first = await world.admit()
        second = asyncio.ensure_future(world.admit())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
        world.free_mb -= 300  # it took less than was expected
        first.settle()
        (await second).settle()

    run(scenario)


def test_too_little_memory_is_refused_with_the_figures():
    async def scenario() -> None:
        with pytest.raises(
            NoRoomError, match=r"needs 400 MB on cpu and 100 MB must stay free; 450 MB are free"
        ):
            await World(450).admit()

    run(scenario)


def test_the_least_recently_used_idle_models_make_room():
    async def scenario() -> None:
        world = World(1000)
        world.load("old", 300, last_used=1.0)
        world.load("busy", 300, last_used=0.0, leases=1)
        world.load("new", 300, last_used=2.0)
        await world.admit()
        assert world.unloaded == ["old", "new"]

    run(scenario)


def test_models_in_use_make_no_room():
    async def scenario() -> None:
        world = World(1000)
        world.load("busy", 700, leases=1)
        with pytest.raises(NoRoomError, match="in use"):
            await world.admit()
        assert world.unloaded == []

    run(scenario)


def test_a_settled_ticket_gives_its_memory_back_once():
    async def scenario() -> None:
        world = World(500)
        ticket = await world.admit()
        ticket.settle()
        ticket.settle()
        await world.admit()

    run(scenario)


def test_who_waits_for_room_lets_others_start_meanwhile():
    async def scenario() -> None:
        world = World(850)
        first = await world.admit()
        waiting = asyncio.ensure_future(world.admit())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        small = plan("reserved_memory_mb=0")
        (await world.placer.admit(small, small.places[0], is_extra=False)).settle()
        world.free_mb = 1000
        first.settle()
        (await waiting).settle()

    run(scenario)


def test_a_copy_that_has_ended_wakes_who_waits_for_its_memory():
    async def scenario() -> None:
        world = World(900)
        ticket = await world.admit()
        ticket.settle()  # it has loaded
        world.load("leaving", 500, is_leaving=True)
        waiting = asyncio.ensure_future(world.admit())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        world.loaded.clear()
        world.free_mb = 900
        ticket.settle()  # it has ended
        async with asyncio.timeout(0.01):
            (await waiting).settle()

    run(scenario)


def test_a_copy_that_a_model_can_do_without_neither_unloads_others_nor_waits():
    async def scenario() -> None:
        world = World(850)
        first = await world.admit()
        with pytest.raises(NoRoomError):
            async with asyncio.timeout(0.01):
                await world.admit(is_extra=True)
        first.settle()
        world.free_mb = 1000
        world.load("idle", 600)
        with pytest.raises(NoRoomError):
            await world.admit(is_extra=True)
        assert world.unloaded == []

    run(scenario)


def test_a_model_that_is_in_use_for_a_moment_makes_room_after_it():
    async def scenario() -> None:
        world = World(1000)
        world.load("busy", 700, leases=1)
        waiting = asyncio.ensure_future(world.admit())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        world.change("busy", leases=0)
        (await waiting).settle()
        assert world.unloaded == ["busy"]

    run(scenario)


def test_models_that_do_not_end_make_no_room():
    async def scenario() -> None:
        world = World(1000)
        world.load("stuck", 700)
        world.hangs = True
        with pytest.raises(NoRoomError, match="did not end within 30 s"):
            await world.admit()

    run(scenario)
