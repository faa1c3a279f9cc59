"""Datatypes of the Open Inference Protocol: raw bytes and JSON values to arrays, and back.

Raw tensors are little-endian and row-major without gaps; BOOL is a byte; each element of BYTES has its length
before it, 4 bytes. numpy has no bfloat16: BF16 becomes float32, which holds each of its values.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.worker.codecs.fitting import Array

NUMPY_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "float32",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "bytes",
}
"""The numpy dtype of each datatype; `bytes` is an array of Python's bytes objects."""
_DATATYPES = {dtype: name for name, dtype in NUMPY_DTYPES.items() if name != "BF16"}
_LENGTH = struct.Struct("<I")
_BF16_BITS = 16
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}


def datatype_of(dtype: str) -> str:
    """Return the datatype of a numpy dtype's name, of `str` and `bytes`.

    Raises:
        RequestError: 406, the protocol has none.
    """
    found = "BYTES" if dtype in {"str", "object"} else _DATATYPES.get(dtype)
    if found is None:
        raise RequestError(406, f"the protocol has no datatype for {dtype}")
    return found


def from_raw(name: str, datatype: str, shape: tuple[int, ...], data: Buffer) -> Array:
    """Read a tensor that was sent as raw bytes; numbers are a view of them where the host is little-endian.

    Raises:
        RequestError: 400, the bytes are not those of a tensor of this datatype and shape.
    """
    count = math.prod(shape)
    if _dtype(name, datatype) == "bytes":
        return _elements(name, count, bytes(data)).reshape(shape)
    stored = np.dtype("<u2" if datatype == "BF16" else NUMPY_DTYPES[datatype]).newbyteorder("<")
    if len(data) != count * stored.itemsize:
        wanted = f"{count * stored.itemsize} bytes for {datatype} {list(shape)}"
        raise RequestError(400, f"input {name}: expected {wanted}, got {len(data)}")
    array = np.frombuffer(data, stored, count).reshape(shape)
    if datatype == "BF16":
        return (array.astype("uint32") << _BF16_BITS).view("float32")
    if datatype == "BOOL":  # 2 is true, too
        flags: Array = np.frombuffer(data, "uint8", count).reshape(shape).astype(bool)
        return flags
    return array


def to_raw(array: Array) -> bytes:
    """Write a tensor as raw bytes; text as UTF-8."""
    if array.dtype.kind == "O":
        elements = [_encoded(item) for item in array.ravel().tolist()]
        return b"".join(chain.from_iterable((_LENGTH.pack(len(item)), item) for item in elements))
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    """Read a tensor from a JSON array, flat or nested as the shape says.

    Raises:
        RequestError: 400, an element is not of the datatype, or their number is not the shape's.
    """
    dtype = _dtype(name, datatype)
    flat = _flat(name, shape, data)
    kinds = set(map(type, flat))
    if dtype == "bytes":
        if kinds - {str}:
            raise _wrong(name, datatype, kinds - {str})
        array = np.empty(len(flat), object)
        array[:] = [item.encode("utf-8", "surrogatepass") for item in flat]
        return array.reshape(shape)
    target = np.dtype(dtype)
    allowed = _JSON_TYPES.get(target.kind, {int})
    if kinds - allowed:
        raise _wrong(name, datatype, kinds - allowed)
    if target.kind in "iu" and flat:
        limits = np.iinfo(target)
        if min(flat) < limits.min or max(flat) > limits.max:
            raise RequestError(400, f"input {name}: a number is out of the range of {datatype}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, target).reshape(shape)
    except OverflowError:  # an integer that no float holds
        array = np.full(shape, np.inf, target)
    if target.kind == "f" and not np.isfinite(array).all():
        raise RequestError(400, f"input {name}: a number is out of the range of {datatype}")
    return array


def to_json(array: Array) -> list[Any]:
    """Return a tensor's elements in row-major order as JSON values.

    Raises:
        RequestError: 406, an element is binary or no finite number: ask for binary output.
    """
    if array.dtype.kind == "O":
        try:
            return [_encoded(item).decode() for item in array.ravel().tolist()]
        except UnicodeDecodeError:
            raise RequestError(
                406, "an output is binary, which JSON cannot hold: ask for binary data"
            ) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _not_json("has NaN or infinity")
    values: list[Any] = array.ravel().tolist()
    return values


def _not_json(what: str) -> RequestError:
    return RequestError(406, f"an output {what}, which JSON cannot hold: ask for binary data")


def _dtype(name: str, datatype: str) -> str:
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join(NUMPY_DTYPES)
        raise RequestError(400, f"input {name}: unknown datatype {datatype[:50]}; known are {known}")
    return dtype


def _elements(name: str, count: int, data: bytes) -> Array:
    array = np.empty(count, object)
    at = 0
    for index in range(count):
        if at + _LENGTH.size > len(data):
            raise RequestError(400, f"input {name}: expected {count} elements of BYTES, got {index}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise RequestError(400, f"input {name}: element {index} of BYTES is longer than what was sent")
        array[index] = data[at : at + length]
        at += length
    if at != len(data):
        raise RequestError(400, f"input {name}: {len(data) - at} bytes after the last of {count} elements")
    return array


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(400, f"input {name}: data: expected a list, got {type(data).__name__}")
    flat: list[Any] = data
    if flat and isinstance(flat[0], list):
        if not shape or len(flat) != shape[0]:
            raise _unlike(name, shape)
        for size in shape[1:]:
            if any(not isinstance(item, list) or len(item) != size for item in flat):
                raise _unlike(name, shape)
            flat = list(chain.from_iterable(flat))
    count = math.prod(shape)
    if len(flat) != count:
        raise RequestError(400, f"input {name}: expected {count} elements for {list(shape)}, got {len(flat)}")
    return flat


def _unlike(name: str, shape: Sequence[int]) -> RequestError:
    return RequestError(400, f"input {name}: data: the lists are not nested as the shape {list(shape)} says")


def _wrong(name: str, datatype: str, kinds: set[type]) -> RequestError:
    words = {"NoneType": "null", "str": "text", "dict": "an object", "list": "lists"}
    found = ", ".join(sorted(words.get(kind.__name__, kind.__name__) for kind in kinds))
    return RequestError(400, f"input {name}: expected elements of {datatype}, got {found}")


def _encoded(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
