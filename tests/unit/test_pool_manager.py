"""Models come and go while the server runs: whoever asks for it, and whenever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from frame.errors import ModelNotFoundError, ModelNotReadyError
from frame.pool.budget import ByteBudget
from frame.pool.jobs import Answer, Job
from frame.pool.manager import WorkloadManager
from frame.pool.plan import ModelPlan
from frame.testing import FakeClock

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import TimedLoop


def sleeper(version: str | None = None) -> ModelPlan:
    """Return the plan of a model that has no worker before its first request."""
    return replace(plan("load_on_demand=true"), version=version)


def run(scenario: Callable[[WorkloadManager], Coroutine[Any, Any, None]], *plans: ModelPlan) -> None:
    """Run a scenario in a server with these models, and end it."""
    loop = TimedLoop(FakeClock(1000.0))

    async def serve() -> None:
        manager = WorkloadManager(plans, [], ByteBudget(1000), cache=Path("/nowhere"), cpu_threads=2)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(manager.run())
            await asyncio.sleep(0)
            try:
                await scenario(manager)
            finally:
                await manager.close(1.0)

    running = loop.create_task(serve())
    try:
        loop.advance(1000.0)
        running.result()
    finally:
        loop.close()


def open_job() -> Job:
    loop = asyncio.get_running_loop()
    return Job(
        id=1,
        request_id="r",
        properties={},
        parts=[],
        codec="",
        priority=3,
        arrived=loop.time(),
        deadline=loop.time() + 100.0,
        answer=loop.create_future(),
    )


def test_a_model_is_removed_though_who_asked_for_it_went_away():
    async def scenario(manager: WorkloadManager) -> None:
        pool, job = manager.find("m", None), open_job()
        pool.open_jobs.add(job)
        removing = asyncio.ensure_future(manager.remove("m", None, 50.0))
        await asyncio.sleep(1.0)
        removing.cancel()
        await asyncio.sleep(1.0)
        assert pool.is_closing
        assert not job.answer.done()
        pool.open_jobs.finish(job, Answer(status=200, message=""))
        await asyncio.sleep(1.0)
        assert pool.ended.is_set()
        with pytest.raises(ModelNotFoundError):
            manager.find("m", None)
        manager.add(sleeper())

    run(scenario, sleeper())


def test_of_two_who_remove_a_model_in_the_same_moment_one_does():
    async def scenario(manager: WorkloadManager) -> None:
        both = [manager.remove("m", "1", 1.0), manager.remove("m", "1", 1.0)]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ModelNotFoundError]
        assert manager.find("m", None).plan.version == "2"

    run(scenario, sleeper("1"), sleeper("2"))


def test_a_server_that_ends_takes_no_models_and_gives_none_up():
    async def scenario(manager: WorkloadManager) -> None:
        closing = asyncio.ensure_future(manager.close(1.0))
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReadyError, match="ending"):
            manager.add(sleeper("2"))
        with pytest.raises(ModelNotReadyError, match="ending"):
            await manager.remove("m", None, 1.0)
        await closing

    run(scenario, sleeper())


def test_the_end_of_the_server_cuts_a_removal_short():
    async def scenario(manager: WorkloadManager) -> None:
        pool, job = manager.find("m", None), open_job()
        pool.open_jobs.add(job)
        removing = asyncio.ensure_future(manager.remove("m", None, 500.0))
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
        await manager.close(3.0)
        await removing
        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.1)
        assert job.answer.result().status == 503

    run(scenario, sleeper())
