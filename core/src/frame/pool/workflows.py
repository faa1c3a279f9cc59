"""The workflows of a server, by name and version, with the models that are theirs alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Protocol

from frame.errors import ModelExistsError, ModelNotFoundError
from frame.http.host import WorkflowView
from frame.pool.budget import ByteBudget
from frame.pool.metrics import MetricsView
from frame.pool.model import ModelPool
from frame.pool.plan import ModelPlan
from frame.pool.traffic import key_of
from frame.pool.versions import version_order
from frame.pool.workflow import WorkflowPool
from frame.pool.workflow_plan import WorkflowPlan

Members = Mapping[str, ModelPlan]
"""Plans of a workflow's models, by the names that the workflow gives them."""


class Pools(Protocol):
    """What serves the models of workflows."""

    def check_free(self, name: str, version: str | None) -> None:
        """Let a workflow have a name; raises `ModelExistsError` when a model has it."""

    def add(self, plan: ModelPlan) -> ModelPool:
        """Serve a model under its name."""

    def begin(self, plan: ModelPlan) -> ModelPool:
        """Start a model that has no name yet."""

    def adopt(self, pool: ModelPool) -> None:
        """Let a pool answer under its name, in place of the one that did."""

    async def retire(self, pool: ModelPool, timeout: float) -> None:
        """End a pool."""


class WorkflowDesk:
    """Finds workflows, and serves and ends them with their models.

    Invariant: no workflow and model have one name; a workflow's model is called `workflow:model`.
    """

    def __init__(self, pools: Pools, budget: ByteBudget, ids: Iterator[int]) -> None:
        self._pools = pools
        self._budget = budget
        self._ids = ids
        self._served: dict[str, dict[str | None, WorkflowPool]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[WorkflowPool]:
        return (pool for versions in self._served.values() for pool in versions.values())

    def __contains__(self, name: object) -> bool:
        return name in self._served

    def find(self, name: str, version: str | None) -> WorkflowPool | None:
        """Return a workflow; when no version is named the newest that is ready."""
        versions = self._served.get(name)
        if not versions:
            return None
        return versions.get(key_of(version)) if version else max(versions.values(), key=_preference)

    def versions(self, name: str, version: str | None) -> list[WorkflowPool]:
        """Return the versions of a workflow: all of them, or the one that is named."""
        found = self._served.get(name, {})
        return [pool for key, pool in found.items() if version is None or key == key_of(version)]

    def add(self, plan: WorkflowPlan, members: Members) -> WorkflowPool:
        """Serve a workflow, and its models.

        Raises:
            ModelExistsError: there is one of that name and version, or a model of that name.
            ModelNotReadyError: the server is ending.
        """
        self._pools.check_free(plan.name, plan.version)
        if plan.version in self._served.get(plan.name, {}):
            raise ModelExistsError(f"Workflow {plan.name} is already registered.")
        pools = {name: self._pools.add(member) for name, member in members.items()}
        return self._serve(plan, pools)

    async def replace(
        self, plan: WorkflowPlan, members: Members, timeout: float
    ) -> WorkflowPool:  # passed on
        """Serve a workflow anew: what is there answers until all of its successor's models are up, then ends.

        Returns:
            The one that answers now: what did not come up does not replace one that is READY.

        Raises:
            ModelNotFoundError: there is none, or it was removed meanwhile.
        """
        self._require(plan)
        news = {name: self._pools.begin(member) for name, member in members.items()}
        for pool in news.values():
            await pool.settled.wait()  # model_loading_timeout bounds it
        old = self._served.get(plan.name, {}).get(plan.version)
        is_failed = any(pool.status == "FAILED" for pool in news.values())
        if old is None or old.is_closing or (is_failed and old.status == "READY"):
            await asyncio.gather(*(self._pools.retire(pool, 0.0) for pool in news.values()))
            if old is None or old.is_closing:
                raise ModelNotFoundError(f"Workflow not found: {plan.name}")
            return old
        for pool in news.values():
            self._pools.adopt(pool)
        new = self._serve(plan, news)
        self._begin_end(old, timeout)
        return new

    async def remove(self, name: str, version: str | None, timeout: float) -> None:  # passed on to the pools
        """Take no more requests for a workflow's version, finish those that are here, end its models.

        Raises:
            ModelNotFoundError: there is none.
        """
        pool = self._served.get(name, {}).get(version)
        if pool is None or pool.is_closing:
            raise ModelNotFoundError(f"Workflow not found: {name}")
        pool.is_closing = True
        await asyncio.shield(self._begin_end(pool, timeout))

    async def close(self, timeout: float) -> None:  # passed on to each
        """Take no more requests and finish those that are here; the models are ended by who serves them."""
        await asyncio.gather(*(pool.close(timeout) for pool in list(self)))

    def views(self) -> list[WorkflowView]:
        """Return what the control plane shows of each."""
        return [
            WorkflowView(
                name=pool.plan.name,
                version=pool.plan.version,
                url=pool.plan.url,
                status=pool.status,
                models=tuple(member.plan.name for member in pool.members.values()),
                requests=len(pool.open_jobs),
            )
            for pool in self
        ]

    def metrics(self) -> Iterator[MetricsView]:
        """Yield what the metrics of each workflow as a whole are made from."""
        for pool in self:
            plan = pool.plan
            running = len(pool.open_jobs)
            yield MetricsView(
                model=plan.name, version=plan.version, metrics=pool.metrics, queue_length=running, workers={}
            )

    def _serve(self, plan: WorkflowPlan, members: Mapping[str, ModelPool]) -> WorkflowPool:
        pool = WorkflowPool(plan, members, self._budget, self._ids)
        self._served.setdefault(plan.name, {})[plan.version] = pool
        return pool

    def _require(self, plan: WorkflowPlan) -> None:
        pool = self._served.get(plan.name, {}).get(plan.version)
        if pool is None or pool.is_closing:
            raise ModelNotFoundError(f"Workflow not found: {plan.name}")

    def _begin_end(self, pool: WorkflowPool, timeout: float) -> asyncio.Task[None]:
        """End a workflow, whoever waits for it."""
        task = asyncio.create_task(self._end(pool, timeout))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _end(self, pool: WorkflowPool, timeout: float) -> None:  # passed on to the pools
        """End a workflow, then its models: its steps need them until then."""
        await pool.close(timeout)
        await asyncio.gather(*(self._pools.retire(member, timeout) for member in pool.members.values()))
        plan = pool.plan
        versions = self._served.get(plan.name, {})
        if versions.get(plan.version) is pool:
            del versions[plan.version]
            if not versions:
                del self._served[plan.name]


def _preference(pool: WorkflowPool) -> tuple[bool, bool, object]:
    return (not pool.is_closing, pool.status == "READY", version_order(pool.plan.version))
