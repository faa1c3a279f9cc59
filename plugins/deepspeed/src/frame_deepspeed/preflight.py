"""What can be known to be wrong before a group is started: from options and config.json alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frame.api import Preflight

from frame_deepspeed.launch import hosts_of
from frame_deepspeed.mpi import find_mpirun
from frame_deepspeed.options import DeepSpeedOptions

_HEAD_KEYS = ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head", "n_heads", "num_heads")
_NOT_CUT = {
    "gpt2": "its fused Conv1D layers are not among those that AutoTP cuts",
    "bloom": "its attention bias does not fit the parts (generation fails)",
}
"""Model types that DeepSpeed 0.19's AutoTP cannot cut, and why."""
_CPU_DTYPES = ("fp32", "float32", "bf16", "bfloat16", "auto")


def find_problems(preflight: Preflight) -> Iterator[str]:
    """Yield each problem with its option and its remedy."""
    options: DeepSpeedOptions = preflight.options
    yield from _launcher_problems(preflight, options)
    if has_handler(preflight):
        return
    folder = Path(preflight.path, options.model_id or ".")
    yield from _option_problems(preflight, options)
    if not folder.is_dir():
        yield f"option.model_id={options.model_id}: there is no such folder; nothing is downloaded from a hub"
        return
    config = read_config(folder)
    if config is None and not list(folder.glob("*.gguf")):
        yield f"{folder}: no config.json, no *.gguf and no model.py: there is nothing to serve"
    elif config is not None and preflight.ranks > 1:
        yield from _cut_problems(config, preflight.ranks)


def has_handler(preflight: Preflight) -> bool:
    """Tell whether the folder brings its own code, of which nothing is known here."""
    options: DeepSpeedOptions = preflight.options
    name = preflight.properties.get("modelName", "model")
    files = ("model.py", f"{name}.py", "MAR-INF/MANIFEST.json")
    return bool(
        options.entryPoint
        or preflight.environ.get("DJL_ENTRY_POINT")
        or any(Path(preflight.path, file).exists() for file in files)
    )


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return a model's config.json; None when there is none, or it is no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def key_value_heads(config: Mapping[str, Any]) -> int | None:
    """Return how many heads of keys and values a model has: each rank needs one at least."""
    text = config.get("text_config")
    own: Mapping[str, Any] = text if isinstance(text, dict) else config
    return next((own[key] for key in _HEAD_KEYS if isinstance(own.get(key), int)), None)


def _launcher_problems(preflight: Preflight, options: DeepSpeedOptions) -> Iterator[str]:
    spans_hosts = bool(hosts_of(options)) or options.hostfile is not None
    if options.launcher == "mpirun" and (preflight.ranks > 1 or spans_hosts):
        try:
            find_mpirun(options.mpirun, preflight.interpreter, preflight.environ)
        except ValueError as error:
            yield str(error)
    if options.hostfile is not None and not Path(options.hostfile).is_file():
        yield f"option.hostfile={options.hostfile}: there is no such file"


def _option_problems(preflight: Preflight, options: DeepSpeedOptions) -> Iterator[str]:
    on_cpu = preflight.devices == ("cpu",)
    if on_cpu and options.dtype is not None and options.dtype.lower() not in _CPU_DTYPES:
        yield f"option.dtype={options.dtype}: DeepSpeed computes in fp32 or bf16 on the CPU; set one of them"
    if on_cpu and options.replace_with_kernel_inject:
        yield (
            "option.replace_with_kernel_inject=true: DeepSpeed's kernels need CUDA; leave it out, or set it "
            "to false, on the CPU"
        )
    if on_cpu and options.path in {"inject", "graph"}:
        yield f"option.path={options.path}: needs CUDA; leave it out on the CPU"
    if options.checkpoint is not None and options.quantize is not None:
        yield "option.checkpoint and option.quantize exclude each other; leave one of them out"
    if options.quantize == "smoothquant":
        yield "option.quantize=smoothquant: DeepSpeed no longer has it; set dynamic_int8, or leave it out"


def _cut_problems(config: Mapping[str, Any], ranks: int) -> Iterator[str]:
    kind = str(config.get("model_type", ""))
    if kind in _NOT_CUT:
        yield (
            f"option.tensor_parallel_degree={ranks}: DeepSpeed cannot cut a model of type {kind}: "
            f"{_NOT_CUT[kind]}; set option.tensor_parallel_degree=1"
        )
        return
    heads = key_value_heads(config)
    if heads is not None and ranks > heads:
        yield (
            f"option.tensor_parallel_degree={ranks}: the model has {heads} key-value heads, and every "
            f"rank needs one; set {heads} at most"
        )
