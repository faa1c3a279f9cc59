"""Mend what DeepSpeed gets wrong with today's transformers, and warn of what cannot be mended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from frame_deepspeed.sharding import tp_size

_log = logging.getLogger(__name__)
_INJECTION_BROKEN_FROM = (5,)
"""transformers 5 hands blocks a Cache object where DeepSpeed's injected block expects a (key, value) pair.

Measured on an H100, GPT-J-6B: 8 % of greedy tokens agree, an illegal memory access at batch 4, and no error
before. With transformers 4.44.2 all tokens agree.
"""


def find_attributes_on_module(engine_module: ModuleType) -> None:
    """Let `InferenceEngine` answer with the attributes of the model inside it.

    `transformers.pipeline(model=InferenceEngine)` asks for `device`, `can_generate` and `generation_config`,
    which DeepSpeed 0.19.8 has not (with transformers 4.44 neither). A version that has `device`, or looks up
    attributes by itself, is left alone. What `.module` has not either raises as before.

    Args:
        engine_module: `deepspeed.inference.engine`, just imported.
    """
    import torch

    engine_type = getattr(engine_module, "InferenceEngine", None)
    if engine_type is None or hasattr(engine_type, "device"):
        return
    if engine_type.__getattr__ is not torch.nn.Module.__getattr__:
        return
    logged: list[str] = []

    def find(self: Any, name: str) -> Any:
        try:
            return torch.nn.Module.__getattr__(self, name)
        except AttributeError:
            if name == "module":
                raise
            value = getattr(torch.nn.Module.__getattr__(self, "module"), name)
        if not logged:
            logged.append(name)
            _log.info("deepspeed_mended attribute=%s found_on=module off_by=option.compat=off", name)
        return value

    engine_type.__getattr__ = find
    logging.getLogger("transformers.pipelines.base").addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drop the 5,000 characters that say that a pipeline does not know the class InferenceEngine."""
    return "'InferenceEngine' is not supported" not in record.getMessage()


def known_faults(*, transformers: str, kernel_inject: bool, degree: int, model_type: str) -> Iterator[str]:
    """Yield what is known to go wrong, each as a sentence with its remedy.

    Args:
        transformers: its version.
        kernel_inject: `replace_with_kernel_inject` of this call.
        degree: `tensor_parallel.tp_size` of this call.
        model_type: of the model's configuration, "" when it has none.
    """
    if kernel_inject and _numbers(transformers) >= _INJECTION_BROKEN_FROM:
        yield (
            f"kernel injection with transformers {transformers} generates wrong text without an error; "
            "pass replace_with_kernel_inject=False, or install transformers 4.44"
        )
    if kernel_inject:
        yield (
            "an injected model sizes its workspace by its first call, and a larger batch later is answered "
            "with wrong text: make the first call (the empty one) with the largest batch"
        )
    if degree > 1 and model_type == "bloom" and _numbers(transformers) >= _INJECTION_BROKEN_FROM:
        yield (
            f"a BLOOM model cut over {degree} ranks fails in generate with transformers {transformers}; "
            "install transformers 4.44, or set option.tensor_parallel_degree=1"
        )


def warn_of_known_faults(deepspeed: ModuleType) -> None:
    """Make `deepspeed.init_inference` warn, once each, of what is known to go wrong."""
    original = deepspeed.init_inference
    warned: set[str] = set()

    def init_inference(model: Any, config: Any = None, **arguments: Any) -> Any:
        for fault in known_faults(**_read_call(model, config, arguments)):
            if fault not in warned:
                warned.add(fault)
                _log.warning("deepspeed_known_fault %s", fault)
        return original(model, config, **arguments)

    init_inference.__doc__ = original.__doc__
    deepspeed.init_inference = init_inference  # type: ignore[attr-defined]  # a module's function, replaced


def _read_call(model: Any, config: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `known_faults` for a call of `init_inference`; config files are not read."""
    import transformers

    given = {**(config if isinstance(config, dict) else {}), **arguments}
    return {
        "transformers": transformers.__version__,
        "kernel_inject": bool(given.get("replace_with_kernel_inject", given.get("kernel_inject", False))),
        "degree": tp_size(given),
        "model_type": getattr(getattr(model, "config", None), "model_type", ""),
    }


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `5.23.0.dev1` → (5, 23, 0)."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
