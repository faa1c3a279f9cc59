"""The engine `functions`: the Python functions of a workflow, run on values that its other steps made."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from types import CodeType
from typing import Any, get_type_hints

from frame.contract.engines import option
from frame.contract.models import Engine, EngineContext, Model, ModelSpec
from frame.contract.requests import Buffer, Part, Request, RequestError, Response
from frame.contract.signatures import Signature
from frame.wire.calls import ARGUMENTS_PROPERTY, FUNCTION_PROPERTY
from frame.worker.codecs import djl
from frame.worker.ensemble import ensemble

_log = logging.getLogger(__name__)
_NO_SIGNATURE = Signature((), ())
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionsOptions:
    """What the functions are."""

    functions: str = option("{}", "JSON object: by name file.py:function or module.function.")


class FunctionsModel(Model):
    """Calls the function that a request names, with its arguments decoded by their content types."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = {name: _Function(name, function) for name, function in functions.items()}

    def predict(self, batch: Sequence[Request]) -> Sequence[Response | RequestError]:
        """Answer each request; what its function raises is its own error."""
        return [self._call(request) for request in batch]

    def _call(self, request: Request) -> Response | RequestError:
        name = request.properties.get(FUNCTION_PROPERTY, "")
        function = self._functions.get(name)
        if function is None:
            return RequestError(400, f"there is no function {name[:100]!r} here; workflows run them")
        try:
            return function(request)
        except RequestError as error:
            return error
        except MemoryError:
            return RequestError(507, f"function {name}: memory was not enough", type_name="OutOfMemoryError")
        except Exception as error:  # noqa: BLE001  # fault line: around code of a workflow's author
            _log.exception("function_failed name=%s request=%s", name, request.id)
            message = f"function {name}: {type(error).__name__}: {error}"
            return RequestError(424, message, type_name="HandlerError")


class FunctionsEngine(Engine):
    """Imports the functions from the model's folder."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._path: str | None = None

    def load(self, spec: ModelSpec) -> Model:
        """Import every function.

        Raises:
            ValueError: one is not there; whatever its module raises passes through.
        """
        options: FunctionsOptions = spec.options
        sys.dont_write_bytecode = True  # of a file that is changed within a second it would be stale
        if spec.path not in sys.path:
            sys.path.insert(0, spec.path)
            self._path = spec.path
        os.chdir(spec.path)
        targets: dict[str, str] = json.loads(options.functions)
        return FunctionsModel(
            {name: _import(name, target, spec.path) for name, target in targets.items()}
            | {"ensemble": ensemble}
        )

    def close(self) -> None:
        """Take the folder off the path again."""
        if self._path is not None:
            sys.path.remove(self._path)
            self._path = None


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: what is cached may be of a file that changed within the same second."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import(name: str, target: str, folder: str) -> Callable[..., Any]:
    place, _, attribute = target.rpartition(":" if ":" in target else ".")
    if place.endswith(".py"):
        path = Path(folder, place)
        if not path.is_file():
            raise ValueError(f"functions.{name}: {place} is no file of the workflow's folder")
        module_name = f"frame_workflow_{''.join(c if c.isalnum() else '_' for c in place)}"
        module = sys.modules.get(module_name)
        if module is None:
            loader = _FreshLoader(module_name, str(path))
            found = importlib.util.spec_from_file_location(module_name, path, loader=loader)
            assert found is not None
            module = sys.modules[module_name] = importlib.util.module_from_spec(found)
            loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if function is None or not callable(function):
        raise ValueError(f"functions.{name}: {place} has no function {attribute}")
    return function


class _Function:
    """One function: which of its arguments are wanted as they came, and its answers as responses."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._raw = _raw_parameters(function)

    def __call__(self, request: Request) -> Response | RequestError:
        given = json.loads(request.properties.get(ARGUMENTS_PROPERTY, "[]"))
        parts = iter(request.parts)
        arguments = [
            _argument(item, parts, request, is_raw=number < len(self._raw) and self._raw[number])
            for number, item in enumerate(given)
        ]
        return _response(self._function(*arguments), request)


def _raw_parameters(function: Callable[..., Any]) -> list[bool]:
    """Tell of each positional parameter whether it is annotated as a `Request`."""
    try:
        hints = get_type_hints(function)
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError, NameError):  # a callable that says nothing of itself
        return []
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [hints.get(item.name) is Request for item in parameters if item.kind in positional]


def _argument(item: Any, parts: Any, request: Request, *, is_raw: bool) -> Any:
    """Return one argument; a list is written as a list."""
    if isinstance(item, list):
        return [_argument(inner, parts, request, is_raw=is_raw) for inner in item]
    own = tuple(Part(key, next(parts).data) for key in item["parts"])
    content_type: str = item["type"]
    if is_raw:
        properties = type(request.properties)({**request.properties, "content-type": content_type})
        return Request(
            id=request.id, properties=properties, parts=own, codec=request.codec, seed=request.seed
        )
    return decode_value(own[-1].data if own else b"", content_type)


def decode_value(data: Buffer, content_type: str) -> Any:
    """Return JSON as Python values, tensors as arrays by name, text as `str`, all else as bytes.

    Tensors without a name are called by their position: `"0"`.

    Raises:
        RequestError: 400, the data is not what its content type says.
    """
    kind = djl.media_type(content_type)
    if kind == djl.JSON or kind.endswith("+json"):
        return _json(data)
    if kind in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        if bytes(data[:1]) in (b"{", b"["):
            return _json(data)
        kind = djl.sniff(data) if kind != "application/x-www-form-urlencoded" else kind
    if kind in (djl.NDLIST, djl.NPZ, djl.SAFETENSORS):
        from frame.worker.codecs import ndlist, npz, safetensors

        loads = {djl.NDLIST: ndlist.loads, djl.NPZ: npz.loads, djl.SAFETENSORS: safetensors.loads}[kind]
        return {name or str(number): array for number, (name, array) in enumerate(loads(data))}
    if kind.startswith("text/"):
        return bytes(data).decode("utf-8", "replace")
    return bytes(data)


def _json(data: Buffer) -> Any:
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"body: not JSON: {error}") from None


def _response(value: Any, request: Request) -> Response | RequestError:
    """Return what a function returned as an answer."""
    if isinstance(value, Response | RequestError):
        return value
    if value is None:
        return Response(status=204, message="No Content")
    if isinstance(value, str):
        return _whole("text/plain; charset=utf-8", value.encode())
    if isinstance(value, bytes | bytearray | memoryview):
        return _whole("application/octet-stream", value)
    return _of_values(value, request)


def _of_values(value: Any, request: Request) -> Response | RequestError:
    """Return arrays as tensors, and all else as JSON."""
    if (tensors := _tensors(value)) is not None:
        return djl.encode(tensors, request.properties, _NO_SIGNATURE)
    try:
        return _whole("application/json", _encode(value).encode())
    except (TypeError, ValueError) as error:
        message = f"it returned a {type(value).__name__} that cannot be written as JSON: {error}"
        return RequestError(424, message, type_name="HandlerError")


def _whole(content_type: str, data: Buffer) -> Response:
    return Response(properties={"Content-Type": content_type}, parts=(Part("data", data),))


def _tensors(value: Any) -> Any:
    """Return arrays by name when the value is an array, or has nothing but arrays."""
    numpy = sys.modules.get("numpy")
    if numpy is None:  # then nobody has made an array
        return None
    if isinstance(value, numpy.ndarray):
        return {"0": value}
    is_tensors = (
        isinstance(value, Mapping)
        and value
        and all(isinstance(item, numpy.ndarray) for item in value.values())
    )
    return value if is_tensors else None
