"""`frame simulate`: from flags and a model's folder to the policies' settings, a load and a report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from frame.config.files import load_server_config
from frame.config.layers import Setting
from frame.config.models import ModelIdentity, build_model_config
from frame.config.settings import ModelConfig, ServerConfig, Source
from frame.contract.engines import EngineSpec
from frame.errors import ConfigError, StoreError
from frame.plugins import load_plugins
from frame.pool.cgroups import usable_cores
from frame.pool.devices import place
from frame.pool.plan import ModelPlan, make_plan
from frame.simulate.outcome import Outcome
from frame.simulate.plot import draw
from frame.simulate.report import Report
from frame.simulate.search import MOST_WORKERS, Question, search
from frame.simulate.service import ServiceModel, read_profile, service_line
from frame.simulate.settings import PlaceLimits, Settings
from frame.simulate.simulation import Simulation
from frame.simulate.trace import Trace, burst_trace, kill_times, parse_burst, poisson_trace, read_trace
from frame.store.catalog import build_catalog

FlagsT = TypeVar("FlagsT", "LoadFlags", "ServiceFlags", "OutputFlags")
_FLAG_KEYS = {
    "batch_size": ("--batch-size", ("batch_size",)),
    "max_batch_delay_ms": ("--max-batch-delay-ms", ("max_batch_delay",)),
    "workers": ("--workers", ("minWorkers", "maxWorkers")),
    "min_workers": ("--min-workers", ("minWorkers",)),
    "max_workers": ("--max-workers", ("maxWorkers",)),
    "max_idle_time": ("--max-idle-time", ("max_idle_time",)),
    "job_queue_size": ("--job-queue-size", ("job_queue_size",)),
    "batching": ("--batching", ("batching",)),
    "latency_target_ms": ("--latency-target-ms", ("latency_target_ms",)),
    "shares_model": ("--shares-model", ("option.shares_model",)),
}
"""Flags by the name of their parameter: how they are written, and the keys of serving.properties they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    """Which trace: one of `trace`, `poisson` and `burst`, the last two for `seconds`."""

    trace: str | None
    poisson: float | None
    burst: str | None
    seconds: float
    kill_every: float | None
    kill_at: tuple[float, ...]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFlags:
    """How long a batch takes: a line in milliseconds with the two others, or the file of a profile."""

    service: str
    overhead_ms: float
    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFlags:
    """What is done with the run."""

    target_ms: float | None
    plot: str | None
    as_json: bool


def simulate_model(
    model: str | None,
    settings: Mapping[str, object],
    load: LoadFlags,
    times: ServiceFlags,
    output: OutputFlags,
    environ: Mapping[str, str],
) -> str:
    """Run the simulation that the flags describe and return the report.

    Args:
        model: folder or archive of a model; None for the defaults of every key.
        settings: flags by the name of their parameter, None where they were not given.

    Raises:
        FrameError: a flag, the trace, the profile or the model's configuration is wrong.
    """
    plan = read_plan(model, settings, environ)
    service = _service(times)
    trace = _trace(load)
    policies = settings_of(plan)
    started = time.perf_counter()
    outcome = Simulation(policies, service, trace, load.seed).run()
    wall_seconds = time.perf_counter() - started
    target = output.target_ms / 1000 if output.target_ms is not None else None
    candidates = []
    if target is not None:
        most = plan.max_workers if plan.is_maximum_set else MOST_WORKERS
        question = Question(
            settings=policies, service=service, trace=trace, target=target, most_workers=most, seed=load.seed
        )
        candidates = search(question)
    if output.plot is not None:
        _plot(output.plot, outcome, trace, target)
    report = Report(
        settings=policies,
        service=service.name,
        trace=trace,
        outcome=outcome,
        wall_seconds=wall_seconds,
        target=target,
        candidates=candidates,
    )
    return json.dumps(report.to_json(), indent=2) if output.as_json else report.to_text()


