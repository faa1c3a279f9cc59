"""`model_control_mode=poll`: the store is followed while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from frame.api import EngineSpec
from frame.cli.plans import PlannedModel, Planner
from frame.config.settings import ServerConfig
from frame.errors import FrameError, ModelExistsError
from frame.policy.wording import without_places
from frame.pool.manager import WorkloadManager
from frame.pool.plan import ModelPlan
from frame.pool.traffic import text_of
from frame.pool.unserved import UnservedModel
from frame.pool.workflow import WorkflowPool
from frame.store.catalog import CatalogEntry, ModelReader
from frame.store.startup import StartupEntry, list_startup
from frame.store.urls import model_name

_log = logging.getLogger(__name__)
_MADE = {"__pycache__"}
"""What workers themselves put into a model's folder."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A model of the store at one look; `digest` changes with names, sizes and times of its files."""

    entry: StartupEntry
    digest: str

    @property
    def key(self) -> tuple[str, str | None]:
        """The model's name and version."""
        url = self.entry.url
        return url.name or model_name(url.location), url.version


Marks = Mapping[tuple[str, str | None], Mark]
"""By name and version; the first of several entries counts, as at the start."""


def read_marks(config: ServerConfig, models: Sequence[str], engines: Sequence[EngineSpec]) -> Marks:
    """Look at every model of the startup list; blocks on the disk.

    Raises:
        OSError: the store is not there, or cannot be read: that says nothing of its models.
    """
    store = config.model_store
    listed = list_startup(config, models, engines)
    if listed.problems or (store is not None and not os.path.isdir(store)):  # noqa: PTH112
        raise OSError("; ".join(listed.problems) or f"{store} is no folder")
    found: dict[tuple[str, str | None], Mark] = {}
    for entry in listed.entries:
        mark = Mark(entry, _digest(entry.url.location))
        found.setdefault(mark.key, mark)
    return found


def _digest(path: str) -> str:
    """Return a digest of what `stat` says of a file, or of all below a folder; never of their contents.

    Links inside a folder are not followed into other folders: they may go in circles.
    """
    found = hashlib.sha256()
    pending = [os.path.realpath(path)]
    while pending:
        current = pending.pop()
        try:
            facts = os.stat(current)  # noqa: PTH116  # a hundred thousand files: no Path for each
            is_link = os.path.islink(current)  # noqa: PTH114
            if is_link:
                found.update(os.fsencode(os.readlink(current)))  # noqa: PTH115
            is_folder = not is_link and os.path.isdir(current)  # noqa: PTH112
            names = sorted(set(os.listdir(current)) - _MADE) if is_folder else []  # noqa: PTH208
        except OSError as error:  # it is being removed, or a link to nowhere
            found.update(os.fsencode(f"{current}\0{error.errno}\0"))
            continue
        if names:
            pending += [f"{current}/{name}" for name in names]
        else:
            found.update(os.fsencode(f"{current}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ino}\0"))
    return found.hexdigest()


