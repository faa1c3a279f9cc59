"""Cut a model over the ranks of a group, or exchange its layers for DeepSpeed's kernels."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """What is done to a model.

    Attributes:
        degree: ranks that share one copy.
        kernel_inject: exchange its layers for DeepSpeed's, which run on CUDA only.
        max_tokens: positions of DeepSpeed's own workspace, with `kernel_inject`.
        config: a whole configuration of `init_inference`, from `option.deepspeed_config_path`, in place of
            the one that is made here; None for that one.
        quantize: keep the weights of linear layers as int8.
    """

    degree: int
    kernel_inject: bool = False
    max_tokens: int = 1024
    enable_cuda_graph: bool = False
    triangular_masking: bool = True
    return_tuple: bool = True
    training_mp_size: int = 1
    config: Mapping[str, Any] | None = None
    quantize: bool = False

    def does_nothing(self) -> bool:
        """Tell whether the model stays as it is: one rank, its own layers, no configuration of its own."""
        return not self.quantize and not self.uses_deepspeed()

    def uses_deepspeed(self) -> bool:
        """Tell whether `deepspeed.init_inference` is called."""
        return self.degree > 1 or self.kernel_inject or self.config is not None


def candidate_paths(wanted: str, *, injects: bool | None, on_gpu: bool, falls_back: bool) -> tuple[str, ...]:
    """Return the ways to transform a model, the first one to try first: of inject, graph and eager.

    Args:
        wanted: `option.path`; auto is the fastest that is known to be right: graph on a GPU.
        injects: `option.replace_with_kernel_inject`, None when not given.
        falls_back: whether a path that fails its self-check is left for the next.
    """
    first = wanted
    if wanted == "auto":
        first = "inject" if injects else "graph" if on_gpu else "eager"
    if not falls_back:
        return (first,)
    every = ("inject", "graph", "eager") if on_gpu else ("inject", "eager")
    return (first, *every[every.index(first) + 1 :]) if first in every else (first, "eager")


def tp_size(config: Mapping[str, Any]) -> int:
    """Return for how many ranks a configuration of `init_inference` is, in its new or its old spelling."""
    parallel = config.get("tensor_parallel", config.get("tp"))
    given = parallel.get("tp_size", 1) if isinstance(parallel, Mapping) else config.get("mp_size", 1)
    return given if isinstance(given, int) else 1


def read_config(path: str, *, folder: str, degree: int) -> dict[str, Any]:
    """Read `option.deepspeed_config_path`, relative to the model folder.

    Raises:
        ValueError: no JSON object there, or one for another number of ranks; names the option.
    """
    option = f"option.deepspeed_config_path={path}"
    try:
        config = json.loads((Path(folder) / path).read_text())
    except OSError as error:
        raise ValueError(f"{option}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{option}: no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{option}: a JSON object is needed, as deepspeed.init_inference takes it")  # noqa: TRY004
    size = tp_size(config)
    if size != degree:
        raise ValueError(
            f"{option}: tensor_parallel.tp_size is {size}, but the group has {degree} ranks; "
            f"set it to {degree}, or option.tensor_parallel_degree={size}"
        )
    return config


def inference_config(settings: ShardSettings, *, dtype: Any) -> dict[str, Any]:
    """Return the configuration for `deepspeed.init_inference`.

    Args:
        dtype: the model's `torch.dtype`; always given: DeepSpeed's default is float16, which a CPU lacks.
    """
    if settings.config is not None:
        return {"dtype": dtype, **settings.config}
    config: dict[str, Any] = {
        "dtype": dtype,
        "tensor_parallel": {"tp_size": settings.degree},
        "replace_with_kernel_inject": settings.kernel_inject,
    }
    if settings.kernel_inject:
        config.update(
            max_out_tokens=settings.max_tokens,
            enable_cuda_graph=settings.enable_cuda_graph,
            triangular_masking=settings.triangular_masking,
            return_tuple=settings.return_tuple,
            training_mp_size=settings.training_mp_size,
        )
    return config


def shard(model: Any, settings: ShardSettings) -> Any:
    """Transform a model of transformers in place and return it, with this rank's part of the weights.

    With `kernel_inject` DeepSpeed's `InferenceEngine` around it is returned, whose `generate` empties the
    kernels' cache first.

    Raises:
        ValueError: DeepSpeed cannot do it; says what can be done instead.
    """
    if settings.uses_deepspeed():
        model = _init_inference(model, settings)
    if settings.quantize:
        from frame_deepspeed.quantizing import quantize_weights

        quantize_weights(model)
    return model


def _init_inference(model: Any, settings: ShardSettings) -> Any:
    import deepspeed
    import torch

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    model_type = str(getattr(model.config, "model_type", type(model).__name__))
    try:
        with torch.inference_mode():
            engine = deepspeed.init_inference(model, config=inference_config(settings, dtype=dtype))
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(_explain(model_type, settings, error)) from error
    return engine if settings.kernel_inject else engine.module


def _explain(model_type: str, settings: ShardSettings, error: Exception) -> str:
    """Say what DeepSpeed could not do, naming the option and the remedy."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if settings.kernel_inject:
        return (
            f"option.replace_with_kernel_inject=true: DeepSpeed has no kernels for a model of type "
            f"{model_type} on this device ({text}); set option.replace_with_kernel_inject=false"
        )
    return (
        f"option.tensor_parallel_degree={settings.degree}: DeepSpeed cannot cut a model of type {model_type} "
        f"({text}); set option.tensor_parallel_degree=1"
    )
