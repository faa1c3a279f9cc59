"""Groups of several ranks with real processes, started by the launcher that needs no MPI."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from frame.api import launch_spawn
from frame.pool.group import WorkerGroup
from frame.pool.plan import ModelPlan
from frame.pool.views import view_of

from tests.process.in_process import InProcess, eventually, plans_of, running, settings_of
from tests.process.probes import is_alive, put_model

pytestmark = pytest.mark.slow(120)

HANDLER = """
import os
import time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    text = inputs.get_as_string()
    if text == "end of rank 1":
        if os.environ["RANK"] == "1":
            os._exit(3)
        time.sleep(60)  # as in a collective call that rank 1 never joins
    return Output().add(text + " " + os.environ["RANK"] + "/" + os.environ["WORLD_SIZE"])
"""


def ranks_plan(
    tmp_path: Path, ranks: int, handler: str = HANDLER, **settings: object
) -> tuple[Path, ModelPlan]:
    """Return an empty store and the plan of a handler that runs on so many ranks."""
    put_model(tmp_path / "models" / "m", handler, minWorkers=1, maxWorkers=1)
    store = tmp_path / "store"
    store.mkdir()
    (plan,) = plans_of(settings_of(store), [f"m={tmp_path / 'models' / 'm'}"])
    engine = replace(plan.group.engine, launch=launch_spawn)
    return store, replace(plan, group=replace(plan.group, engine=engine, ranks=ranks, **settings))


def group_of(served: InProcess) -> WorkerGroup:
    (group,) = served.manager.find("m", None).groups.values()
    return group


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_gets_a_request_and_rank_0_answers(tmp_path, ranks):
    store, plan = ranks_plan(tmp_path, ranks)

    async def scenario() -> list[int]:
        async with running(store, [plan]) as served:
            group = group_of(served)
            assert [hello.rank for hello in group.ranks] == list(range(ranks))
            for number in range(20):
                body = str(number).encode() * (100_000 if number == 19 else 1)
                assert await served.ask("m", body) == (200, body + f" 0/{ranks}".encode())
            (worker,) = view_of(served.manager.find("m", None)).groups[0].workers
            assert [item.rank for item in worker.ranks] == list(range(ranks))
            assert {item.host for item in worker.ranks} == {socket.gethostname()}
            assert worker.pid == worker.ranks[0].pid
            assert group.rss_bytes > ranks << 20
            return [item.pid for item in worker.ranks]

    pids = asyncio.run(scenario())
    assert len(set(pids)) == ranks
    assert not any(is_alive(pid) for pid in pids)


def test_a_killed_rank_ends_the_group_which_comes_back_as_one(tmp_path):
    store, plan = ranks_plan(tmp_path, 2)

    async def scenario() -> None:
        async with running(store, [plan]) as served:
            before = {hello.pid for hello in group_of(served).ranks}
            os.kill(group_of(served).ranks[1].pid, signal.SIGKILL)
            await eventually(lambda: not any(is_alive(pid) for pid in before))
            assert await served.ask("m", b"x") == (200, b"x 0/2")
            assert not before & {hello.pid for hello in group_of(served).ranks}

    asyncio.run(scenario())


def test_a_stopped_rank_ends_an_idle_group(tmp_path):
    store, plan = ranks_plan(tmp_path, 2, stall_timeout=1.0)

    async def scenario() -> None:
        async with running(store, [plan]) as served:
            stopped = group_of(served).ranks[1].pid
            os.kill(stopped, signal.SIGSTOP)
            journal = served.manager.find("m", None).journal
            await eventually(lambda: journal.deaths)
            assert not is_alive(stopped)
            (death,) = journal.deaths
            assert "rank 1 is silent while another rank answers" in death.cause
            assert await served.ask("m", b"x") == (200, b"x 0/2")

    asyncio.run(scenario())


def test_a_request_that_ends_a_rank_twice_is_refused_with_the_rank(tmp_path):
    store, plan = ranks_plan(tmp_path, 2)

    async def scenario() -> None:
        async with running(store, [plan]) as served:
            status, body = await served.ask("m", b"end of rank 1")
            assert status == 503
            assert b"rank 1" in body
            assert await served.ask("m", b"x") == (200, b"x 0/2")

    asyncio.run(scenario())


def test_ranks_reach_the_router_by_tcp(tmp_path):
    store, plan = ranks_plan(tmp_path, 2, listen_address="127.0.0.1")
    large = b"y" * (3 << 20)  # on one host it would travel as a descriptor

    async def scenario() -> None:
        async with running(store, [plan]) as served:
            assert await served.ask("m", large) == (200, large + b" 0/2")

    asyncio.run(scenario())


def test_a_rank_that_cannot_load_fails_the_load_with_its_reason(tmp_path):
    handler = "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('no weights here')\n" + HANDLER
    store, plan = ranks_plan(tmp_path, 2, handler)

    async def scenario() -> None:
        async with running(store, [plan]) as served:
            pool = served.manager.find("m", None)
            assert pool.status == "FAILED"
            assert "rank 1: load model: ValueError: no weights here" in (pool.reason or "")

    asyncio.run(scenario())
