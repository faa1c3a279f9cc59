"""What the pool does for one model version, worked out from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from frame.config.settings import ModelConfig, memory_needs, worker_limits
from frame.contract.engines import EngineSpec, RanksRequest
from frame.errors import BadRequestError, ConfigError
from frame.policy.adaptive import DEFAULT_MOST, AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.lifecycle import RestartLimits
from frame.policy.placement import Need, share_threads
from frame.pool.rank_places import count_accelerators, device_sets, group_counts
from frame.pool.settings import GroupSettings
from frame.wire.padding import Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device, or the devices of one group together, and how many workers a model may have there.

    Attributes:
        needs: megabytes that a copy takes and that must stay free, by kind of device (`cpu`, `gpu`).
        slots_per_group: most workers that share one process there.
    """

    devices: tuple[str, ...]
    minimum: int
    maximum: int
    slots_per_group: int
    needs: Mapping[str, Need]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Settings of one model version in the units of the pool (seconds).

    Attributes:
        log_every: requests between two log lines of percentiles; 0 for none.
        request_timeout: seconds from admission to answer.
        places: where groups may be, with the numbers of workers there.
        starts_on_demand: no worker is started before the first request, and an idle model may be unloaded.
        is_maximum_set: the most workers were set and not worked out from the cores.
        adaptive: what batches are chosen towards; None when they are fixed.
    """

    name: str
    version: str | None
    url: str
    config: ModelConfig
    group: GroupSettings
    batching: BatchLimits
    restarts: RestartLimits
    queue_size: int
    request_timeout: float
    quarantine_time: float
    places: tuple[Place, ...]
    starts_on_demand: bool
    is_maximum_set: bool
    max_idle: float
    parallel_loading: bool
    adaptive: AdaptiveLimits | None = None
    log_every: int = 0
    loaded_at_startup: bool = True

    @property
    def min_workers(self) -> int:
        """Workers that are always up, on all places together."""
        return sum(place.minimum for place in self.places)

    @property
    def is_on_cpu(self) -> bool:
        """Whether all of its workers compute on the CPU."""
        return all(place.devices == ("cpu",) for place in self.places)

    @property
    def max_workers(self) -> int:
        """Most workers, on all places together."""
        return sum(place.maximum for place in self.places)


def make_plan(
    config: ModelConfig,
    engine: EngineSpec,
    *,
    url: str,
    interpreter: str,
    devices: tuple[tuple[str, ...], ...],
    cores: int,
    environ: Mapping[str, str],
) -> ModelPlan:
    """Return the plan of one model on its devices.

    Args:
        interpreter: Python executable of the workers, when the model names none.
        cores: threads that all workers together may compute with (`cpu_threads`).
        environ: the server's environment; its allow-listed part reaches the workers.
    """
    ranks = _ranks(config, engine, devices, environ)
    spans_hosts = engine.listen_address(config.options) is not None
    sets = device_sets(devices, count_accelerators(devices) if spans_hosts else ranks)
    omp_threads = environ.get("OMP_NUM_THREADS", "")
    threads = int(omp_threads) if omp_threads.isdecimal() and int(omp_threads) > 0 else 1
    places = tuple(_place(config, names, cores=cores, threads=threads) for names in sets)
    if engine.fills_devices:
        places = _filled(config, places)
    floor = max(1, sum(place.minimum for place in places if place.devices == ("cpu",)))
    threads = share_threads(threads, cores, floor * ranks)
    padding = _padding(config)
    group = GroupSettings(
        name=config.name,
        version=config.version,
        path=config.path,
        model_file=config.model_file,
        engine=engine,
        options=config.options,
        properties=config.properties,
        interpreter=config.pythonExecutable or interpreter,
        environment=config.env,
        devices=sets[0],
        batch_size=config.batch_size,
        threads=threads,
        shares_model=config.shares_model,
        retry_on_crash=config.retry_on_crash,
        padding=padding,
        load_timeout=config.model_loading_timeout,
        predict_timeout=config.predict_timeout,
        drain_timeout=config.drain_time,
        ranks=ranks,
        listen_address=engine.listen_address(config.options),
        stall_timeout=config.group_stall_timeout,
        server_environment=environ,
    )
    return ModelPlan(
        name=config.name,
        version=config.version,
        url=url,
        config=config,
        group=group,
        batching=BatchLimits(
            batch_size=config.batch_size,
            max_delay=config.max_batch_delay / 1000,
            max_cost=config.max_batch_elements,
            is_padded=padding is not None and padding.is_by_batch,
        ),
        restarts=RestartLimits(retry_threshold=config.retry_threshold),
        queue_size=config.job_queue_size,
        request_timeout=config.request_timeout or config.predict_timeout,
        quarantine_time=config.quarantine_time,
        places=places,
        starts_on_demand=config.load_on_demand,
        is_maximum_set=config.sources["maxWorkers"].kind != "default"
        or "cpu.maxWorkers" in config.per_device,
        max_idle=float(config.max_idle_time),
        adaptive=_adaptive(config),
        parallel_loading=config.parallel_loading,
        log_every=config.metrics_aggregation if config.log_request_metric else 0,
    )


def with_workers(plan: ModelPlan, minimum: int | None, maximum: int | None, device: str | None) -> ModelPlan:
    """Return a plan with other numbers of workers on each of its places.

    Args:
        device: a kind or a device, as `WorkerChange.device`.

    Raises:
        BadRequestError: the model is not there, or cannot have as many.
    """
    chosen = [place for place in plan.places if device is None or _is_on(place, device)]
    if not chosen:
        on = ", ".join("+".join(place.devices) for place in plan.places)
        raise BadRequestError(f"Parameter device: {plan.name} is on {on}, not on {device}.")
    places = {place.devices: _changed(place, minimum, maximum, plan) for place in chosen}
    return replace(
        plan,
        places=tuple(places.get(place.devices, place) for place in plan.places),
        is_maximum_set=plan.is_maximum_set or maximum is not None,
    )


def with_config(plan: ModelPlan, config: ModelConfig) -> ModelPlan:
    """Return a plan with what the router reads of a changed configuration.

    Raises:
        BadRequestError: the workers were not loaded for it.
    """
    if config.batch_size > plan.group.batch_size:
        raise BadRequestError(
            f"Parameter batch_size: the workers were loaded for {plan.group.batch_size} at most."
        )
    if plan.adaptive is not None and config.batch_size != plan.config.batch_size:
        raise BadRequestError("Parameter batch_size: batching=adaptive chooses it.")
    batching = replace(plan.batching, batch_size=config.batch_size, max_delay=config.max_batch_delay / 1000)
    return replace(
        plan,
        config=config,
        batching=batching,
        queue_size=config.job_queue_size,
        max_idle=float(config.max_idle_time),
        request_timeout=config.request_timeout or config.predict_timeout,
    )


def _is_on(place: Place, device: str) -> bool:
    return device in place.devices or all(kind_of(name) == device for name in place.devices)


def _changed(place: Place, minimum: int | None, maximum: int | None, plan: ModelPlan) -> Place:
    fewest = place.minimum if minimum is None else minimum
    most = place.maximum if maximum is None else maximum
    if maximum is None and minimum is not None:
        most = max(most, minimum)
    if most < max(1, fewest):
        raise BadRequestError(f"Parameter max_worker: expected {max(1, fewest)} (min_worker) or more.")
    if plan.group.engine.fills_devices and most > 1 and place.devices != ("cpu",):
        raise BadRequestError("Parameter max_worker: a group fills its devices: expected 1 for each.")
    shared = min(plan.config.slots_per_group, most)
    return replace(place, minimum=fewest, maximum=most, slots_per_group=shared)


def _ranks(
    config: ModelConfig, engine: EngineSpec, devices: Sequence[tuple[str, ...]], environ: Mapping[str, str]
) -> int:
    """Return the ranks of a group, as the engine says.

    Raises:
        ConfigError: the engine cannot have as many as its options ask for.
    """
    request = RanksRequest(options=config.options, accelerators=count_accelerators(devices), environ=environ)
    try:
        engine.listen_address(config.options)
        return engine.ranks(request)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _filled(config: ModelConfig, places: tuple[Place, ...]) -> tuple[Place, ...]:
    """Return the places of an engine with one group on each, of one slot; the CPU has them all."""
    kind = kind_of(places[0].devices[0])
    fewest, most = group_counts(config, kind, len(places))
    if kind == "cpu":
        return (replace(places[0], minimum=fewest, maximum=most, slots_per_group=1),)
    return tuple(
        replace(place, minimum=int(index < fewest), maximum=1, slots_per_group=1)
        for index, place in enumerate(places[:most])
    )


def _padding(config: ModelConfig) -> Padding | None:
    if config.pad_to is None:
        return None
    return Padding(
        multiple=config.pad_to.multiple,
        lengths=config.pad_to.lengths,
        values=config.pad_values,
        mask=config.pad_mask,
    )


def _place(config: ModelConfig, devices: tuple[str, ...], *, cores: int, threads: int) -> Place:
    kind = kind_of(devices[0])
    limits = worker_limits(config, kind, cores=cores, omp_num_threads=threads)
    needs = {}
    for needed in {"cpu", kind}:
        memory = memory_needs(config, needed)
        needs[needed] = Need(required_mb=memory.required_mb, reserved_mb=memory.reserved_mb)
    return Place(
        devices=devices,
        minimum=limits.minimum,
        maximum=limits.maximum,
        slots_per_group=min(config.slots_per_group, limits.maximum),
        needs=needs,
    )


def _adaptive(config: ModelConfig) -> AdaptiveLimits | None:
    if config.batching != "adaptive" or config.latency_target_ms is None:
        return None
    is_given = config.sources["batch_size"].kind != "default"
    most = config.batch_size if is_given else DEFAULT_MOST
    return AdaptiveLimits(target=config.latency_target_ms / 1000, most=most)


def kind_of(device: str) -> str:
    """Return the kind of a device: `cpu` or `gpu`."""
    return device.rstrip("0123456789")
