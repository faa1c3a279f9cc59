"""Say what a store would be served as: engines, workers, settings and their sources, problems."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from frame.cli.plans import Planner, depends_on_machine, group_devices, with_entries
from frame.cli.settings import CommandSettings
from frame.config.settings import ModelConfig, ServerConfig, WorkerLimits, worker_limits
from frame.config.view import ShownSetting, shown_model_settings, shown_server_settings
from frame.pool.cgroups import usable_cores
from frame.pool.plan import ModelPlan
from frame.store.catalog import Catalog, CatalogEntry, all_entries, build_catalog

Label = tuple[str, str | None]
"""A model's name and version."""


def check_models(settings: CommandSettings, *, as_json: bool) -> tuple[Catalog, str]:
    """Read and plan the models that `frame serve` would serve here; return them and the report."""
    catalog = build_catalog(
        settings.server,
        settings.models,
        settings.plugins.engines,
        settings.environ,
        lenient=settings.lenient,
        sources=settings.plugins.sources,
    )
    engines = {spec.name: spec for spec in settings.plugins.engines}
    planner = Planner(engines, settings.environ, settings.server.cpu_threads or usable_cores())
    planned = planner.plan(catalog, depends_on_machine)
    catalog = with_entries(catalog, planned)
    plans = {
        (model.entry.name, model.entry.version): model.plan
        for model in (*planned, *(item for model in planned for item in model.members.values()))
        if model.plan is not None and model.plan.group.engine.fills_devices
    }
    return catalog, render_check(catalog, settings.server, as_json=as_json, plans=plans)


def check_exit_code(catalog: Catalog) -> int:
    """Return 0 when every model would be served, else 1."""
    return 1 if catalog.problems or any(entry.problems for entry in catalog.entries) else 0


def render_check(
    catalog: Catalog,
    server_config: ServerConfig,
    *,
    as_json: bool,
    cores: int | None = None,
    omp_num_threads: int = 1,
    plans: Mapping[Label, ModelPlan] | None = None,
) -> str:
    """Return the report as text, or as JSON with every setting.

    Args:
        cores: None asks the operating system.
        plans: of the models whose groups fill the devices of this machine.
    """
    cores = cores or len(os.sched_getaffinity(0))
    plans = plans or {}
    workers = {
        id(entry): _workers(entry.config, cores, omp_num_threads)
        for entry in all_entries(catalog)
        if entry.config is not None
    }
    if as_json:
        models = [
            _entry_json(entry, workers.get(id(entry), {}), plans.get((entry.name, entry.version)))
            for entry in all_entries(catalog)
        ]
        report = {
            "models": models,
            "problems": catalog.problems,
            "warnings": (*server_config.warnings, *catalog.warnings),
            "server": _settings_json(shown_server_settings(server_config)),
        }
        return json.dumps(report, indent=2, ensure_ascii=False)
    lines = [f"server at {server_config.inference_address} ({server_config.http_server})"]
    lines += _changed_settings(shown_server_settings(server_config))
    lines += _marked((*server_config.warnings, *catalog.warnings), catalog.problems)
    for entry in all_entries(catalog):
        plan = plans.get((entry.name, entry.version))
        lines += ["", *_entry_text(entry, workers.get(id(entry), {}), plan)]
    lines += ["", _summary(catalog)]
    return "\n".join(lines)


def _workers(config: ModelConfig, cores: int, omp_num_threads: int) -> dict[str, WorkerLimits]:
    """Return the limits on each type of device that the model may be loaded on."""
    names = {name.rstrip("0123456789") for entry in config.load_on_devices for name in entry.split("+")}
    types = ("cpu", "gpu") if "*" in names else tuple(sorted(names))
    return {kind: worker_limits(config, kind, cores=cores, omp_num_threads=omp_num_threads) for kind in types}


def _entry_text(entry: CatalogEntry, workers: dict[str, WorkerLimits], plan: ModelPlan | None) -> list[str]:
    name = f"{entry.name}:{entry.version}" if entry.version else entry.name
    config = entry.config
    if entry.workflow is not None and not entry.problems:
        calls = ", ".join(sorted({call.target for call in entry.workflow.graph.calls()}))
        lines = [f"{name}  workflow of {calls}", f"  from     {entry.url}"]
        return [*lines, *_marked(entry.workflow.warnings, ())]
    if config is None:
        return [f"{name}  REFUSED  {entry.url}", *_marked((), entry.problems)]
    return [
        f"{name}  {config.engine} ({entry.reason})",
        f"  from     {entry.url}",
        f"  workers  {_limits_text(workers) if plan is None else _groups_text(plan)}",
        *_changed_settings(shown_model_settings(config)),
        *_marked(config.warnings, ()),
    ]


def _limits_text(workers: dict[str, WorkerLimits]) -> str:
    if set(workers) == {"cpu", "gpu"}:
        cpu, gpu = workers["cpu"], workers["gpu"]
        return f"{cpu.minimum}-{cpu.maximum}; where there are GPUs {gpu.minimum}-{gpu.maximum} on each"
    return ", ".join(f"{low_high.minimum}-{low_high.maximum} on {kind}" for kind, low_high in workers.items())


def _groups_text(plan: ModelPlan) -> str:
    ranks = "1 rank" if plan.group.ranks == 1 else f"{plan.group.ranks} ranks"
    return f"{plan.min_workers}-{plan.max_workers}, each of {ranks}, on {';'.join(group_devices(plan))}"


def _changed_settings(settings: dict[str, ShownSetting]) -> list[str]:
    """Return a line for each setting that somebody set."""
    changed = {key: item for key, item in settings.items() if item.source.kind != "default"}
    widest = max((len(f"{key}={item.value}") for key, item in changed.items()), default=0)
    return [f"  {f'{key}={item.value}':<{widest}}  {item.source}" for key, item in changed.items()]


def _marked(warnings: Iterable[str], problems: Iterable[str]) -> list[str]:
    return [f"  warning: {text}" for text in warnings] + [f"  problem: {text}" for text in problems]


def _summary(catalog: Catalog) -> str:
    refused = sum(1 for entry in catalog.entries if entry.problems) + len(catalog.problems)
    served = len(catalog.entries) + len(catalog.problems) - refused
    return f"{served} of {served + refused} models would be served"


def _entry_json(
    entry: CatalogEntry, workers: dict[str, WorkerLimits], plan: ModelPlan | None
) -> dict[str, Any]:
    config = entry.config
    shown: dict[str, Any] = {} if plan is None else {"groups": _groups_json(plan)}
    return shown | {
        "name": entry.name,
        "version": entry.version,
        "url": entry.url,
        "engine": config.engine if config else None,
        "reason": entry.reason,
        "model_file": config.model_file if config else None,
        "path": config.path if config else None,
        "workflow": entry.workflow is not None,
        "workers": {kind: {"min": limits.minimum, "max": limits.maximum} for kind, limits in workers.items()},
        "settings": _settings_json(shown_model_settings(config)) if config else {},
        "warnings": config.warnings if config else (),
        "problems": entry.problems,
    }


def _groups_json(plan: ModelPlan) -> dict[str, Any]:
    return {
        "min": plan.min_workers,
        "max": plan.max_workers,
        "ranks": plan.group.ranks,
        "devices": group_devices(plan),
    }


def _settings_json(settings: dict[str, ShownSetting]) -> dict[str, dict[str, str]]:
    return {
        key: {"value": item.value, "source": item.source.kind, "where": item.source.where}
        for key, item in settings.items()
    }
