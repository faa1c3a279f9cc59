"""The workload manager: every model version's pool, found by name and version, and what they share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from frame.errors import FrameError, ModelExistsError, ModelNotFoundError, ModelNotReadyError
from frame.http.host import ExplainedModel, ModelView, TrafficView, WorkflowView
from frame.pool.budget import ByteBudget
from frame.pool.environments import EnvironmentRequest, make_environment
from frame.pool.explaining import explain_view_of
from frame.pool.memory import read_memory
from frame.pool.metrics import MetricsView
from frame.pool.model import ModelPool
from frame.pool.placer import Placer, ReadMemory, label_of
from frame.pool.plan import ModelPlan
from frame.pool.sharing import Sharing
from frame.pool.traffic import TrafficDesk, key_of, text_of
from frame.pool.unserved import UnservedModel
from frame.pool.versions import Replaced, preference
from frame.pool.views import count_states, self_check_of, unserved_view, view_of
from frame.pool.workflow import WorkflowPool
from frame.pool.workflows import WorkflowDesk

MEMBER = ":"  # between the names of a workflow and of a model that is its own; no other model's name has it


class WorkloadManager:
    """All models. Everything but `run`, `remove` and `close` is cheap and runs on the loop's thread.

    Invariant: a name without a version means the newest version that is ready, where `traffic` has no rules
        for the model; one that is being removed is chosen last, so that a new version takes over without a
        failed request.
    """

    def __init__(
        self,
        plans: Sequence[ModelPlan],
        unserved: Sequence[UnservedModel],
        budget: ByteBudget,
        *,
        cache: Path,
        cpu_threads: int,
        read: ReadMemory = read_memory,
    ) -> None:
        """Make the pools; `run` starts them.

        Args:
            cache: folder of the models' environments.
            cpu_threads: threads that all workers on the CPU together may compute with.
            read: tells how much memory is free.
        """
        self.budget = budget
        self.is_draining = False
        self._cache = cache
        self._cpu_threads = cpu_threads
        self._unserved = {(item.name, item.version): item for item in unserved}
        self._pools: dict[str, dict[str | None, ModelPool]] = {}
        self.traffic = TrafficDesk(self._pools)
        self._ending: set[ModelPool] = set()
        self._coming: set[ModelPool] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._closed = asyncio.Event()
        self.job_ids = itertools.count(1)
        """Of requests, and of the steps of workflows."""
        self.flows = WorkflowDesk(self, budget, self.job_ids)
        sharing = Sharing(self.pools, lambda: (*self._ending, *self._coming), cpu_threads)
        self._placer = Placer(
            loaded=sharing.loaded,
            unload=sharing.unload,
            measured=sharing.measured,
            spare_workers=sharing.spare_workers,
            read=read,
        )
        for plan in plans:
            self.add(plan)

    # --- lookup -------------------------------------------------------------------------------

    def pools(self) -> Iterable[ModelPool]:
        """Yield every pool."""
        return (pool for versions in self._pools.values() for pool in versions.values())

    def route(self, name: str, version: str | None) -> ModelPool | WorkflowPool:
        """Return the pool that gets a request; where rules share them out, it is the next one's turn.

        Raises: as `find`.
        """
        if (workflow := self.flows.find(name, version)) is not None:
            return workflow
        if version is None and (traffic := self.traffic.find(name)) is not None:
            chosen = traffic.choose(self._pools.get(name, {}), counts=True)
            if chosen is not None:
                return chosen
        return self.find(name, version)

    def find(self, name: str, version: str | None) -> ModelPool:
        """Return the pool of a model; when no version is named, of the one that most requests go to.

        Args:
            version: or a label.

        Raises:
            ModelNotFoundError: there is none.
            ModelNotReadyError: it is in the store, but its configuration is wrong.
        """
        versions = self._pools.get(name)
        if versions:
            found = self._preferred(name, versions) if version is None else versions.get(key_of(version))
            if found is None and version is not None and (traffic := self.traffic.find(name)) is not None:
                found = versions.get(key_of(traffic.rules.labels.get(version, version)))
            if found is not None:
                return found
        for item in self._unserved.values():
            if item.name == name and version in {None, text_of(item.version)}:
                why = item.reason if item.status == "PENDING" else "its configuration is wrong"
                raise ModelNotReadyError(f"Model is not ready: {name}: {why}, see GET /models/{name}")
        if name in self.flows:
            raise ModelNotFoundError(f"{name} is a workflow: GET /workflows/{name} names its models")
        label = name if version is None else f"{name} version {version}"
        raise ModelNotFoundError(f"Model not found: {label}")

    def _preferred(self, name: str, versions: Mapping[str | None, ModelPool]) -> ModelPool:
        if len(versions) == 1:
            return next(iter(versions.values()))
        traffic = self.traffic.find(name)
        ruled = None if traffic is None else traffic.choose(versions, counts=False)
        return ruled or max(versions.values(), key=preference)

    def require(self, name: str, version: str | None) -> None:
        """Raise `ModelNotFoundError` unless there is such a model, whatever its state."""
        if self.flows.find(name, version) is None:
            with suppress(ModelNotReadyError):
                self.find(name, version)

    def versions(self, name: str, version: str | None) -> list[str | None]:
        """Return the versions of a model that are served and stay: all of them, or the one that is named."""
        found = [key for key, pool in self._pools.get(name, {}).items() if pool not in self._ending]
        return found if version is None else [key for key in found if key == key_of(version)]

    def forget_unserved(self, name: str, version: str | None) -> bool:
        """Forget what of a model has no pool; tell whether there was any."""
        gone = [key for key in self._unserved if key[0] == name and version in {None, text_of(key[1])}]
        for key in gone:
            del self._unserved[key]
        return bool(gone)

    def expect(self, item: UnservedModel) -> None:
        """Show a model that is on its way.

        Raises:
            ModelExistsError: there is one of that name and version.
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        self._check_label(item.name, item.version)
        known = self._unserved.get((item.name, item.version))
        if item.version in self._pools.get(item.name, {}) or (known and known.status == "PENDING"):
            raise ModelExistsError(f"Model {item.name} is already registered.")
        self._unserved[item.name, item.version] = item

    def tell(self, name: str, version: str | None, **facts: str) -> None:
        """Show how far a model is that is on its way, or why it did not come (`status`, `reason`)."""
        known = self._unserved.get((name, version))
        if known is not None:
            self._unserved[name, version] = replace(known, **facts)  # type: ignore[arg-type]  # its fields

    def lacks_room(self, plan: ModelPlan) -> bool:
        """Tell whether memory was not enough for the last start of a model's workers."""
        return label_of(plan) in self._placer.short

    def only_model(self) -> str | None:
        """Return the name of the only model, if there is just one."""
        own = {*self._pools, *(name for name, _ in self._unserved), *(pool.plan.name for pool in self.flows)}
        names = {name for name in own if MEMBER not in name}
        return names.pop() if len(names) == 1 else None

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run every pool until closed."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for pool in self.pools():
                tasks.create_task(pool.run())
            reviewer = tasks.create_task(self.traffic.run())
            await self._closed.wait()
            self._tasks = None
            reviewer.cancel()

    def add(self, plan: ModelPlan) -> ModelPool:
        """Serve one more model version; `settled` of its pool is set when it is up or has failed.

        Raises:
            ModelExistsError: there is one of that name and version.
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        self._check_label(plan.name, plan.version)
        versions = self._pools.setdefault(plan.name, {})
        if plan.version in versions:
            raise ModelExistsError(f"Model {label_of(plan)} is already registered.")
        self._unserved.pop((plan.name, plan.version), None)
        pool = versions[plan.version] = ModelPool(plan, self._prepare, resources=self._placer)
        if self._tasks is not None:
            self._tasks.create_task(pool.run())
        return pool

    async def replace(self, plan: ModelPlan, timeout: float) -> Replaced:  # passed on to the old pool
        """Serve a model version anew: the one that is there answers until its successor is up, then ends.

        Args:
            timeout: seconds that requests of the old one get.

        Returns:
            What answers now: one that did not come up does not replace one that is READY, and ends.

        Raises:
            ModelNotFoundError: there is none, or it was removed meanwhile.
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        self._staying(plan.name, plan.version)
        assert self._tasks is not None
        done = await asyncio.shield(self._tasks.create_task(self._replace(plan, timeout)))
        if isinstance(done, FrameError):
            raise done
        return done

    async def _replace(self, plan: ModelPlan, timeout: float) -> Replaced | FrameError:  # passed on
        """As `replace`, but errors are returned: one that is raised would end the server."""
        new = self.begin(plan)
        await new.settled.wait()  # model_loading_timeout bounds it
        try:
            self._check_open()
            old = self._staying(plan.name, plan.version)
        except FrameError as error:
            await self.retire(new, 0.0)
            return error
        gone = new if new.status == "FAILED" and old.status == "READY" else old
        if gone is old:
            self.adopt(new)
        await self.retire(gone, timeout)
        return Replaced(new, "") if gone is old else Replaced(old, new.reason or "it did not load")

    def begin(self, plan: ModelPlan) -> ModelPool:
        """Start a model that has no name yet: `adopt` gives it its own, or `retire` ends it.

        Raises:
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        assert self._tasks is not None
        pool = ModelPool(plan, self._prepare, resources=self._placer)
        self._coming.add(pool)
        self._tasks.create_task(pool.run())
        return pool

    def adopt(self, pool: ModelPool) -> None:
        """Let a pool answer under its name, in place of the one that did."""
        self._coming.discard(pool)
        versions = self._pools.setdefault(pool.plan.name, {})
        if (before := versions.get(pool.plan.version)) is not None:
            self._ending.add(before)
        versions[pool.plan.version] = pool

    async def retire(self, pool: ModelPool, timeout: float) -> None:  # passed on to the pool
        """End a pool; what is not done within `timeout` seconds is answered 503."""
        self._coming.discard(pool)
        self._ending.add(pool)
        await self._end(pool, timeout)

    def _staying(self, name: str, version: str | None) -> ModelPool:
        pool = self._pools.get(name, {}).get(version)
        if pool is None or pool in self._ending or self._tasks is None:
            raise ModelNotFoundError(f"Model not found: {name}")
        return pool

    async def remove(self, name: str, version: str | None, timeout: float) -> None:  # passed on to the pool
        """Take no more requests for a model version, finish those that are here, end its workers, forget it.

        What is not done within `timeout` seconds is answered 503. It goes on when the caller is cancelled.

        Raises:
            ModelNotFoundError: there is none.
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        pool = self._staying(name, version)
        assert self._tasks is not None
        self._ending.add(pool)
        self.traffic.forget(name, version, is_last=not self.versions(name, None))
        await asyncio.shield(self._tasks.create_task(self._end(pool, timeout)))

    async def _end(self, pool: ModelPool, timeout: float) -> None:  # passed on to the pool
        await pool.close(timeout)
        await pool.ended.wait()
        name, version = pool.plan.name, pool.plan.version
        if self._pools.get(name, {}).get(version) is pool:
            del self._pools[name][version]
            if not self._pools[name]:
                del self._pools[name]
        self._ending.discard(pool)

    def check_free(self, name: str, version: str | None) -> None:
        """Let a workflow have a name.

        Raises:
            ModelExistsError: a model has it.
            ModelNotReadyError: the server is ending.
        """
        self._check_open()
        if name in self._pools:
            raise ModelExistsError(f"There is a model {name}: a workflow cannot be called so.")
        self._unserved.pop((name, version), None)

    def _check_label(self, name: str, version: str | None) -> None:
        if name in self.flows:
            raise ModelExistsError(f"There is a workflow {name}: a model cannot be called so.")
        traffic = self.traffic.find(name)
        if traffic is not None and version in traffic.rules.labels:
            raise ModelExistsError(f"Model {name} has a label {version}: a version cannot be called so.")

    def _check_open(self) -> None:
        if self.is_draining:
            raise ModelNotReadyError("The server is ending; its models stay as they are.")

    async def settled(self) -> None:
        """Return when every model has loaded or failed for the first time."""
        for pool in list(self.pools()):
            await pool.settled.wait()

    async def close(self, timeout: float) -> None:  # passed on to each pool
        """Take no more requests, finish what is here, end all workers."""
        self.is_draining = True
        self._closed.set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self.flows.close(timeout)  # first: their steps need the models
        timeout = max(0.0, deadline - loop.time())
        pools = {*self.pools(), *self._ending, *self._coming}
        await asyncio.gather(*(pool.close(timeout) for pool in pools))

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
        unserved = map(unserved_view, self._unserved.values())
        return [*unserved, *(view_of(pool) for pool in self.pools())]

    def workflows(self) -> list[WorkflowView]:
        """Return every version of every workflow."""
        return self.flows.views()

    def explain(self, name: str, version: str | None) -> ExplainedModel:
        """Return what a model version is explained from; raises as `find` does."""
        pool = self.find(name, version)
        view = explain_view_of(pool, cpu_threads=self._cpu_threads)
        return ExplainedModel(name=pool.plan.name, version=pool.plan.version, view=view)

    def describe_traffic(self, name: str) -> TrafficView:
        """Return the traffic rules of a model; raises `ModelNotFoundError` when there is none."""
        self.require(name, None)
        traffic = self.traffic.find(name)
        return TrafficView() if traffic is None else traffic.view()

    def metrics(self) -> list[MetricsView]:
        """Return what the metrics of every model and workflow are made from."""
        return list(self.flows.metrics()) + [
            MetricsView(
                model=pool.plan.name,
                version=pool.plan.version,
                metrics=pool.metrics,
                queue_length=pool.queue_length,
                workers=count_states(pool),
                self_check=str((self_check_of(pool) or {}).get("result", "")),
                **self.traffic.figures(pool),
            )
            for pool in self.pools()
        ]
