"""From a model folder to its handler: find the entry point, import it once, pick the function."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from inspect import isfunction
from types import ModuleType
from typing import Any

from djl_python.custom_code import find_custom_code
from frame.api import EngineContext, ModelSpec

from frame_python.entry_point import (
    PICKLE_SUFFIXES,
    SCRIPT_HANDLER,
    SKLEARN_HANDLER,
    EntryPoint,
    resolve_entry_point,
)
from frame_python.handler import Handler, HandlerFunction
from frame_python.modules import import_file, list_files
from frame_python.options import PythonOptions


def find_entry_point(spec: ModelSpec) -> EntryPoint:
    """Return what a model folder's options and files say is to be run.

    Raises:
        ValueError: nothing does.
    """
    options: PythonOptions = spec.options
    return resolve_entry_point(
        name=spec.properties.get("modelName", spec.name),
        declared=options.entryPoint,
        environ=os.environ,
        files=list_files(spec.path),
        model_id=options.model_id,
    )


def load_handler(spec: ModelSpec, context: EngineContext, entry_point: EntryPoint) -> Handler:
    """Import an entry point of `spec` and return its handler. The folder must be the current directory.

    Raises:
        ValueError: no function to call in it. Whatever its code raises passes through.
    """
    options: PythonOptions = spec.options
    files = list_files(spec.path)
    additions = server_properties(spec, context)
    if entry_point.kind == "torchserve":
        from frame_python.torchserve import load_torchserve

        function = load_torchserve(spec, context)
        return Handler(module=None, function=function, function_name=options.handler, additions=additions)
    module = _import(spec.path, entry_point)
    custom_code = find_custom_code(module)
    if not callable(getattr(module, options.handler, None)):
        if custom_code.is_empty:
            raise ValueError(_missing_function(entry_point, module, options.handler))
        module = importlib.import_module(_recommended(files))
    elif entry_point.kind == "module" and "model.py" in files and getattr(module, "USES_CUSTOM_CODE", False):
        custom_code = find_custom_code(import_file(spec.path, "model.py"))
    return Handler(
        module=module,
        function=_function(entry_point, module, options.handler),
        function_name=options.handler,
        additions=additions,
        custom_code=custom_code,
        reset=_reset(entry_point, module, options.reset),
    )


def server_properties(spec: ModelSpec, context: EngineContext) -> dict[str, Any]:
    """Return the properties that every call carries, as DJL Serving's Python process adds them."""
    options: PythonOptions = spec.options
    device = context.devices[0] if context.devices else "cpu"
    added = {
        "model_dir": spec.path,
        "device_id": "".join(c for c in device if c.isdigit()) or "-1",
        "pipeline_parallel_degree": str(options.pipeline_parallel_degree),
        "cluster_size": "1",
        "handler": options.handler,
    }
    degree = options.tensor_parallel_degree or os.environ.get("TENSOR_PARALLEL_DEGREE")
    if degree:
        added["tensor_parallel_degree"] = str(len(context.devices)) if degree == "max" else degree
    return added


def first_call_properties(spec: ModelSpec, handler: Handler) -> dict[str, Any]:
    """Return the first call's properties: options, arguments, additions and model.py's formatters."""
    properties: dict[str, Any] = {**spec.properties, **handler.additions}
    code = handler.custom_code
    if not code.is_empty:
        properties["custom_code"] = code
        properties.update({"input_formatter": code.read} if code.read else {})
        properties.update({"output_formatter": code.write} if code.write else {})
    return properties


def _import(folder: str, entry_point: EntryPoint) -> ModuleType:
    if entry_point.kind == "file":
        return import_file(folder, entry_point.target)
    try:
        return importlib.import_module(entry_point.target)
    except ModuleNotFoundError as error:
        if error.name is not None and (entry_point.target + ".").startswith(error.name + "."):
            raise ValueError(
                f"option.entryPoint={entry_point.target}: neither a module that can be imported "
                "nor a .py file of the model folder"
            ) from error
        raise


def _recommended(files: Sequence[str]) -> str:
    """Return the built-in handler for a model.py that only shapes one."""
    has_pickle = any("/" not in path and path.endswith(PICKLE_SUFFIXES) for path in files)
    return SKLEARN_HANDLER if has_pickle else SCRIPT_HANDLER


def _function(entry_point: EntryPoint, module: ModuleType, name: str) -> HandlerFunction:
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(_missing_function(entry_point, module, name))  # noqa: TRY004  # the folder's fault
    return function  # type: ignore[no-any-return]  # callable, as just tested


def _reset(entry_point: EntryPoint, module: ModuleType, name: str | None) -> Callable[[], object] | None:
    if name is None:
        return None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"option.reset={name}: {entry_point.target} has no such function")  # noqa: TRY004
    return function  # type: ignore[no-any-return]  # callable, as just tested


def _missing_function(entry_point: EntryPoint, module: ModuleType, name: str) -> str:
    functions = sorted(key for key, value in vars(module).items() if isfunction(value) and key[0] != "_")
    has = f"it has: {', '.join(functions)}" if functions else "it has no functions"
    return f"{entry_point.target}: no function {name!r}; {has}. Define {name}(inputs) or set option.handler"
