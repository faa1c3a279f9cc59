"""Change settings of models that run: at once, or by a successor that takes over when it is up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from frame.cli.plans import PlannedModel
from frame.config.live import LIVE_KEYS, with_settings
from frame.config.settings import Source
from frame.errors import BadRequestError, ConfigError, LoadError
from frame.http.host import Registration
from frame.pool.manager import MEMBER, WorkloadManager
from frame.pool.model import ModelPool
from frame.pool.plan import ModelPlan, with_config
from frame.store.fetching import Watch

_log = logging.getLogger(__name__)
Key = tuple[str, str | None]


class Changes:
    """What was changed of each model since it was read, by name and version.

    Invariant: settings that do not work leave the model as it is, with all that was changed before.
    """

    def __init__(
        self,
        manager: WorkloadManager,
        plan: Callable[[Registration, Watch], PlannedModel],
        announce: Callable[[ModelPlan], None],
        drain_timeout: float,
    ) -> None:
        """Read models again by `plan`, which blocks.

        Args:
            announce: told of each plan that takes over.
            drain_timeout: seconds that requests of the one before get.
        """
        self._manager = manager
        self._plan = plan
        self._announce = announce
        self._drain_timeout = drain_timeout
        self._changed: dict[Key, dict[str, str]] = {}
        self._turn = asyncio.Lock()  # a change that waits sees what the one before has changed

    def note(self, key: Key, settings: Mapping[str, str]) -> None:
        """Remember what was changed: a successor gets it as well."""
        self._changed.setdefault(key, {}).update(settings)

    def of(self, key: Key) -> Mapping[str, str]:
        """Return what was changed of a model."""
        return self._changed.get(key, {})

    def forget(self, name: str, versions: Sequence[str | None]) -> None:
        """Forget versions of a model that are gone."""
        for version in versions:
            self._changed.pop((name, version), None)

    async def apply(
        self, pools: Sequence[ModelPool], kept: Mapping[Key, Registration], settings: Mapping[str, str]
    ) -> None:
        """Change settings of some versions of a model.

        Args:
            kept: how those were registered that were.

        Raises:
            BadRequestError, ConfigError: a key is unknown, or a value is wrong.
            LoadError: a successor did not load; that version, and those after it, stay as they are.
        """
        if all(_is_live(pool, settings) for pool in pools):
            self._change_now(pools, settings)
            return
        async with self._turn:
            await self._change_by_successors(pools, kept, settings)

    async def _change_by_successors(
        self, pools: Sequence[ModelPool], kept: Mapping[Key, Registration], settings: Mapping[str, str]
    ) -> None:
        wanted = [self._wanted(pool, kept, settings) for pool in pools]
        loop = asyncio.get_running_loop()
        read = [await loop.run_in_executor(None, self._plan, item, Watch()) for item in wanted]
        plans = [_plan_of(item) for item in read]
        for pool, plan in zip(pools, plans, strict=True):
            await self._replace(replace(plan, loaded_at_startup=pool.plan.loaded_at_startup))
            self.note((plan.name, plan.version), settings)

    def _change_now(self, pools: Sequence[ModelPool], settings: Mapping[str, str]) -> None:
        plans = []
        for pool in pools:
            source = Source("rest", f"PATCH /models/{pool.plan.name}")
            plans.append(with_config(pool.plan, with_settings(pool.plan.config, settings, source)))
        for pool, plan in zip(pools, plans, strict=True):
            pool.change_plan(plan)
            self.note((plan.name, plan.version), settings)

    def _wanted(
        self, pool: ModelPool, kept: Mapping[Key, Registration], settings: Mapping[str, str]
    ) -> Registration:
        """Return how a version is to be read again."""
        plan = pool.plan
        if MEMBER in plan.name:
            those = ", ".join(LIVE_KEYS)
            raise BadRequestError(f"{plan.name} is a model of a workflow: only {those} can change.")
        key = plan.name, plan.version
        known = kept.get(key) or Registration(url=plan.url, name=plan.name, version=plan.version)
        return replace(known, settings={**known.settings, **self.of(key), **settings})

    async def _replace(self, plan: ModelPlan) -> None:
        self._announce(plan)
        reason = (await self._manager.replace(plan, self._drain_timeout)).reason
        facts = (plan.name, plan.version)
        if reason:
            _log.error("model_not_updated model=%s version=%s reason=%s", *facts, reason)
            raise LoadError(f"Model {plan.name} did not load with these settings, and is as it was: {reason}")
        _log.info("model_updated model=%s version=%s url=%s", *facts, plan.url)


def _is_live(pool: ModelPool, settings: Mapping[str, str]) -> bool:
    """Tell whether the router alone reads these settings; workers take no larger batches than they know."""
    if not settings.keys() <= set(LIVE_KEYS):
        return False
    size = settings.get("batch_size", "1").strip()
    return not size.isdecimal() or int(size) <= pool.plan.group.batch_size


def _plan_of(planned: PlannedModel) -> ModelPlan:
    if planned.plan is None:
        raise ConfigError("; ".join(planned.entry.problems) or "it has become a workflow: register it again")
    return planned.plan
