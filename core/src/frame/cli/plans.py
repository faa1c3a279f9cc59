"""Plan the catalog's models on this machine: what cannot be started here is refused before anything is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from frame.config.workflows import WorkflowFile
from frame.contract.engines import EngineSpec, Preflight, nothing_to_check, one_rank
from frame.errors import FrameError
from frame.pool.devices import place
from frame.pool.plan import ModelPlan, make_plan
from frame.pool.workflow_plan import WorkflowPlan, limits_of
from frame.store.catalog import Catalog, CatalogEntry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """An entry of the catalog with its plan; None when it is refused, not planned, or a workflow.

    Attributes:
        workflow: the plan of a workflow.
        members: its models, by the names that it gives them.
    """

    entry: CatalogEntry
    plan: ModelPlan | None
    workflow: WorkflowPlan | None = None
    members: Mapping[str, PlannedModel] = field(default_factory=dict)

    @property
    def member_plans(self) -> dict[str, ModelPlan]:
        """The plans of a workflow's models, by the names that it gives them."""
        return {name: item.plan for name, item in self.members.items() if item.plan is not None}


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
        return tuple(self.plan_entry(entry, wanted) for entry in catalog.entries)

    def plan_entry(
        self, entry: CatalogEntry, wanted: Callable[[EngineSpec], bool] = lambda _: True
    ) -> PlannedModel:
        """Plan one entry; one that is refused stays as it is."""
        if entry.workflow is not None:
            return self._plan_workflow(entry, entry.workflow, wanted)
        config = entry.config
        if config is None or not wanted(self.engines[config.engine]):
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

    def _plan_workflow(
        self, entry: CatalogEntry, file: WorkflowFile, wanted: Callable[[EngineSpec], bool]
    ) -> PlannedModel:
        """Plan a workflow's models, and itself when none of them is refused."""
        planned = {name: self.plan_entry(member, wanted) for name, member in entry.members.items()}
        members = {name: _passing_on(item) for name, item in planned.items()}
        problems = [f"{item.entry.name}: {text}" for item in members.values() for text in item.entry.problems]
        shown = replace(
            entry,
            problems=tuple(problems) or entry.problems,
            members={name: item.entry for name, item in members.items()},
        )
        if shown.problems or any(item.plan is None for item in members.values()):
            return PlannedModel(entry=shown, plan=None, members=members)
        configs = [item.plan.config for item in members.values() if item.plan is not None]
        workflow = WorkflowPlan(
            name=entry.name,
            version=entry.version,
            url=entry.url,
            graph=file.graph,
            config=limits_of(configs, len(list(file.graph.calls()))),
        )
        return PlannedModel(entry=shown, plan=None, workflow=workflow, members=members)


def _passing_on(item: PlannedModel) -> PlannedModel:
    """Return a model whose answers go to other models."""
    if item.plan is None:
        return item
    return replace(item, plan=replace(item.plan, group=replace(item.plan.group, passes_answers_on=True)))


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
