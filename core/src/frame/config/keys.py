"""The table of the keys of serving.properties, and of DJL Serving's that mean nothing here. Data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from frame.config.forms import parse_devices, parse_numbers, parse_padding, parse_variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key with a meaning here (kind a).

    Attributes:
        name: as written, `option.` included; without it, the name of its field in the typed object.
        kind: str, int, float or bool.
        default: typed; None when being unset has a meaning of its own (see `doc`).
        doc: one line for the reference, with the unit.
        minimum, maximum: smallest and largest number allowed.
        choices: the only values allowed, when not empty.
        aliases: other spellings; `name` wins when both are present.
        variables: environment variables that set it; keys of config.properties have `SERVING_<NAME>` too.
        per_device: `gpu.<name>` and `cpu.<name>` are accepted and win on that type of device.
        parse: reads a value that is more than one word; its ValueError says what is valid.
    """

    name: str
    kind: type
    default: object
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    per_device: bool = False
    parse: Callable[[str], object] | None = None

    @property
    def field(self) -> str:
        """The name of the attribute that holds the value."""
        return self.name.removeprefix("option.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedKey:
    """A key of DJL Serving that has no meaning here (kind b): accepted with one warning.

    Attributes:
        instead: what to do instead; it ends the warning.
        for_handlers: handlers read it; no warning when the engine's options are open.
    """

    name: str
    instead: str
    for_handlers: bool = False


DEVICE_TYPES = ("cpu", "gpu")
"""Prefixes of the per-device forms."""

MODEL_KEYS: tuple[Key, ...] = (
    Key(name="job_queue_size", kind=int, default=1000, minimum=1,
        doc="Requests that may wait for this model; one more is answered 503."),
    Key(name="batch_size", kind=int, default=1, minimum=1, aliases=("max_dynamic_batch_size",),
        doc="Largest number of requests that run together."),
    Key(name="max_batch_delay", kind=int, default=100, minimum=0,
        doc="Milliseconds a batch may wait for more requests, counted from its first."),
    Key(name="batching", kind=str, default="fixed", choices=("fixed", "adaptive"),
        doc="fixed: by batch_size and max_batch_delay; adaptive: choose both towards latency_target_ms."),
    Key(name="latency_target_ms", kind=float, default=None, minimum=0.001,
        doc="Milliseconds within which 99 of 100 requests should be answered; batching=adaptive needs it."),
    Key(name="max_batch_elements", kind=int, default=None, minimum=1,
        doc="Most elements (padding included) in a batch; batch_size, when unset, is then no limit."),
    Key(name="pad_to", kind=str, default=None, parse=parse_padding,
        doc="Pad free dimensions: batch (its longest), multiple:8, or fixed lengths 16,32,64."),
    Key(name="pad_values", kind=str, default=parse_numbers(""), parse=parse_numbers,
        doc="What inputs are padded with: input_ids=0,labels=-100; 0 for those not named."),
    Key(name="pad_mask", kind=str, default=None,
        doc="Input that gets 1 where data are and 0 where padding is, when a request does not send it."),
    Key(name="max_idle_time", kind=int, default=60, minimum=0,
        doc="Seconds until workers above minWorkers that are not needed end."),
    Key(name="minWorkers", kind=int, default=1, minimum=0, per_device=True,
        variables=("SAGEMAKER_NUM_MODEL_WORKERS", "SERVING_MIN_WORKERS"),
        doc="Workers that are always up, on each device; 0: none until a request comes, which waits."),
    Key(name="maxWorkers", kind=int, default=None, minimum=1, per_device=True,
        variables=("SAGEMAKER_NUM_MODEL_WORKERS", "SERVING_MAX_WORKERS"),
        doc="Most workers on each device; unset: 1 on a GPU, cores / OMP_NUM_THREADS (1) on a CPU."),
    Key(name="load_on_devices", kind=str, default=("*",), parse=parse_devices,
        doc="Devices to load on: * for all, or cpu, gpu0, gpu0+gpu1, separated by ;."),
    Key(name="required_memory_mb", kind=int, default=0, minimum=0, per_device=True,
        doc="Megabytes a copy needs; unset: what the last one took. Checked before a load."),
    Key(name="reserved_memory_mb", kind=int, default=500, minimum=0, per_device=True,
        doc="Megabytes that must stay free after loading."),
    Key(name="retry_threshold", kind=int, default=5, minimum=0,
        doc="Worker deaths within 60 s, without an answer in between, before the model is FAILED (DJL: 0)."),
    Key(name="load_on_demand", kind=bool, default=False,
        doc="Load the model at its first request; idle ones make room when memory is short."),
    Key(name="quarantine_time", kind=float, default=300.0, minimum=0,
        doc="Seconds that a body which ended two workers is refused; 0: never."),
    Key(name="request_timeout", kind=float, default=None, minimum=0.001,
        doc="Seconds from admission to answer, queue included; unset: option.predict_timeout."),
    Key(name="log_request_metric", kind=bool, default=False,
        doc="Log percentiles of the model's times every metrics_aggregation requests."),
    Key(name="metrics_aggregation", kind=int, default=1000, minimum=1,
        doc="Requests between two lines of log_request_metric."),
    Key(name="slots_per_group", kind=int, default=4, minimum=1, aliases=("option.slots_per_group",),
        doc="Most workers that share one process and one copy of the model."),
    Key(name="option.predict_timeout", kind=float, default=120.0, minimum=0.001,
        doc="Seconds that a batch may run; also from admission to answer without request_timeout."),
    Key(name="option.group_stall_timeout", kind=float, default=10.0, minimum=0.1,
        doc="Seconds that a rank may be behind the others of its group before the group starts again."),
    Key(name="option.model_loading_timeout", kind=float, default=240.0, minimum=0.001,
        doc="Seconds a worker may take to load the model."),
    Key(name="option.drain_time", kind=float, default=10.0, minimum=0,
        doc="Seconds that running requests get before their process is ended."),
    Key(name="option.parallel_loading", kind=bool, default=False,
        doc="Start the workers of a model at the same time, not one after another."),
    Key(name="option.pythonExecutable", kind=str, default=None, variables=("PYTHON_EXECUTABLE",),
        doc="Interpreter of the workers; unset: the one Frame runs in."),
    Key(name="option.enable_venv", kind=bool, default=False,
        doc="Give the model an environment of its own even without a requirements.txt, which always does."),
    Key(name="option.env", kind=str, default=parse_variables(""), parse=parse_variables,
        doc="Environment variables of the workers: NAME=value,NAME2=value2."),
    Key(name="option.modelName", kind=str, default=None,
        doc="Stem of the model's file; unset: the name of its folder or archive."),
    Key(name="option.shares_model", kind=bool, default=None,
        doc="Let workers share one copy of the model; unset: what the loaded model says."),
    Key(name="option.retry_on_crash", kind=bool, default=True,
        doc="Run a request again whose worker died; false: answer 503 at once."),
)  # fmt: skip
"""Keys of a model that the server handles, in the order of the reference; `engine` is beside them."""

ARGUMENTS: dict[str, str] = {
    "width": "Images are brought to this width, in pixels.",
    "height": "Images are brought to this height, in pixels.",
    "centerCrop": "Cut the middle square out of an image before it is resized.",
    "resize": "Scale an image to this size before it is cut.",
    "mean": "Subtracted from each colour channel.",
    "std": "Divides each colour channel.",
    "scale": "Multiplies each pixel before mean and std.",
    "layout": "Order of the axes of an image tensor.",
    "color": "Order of the colour channels.",
    "flag": "Colour or greyscale images.",
}
"""Keys without `option.` that go to the engine, as strings (DJL Serving's arguments)."""

_STACKED = "requests of equal shape are stacked by the engine"
_MODEL_PY = "write the pre- and post-processing in a model.py (engine=Python)"
_NO_LLM = "token-level batching is not available; set batch_size and max_batch_delay"

UNUSED_MODEL_KEYS: tuple[UnusedKey, ...] = (
    UnusedKey(name="translatorFactory", instead=_MODEL_PY),
    UnusedKey(name="translator", instead=_MODEL_PY),
    UnusedKey(name="application", instead=_MODEL_PY),
    *(
        UnusedKey(name=name, instead=_MODEL_PY, for_handlers=True)
        for name in ("applySoftmax", "topK", "threshold", "synset", "synsetFileName", "synsetUrl")
    ),
    UnusedKey(name="batchifier", instead=_STACKED),
    UnusedKey(name="option.use_passive_workers", instead="every rank gets every request"),
    UnusedKey(name="option.rolling_batch", instead=_NO_LLM),
    UnusedKey(name="option.max_rolling_batch_size", instead=_NO_LLM),
    UnusedKey(name="option.max_rolling_batch_prefill_tokens", instead=_NO_LLM),
    UnusedKey(name="option.async_mode", instead="declare the handler async in a model.py (engine=Python)"),
    UnusedKey(name="option.s3url", instead="copy the model into the store"),
    UnusedKey(name="option.speculative_draft_model", instead="load the draft model in a model.py"),
    UnusedKey(name="option.max_output_size", instead="answers have no limit; stream large ones"),
    UnusedKey(name="option.enable_lora", instead="load the adapters in a model.py"),
    UnusedKey(name="option.enable_stateful_sessions", instead="keep the state in the requests"),
    UnusedKey(name="option.lmcache_auto_config", instead="configure the cache in a model.py"),
    UnusedKey(name="option.lmcache_config_file", instead="configure the cache in a model.py"),
    UnusedKey(name="option.optimization", instead="convert the model before it is put into the store"),
    UnusedKey(name="option.mapLocation", instead="load_on_devices says where the model is loaded"),
    UnusedKey(name="option.extraFiles", instead="read the files in a model.py"),
    UnusedKey(name="option.interOpNumThreads", instead="this engine has no such setting"),
    UnusedKey(name="option.intraOpNumThreads", instead="this engine has no such setting"),
    UnusedKey(name="option.executionMode", instead="this engine has no such setting"),
    UnusedKey(name="option.optLevel", instead="this engine has no such setting"),
    UnusedKey(name="option.memoryPatternOptimization", instead="this engine has no such setting"),
    UnusedKey(name="option.cpuArenaAllocator", instead="this engine has no such setting"),
    UnusedKey(name="option.disablePerSessionThreads", instead="this engine has no such setting"),
    UnusedKey(name="option.customOpLibrary", instead="this engine has no such setting"),
    UnusedKey(name="option.ortDevice", instead="load_on_devices says where the model is loaded"),
    *(
        UnusedKey(name=f"option.{name}", instead="only handlers (engine=Python) read it", for_handlers=True)
        for name in (
            "entryPoint", "handler", "tensor_parallel_degree", "pipeline_parallel_degree",
            "model_id", "revision", "trust_remote_code", "dtype", "task", "output_formatter",
            "input_formatter", "waiting_steps", "tgi_compat", "bedrock_compat", "draft_model_id",
            "spec_length", "enable_streaming", "max_tokens", "device_map", "device_id", "quantize",
            "low_cpu_mem_usage", "disable_flash_attn", "stop_sequence", "device", "default_accept",
            "enable_cuda_graph", "triangular_masking", "return_tuple", "training_mp_size", "checkpoint",
            "save_mp_checkpoint_path", "smoothquant_alpha", "deepspeed_config_path", "mp_size",
            "injection_policy", "replace_method",
        )
    ),
)  # fmt: skip
"""Keys of DJL Serving without a meaning here, unless the engine declares them as its own options."""