def simulate_command(model: str | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Sort the flags of `frame simulate`, by the names of their parameters, and run it."""

    def take(kind: type[FlagsT]) -> FlagsT:
        return kind(**{field.name: flags[field.name] for field in fields(kind)})

    settings = {name: flags[name] for name in _FLAG_KEYS}
    return simulate_model(model, settings, take(LoadFlags), take(ServiceFlags), take(OutputFlags), environ)


def settings_of(plan: ModelPlan) -> Settings:
    """Return what the policies need of a plan."""
    return Settings(
        batching=plan.batching,
        adaptive=plan.adaptive,
        restarts=plan.restarts,
        places=tuple(PlaceLimits(item.minimum, item.maximum, item.slots_per_group) for item in plan.places),
        queue_size=plan.queue_size,
        request_timeout=plan.request_timeout,
        predict_timeout=plan.group.predict_timeout,
        max_idle=plan.max_idle,
        retries_on_crash=plan.group.retry_on_crash,
        shares_model=bool(plan.group.shares_model),
        loads_in_parallel=plan.parallel_loading,
        starts_on_demand=plan.starts_on_demand,
    )


def read_plan(model: str | None, flags: Mapping[str, object], environ: Mapping[str, str]) -> ModelPlan:
    """Read a model's configuration, flags on top, as `frame serve` would.

    Raises:
        FrameError: something of it is wrong.
    """
    server = load_server_config(None, {}, environ, lenient=False)
    engines = {spec.name: spec for spec in load_plugins().engines}
    given = {key: (flag, value) for flag, key, value in _keys_of(flags)}
    config = (
        _without_model(given, engines["echo"], server)
        if model is None
        else _of_model(model, given, engines, server, environ)
    )
    return make_plan(
        config,
        engines[config.engine],
        url=model or "",
        interpreter=sys.executable,
        devices=place(config.load_on_devices, environ),
        cores=server.cpu_threads or usable_cores(),
        environ=environ,
    )


def _keys_of(flags: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Return the flag, the key and the value of each setting that was given."""
    found = []
    for name, value in flags.items():
        if value is not None:
            flag, keys = _FLAG_KEYS[name]
            text = str(value).lower() if isinstance(value, bool) else f"{value}"
            found += [(flag, key, text) for key in keys]
    return found


def _without_model(
    given: Mapping[str, tuple[str, str]], engine: EngineSpec, server: ServerConfig
) -> ModelConfig:
    layer = {
        key: Setting(key=key, value=value, source=Source("flag", flag))
        for key, (flag, value) in given.items()
    }
    identity = ModelIdentity(
        name="model",
        version=None,
        path=".",
        model_file=None,
        spec=engine,
        engine_source=Source("default", ""),
    )
    checked = build_model_config(identity, [layer], server, lenient=False)
    if checked.config is None:
        raise ConfigError("; ".join(checked.problems))
    return checked.config


def _of_model(
    model: str,
    given: Mapping[str, tuple[str, str]],
    engines: Mapping[str, EngineSpec],
    server: ServerConfig,
    environ: Mapping[str, str],
) -> ModelConfig:
    """Read a model as `-m` would, with the flags as the query of its URL."""
    query = urlencode({key: value for key, (_, value) in given.items()})
    url = f"{model}?{query}" if query else model
    catalog = build_catalog(server, (url,), tuple(engines.values()), environ, lenient=False)
    problems = [*catalog.problems, *(text for entry in catalog.entries for text in entry.problems)]
    config = catalog.entries[0].config if catalog.entries else None
    if config is None or problems:
        raise StoreError(f"{model}: {'; '.join(problems) or 'is no model'}")
    return config


def _service(flags: ServiceFlags) -> ServiceModel:
    if flags.service.endswith(".json"):
        return read_profile(Path(flags.service))
    overhead = flags.overhead_ms / 1000
    return service_line(flags.service, overhead=overhead, load_seconds=flags.load_seconds)


def _trace(flags: LoadFlags) -> Trace:
    """Return the trace with its kills.

    Raises:
        ConfigError: none or more than one was given.
    """
    named = [item for item in (flags.trace, flags.poisson, flags.burst) if item is not None]
    if len(named) != 1:
        raise ConfigError("give one load: --trace FILE, --poisson RATE or --burst RATE,PEAK,ON,OFF")
    if flags.trace is not None:
        trace = read_trace(Path(flags.trace))
    elif flags.burst is not None:
        trace = burst_trace(parse_burst(flags.burst), flags.seconds, flags.seed)
    else:
        assert flags.poisson is not None
        trace = poisson_trace(flags.poisson, flags.seconds, flags.seed)
    if not trace.arrivals:
        raise ConfigError("the load has no requests: raise the rate or --seconds")
    return replace(trace, kills=kill_times(flags.kill_every, flags.kill_at, trace.seconds))


def _plot(path: str, outcome: Outcome, trace: Trace, target: float | None) -> None:
    try:
        draw(outcome, trace, Path(path), target=target)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--plot {path}: {error}") from error
