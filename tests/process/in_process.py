"""A workload manager with real workers inside the test's own process, and requests to it without HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from frame.cli.listeners import adapters
from frame.cli.settings import CommandSettings, read_settings
from frame.http.dataplane import DataPlane
from frame.http.routes import Found, default_table
from frame.http.settings import data_plane_settings
from frame.pool.budget import ByteBudget
from frame.pool.manager import WorkloadManager
from frame.pool.memory import read_memory
from frame.pool.placer import ReadMemory
from frame.pool.plan import ModelPlan, make_plan
from frame.store.catalog import build_catalog

LIMIT = 30.0


def settings_of(store: Path) -> CommandSettings:
    """Return the settings of a server of this store."""
    return read_settings(
        store=str(store), store_flag=None, models=(), config_file=None, host=None, port=0,
        http_server=None, lenient=False, environ=dict(os.environ),
    )  # fmt: skip


def plans_of(settings: CommandSettings, models: Sequence[str] = ()) -> list[ModelPlan]:
    """Return the plans of the store's models, or of those listed as `name:version=url`, in their order."""
    engines = settings.plugins.engines
    catalog = build_catalog(settings.server, models, engines, settings.environ, lenient=False)
    assert not catalog.problems
    by_name = {spec.name: spec for spec in engines}
    plans = []
    for entry in catalog.entries:
        assert entry.config is not None, entry.problems
        spec = by_name[entry.config.engine]
        made = make_plan(
            entry.config,
            spec,
            url=entry.url,
            interpreter=sys.executable,
            devices=(("cpu",),),
            cores=2,
            environ=settings.environ,
        )
        plans.append(made)
    return plans


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110  # it may be of a worker, which sets no event here
            await asyncio.sleep(0.01)


class InProcess:
    """A manager that runs, and its data plane."""

    def __init__(self, settings: CommandSettings, manager: WorkloadManager) -> None:
        self.manager = manager
        server = settings.server
        protocols = settings.plugins.protocols
        self.plane = DataPlane(manager, adapters(protocols, server), data_plane_settings(server))
        self.routes = default_table()

    async def ask(
        self,
        model: str,
        body: bytes,
        *,
        before_body: Callable[[], Awaitable[object]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request and return status and body; `before_body` runs when its head was taken."""
        found = self.routes.resolve("POST", f"/predictions/{model}")
        assert isinstance(found, Found)
        given = {"content-type": "text/plain", **(headers or {})}
        scope = {
            "type": "http", "method": "POST", "path": f"/predictions/{model}", "query_string": b"",
            "headers": [(key.encode(), value.encode()) for key, value in given.items()],
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        is_sent = False

        async def receive() -> dict[str, Any]:
            nonlocal is_sent
            if is_sent:
                await asyncio.Event().wait()  # the client stays
            if before_body is not None:
                await before_body()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async with asyncio.timeout(LIMIT):
            await self.plane(scope, receive, send, found)
        return sent[0]["status"], b"".join(item.get("body", b"") for item in sent[1:])


@asynccontextmanager
async def running(
    store: Path, plans: list[ModelPlan] | None = None, *, cpu_threads: int = 2, read: ReadMemory = read_memory
) -> AsyncIterator[InProcess]:
    """Run a manager over (some of) a store's models until the block ends."""
    settings = settings_of(store)
    manager = WorkloadManager(
        plans_of(settings) if plans is None else plans,
        [],
        ByteBudget(64 << 20),
        cache=store.parent / "cache",
        cpu_threads=cpu_threads,
        read=read,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.run())
        served = InProcess(settings, manager)
        sweeper = tasks.create_task(served.plane.run())
        try:
            async with asyncio.timeout(LIMIT):
                await manager.settled()
            yield served
        finally:
            sweeper.cancel()
            await manager.close(2.0)
