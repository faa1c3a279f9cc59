"""The codec of the Open Inference Protocol over HTTP (`/v2/models/{model}/infer`), for models of tensors.

A body is JSON. With the binary tensor extension the header `Inference-Header-Content-Length` says how long
the JSON is; the raw bytes of the tensors with the parameter `binary_data_size` follow, one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from frame.contract.properties import Properties
from frame.contract.requests import Buffer, Part, RequestError, Response
from frame.contract.signatures import Signature, TensorSpec
from frame.worker.codecs.datatypes import NUMPY_DTYPES, datatype_of, from_json, from_raw, to_json, to_raw
from frame.worker.codecs.fitting import Array, RequestTensors, fit

if TYPE_CHECKING:
    from frame.contract.models import Tensors

HEADER_LENGTH = "inference-header-content-length"
MODEL_NAME, MODEL_VERSION = "x-frame-model-name", "x-frame-model-version"
"""Properties that the router adds: an answer names its model."""
BINARY_SIZE, BINARY, BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
_MAX_RANK = 32  # numpy's before version 2


class InferTensors(RequestTensors):
    """The inputs of a request, and what it asked of its answer.

    Attributes:
        request_id: the client's, "" when it gave none.
        wanted: for each output that it named, whether as raw bytes; None: all outputs.
        is_binary: whether outputs that it did not name are raw bytes.
    """

    __slots__ = ("is_binary", "request_id", "wanted")

    def __init__(
        self,
        arrays: Mapping[str, Array],
        *,
        request_id: str = "",
        wanted: Mapping[str, bool] | None = None,
        is_binary: bool = False,
    ) -> None:
        super().__init__(arrays)
        self.request_id, self.wanted, self.is_binary = request_id, wanted, is_binary

    def answer(self, outputs: Tensors) -> InferTensors:
        """Return the outputs, to be written as this request asked."""
        return InferTensors(outputs, request_id=self.request_id, wanted=self.wanted, is_binary=self.is_binary)


def decode(parts: Sequence[Part], properties: Properties, signature: Signature) -> InferTensors:
    """Read the inputs of a request, in the signature's order and dtypes.

    Raises:
        RequestError: 400, says what is wrong with which input, output or field.
    """
    body = parts[-1].data if parts else b""
    head, rest = _split(body, properties.get(HEADER_LENGTH, ""))
    request = _object(_parse(head), "the body")
    specs = {spec.name: spec for spec in signature.inputs}
    arrays: dict[str, Array] = {}
    at = 0
    for item in _list(request.get("inputs"), "inputs"):
        name, datatype, shape, parameters = _tensor(item)
        if name in arrays:
            raise RequestError(400, f"input {name}: given twice")
        size = parameters.get(BINARY_SIZE)
        if size is None:
            if "data" not in item:
                raise RequestError(400, f"input {name}: neither data nor the parameter {BINARY_SIZE}")
            array = from_json(name, datatype, shape, item["data"])
        else:
            at, raw = _next(rest, at, size, name)
            array = from_raw(name, datatype, shape, raw)
        arrays[name] = _as_asked(array, specs.get(name))
    if at != len(rest):
        raise RequestError(400, f"the body has {len(rest) - at} bytes after its last tensor")
    fitted = fit(arrays, signature)
    if not fitted.has_batch_axis:
        raise RequestError(400, _ranks(arrays, signature))
    parameters = _object(request.get("parameters", {}), "parameters")
    return InferTensors(
        fitted,
        request_id=_string(request.get("id", ""), "id"),
        wanted=_wanted(request, signature, by_default=bool(parameters.get(BINARY_OUTPUT))),
        is_binary=bool(parameters.get(BINARY_OUTPUT)),
    )


def encode(outputs: Tensors, properties: Properties, signature: Signature) -> Response:
    """Write an answer: the outputs that were asked for, each as JSON or raw bytes as it was asked for.

    Raises:
        RequestError: 406, an output that JSON cannot hold was asked for as JSON.
    """
    del signature  # `outputs` are in its order
    asked = outputs if isinstance(outputs, InferTensors) else InferTensors(outputs)
    wanted = asked.wanted if asked.wanted is not None else dict.fromkeys(asked, asked.is_binary)
    raw: list[bytes] = []
    described = []
    for name, is_binary in wanted.items():
        array = asked[name]
        datatype = datatype_of(array.dtype.name)
        output: dict[str, Any] = {
            "name": name,
            "datatype": datatype,
            "shape": list(array.shape),
        }
        if is_binary:
            raw.append(to_raw(array))
            output["parameters"] = {BINARY_SIZE: len(raw[-1])}
        else:
            output["data"] = to_json(array)
        described.append(output)
    head: dict[str, Any] = {"model_name": properties.get(MODEL_NAME, "")}
    if properties.get(MODEL_VERSION, ""):
        head["model_version"] = properties[MODEL_VERSION]
    if asked.request_id:
        head["id"] = asked.request_id
    head["outputs"] = described
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if not raw:
        return Response(properties={"Content-Type": "application/json"}, parts=(Part("data", text),))
    return Response(
        properties={
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": f"{len(text)}",
        },
        parts=(Part("data", b"".join((text, *raw))),),
    )


# --- requests -------------------------------------------------------------------------------------


def _split(body: Buffer, length: str) -> tuple[Buffer, Buffer]:
    """Return the JSON and what follows it."""
    if not length:
        return body, b""
    if not (length.isascii() and length.isdigit()) or int(length) > len(body):
        what = "expected the bytes of JSON at the start of the body"
        raise RequestError(400, f"{HEADER_LENGTH}: {what}, at most {len(body)}, got {length[:50]}")
    return body[: int(length)], body[int(length) :]


def _parse(head: Buffer) -> Any:
    try:
        return json.loads(bytes(head).decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RequestError(400, f"the body is no JSON: {reason}") from None


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _tensor(item: Any) -> tuple[str, str, tuple[int, ...], dict[str, Any]]:
    item = _object(item, "inputs: an element")
    name = _string(item.get("name"), "inputs: name")
    datatype = _string(item.get("datatype"), f"input {name}: datatype")
    if datatype not in NUMPY_DTYPES:
        known = ", ".join(NUMPY_DTYPES)
        raise RequestError(400, f"input {name}: unknown datatype {datatype[:50]}; known are {known}")
    shape = item.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise RequestError(400, f"input {name}: shape: expected a list of whole numbers from 0")
    if len(shape) > _MAX_RANK:
        raise RequestError(400, f"input {name}: shape: expected at most {_MAX_RANK} sizes, got {len(shape)}")
    if math.prod(shape) > 1 << 62:
        raise RequestError(400, f"input {name}: shape: too large")
    return name, datatype, tuple(shape), _object(item.get("parameters", {}), f"input {name}: parameters")


def _next(rest: Buffer, at: int, size: Any, name: str) -> tuple[int, Buffer]:
    if type(size) is not int or size < 0:
        raise RequestError(400, f"input {name}: {BINARY_SIZE}: expected a whole number from 0")
    if at + size > len(rest):
        raise RequestError(400, f"input {name}: {BINARY_SIZE} is {size}, but {len(rest) - at} bytes are left")
    return at + size, rest[at : at + size]


def _as_asked(array: Array, spec: TensorSpec | None) -> Array:
    """Return elements of BYTES as the model reads them: text where its input is `str`."""
    if spec is None or spec.dtype != "str" or array.dtype.kind != "O":
        return array
    text = np.empty(array.size, object)
    try:
        text[:] = [item.decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise RequestError(400, f"input {spec.name}: expected text, got bytes that are not UTF-8") from None
    return text.reshape(array.shape)


def _ranks(arrays: Mapping[str, Array], signature: Signature) -> str:
    """Say which input has a rank less than the signature's: the protocol has no shorter form."""
    for spec in signature.inputs:
        if spec.shape is not None and arrays[spec.name].ndim < len(spec.shape):
            found = list(arrays[spec.name].shape)
            return f"input {spec.name}: expected the shape {list(spec.shape)}, got {found}"
    return "an input has no batch axis"


def _wanted(request: Mapping[str, Any], signature: Signature, *, by_default: bool) -> dict[str, bool] | None:
    if not request.get("outputs"):
        return None
    known = [spec.name for spec in signature.outputs]
    wanted: dict[str, bool] = {}
    for item in _list(request["outputs"], "outputs"):
        output = _object(item, "outputs: an element")
        name = _string(output.get("name"), "outputs: name")
        if name not in known:
            raise RequestError(400, f"output {name[:100]}: unknown; the outputs are {', '.join(known)}")
        parameters = _object(output.get("parameters", {}), f"output {name}: parameters")
        if "classification" in parameters:
            raise RequestError(400, f"output {name}: the classification extension is not supported")
        wanted[name] = bool(parameters.get(BINARY, by_default))
    return wanted


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(400, f"{what}: expected an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(400, f"{what}: expected a list")
    return value


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RequestError(400, f"{what}: expected a string")
    return value
