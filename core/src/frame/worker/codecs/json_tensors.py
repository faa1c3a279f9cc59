"""JSON: `{"inputs": …}`, `{"instances": […]}` or bare arrays to tensors, tensors to `{"predictions": …}`.

Binary strings are written `{"b64": "…"}` as in TensorFlow Serving's REST API. What JSON cannot say: NaN and
the infinities become `null` in answers (a bare `NaN` would be no JSON), and are refused in requests.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.contract.signatures import Signature, TensorSpec
from frame.worker.codecs.fitting import (
    TEXT_DTYPES,
    Array,
    InputNamesError,
    RequestTensors,
    check_names,
    describe_inputs,
    fit,
    mismatch,
)

if TYPE_CHECKING:
    from frame.contract.models import Tensors

_B64 = {"b64"}


def loads(data: Buffer, signature: Signature) -> RequestTensors:
    """Read a request's arrays.

    Raises:
        RequestError: 400, says what is wrong with which input and what was expected.
    """
    text = _text(data)
    body = _parse(text, signature)
    columns, is_rows, keys = _columns(body, signature)
    check_names(columns, signature)
    # Every string of a JSON text, key or value, has two quotes. When the keys account for all of them there
    # is no string among the values, and numpy may look at the lists at once. Otherwise it must not: a long
    # string beside many numbers would make it pad each number to the string's length.
    holds_text = text.count('"') > 2 * keys
    arrays = {
        spec.name: to_array(columns[spec.name], spec, holds_text=holds_text) for spec in signature.inputs
    }
    return fit(arrays, signature, is_rows=is_rows)


def dumps(outputs: Tensors) -> bytes:
    """Write an answer: one output as its nested list, several as an object, or as one object a row.

    Compact, UTF-8, without a newline. Raises `RequestError` 406 for what JSON cannot say.
    """
    form = outputs if isinstance(outputs, RequestTensors) else RequestTensors(outputs)
    try:
        return _encode(form, _as_list)
    except ValueError:  # NaN or infinity
        return _encode(form, _as_finite_list)


def load_value(data: Buffer, spec: TensorSpec) -> Array:
    """Read one input from a JSON value of its own, as in a form field; bare words are text."""
    text = _text(data)
    if spec.dtype in TEXT_DTYPES and text[:1] not in {"[", "{", '"'}:
        return to_array(text, spec)
    return to_array(_parse(text, Signature((spec,), ())), spec)


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON"
    raise ValueError(message)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False, check_circular=False)


# --- requests -------------------------------------------------------------------------------------


def _text(data: Buffer) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is no JSON: byte {error.start} is not UTF-8") from None


def _parse(text: str, signature: Signature) -> Any:
    if not text or text.isspace():
        raise RequestError(400, f"the body is empty; expected {describe_inputs(signature)}")
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RequestError(400, f"the body is no JSON: {reason}") from None


def _columns(body: Any, signature: Signature) -> tuple[Mapping[str, Any], bool, int]:
    """Return values by input, whether they came as rows, and how many keys the body has."""
    if not isinstance(body, dict):
        return _from_inputs(body, signature, 0)
    if len(body) == 1 and "inputs" in body:
        return _from_inputs(body["inputs"], signature, 1)
    if len(body) == 1 and "instances" in body:
        return _from_instances(body["instances"], signature)
    found = ", ".join(sorted(str(key)[:50] for key in list(body)[:10])) or "nothing"
    raise RequestError(
        400, f'expected an array, {{"inputs": …}} or {{"instances": […]}}, got an object with {found}'
    )


def _from_inputs(value: Any, signature: Signature, keys: int) -> tuple[Mapping[str, Any], bool, int]:
    if isinstance(value, dict) and not _is_b64(value, signature):
        return value, False, keys + len(value)
    return {_only_input(signature).name: value}, False, keys


def _from_instances(rows: Any, signature: Signature) -> tuple[Mapping[str, Any], bool, int]:
    if not isinstance(rows, list) or not rows:
        raise RequestError(400, '"instances": expected a list of one row or more')
    first = rows[0]
    if not isinstance(first, dict) or _is_b64(first, signature):
        return {_only_input(signature).name: rows}, True, 1
    check_names(first, signature)
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != first.keys():
            raise RequestError(
                400, f'"instances": row {index} does not have the inputs of row 0: {", ".join(first)}'
            )
    columns = {spec.name: [row[spec.name] for row in rows] for spec in signature.inputs}
    for spec in signature.inputs:
        if spec.shape == ():
            columns[spec.name] = _shared(columns[spec.name], spec)
    return columns, True, 1 + len(rows) * len(first)


def _shared(values: list[Any], spec: TensorSpec) -> Any:
    if any(value != values[0] for value in values):
        raise RequestError(400, f"input {spec.name}: expected one value that all rows share, got several")
    return values[0]


def _is_b64(value: Mapping[str, Any], signature: Signature) -> bool:
    return value.keys() == _B64 and all(spec.name != "b64" for spec in signature.inputs)


def _only_input(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        raise InputNamesError(
            400, f"expected an object with the inputs {describe_inputs(signature)}, got an array"
        )
    return signature.inputs[0]


def to_array(value: Any, spec: TensorSpec, *, holds_text: bool = True) -> Array:
    """Turn nested lists into an array of the input's dtype; the shape is not looked at.

    `holds_text` says whether there may be strings in `value`; false saves a walk over its elements.
    """
    if spec.dtype in TEXT_DTYPES:
        return _strings(value, spec)
    if holds_text:
        kinds = {type(item) for item in np.array(value, dtype=object).ravel().tolist()}
        if spec.dtype == "" and kinds == {str}:
            return _strings(value, spec)
        if kinds & {str, dict, list}:
            raise mismatch(spec, _what(kinds))
    try:
        raw = np.array(value)
    except ValueError:
        raise mismatch(spec, "lists of different lengths, or nested too deeply") from None
    if raw.dtype.kind not in "biuf":
        kinds = {type(item) for item in raw.ravel().tolist()}
        raise mismatch(spec, _what(kinds))
    return _narrowed(raw, spec)


def _what(kinds: set[type]) -> str:
    """Name the first thing that is wrong in what was given."""
    for kind, words in (
        (str, "text"),
        (type(None), "null"),
        (dict, "an object"),
        (list, "lists of different lengths, or nested too deeply"),
    ):
        if kind in kinds:
            return words
    return "a number that is out of range"


_DEFAULT_DTYPES = {"f": "float32", "i": "int64", "u": "uint64", "b": "bool"}
"""What JSON numbers become when the model does not say: float32 is what models are trained in."""


def _narrowed(raw: Array, spec: TensorSpec) -> Array:
    """Return JSON's float64, int64, uint64 or bool as the input's dtype; refuse what it cannot hold."""
    want = np.dtype(spec.dtype or _DEFAULT_DTYPES[raw.dtype.kind])
    have = raw.dtype
    if raw.size == 0:
        return raw.astype(want)
    if want.kind == "f" and have.kind in "iuf":
        return _floats(raw, want, spec)
    if want.kind in "iu" and have.kind in "iu":
        limits = np.iinfo(want)
        low, high = int(raw.min()), int(raw.max())
        if low < limits.min or high > limits.max:
            raise mismatch(spec, f"{low if low < limits.min else high}, which is out of range")
        return raw if have == want else raw.astype(want)
    if want.kind != have.kind:
        words = {"b": "true or false", "f": "numbers with a fraction", "i": "numbers", "u": "numbers"}
        raise mismatch(spec, words[have.kind])
    return raw


def _floats(raw: Array, want: np.dtype[Any], spec: TensorSpec) -> Array:
    with np.errstate(over="ignore"):  # looked for below
        array = raw if raw.dtype == want else raw.astype(want)
    if not np.isfinite(array).all():
        raise mismatch(spec, "a number that is out of range")
    return array


def _strings(value: Any, spec: TensorSpec) -> Array:
    """Return an object array of `str` or `bytes`."""
    raw = np.array(value, dtype=object)
    read = _bytes_of if spec.dtype == "bytes" else _str_of
    array = np.empty(raw.size, dtype=object)
    try:
        array[:] = [read(item) for item in raw.ravel().tolist()]
    except UnicodeError:
        raise mismatch(spec, "text that is not UTF-8") from None
    except (TypeError, binascii.Error):
        kinds = {type(item) for item in raw.ravel().tolist()} - {str}
        got = 'an object that is no {"b64": "…"}' if dict in kinds else "elements that are no strings"
        raise mismatch(spec, "lists of different lengths" if list in kinds else got) from None
    return array.reshape(raw.shape)


def _bytes_of(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, dict) and item.keys() == _B64 and isinstance(item["b64"], str):
        try:
            return base64.b64decode(item["b64"], validate=True)
        except ValueError as error:  # non-ASCII text; binascii.Error is one as well
            raise binascii.Error from error
    raise TypeError


def _str_of(item: object) -> str:
    return item if isinstance(item, str) else str(_bytes_of(item), "utf-8")


# --- answers --------------------------------------------------------------------------------------


def _encode(outputs: RequestTensors, to_list: Callable[[str, Array], Any]) -> bytes:
    arrays = outputs.as_asked()
    lists = {name: to_list(name, array) for name, array in arrays.items()}
    predictions: Any = lists
    if len(lists) == 1:
        predictions = next(iter(lists.values()))
    elif outputs.is_rows and _row_count(arrays) is not None:
        predictions = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return _ENCODER.encode({"predictions": predictions}).encode(
        "utf-8", "replace"
    )  # a model's lone surrogates


def _row_count(arrays: Mapping[str, Array]) -> int | None:
    counts = {array.shape[0] if array.ndim else None for array in arrays.values()}
    return counts.pop() if len(counts) == 1 else None


def _as_list(name: str, array: Array) -> Any:
    kind = array.dtype.kind
    if kind in "fiub":
        return array.tolist()
    if kind in "OUS":
        items = [_json_string(item, binary=name.endswith("_bytes")) for item in array.ravel().tolist()]
        texts = np.empty(len(items), dtype=object)
        texts[:] = items
        return texts.reshape(array.shape).tolist()
    raise RequestError(
        406, f"output {name}: {array.dtype.name} cannot be written as JSON; accept tensor/npz instead"
    )


def _json_string(item: object, *, binary: bool) -> object:
    """Return text as it is and bytes as text where they are UTF-8; `{"b64": …}` for the rest.

    Outputs named `*_bytes` are always base64, as in TensorFlow Serving.
    """
    if not isinstance(item, bytes):
        return str(item)
    encoded = {"b64": base64.b64encode(item).decode()}
    if binary:
        return encoded
    try:
        return item.decode()
    except UnicodeDecodeError:
        return encoded


def _as_finite_list(name: str, array: Array) -> Any:
    if array.dtype.kind != "f":
        return _as_list(name, array)
    finite = array.astype(object)
    finite[~np.isfinite(array)] = None
    return finite.tolist()
