"""The workload manager: every model version's pool, found by name and version."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from frame.config.view import shown_model_settings
from frame.errors import ModelNotFoundError, ModelNotReadyError
from frame.http.host import ModelView, WorkerGroupView, WorkerState, WorkerView
from frame.policy.lifecycle import GroupState
from frame.pool.budget import ByteBudget
from frame.pool.environments import EnvironmentRequest, make_environment
from frame.pool.group import WorkerGroup
from frame.pool.metrics import MetricsView
from frame.pool.model import ModelPool
from frame.pool.plan import ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenModel:
    """A model of the store that cannot be served as it is configured."""

    name: str
    version: str | None
    url: str
    reason: str


class WorkloadManager:
    """All models. Everything but `run` and `close` is cheap and runs on the loop's thread."""

    def __init__(
        self, plans: Sequence[ModelPlan], broken: Sequence[BrokenModel], budget: ByteBudget, *, cache: Path
    ) -> None:
        self.budget = budget
        self.is_draining = False
        self._cache = cache
        self._broken = {(item.name, item.version): item for item in broken}
        self._pools: dict[str, dict[str | None, ModelPool]] = {}
        for plan in plans:
            self._pools.setdefault(plan.name, {})[plan.version] = ModelPool(plan, self._prepare)

    # --- lookup -------------------------------------------------------------------------------

    def pools(self) -> Iterable[ModelPool]:
        """Yield every pool."""
        return (pool for versions in self._pools.values() for pool in versions.values())

    def find(self, name: str, version: str | None) -> ModelPool:
        """Return the pool of a model; the newest version when none is named.

        Raises:
            ModelNotFoundError: there is none.
            ModelNotReadyError: it is in the store, but its configuration is wrong.
        """
        versions = self._pools.get(name)
        if versions is not None:
            if version is None:
                return versions[max(versions, key=version_order)]
            found = versions.get(None if version == "default" else version)
            if found is not None:
                return found
        for broken, broken_version in self._broken:
            if broken == name and version in {None, broken_version}:
                raise ModelNotReadyError(
                    f"Model is not ready: {name}: its configuration is wrong, see GET /models/{name}"
                )
        label = name if version is None else f"{name} version {version}"
        raise ModelNotFoundError(f"Model not found: {label}")

    def require(self, name: str, version: str | None) -> None:
        """Raise `ModelNotFoundError` unless there is such a model, whatever its state."""
        with suppress(ModelNotReadyError):
            self.find(name, version)

    def only_model(self) -> str | None:
        """Return the name of the only model, if there is just one."""
        names = set(self._pools) | {name for name, _ in self._broken}
        return names.pop() if len(names) == 1 else None

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run every pool until closed."""
        async with asyncio.TaskGroup() as tasks:
            for pool in self.pools():
                tasks.create_task(pool.run())

    async def settled(self) -> None:
        """Return when every model has loaded or failed for the first time."""
        for pool in self.pools():
            await pool.settled.wait()

    async def close(self, timeout: float) -> None:  # passed on to each pool
        """Take no more requests, finish what is here, end all workers."""
        self.is_draining = True
        await asyncio.gather(*(pool.close(timeout) for pool in self.pools()))

    async def _prepare(self, plan: ModelPlan) -> ModelPlan:
        """Give the model an environment of its own when it needs one."""
        folder = Path(plan.group.path)
        if not plan.config.enable_venv and not (folder / "requirements.txt").exists():
            return plan
        request = EnvironmentRequest(
            model=plan.name,
            folder=folder,
            interpreter=plan.group.interpreter,
            cache=self._cache / "environments",
            timeout=plan.config.model_loading_timeout,
            environ=plan.group.server_environment,
        )
        return replace(plan, group=replace(plan.group, interpreter=await make_environment(request)))

    # --- views --------------------------------------------------------------------------------

    def models(self) -> list[ModelView]:
        """Return every version of every model, those that cannot be served included."""
        broken = [
            ModelView(
                name=item.name, version=item.version, url=item.url, engine=None, status="FAILED",
                reason=item.reason, batch_size=0, max_batch_delay_ms=0, max_idle_time=0, job_queue_size=0,
            )
            for item in self._broken.values()
        ]  # fmt: skip
        return [*broken, *(view_of(pool) for pool in self.pools())]

    def metrics(self) -> list[MetricsView]:
        """Return what the metrics of every model are made from."""
        return [
            MetricsView(
                model=pool.plan.name,
                version=pool.plan.version,
                metrics=pool.metrics,
                queue_length=pool.queue_length,
                workers=_count_states(pool),
            )
            for pool in self.pools()
        ]


def version_order(version: str | None) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """Return a key that sorts versions: none first, then by numbers (`1.10` after `1.9`) and letters."""
    if version is None:
        return (0, ())
    words = version.replace("-", ".").replace("_", ".").lstrip("vV").split(".")
    return (1, tuple((1, int(word), "") if word.isdecimal() else (0, 0, word) for word in words))


def view_of(pool: ModelPool) -> ModelView:
    """Return what the control plane shows of one model version."""
    config = pool.plan.config
    settings = {key: (shown.value, str(shown.source)) for key, shown in shown_model_settings(config).items()}
    ready = [group for group in pool.groups.values() if group.signature is not None]
    return ModelView(
        name=pool.plan.name,
        version=pool.plan.version,
        url=pool.plan.url,
        engine=pool.plan.group.engine.name,
        status=pool.status,
        reason=pool.reason,
        batch_size=config.batch_size,
        max_batch_delay_ms=config.max_batch_delay,
        max_idle_time=config.max_idle_time,
        job_queue_size=config.job_queue_size,
        requests_in_queue=pool.queue_length,
        loaded_at_startup=pool.plan.loaded_at_startup,
        groups=tuple(_group_view(pool, devices) for devices in pool.plan.devices),
        signature=ready[0].signature if ready else None,
        settings=settings,
        log_tail=pool.log_tail if pool.status == "FAILED" else (),
    )


def _group_view(pool: ModelPool, devices: tuple[str, ...]) -> WorkerGroupView:
    workers = [
        WorkerView(
            id=group.key * 100 + slot, pid=group.pid, start_time=group.started, state=_state(group, slot)
        )
        for group in pool.groups.values()
        if group.settings.devices == devices
        for slot in range(group.plan_slots)
    ]
    return WorkerGroupView(
        device="+".join(devices), min=pool.plan.min_workers, max=pool.plan.max_workers, workers=tuple(workers)
    )


def _state(group: WorkerGroup, slot: int) -> WorkerState:
    if group.state is GroupState.STARTING:
        return "starting"
    if group.state is GroupState.READY:
        return "busy" if slot < len(group.batches) else "ready"
    return "draining"


def _count_states(pool: ModelPool) -> dict[str, int]:
    counts: dict[str, int] = {}
    for devices in pool.plan.devices:
        for worker in _group_view(pool, devices).workers:
            counts[worker.state] = counts.get(worker.state, 0) + 1
    return counts


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))
