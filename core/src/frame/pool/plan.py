"""What the pool does for one model version, worked out from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from frame.config.settings import ModelConfig, worker_limits
from frame.contract.engines import EngineSpec
from frame.errors import ConfigError
from frame.policy.batching import BatchLimits
from frame.policy.lifecycle import RestartLimits
from frame.pool.settings import GroupSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Settings of one model version in the units of the pool (seconds).

    Attributes:
        log_every: requests between two log lines of percentiles; 0 for none.
        devices: one set of devices for each group; `min_workers` and `max_workers` count on each set.
    """

    name: str
    version: str | None
    url: str
    config: ModelConfig
    group: GroupSettings
    batching: BatchLimits
    restarts: RestartLimits
    queue_size: int
    devices: tuple[tuple[str, ...], ...]
    min_workers: int
    max_workers: int
    slots_per_group: int
    parallel_loading: bool
    log_every: int = 0
    loaded_at_startup: bool = True


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
        cores: cores this process may use.
        environ: the server's environment; its allow-listed part reaches the workers.
    """
    ranks = engine.ranks(config.options)
    if ranks != 1:
        raise ConfigError(f"engine {engine.name}: groups of {ranks} ranks cannot be started by this version")
    device_type = devices[0][0].rstrip("0123456789")
    omp_threads = environ.get("OMP_NUM_THREADS", "")
    threads = int(omp_threads) if omp_threads.isdecimal() and int(omp_threads) > 0 else 1
    limits = worker_limits(config, device_type, cores=cores, omp_num_threads=threads)
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
        devices=devices[0],
        batch_size=config.batch_size,
        threads=threads,
        shares_model=config.shares_model,
        retry_on_crash=config.retry_on_crash,
        load_timeout=config.model_loading_timeout,
        predict_timeout=config.predict_timeout,
        drain_timeout=config.drain_time,
        server_environment=environ,
    )
    return ModelPlan(
        name=config.name,
        version=config.version,
        url=url,
        config=config,
        group=group,
        batching=BatchLimits(batch_size=config.batch_size, max_delay=config.max_batch_delay / 1000),
        restarts=RestartLimits(retry_threshold=config.retry_threshold),
        queue_size=config.job_queue_size,
        devices=devices,
        min_workers=max(
            1, limits.minimum
        ),  # minWorkers=0 needs a start on demand, which this version has not
        max_workers=limits.maximum,
        slots_per_group=config.slots_per_group,
        parallel_loading=config.parallel_loading,
        log_every=config.metrics_aggregation if config.log_request_metric else 0,
    )
