"""The self-check of one rank: its settings from options, and what is said when it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frame.api import EngineContext, ModelSpec
from frame_python.handlers.fingerprints import cache_folder, fingerprint
from frame_python.handlers.loading import Transformer
from frame_python.handlers.self_check import CheckSettings
from frame_python.handlers.verdicts import Report, tolerance_for

from frame_deepspeed.collectives import share_first
from frame_deepspeed.options import DeepSpeedOptions


def check_settings(spec: ModelSpec, context: EngineContext, path: str, before: Transformer) -> CheckSettings:
    """Return how to check a model that goes `path` on this rank."""
    options: DeepSpeedOptions = spec.options
    dtype = str(before.dtype).removeprefix("torch.")
    is_quantized = int8_option(options) is not None
    facts = _facts(spec, context, path, before)
    return CheckSettings(
        model=spec.name,
        path=path,
        tolerance=tolerance_for(dtype, is_quantized=is_quantized),
        timeout=float(options.self_check_timeout),
        key=fingerprint(str(before.folder), facts, with_times=True) if context.rank == 0 else "",
        saved_reference=reference_path(before.folder, dtype) if context.rank == 0 else None,
        is_alone=context.world_size == 1,
        is_first=context.rank == 0,
        share=share_first if context.world_size > 1 else _keep,
        cache=cache_folder(os.environ),
    )


def reference_path(folder: Path, dtype: str) -> Path:
    """Return where a saved `Reference` of a model lies, if there is one: in the user's cache folder.

    Its name is the digest of weights, tokenizer and library versions: it may be taken on a machine that
    can run the whole model, and copied to one that cannot.

    Args:
        folder: of the model.
        dtype: of its weights: float32, float16 or bfloat16.
    """
    key = fingerprint(str(folder), {"versions": _versions(), "dtype": dtype}, with_times=False)
    return cache_folder(os.environ).parent / "references" / f"{key}.safetensors"


def _versions() -> list[str]:
    import deepspeed
    import torch
    import transformers

    return [torch.__version__, transformers.__version__, deepspeed.__version__]


def _keep(value: Any) -> Any:
    return value


def _facts(spec: ModelSpec, context: EngineContext, path: str, before: Transformer) -> dict[str, object]:
    """Return all that the check's outcome depends on, beside the model's files."""
    import torch

    properties: Mapping[str, str] = spec.properties
    return {
        "versions": _versions(),
        "device": torch.cuda.get_device_name(before.device) if before.device.type == "cuda" else "cpu",
        "ranks": context.world_size,
        "path": path,
        "options": {key: properties[key] for key in sorted(properties)},
        "batch": spec.batch_size,
        "folder": str(Path(spec.path).name),
    }


def explain_failure(report: Report, path: str, *, degree: int, quantize: str | None) -> str:
    """Return the load's error: what is wrong, which option it comes from, what to do.

    Args:
        quantize: see `int8_option`.
    """
    if path == "inject":
        cause = "option.replace_with_kernel_inject: the model with DeepSpeed's kernels"
        remedy = "set option.replace_with_kernel_inject=false, or install transformers 4.44"
    elif path == "graph":
        cause, remedy = "option.path=graph: the compiled model", "set option.path=eager"
    elif quantize:
        cause, remedy = f"{quantize}: the quantized model", f"remove {quantize}"
    else:
        cause = f"option.tensor_parallel_degree={degree}: the model cut over {degree} ranks"
        remedy = "set option.tensor_parallel_degree=1, or install another version of deepspeed"
    return (
        f"{cause} does not say what the model before said: {report.reason}; {remedy}. "
        "option.on_self_check=off serves it nevertheless"
    )


def explain_broken(error: Exception, model: Any, degree: int) -> str:
    """Return the load's error for a model that was cut and does not run."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"option.tensor_parallel_degree={degree}: {type(model).__name__} does not run when it is cut over "
        f"{degree} ranks ({text}); set option.tensor_parallel_degree=1"
    )


def int8_option(options: DeepSpeedOptions) -> str | None:
    """Return the option that asks for weights of 8 bits, None when there is none."""
    if options.quantize:
        return f"option.quantize={options.quantize}"
    return "option.dtype=int8" if options.dtype == "int8" else None


def refuse_what_is_missing(options: DeepSpeedOptions) -> None:
    """Refuse options of DJL Serving's handler that would be silently ignored.

    Raises:
        ValueError: names the option and what to do instead.
    """
    quantize = options.quantize
    if quantize not in {None, "", "dynamic_int8"}:
        raise ValueError(
            f"option.quantize={quantize}: there is dynamic_int8; smoothquant needs DJL Serving's DeepSpeed"
        )
    for name in ("checkpoint", "save_mp_checkpoint_path"):
        if getattr(options, name, None):
            raise ValueError(
                f"option.{name}: DeepSpeed's checkpoints are not read or written; save the model with "
                "save_pretrained (safetensors) and name its folder in option.model_id"
            )
