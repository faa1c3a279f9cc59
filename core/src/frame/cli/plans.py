"""Plan the catalog's models on this machine: what cannot be started here is refused before anything is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from frame.contract.engines import EngineSpec, Preflight, nothing_to_check, one_rank
from frame.errors import FrameError
from frame.pool.devices import place
from frame.pool.plan import ModelPlan, make_plan
from frame.store.catalog import Catalog, CatalogEntry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """An entry of the catalog with its plan; None when it is refused, or not planned."""

    entry: CatalogEntry
    plan: ModelPlan | None


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans models; reads small files of their folders, and which devices there are.

    Attributes:
        cores: threads that all workers together may compute with (`cpu_threads`).
    """

    engines: Mapping[str, EngineSpec]
    environ: Mapping[str, str]
    cores: int

    def plan(
        self, catalog: Catalog, wanted: Callable[[EngineSpec], bool] = lambda _: True
    ) -> tuple[PlannedModel, ...]:
        """Plan every served entry whose engine is `wanted`; a problem refuses its entry."""
        return tuple(
            self.plan_entry(entry)
            if entry.config is not None and wanted(self.engines[entry.config.engine])
            else PlannedModel(entry=entry, plan=None)
            for entry in catalog.entries
        )

    def plan_entry(self, entry: CatalogEntry) -> PlannedModel:
        """Plan one entry; one that is refused stays as it is."""
        config = entry.config
        if config is None:
            return PlannedModel(entry=entry, plan=None)
        engine = self.engines[config.engine]
        try:
            plan = make_plan(
                config,
                engine,
                url=entry.url,
                interpreter=sys.executable,
                devices=place(config.load_on_devices, self.environ),
                cores=self.cores,
                environ=self.environ,
            )
        except FrameError as error:
            return _refused(entry, (str(error),))
        problems = find_problems(engine, plan, self.environ)
        return _refused(entry, problems) if problems else PlannedModel(entry=entry, plan=plan)


def find_problems(engine: EngineSpec, plan: ModelPlan, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the engine knows to be wrong before a start; one that fails at that is a problem itself."""
    config = plan.config
    preflight = Preflight(
        path=config.path,
        model_file=config.model_file,
        options=config.options,
        properties=config.properties,
        ranks=plan.group.ranks,
        devices=plan.group.devices,
        interpreter=plan.group.interpreter,
        environ=environ,
    )
    try:
        return tuple(engine.preflight(preflight))
    except Exception as error:  # noqa: BLE001  # the fault line around a plugin
        _log.exception("preflight_failed model=%s engine=%s", config.name, engine.name)
        return (f"the engine {engine.name} could not check it: {type(error).__name__}: {error}",)


def depends_on_machine(engine: EngineSpec) -> bool:
    """Tell whether what an engine makes of a model cannot be told from its settings alone."""
    return engine.fills_devices or engine.ranks is not one_rank or engine.preflight is not nothing_to_check


def group_devices(plan: ModelPlan) -> tuple[str, ...]:
    """Return the devices of each group of an engine that fills its devices: `gpu0+gpu1`."""
    return tuple("+".join(place.devices) for place in plan.places for _ in range(place.maximum))


def with_entries(catalog: Catalog, planned: Sequence[PlannedModel]) -> Catalog:
    """Return the catalog with the entries as they were planned: some of them refused."""
    return replace(catalog, entries=tuple(model.entry for model in planned))


def _refused(entry: CatalogEntry, problems: tuple[str, ...]) -> PlannedModel:
    return PlannedModel(entry=replace(entry, config=None, problems=problems), plan=None)
