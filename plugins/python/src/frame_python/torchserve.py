"""Serve a TorchServe archive (a folder with MAR-INF): its `handle(data, context)` as our handler."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output
from frame.api import EngineContext, ModelSpec

from frame_python.modules import import_file

_Entry = Callable[[Any, "Context"], Any]


class Context:
    """What a TorchServe handler is told of its model and of the requests of the current call."""

    def __init__(self, manifest: Mapping[str, Any], system_properties: Mapping[str, Any]) -> None:
        self.manifest = manifest
        self.system_properties = system_properties
        self.model_yaml_config: dict[str, Any] = {}
        self.metrics = None
        self.begin([])

    def begin(self, requests: list[Input]) -> None:
        """Forget the last call."""
        self._requests = requests
        self.outputs = [Output() for _ in requests]

    def get_request_id(self, idx: int = 0) -> str:
        """Return the id of a request of the batch."""
        return str(self._requests[idx].get_property("requestId"))

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return the headers of a request of the batch."""
        return dict(self._requests[idx].get_properties())

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a header of a request of the batch, or None."""
        return self._requests[idx].get_property(key)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of an answer."""
        self.outputs[idx].add_property("Content-Type", value)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of an answer."""
        self.outputs[idx].add_property(key, value)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of an answer."""
        self.outputs[idx].set_code(code).set_message(phrase or "OK")

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of all answers of the batch."""
        for index in range(len(self.outputs)):
            self.set_response_status(code, phrase, index)


def load_torchserve(spec: ModelSpec, context: EngineContext) -> Callable[[Input], Any]:
    """Import and initialize the handler that the manifest names.

    Raises:
        ValueError: the manifest or its handler cannot be used here; says why.
    """
    manifest = json.loads(Path(spec.path, "MAR-INF", "MANIFEST.json").read_text(encoding="utf-8"))
    declared = manifest.get("model", {}).get("handler") if isinstance(manifest, dict) else None
    if not isinstance(declared, str):
        raise ValueError("MAR-INF/MANIFEST.json: model.handler is missing")  # noqa: TRY004  # the archive is wrong
    file, _, function_name = declared.partition(":")
    file = file if file.endswith(".py") else f"{file}.py"
    if not Path(spec.path, file).is_file():
        raise ValueError(
            f"MAR-INF/MANIFEST.json: handler {declared} is not a file of the archive; "
            "TorchServe's own handlers are not part of this engine"
        )
    told = Context(manifest, _system_properties(spec, context))
    entry = _find_entry(import_file(spec.path, file), function_name or "handle", told)
    return lambda inputs: _handle(entry, told, inputs)


def _system_properties(spec: ModelSpec, context: EngineContext) -> dict[str, Any]:
    device = context.devices[0] if context.devices else "cpu"
    digits = "".join(c for c in device if c.isdigit())
    return {
        "model_dir": spec.path,
        "gpu_id": int(digits) if digits else None,
        "batch_size": spec.batch_size,
        "server_name": "Frame",
        "server_version": "0.1.0",
    }


def _find_entry(module: ModuleType, name: str, context: Context) -> _Entry:
    """Return the module's function, or the method of the class that has one, initialized."""
    function = getattr(module, name, None)
    if callable(function):
        function(None, context)
        return function  # type: ignore[no-any-return]  # callable, as just tested
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__ and callable(getattr(value, "handle", None))
    ]
    if len(classes) != 1:
        raise ValueError(
            f"{module.__name__}.py: expected a function {name} or one class with a method handle"
        )
    service: Any = classes[0]()
    if callable(getattr(service, "initialize", None)):
        service.initialize(context)
    return service.handle  # type: ignore[no-any-return]  # callable, as just tested


def _handle(entry: _Entry, context: Context, inputs: Input) -> list[Output] | None:
    if inputs.is_empty():
        return None
    requests = inputs.get_batches()
    context.begin(requests)
    answers = entry([_row(request) for request in requests], context)
    if not isinstance(answers, (list, tuple)) or len(answers) != len(requests):
        raise ValueError(f"the handler must return a list of {len(requests)} answers, one per request")
    return [output.add(answer) for output, answer in zip(context.outputs, answers, strict=True)]


def _row(request: Input) -> dict[str, Any]:
    """Return a request as TorchServe does: the body under `data` and `body`, parsed when it is JSON."""
    row = {key or "data": value for key, value in request.get_content()}
    if "data" in row:
        is_json = "application/json" in str(request.get_property("Content-Type") or "")
        row["body"] = row["data"] = request.get_as_json("data") if is_json else row["data"]
    return row
