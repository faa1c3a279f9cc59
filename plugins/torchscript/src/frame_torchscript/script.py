"""Loads TorchScript archives."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from frame.api import TensorSpec

from frame_torchscript.arguments import Binding, bind, parameters_of
from frame_torchscript.declared import DeclaredTensor, parse_tensors
from frame_torchscript.options import TorchScriptOptions
from frame_torchscript.outputs import dtype_name, named_tensors, rename
from frame_torchscript.probing import Trial, try_out
from frame_torchscript.program import Program
from frame_torchscript.scriptmodule import forward_schema, method_names
from frame_torchscript.state import assigns_attributes, changed, may_write, snapshot
from frame_torchscript.traced import traced_inputs

_log = logging.getLogger(__name__)


def load_script(path: Path, options: TorchScriptOptions, device: torch.device) -> Program:
    """Load the archive at `path`, learn what it takes and whether it keeps state.

    Raises:
        ValueError: the archive or an option cannot be used: says what to do.
    """
    declared = parse_tensors(options.inputs, "option.inputs")
    declared_outputs = parse_tensors(options.outputs, "option.outputs")
    with _quiet(), torch.inference_mode():
        module, extra_files = _open(path, options, device)
        binding = _bind(module, declared, path)
        before = snapshot(module)
        trial = _try_out(module, binding, options, tuple(item.name for item in declared_outputs), device)
        touched = changed(before, snapshot(module))
        if touched:  # the first client gets a copy that the trial did not touch
            module, extra_files = _open(path, options, device)
        keeps_state = _keeps_state(module, options, trial, touched)
    return Program(
        inputs=trial.inputs,
        outputs=trial.outputs or _declared_specs(declared_outputs),
        run=_runner(module, binding),
        reset=_reset(module, options),
        keeps_state=keeps_state,
        float_dtype=next((p.dtype for p in module.parameters() if p.is_floating_point()), None),
        extra_files=extra_files,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the announcement that TorchScript will go: it is for who makes files, not who serves them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        yield


def _open(path: Path, options: TorchScriptOptions, device: torch.device) -> tuple[Any, dict[str, str]]:
    names = [name.strip() for name in options.extraFiles.split(",") if name.strip()]
    extra = dict.fromkeys(names, "")
    location = device if options.mapLocation else None
    try:
        module = torch.jit.load(str(path), map_location=location, _extra_files=extra)
    except (RuntimeError, torch.jit.Error) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path.name}: torch {torch.__version__} cannot load it: {lines[0]}") from error
    if missing := [name for name, text in extra.items() if not text]:
        raise ValueError(f"option.extraFiles: {path.name} has no file {', '.join(missing)} in it")
    module = module.to(device).eval()
    if "forward" not in method_names(module):
        methods = ", ".join(method_names(module)) or "no method"
        raise ValueError(f"{path.name} has no forward, only {methods}; export a module with a forward")
    _check_reset(module, options)
    return _optimize(module, options), {name: _text(value) for name, value in extra.items()}


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _check_reset(module: Any, options: TorchScriptOptions) -> None:
    if options.reset and options.reset not in method_names(module):
        methods = ", ".join(name for name in method_names(module) if name != "forward")
        raise ValueError(
            f"option.reset: no method {options.reset!r} in the module; it has {methods or 'none'}"
        )


def _optimize(module: Any, options: TorchScriptOptions) -> Any:
    kept = [options.reset] if options.reset else []
    try:
        if options.optimize_for_inference:
            return torch.jit.optimize_for_inference(module, other_methods=kept)
        return torch.jit.freeze(module, preserved_attrs=kept) if options.freeze else module
    except (RuntimeError, torch.jit.Error) as error:
        key = "optimize_for_inference" if options.optimize_for_inference else "freeze"
        raise ValueError(f"option.{key}: torch cannot freeze this module; remove the option") from error


def _bind(module: Any, declared: tuple[DeclaredTensor, ...], path: Path) -> Binding:
    parameters = parameters_of(forward_schema(module))
    return bind(parameters, declared, traced_inputs(path))


def _declared_specs(declared: tuple[DeclaredTensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(item.name, dtype_name(getattr(torch, item.dtype)) if item.dtype else "", item.shape)
        for item in declared
        if item.name != "_"
    )


def _runner(module: Any, binding: Binding) -> Callable[[Mapping[str, torch.Tensor]], object]:
    def run(tensors: Mapping[str, torch.Tensor]) -> object:
        return module(**binding.keywords(tensors))

    return run


def _reset(module: Any, options: TorchScriptOptions) -> Callable[[], object] | None:
    method: Callable[[], object] | None = getattr(module, options.reset) if options.reset else None
    return method


def _try_out(
    module: Any, binding: Binding, options: TorchScriptOptions, outputs: tuple[str, ...], device: torch.device
) -> Trial:
    run, reset = _runner(module, binding), _reset(module, options)

    def call(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if reset is not None:
            reset()
        result = named_tensors(run({name: tensor.clone().to(device) for name, tensor in tensors.items()}))
        return {name: tensor.detach().clone() for name, tensor in rename(result, outputs).items()}

    return try_out(call, binding.inputs, binding.examples, binding.recorded)


def _keeps_state(module: Any, options: TorchScriptOptions, trial: Trial, touched: list[str]) -> bool:
    if touched or assigns_attributes(module):
        if not options.reset:
            names = ",".join(name.lstrip(".") for name in touched[:3]) or "attributes"
            _log.warning("model_keeps_state changed=%s shared_by_slots=no reset=none", names)
        return True
    if options.reset:
        return True
    if not trial.has_run and may_write(module):
        _log.info("model_state_unknown shared_by_slots=no remedy=declare_option.inputs")
        return True
    return False
