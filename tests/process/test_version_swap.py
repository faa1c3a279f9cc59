"""A new version is loaded beside the old one and takes over with no failed request."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from frame.errors import ModelExistsError, ModelNotFoundError
from frame.pool.plan import ModelPlan

from tests.process.in_process import eventually, plans_of, running, settings_of
from tests.process.probes import put_model

HANDLER = """
import time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep(0.01)
    return Output().add("{version} " + inputs.get_as_string())
"""


def two_versions(tmp_path: Path) -> tuple[Path, dict[str | None, ModelPlan]]:
    """Return an empty store, and the plans of two versions of a model."""
    store = tmp_path / "store"
    store.mkdir()
    listed = []
    for version in ("1.9", "1.10"):
        handler = HANDLER.replace("{version}", version)
        put_model(tmp_path / "models" / version, handler, minWorkers=1, maxWorkers=1)
        listed.append(f"m:{version}={tmp_path / 'models' / version}")
    return store, {plan.version: plan for plan in plans_of(settings_of(store), listed)}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_new_version_takes_over_with_no_failed_request(tmp_path):
    store, plans = two_versions(tmp_path)
    statuses: Counter[int] = Counter()
    answers: list[str] = []

    async def scenario() -> None:
        async with running(store, [plans["1.9"]]) as served, asyncio.TaskGroup() as tasks:
            stop = asyncio.Event()
            clients = [tasks.create_task(client(served, index, stop)) for index in range(8)]
            await eventually(lambda: len(answers) > 20)
            pid = next(iter(served.manager.find("m", None).groups.values())).pid
            added = served.manager.add(plans["1.10"])
            await added.settled.wait()
            await served.manager.remove("m", "1.9", 10.0)
            seen = len(answers)
            await eventually(lambda: len(answers) > seen + 20)
            stop.set()
            await asyncio.wait(clients)
            assert pid is not None
            assert not is_alive(pid)
            assert [pool.plan.version for pool in served.manager.pools()] == ["1.10"]
            with pytest.raises(ModelNotFoundError):
                await served.manager.remove("m", "1.9", 1.0)
            with pytest.raises(ModelExistsError):
                served.manager.add(plans["1.10"])

    async def client(served, index, stop) -> None:
        for number in range(100_000):
            if stop.is_set():
                return
            text = f"{index}-{number}"
            status, body = await served.ask("m", text.encode())
            statuses[status] += 1
            answers.append(body.decode())
            assert body.decode().endswith(f" {text}"), "another's answer"

    asyncio.run(scenario())
    assert set(statuses) == {200}
    versions = [answer.split()[0] for answer in answers]
    assert versions[0] == "1.9"
    assert versions[-1] == "1.10"


def test_a_request_whose_body_comes_during_the_swap_goes_to_the_new_version(tmp_path):
    store, plans = two_versions(tmp_path)

    async def scenario() -> tuple[int, bytes]:
        async with running(store, [plans["1.9"]]) as served:

            async def swap() -> None:
                await served.manager.add(plans["1.10"]).settled.wait()
                await served.manager.remove("m", "1.9", 10.0)

            return await served.ask("m", b"late", before_body=swap)

    assert asyncio.run(scenario()) == (200, b"1.10 late")
