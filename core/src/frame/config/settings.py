"""The typed settings of the server and of one model, each value with its source. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from frame.config.forms import Address, PadTo


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from.

    Attributes:
        kind: `file`, `env`, `flag`, `rest` (a management request) or `default`.
        where: `serving.properties:4`, `SERVING_BATCH_SIZE`, `--port`; for a default its reason, if any.
    """

    kind: Literal["file", "env", "flag", "default", "rest"]
    where: str

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All settings of one model, typed and checked; `keys.MODEL_KEYS` documents those spelled as in the file.

    Attributes:
        path: the model's folder, absolute.
        engine: the name of the engine's spec.
        model_file: what detection found, relative to `path`; None when unknown.
        maxWorkers: None when unset; `worker_limits` has the default.
        load_on_devices: canonical names (`cpu`, `gpu0`, `gpu0+gpu1`), or `("*",)`.
        per_device: the device forms that were given: `gpu.minWorkers` and its like.
        options: an instance of the engine's options dataclass.
        option_strings: what was given of `options`, by field name, so that a worker can parse it again.
        properties: every `option.*` but `option.env`, prefix removed, and argument given, as strings.
        sources: by key as in serving.properties, defaults included.
        warnings: what was accepted but should be looked at.
    """

    name: str
    version: str | None
    path: str
    engine: str
    model_file: str | None
    job_queue_size: int
    batch_size: int
    max_batch_delay: int
    batching: Literal["fixed", "adaptive"]
    latency_target_ms: float | None
    max_batch_elements: int | None
    pad_to: PadTo | None
    pad_values: Mapping[str, float]
    pad_mask: str | None
    max_idle_time: int
    minWorkers: int
    maxWorkers: int | None
    load_on_devices: tuple[str, ...]
    required_memory_mb: int
    reserved_memory_mb: int
    retry_threshold: int
    load_on_demand: bool
    quarantine_time: float
    request_timeout: float | None
    log_request_metric: bool
    metrics_aggregation: int
    slots_per_group: int
    predict_timeout: float
    group_stall_timeout: float
    model_loading_timeout: float
    drain_time: float
    parallel_loading: bool
    pythonExecutable: str | None
    enable_venv: bool
    env: Mapping[str, str]
    modelName: str | None
    shares_model: bool | None
    retry_on_crash: bool
    per_device: Mapping[str, int]
    options: Any
    option_strings: Mapping[str, str]
    properties: Mapping[str, str]
    sources: Mapping[str, Source]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """All settings of the server, typed and checked; `server_keys.SERVER_KEYS` documents them.

    Attributes:
        sources: by key, defaults included; also `host` and `port`.
        warnings: what was accepted but should be looked at.
    """

    inference_address: Address
    management_address: Address
    observe_address: Address | None
    inference_token_file: str | None
    management_token_file: str | None
    multi_model: bool
    multi_model_store: str
    health_check_override: bool
    tracing: bool
    access_log: bool
    model_url_pattern: str | None
    model_control_mode: str
    model_poll_interval: float
    model_download_timeout: float
    allow_private_sources: bool
    model_snapshot: str | None
    http_server: Literal["hypercorn", "uvicorn"]
    model_store: str | None
    load_models: str
    wait_model_loading: bool
    allow_multi_status: bool
    load_on_devices: tuple[str, ...]
    job_queue_size: int
    max_idle_time: int
    batch_size: int
    max_batch_delay: int
    reserved_memory_mb: int
    retry_threshold: int
    load_on_demand: bool
    cpu_threads: int | None
    predict_timeout: float
    model_loading_timeout: float
    max_request_size: int
    max_header_size: int
    header_timeout: float
    keep_alive_timeout: float
    max_queued_bytes: int
    async_result_max_bytes: int
    async_result_expiry: float
    chunked_read_timeout: float
    drain_timeout: float
    fail_fast: bool
    cors_allowed_origin: str | None
    cors_allowed_methods: str | None
    cors_allowed_headers: str | None
    private_key_file: str | None
    certificate_file: str | None
    keystore: str | None
    keystore_pass: str
    keystore_type: str
    bad_request_http_code: int
    wlm_error_http_code: int
    throttle_error_http_code: int
    server_error_http_code: int
    request_id_header_key: str
    allow_request_handler_override: bool
    cache_dir: str | None
    sources: Mapping[str, Source]
    warnings: tuple[str, ...]

    @property
    def host(self) -> str:
        """Host of `inference_address`; empty for a Unix socket."""
        return self.inference_address.host

    @property
    def port(self) -> int:
        """Port of `inference_address`; 0 lets the kernel choose."""
        return self.inference_address.port


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Fewest and most workers of a model on one device; `minimum <= maximum`, `maximum >= 1`."""

    minimum: int
    maximum: int


def worker_limits(
    config: ModelConfig, device_type: str, *, cores: int, omp_num_threads: int = 1
) -> WorkerLimits:
    """Return how many workers one device may have.

    The form for the type of the device wins over the plain one. An unset maximum is 1 on a GPU and
    `cores / omp_num_threads` on a CPU (as DJL Serving, whose start script sets OMP_NUM_THREADS=1),
    or the minimum when that is larger. A minimum above a maximum that was set is cut to it.

    Args:
        device_type: `cpu` or `gpu`.
        cores: cores this process may use.
        omp_num_threads: OMP_NUM_THREADS, where it is set and positive.
    """
    minimum = config.per_device.get(f"{device_type}.minWorkers", config.minWorkers)
    maximum = config.per_device.get(f"{device_type}.maxWorkers", config.maxWorkers)
    if maximum is None:
        default = max(1, cores // max(1, omp_num_threads)) if device_type == "cpu" else 1
        return WorkerLimits(minimum, max(default, minimum))
    return WorkerLimits(min(minimum, maximum), maximum)


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Megabytes that a copy of the model takes on a device, and that must stay free beside it."""

    required_mb: int
    reserved_mb: int


def memory_needs(config: ModelConfig, device_type: str) -> MemoryNeeds:
    """Return the memory that must be free on a device of this type before the model is loaded there."""
    return MemoryNeeds(
        config.per_device.get(f"{device_type}.required_memory_mb", config.required_memory_mb),
        config.per_device.get(f"{device_type}.reserved_memory_mb", config.reserved_memory_mb),
    )