@dataclass(slots=True, kw_only=True)
class StoreWatch:
    """Follows the store until cancelled.

    Invariants:
        A model is taken when two looks in a row find it the same: not while it is still being copied.
        Models that were registered by requests are left alone.
        A change that cannot be served leaves what is served as it is.

    Attributes:
        marks: of what was served at the start.
        look: reads the marks of now; blocks.
        interval: seconds between two looks.
        drain_timeout: seconds that requests get of a model that was changed or removed.
        announce: told of each plan that is served.
    """

    marks: Marks
    look: Callable[[], Marks]
    reader: ModelReader
    planner: Planner
    manager: WorkloadManager
    interval: float
    drain_timeout: float
    announce: Callable[[ModelPlan], None]
    _last: Marks = field(default_factory=dict)
    _urls: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """What was served of each model from here."""

    async def run(self) -> None:
        """Look at the store again and again."""
        loop = asyncio.get_running_loop()
        served = self._last = dict(self.marks)
        self._urls = {key: mark.entry.url.text for key, mark in served.items()}
        while True:
            await asyncio.sleep(self.interval)
            try:
                now = await loop.run_in_executor(None, self.look)
            except Exception as error:  # noqa: BLE001  # fault line: a store in any state must not end the server
                _log.warning("store_not_read reason=%s", error)
                continue
            stable = {key: mark for key, mark in now.items() if self._last.get(key) == mark}
            changed = {key: mark for key, mark in stable.items() if served.get(key) != mark}
            gone = {key: mark for key, mark in served.items() if key not in now and key not in self._last}
            self._last = now
            await asyncio.gather(
                *(self._guarded(self._take(mark), mark) for mark in changed.values()),
                *(self._guarded(self._drop(mark), mark) for mark in gone.values()),
            )
            served = {key: mark for key, mark in served.items() if key not in gone} | changed

    async def _guarded(self, change: Awaitable[None], mark: Mark) -> None:
        try:
            await change
        except FrameError as error:
            _log.error("model_refused model=%s %s", mark.key[0], error)
        except Exception:  # noqa: BLE001  # fault line: one model's files must not end the server
            _log.exception("model_refused model=%s", mark.key[0])

    def _is_own(self, mark: Mark) -> bool:
        """Tell whether what is served under a model's name came from here."""
        name, version = mark.key
        return self.manager.find(name, text_of(version)).plan.url == self._urls.get(mark.key)

    async def _take(self, mark: Mark) -> None:
        """Serve a model, or serve it anew."""
        loop = asyncio.get_running_loop()
        planned = await loop.run_in_executor(None, self._plan, mark.entry)
        if planned.entry.workflow is not None or self._workflows_of(mark):
            await self._take_workflow(planned, mark)
            return
        plan = planned.plan
        name, version = mark.key
        is_there = bool(self.manager.versions(name, text_of(version)))
        if is_there and not self._is_own(mark):
            raise ModelExistsError("Somebody has registered a model of that name.")
        self._urls[mark.key] = mark.entry.url.text
        if plan is None:
            self._refuse(planned.entry, is_there=is_there)
            return
        plan = replace(plan, loaded_at_startup=False)
        self.announce(plan)
        if not is_there:
            pool = self.manager.add(plan)
            _log.info("model_added model=%s version=%s url=%s", plan.name, plan.version, plan.url)
            await pool.settled.wait()  # model_loading_timeout bounds it
            return
        if not (await self.manager.replace(plan, self.drain_timeout)).reason:
            _log.info("model_updated model=%s version=%s url=%s", plan.name, plan.version, plan.url)
        else:
            _log.error("model_not_updated model=%s version=%s url=%s", plan.name, plan.version, plan.url)

    def _workflows_of(self, mark: Mark) -> list[WorkflowPool]:
        """Return what is served of a workflow of the store: whatever it is called in its file."""
        url = mark.entry.url.text
        return [pool for pool in self.manager.flows if pool.plan.url == url and not pool.is_closing]

    async def _take_workflow(self, planned: PlannedModel, mark: Mark) -> None:
        """Serve a workflow, or serve it anew; what it was called before goes."""
        before = self._workflows_of(mark)
        plan = planned.workflow
        if plan is None:
            self._refuse(planned.entry, is_there=bool(before))
            return
        members = {
            name: replace(item, loaded_at_startup=False) for name, item in planned.member_plans.items()
        }
        for member in members.values():
            self.announce(member)
        same = [pool for pool in before if (pool.plan.name, pool.plan.version) == (plan.name, plan.version)]
        if same:
            pool = await self.manager.flows.replace(plan, members, self.drain_timeout)
            is_new = pool.plan is plan
        else:
            pool = self.manager.flows.add(plan, members)
            is_new = not await pool.settled()
        facts = (plan.name, plan.version, plan.url)
        if is_new:
            _log.info("workflow_updated workflow=%s version=%s url=%s", *facts)
        else:
            _log.error("workflow_not_updated workflow=%s version=%s url=%s", *facts)
        await self._drop_workflows([item for item in before if item not in same])

    async def _drop_workflows(self, pools: Sequence[WorkflowPool]) -> None:
        for pool in pools:
            plan = pool.plan
            await self.manager.flows.remove(plan.name, plan.version, self.drain_timeout)
            _log.info("workflow_removed workflow=%s version=%s", plan.name, plan.version)

    def _refuse(self, entry: CatalogEntry, *, is_there: bool) -> None:
        """Say what is wrong, and show it where nothing is served instead."""
        problems = "; ".join(entry.problems)
        _log.error("model_refused model=%s %s", entry.name, problems)
        if not is_there:
            self.manager.forget_unserved(entry.name, text_of(entry.version))
            reason = without_places(problems)
            self.manager.expect(
                UnservedModel(name=entry.name, version=entry.version, url=entry.url, reason=reason)
            )

    async def _drop(self, mark: Mark) -> None:
        await self._drop_workflows(self._workflows_of(mark))
        name, version = mark.key
        is_there = bool(self.manager.versions(name, text_of(version)))
        if is_there and not self._is_own(mark):
            return
        self._urls.pop(mark.key, None)
        self.manager.forget_unserved(name, text_of(version))
        if is_there:
            await self.manager.remove(name, version, self.drain_timeout)
        _log.info("model_removed model=%s version=%s", name, version)

    def _plan(self, entry: StartupEntry) -> PlannedModel:
        return self.planner.plan_entry(self.reader.read(entry))
