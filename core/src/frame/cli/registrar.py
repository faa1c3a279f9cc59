"""Register, scale, change and unregister models while the server runs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from frame.cli.allowed import below, check_allowed, check_model_id
from frame.cli.arrivals import Arrivals
from frame.cli.changes import Changes
from frame.cli.plans import PlannedModel, Planner
from frame.cli.snapshot import Snapshot, read_snapshot, write_snapshot
from frame.config.settings import Source
from frame.errors import (
    BadRequestError,
    ConfigError,
    FrameError,
    LoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    OutOfMemoryError,
    StoreError,
)
from frame.http.host import Registration, ScaledModel, WorkerChange
from frame.http.traffic import rules_text
from frame.policy.traffic import TrafficRules
from frame.policy.wording import without_other_places
from frame.pool.manager import MEMBER, WorkloadManager
from frame.pool.model import ModelPool
from frame.pool.plan import ModelPlan, with_workers
from frame.pool.traffic import text_of
from frame.pool.unserved import UnservedModel
from frame.store.catalog import ModelReader
from frame.store.fetching import Watch
from frame.store.startup import StartupEntry, in_store
from frame.store.urls import ModelUrl, model_name, parse_model_url, scheme_of

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.05
_SOURCE = Source("rest", "POST /models")
_Key = tuple[str, str | None]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """What the control routes do; called on the loop's thread.

    Attributes:
        store: where relative locations are looked for.
        allowed: what a url must match as a whole (`model_url_pattern`); None: anything.
        drain_timeout: seconds that requests of a model get which is unregistered.
        snapshot: file in which is kept what was registered; None: nowhere.
        only_below: with `multi_model`: where models must lie, and nothing but url and name may be given.
        announce: told of each plan that is served.
    """

    reader: ModelReader
    planner: Planner
    manager: WorkloadManager
    store: Path | None
    allowed: re.Pattern[str] | None
    drain_timeout: float
    announce: Callable[[ModelPlan], None]
    snapshot: Path | None = None
    only_below: Path | None = None
    _kept: dict[_Key, Registration] = field(default_factory=dict)
    _arrivals: Arrivals = field(init=False)
    _changes: Changes = field(init=False)
    _saves: asyncio.Event = field(default_factory=asyncio.Event)
    _unfinished: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_arrivals", Arrivals(self.manager, self._plan))
        changes = Changes(self.manager, self._plan, self.announce, self.drain_timeout)
        object.__setattr__(self, "_changes", changes)
        self._saves.set()

    def close(self) -> None:
        """End downloads."""
        self.reader.fetcher.ended.set()
        self._arrivals.close()

    async def register(self, wanted: Registration, *, waits: bool) -> str:
        """Serve a model and return its name; one that is elsewhere is PENDING while it is downloaded.

        Args:
            waits: return when it is up; one that does not load is forgotten again.

        Raises:
            BadRequestError, ConfigError, StoreError: url, settings or files are wrong.
            ModelExistsError: it is there already.
            LoadError: it did not load, and says why.
        """
        if self.allowed is not None:
            check_allowed(wanted, self.allowed)
        if self.only_below is not None:
            wanted = below(wanted, self.only_below)
        try:
            return await self._register(wanted, waits=waits)
        except (ConfigError, StoreError) as error:
            shown = without_other_places(str(error), wanted.url)
            if shown != str(error):
                _log.error(
                    "model_not_registered model=%s version=%s reason=%s", wanted.name, wanted.version, error
                )
            raise type(error)(shown) from error

    async def _register(self, wanted: Registration, *, waits: bool) -> str:
        url = self._url(wanted)
        if not scheme_of(url.location):
            return await self._finish(self._add_local(wanted, waits=waits))
        name = url.name or model_name(url.location)
        self.manager.expect(
            UnservedModel(
                name=name, version=url.version, url=wanted.url, reason="it is downloaded", status="PENDING"
            )
        )
        task = self._arrivals.begin((name, url.version), wanted, partial(self._add, waits=waits))
        if waits:
            try:
                return await asyncio.shield(task)
            except FrameError:
                self.manager.forget_unserved(name, text_of(url.version))
                raise
        self._keep_new(name, url.version, wanted)
        return name

    async def _finish(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Do some work to its end, also when whoever waits for it goes away."""
        task = asyncio.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return await asyncio.shield(task)

    async def _add_local(self, wanted: Registration, *, waits: bool) -> str:
        return await self._add(await self._arrivals.plan(wanted), wanted, waits=waits)

    def _keep_new(self, name: str, version: str | None, wanted: Registration) -> None:
        self._kept[name, version] = replace(wanted, name=name, version=version)
        self._save()

    async def _add(self, planned: PlannedModel, wanted: Registration, *, waits: bool) -> str:
        if planned.entry.workflow is not None:
            return await self._add_workflow(planned, wanted, waits=waits)
        if planned.plan is None:
            raise ConfigError("; ".join(planned.entry.problems))
        plan = replace(planned.plan, loaded_at_startup=False)
        pool = self.manager.add(plan)
        self.announce(plan)
        _log.info("model_registered model=%s version=%s url=%s", plan.name, plan.version, plan.url)
        self._kept[plan.name, plan.version] = replace(wanted, name=plan.name, version=plan.version)
        if waits:
            await pool.settled.wait()  # model_loading_timeout bounds it
            if pool.status == "FAILED":
                reason, lacks_room = pool.reason, self.manager.lacks_room(plan)
                self._kept.pop((plan.name, plan.version), None)
                self._save()
                with suppress(ModelNotFoundError):  # it was unregistered meanwhile
                    await self.manager.remove(plan.name, plan.version, 0.0)
                kind = OutOfMemoryError if lacks_room else LoadError
                raise kind(f"Model {plan.name} did not load: {reason}")
        self._save()
        return plan.name

    async def _add_workflow(self, planned: PlannedModel, wanted: Registration, *, waits: bool) -> str:
        if wanted.settings:
            raise BadRequestError("Parameter url: it is a workflow: its file has the settings.")
        plan = planned.workflow
        if plan is None:
            raise ConfigError("; ".join(planned.entry.problems))
        members = {
            name: replace(item, loaded_at_startup=False) for name, item in planned.member_plans.items()
        }
        pool = self.manager.flows.add(plan, members)
        for member in members.values():
            self.announce(member)
        _log.info("workflow_registered workflow=%s version=%s url=%s", plan.name, plan.version, plan.url)
        key = plan.name, plan.version
        self._kept[key] = replace(wanted, name=plan.name, version=plan.version)
        if waits:
            failed = await pool.settled()
            if failed:
                self._kept.pop(key, None)
                self._save()
                with suppress(ModelNotFoundError):  # it was unregistered meanwhile
                    await self.manager.flows.remove(*key, 0.0)
                lacks_room = any(self.manager.lacks_room(members[name]) for name in failed)
                why = "; ".join(f"{plan.name}:{name}: {reason}" for name, reason in failed.items())
                kind = OutOfMemoryError if lacks_room else LoadError
                raise kind(f"Workflow {plan.name} did not load: {why}")
        self._save()
        return plan.name

    async def restore(self) -> None:
        """Register what the snapshot has; what cannot be is logged, and stays in the snapshot.

        Raises:
            ConfigError: the snapshot cannot be read.
        """
        if self.snapshot is None:
            return
        kept = read_snapshot(self.snapshot)
        for name, rules in kept.traffic.items():
            self.manager.traffic.set_rules(name, rules)
        self._kept.update({(wanted.name or "", wanted.version): wanted for wanted in kept.models})
        self._saves.clear()  # the file has all; it is not written with less before all were tried
        for wanted in kept.models:
            try:
                await self._register(wanted, waits=False)
            except Exception as error:  # noqa: BLE001  # one that cannot be brought back stops none of the others
                facts = (wanted.name, wanted.url, error)
                _log.error("model_not_restored model=%s url=%s reason=%s", *facts)
        self._saves.set()
        self.manager.traffic.changed = self._save

    def _keep(self, name: str, version: str | None, settings: Mapping[str, str]) -> None:
        """Remember what was changed of a model."""
        self._changes.note((name, version), settings)
        kept = self._kept.get((name, version))
        if kept is not None and settings.items() - kept.settings.items():
            self._kept[name, version] = replace(kept, settings={**kept.settings, **settings})
            self._save()

    def _save(self) -> None:
        if self.snapshot is None or not self._saves.is_set():
            return
        try:
            models = list(self._kept.values())
            write_snapshot(self.snapshot, Snapshot(models=models, traffic=dict(self.manager.traffic.rules())))
        except OSError as error:
            _log.warning("snapshot_not_written path=%s reason=%s", self.snapshot, error)

    def _url(self, wanted: Registration) -> ModelUrl:
        url = parse_model_url(wanted.url)
        return replace(
            url,
            name=wanted.name or url.name,
            version=wanted.version or url.version,
            location=in_store(url.location, self.store),
            arguments=MappingProxyType({**url.arguments, **wanted.settings}),
        )

    def _plan(self, wanted: Registration, watch: Watch) -> PlannedModel:
        """Fetch the model, read files and settings; blocks on the network and on the disk."""
        return self.planner.plan_entry(self.reader.read(StartupEntry(self._url(wanted), _SOURCE), watch))

    async def unregister(self, name: str, version: str | None) -> None:
        """Take no more requests for a model, finish those that are here, end its workers; all its versions.

        Raises:
            ModelNotFoundError: there is none.
        """
        if MEMBER in name and self.manager.versions(name, version):
            workflow = name.partition(MEMBER)[0]
            raise BadRequestError(f"{name} is a model of the workflow {workflow}: unregister that.")
        self._arrivals.stop(name, version)
        flows = [pool.plan.version for pool in self.manager.flows.versions(name, version)]
        versions = self.manager.versions(name, version)
        forgot = self.manager.forget_unserved(name, version)
        wanted = None if version == "default" else version
        kept = [key for key in self._kept if key[0] == name and (version is None or key[1] == wanted)]
        if not (versions or flows or forgot or kept):
            raise ModelNotFoundError(f"Model or workflow not found: {name}")
        for key in kept:
            self._kept.pop(key, None)
        self._changes.forget(name, versions)
        self._save()  # first: whoever asked may not wait for the end
        await asyncio.gather(
            *(self.manager.remove(name, found, self.drain_timeout) for found in versions),
            *(self.manager.flows.remove(name, found, self.drain_timeout) for found in flows),
        )
        _log.info("model_unregistered model=%s version=%s", name, version)

    async def change(self, name: str, version: str | None, settings: Mapping[str, str]) -> None:
        """Change settings of a model, of all its versions when none is named.

        What workers read is changed by a successor, which takes over when it is up.

        Raises:
            ModelNotFoundError: there is none.
            BadRequestError, ConfigError: a key is unknown, or a value is wrong.
            LoadError: it did not load with them, and is as it was.
        """
        pools = [self.manager.find(name, found) for found in self._existing(name, version)]
        if self.allowed is not None:
            check_model_id(settings, self.allowed)
        try:
            await self._finish(self._changes.apply(pools, self._kept, settings))
        finally:
            for key in [(pool.plan.name, pool.plan.version) for pool in pools]:
                self._keep(*key, self._changes.of(key))

    def set_traffic(self, name: str, rules: TrafficRules) -> None:
        """Share a model's requests among its versions by these rules from now on.

        Raises:
            ModelNotFoundError: there is no such model.
            BadRequestError: the rules name a version that is not served, or a label that is one's name.
        """
        served = [text_of(version) for version in self._existing(name, None)]
        for field_name, version in rules.versions():
            if version not in served:
                those = ", ".join(served)
                raise BadRequestError(f"Parameter {field_name}: no version {version}; there are: {those}.")
        if taken := sorted(set(served) & rules.labels.keys()):
            raise BadRequestError(f"Parameter labels: {taken[0]} is the name of a version.")
        self.manager.traffic.set_rules(name, rules)
        _log.info("traffic_set model=%s rules=%s", name, rules_text(rules))
        self._save()

    async def scale(
        self, name: str, version: str | None, change: WorkerChange, *, waits: bool
    ) -> Sequence[ScaledModel]:
        """Set how many workers a model has; of all its versions when none is named.

        Args:
            waits: return when as many are up, or `model_loading_timeout` has passed.

        Raises:
            ModelNotFoundError: there is none.
            ModelNotReadyError: it is not up, or not as many came up in time.
            BadRequestError: the numbers, or the device, are not possible.
        """
        if name in self.manager.flows:
            found = self.manager.flows.versions(name, version)
            pools = [member for pool in found for member in pool.members.values()]
        else:
            pools = [self.manager.find(name, found) for found in self._existing(name, version)]
        plans = [with_workers(pool.plan, change.minimum, change.maximum, change.device) for pool in pools]
        for pool in pools:
            pool.check_ready()
        for pool, plan in zip(pools, plans, strict=True):
            pool.change_plan(plan)
            numbers = {"minWorkers": change.minimum, "maxWorkers": change.maximum}
            if change.device is None:
                given = {key: str(value) for key, value in numbers.items() if value is not None}
                self._keep(plan.name, plan.version, given)
        if waits:
            await asyncio.gather(*(_wait_scaled(pool) for pool in pools))
        return [
            ScaledModel(name=plan.name, minimum=plan.min_workers, maximum=plan.max_workers) for plan in plans
        ]

    def _existing(self, name: str, version: str | None) -> Sequence[str | None]:
        if name in self.manager.flows:
            raise BadRequestError(f"{name} is a workflow: name one of its models, {name}{MEMBER}MODEL.")
        self.manager.require(name, version)
        found = self.manager.versions(name, version)
        if not found:
            self.manager.find(name, version)  # one of the store that is not ready raises
            raise ModelNotFoundError(f"Model not found: {name} version {version}")  # it is a label, or going
        return found


def _ready_workers(pool: ModelPool) -> int:
    return sum(group.slots for group in pool.groups.values() if group.takes_work)


def _is_scaled(pool: ModelPool) -> bool:
    return pool.plan.min_workers <= _ready_workers(pool) <= pool.plan.max_workers


async def _wait_scaled(pool: ModelPool) -> None:
    """Return when the workers are within their limits.

    Raises:
        ModelNotReadyError: they are not in time.
    """
    limit = pool.plan.config.model_loading_timeout
    try:
        async with asyncio.timeout(limit):
            while not _is_scaled(pool):  # noqa: ASYNC110  # groups tell nobody of all their changes
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        message = f"Model {pool.plan.name}: {_ready_workers(pool)} workers are up after {limit:g} s"
        raise ModelNotReadyError(message) from None
