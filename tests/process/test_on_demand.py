"""Models that are loaded by their first request, and unloaded when another needs their memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frame.policy.placement import Memory

from tests.process.in_process import InProcess, eventually, plans_of, running, settings_of
from tests.process.probes import put_model

HANDLER = """
import os, time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        if os.path.exists("broken"):
            raise RuntimeError("the weights are broken")
        return None
    text = inputs.get_as_string()
    while text == "wait" and not os.path.exists("go"):
        time.sleep(0.01)
    return Output().add(text)
"""
NEED_MB, RESERVED_MB, TOTAL_MB = 100, 10, 220
"""Two models fit."""


class Machine:
    """Memory of which each model with workers takes its part."""

    def __init__(self) -> None:
        self.served: InProcess | None = None

    async def read(self, places: Sequence[str]) -> dict[str, Memory]:
        assert self.served is not None
        loaded = sum(
            group.signature is not None or group.slots > 0
            for pool in self.served.manager.pools()
            for group in pool.groups.values()
        )
        return {place: Memory(TOTAL_MB - NEED_MB * loaded, TOTAL_MB) for place in places}


def store_of(tmp_path: Path, *names: str, **properties: object) -> Path:
    for name in names:
        put_model(
            tmp_path / "store" / name, HANDLER, minWorkers=1, maxWorkers=1,
            required_memory_mb=NEED_MB, reserved_memory_mb=RESERVED_MB, **properties,
        )  # fmt: skip
    return tmp_path / "store"


def loaded(served: InProcess) -> set[str]:
    return {pool.plan.name for pool in served.manager.pools() if pool.groups}


def test_a_model_is_loaded_by_its_first_request_and_the_least_recently_used_makes_room(tmp_path):
    machine = Machine()

    async def scenario() -> None:
        store = store_of(tmp_path, "a", "b", "c", load_on_demand="true")
        async with running(store, read=machine.read) as served:
            machine.served = served
            assert loaded(served) == set()
            assert all(pool.status == "READY" for pool in served.manager.pools())
            assert await served.ask("a", b"1") == (200, b"1")
            assert await served.ask("b", b"2") == (200, b"2")
            assert await served.ask("a", b"3") == (200, b"3")
            assert loaded(served) == {"a", "b"}
            assert await served.ask("c", b"4") == (200, b"4")
            assert loaded(served) == {"a", "c"}
            assert await served.ask("b", b"5") == (200, b"5")
            assert loaded(served) == {"b", "c"}

    asyncio.run(scenario())


def test_a_model_with_requests_is_never_unloaded(tmp_path):
    machine = Machine()

    async def scenario() -> None:
        store = store_of(tmp_path, "a", "b", "c", load_on_demand="true")
        async with running(store, read=machine.read) as served, asyncio.TaskGroup() as tasks:
            machine.served = served
            busy = [tasks.create_task(served.ask(name, b"wait")) for name in ("a", "b")]
            await eventually(lambda: all(pool.busy_workers for pool in pools(served, "a", "b")))
            status, body = await served.ask("c", b"5")
            assert status == 503
            assert b"needs 100 MB on cpu and 10 MB must stay free; 20 MB are free" in body
            for name in ("a", "b"):
                (store / name / "go").touch()
            assert [(await request)[0] for request in busy] == [200, 200]

    asyncio.run(scenario())


def pools(served: InProcess, *names: str):
    return [pool for pool in served.manager.pools() if pool.plan.name in names]


def test_a_first_load_that_fails_is_told_and_tried_again_later(tmp_path):
    async def scenario() -> None:
        store = store_of(tmp_path, "a", load_on_demand="true")
        (store / "a" / "broken").touch()
        (made,) = plans_of(settings_of(store))
        made = replace(made, restarts=replace(made.restarts, cool_down=1.0))
        async with running(store, [made]) as served:
            status, body = await served.ask("a", b"1")
            assert status == 503
            assert b"the weights are broken" in body
            assert (await served.ask("a", b"2"))[0] == 503
            (store / "a" / "broken").unlink()
            await eventually(lambda: pools(served, "a")[0].status == "READY")
            assert await served.ask("a", b"3") == (200, b"3")

    asyncio.run(scenario())


def test_a_model_without_a_floor_sleeps_and_its_next_request_waits(tmp_path):
    async def scenario() -> None:
        store = tmp_path / "store"
        put_model(store / "a", HANDLER, minWorkers=0, maxWorkers=1, max_idle_time=1)
        async with running(store) as served:
            assert loaded(served) == set()
            assert await served.ask("a", b"1") == (200, b"1")
            assert loaded(served) == {"a"}
            await eventually(lambda: not loaded(served))
            assert await served.ask("a", b"2") == (200, b"2")

    asyncio.run(scenario())
