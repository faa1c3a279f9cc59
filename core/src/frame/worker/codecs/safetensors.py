"""Hugging Face's `safetensors`: a JSON header with dtype, shape and offsets of each array, then the raw data.

Read by hand: the format is one page, and the worker half depends on numpy alone.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.worker.codecs.fitting import Array

MAX_HEADER_BYTES = 1_000_000
MAX_RANK = 32
_PREFIX = 8
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


def loads(data: Buffer) -> list[tuple[str | None, Array]]:
    """Read named arrays, without copying: read-only views of `data`, in the header's order.

    Raises:
        RequestError: 400, says which array is wrong.
    """
    view = memoryview(data).cast("B")
    size = int.from_bytes(view[:_PREFIX], "little")
    if len(view) < _PREFIX or size > min(len(view) - _PREFIX, MAX_HEADER_BYTES):
        raise _malformed(f"a header of {size} bytes does not fit")
    try:
        header = json.loads(str(view[_PREFIX : _PREFIX + size], "utf-8"))
    except (ValueError, RecursionError):
        raise _malformed("the header is no JSON") from None
    if not isinstance(header, dict):
        raise _malformed("the header is no object")
    body = view[_PREFIX + size :]
    header.pop("__metadata__", None)
    return [(name, _array(name[:100], entry, body)) for name, entry in header.items()]


def dumps(arrays: Iterable[tuple[str, Array]]) -> bytes:
    """Write named arrays.

    Raises:
        ValueError: an array's dtype is not in the format (text, objects, complex numbers).
    """
    header: dict[str, Any] = {}
    pieces: list[memoryview] = []
    offset = 0
    for name, array in arrays:
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            message = f"tensor/safetensors cannot hold {array.dtype.name}"
            raise ValueError(message)
        flat = np.asarray(array, dtype=dtype, order="C").reshape(-1)
        offsets = [offset, offset + flat.nbytes]
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": offsets}
        pieces.append(flat.view(np.uint8).data)
        offset += flat.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    return b"".join([len(text).to_bytes(_PREFIX, "little"), text, *pieces])


def _malformed(what: str) -> RequestError:
    return RequestError(400, f"the body is no tensor/safetensors: {what}")


def _array(name: str, entry: Any, body: memoryview) -> Array:
    if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
        raise _malformed(f"array {name} has no dtype of {', '.join(_DTYPES)}")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not _are_sizes(shape) or len(shape) > MAX_RANK or not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004
        raise _malformed(f"array {name} has no valid shape and data_offsets")
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    begin, end = offsets
    # A zero among the sizes would hide the others from this product, and numpy counts in 64 bits.
    is_absurd = math.prod(size for size in shape if size) > 2**40
    if is_absurd or end > len(body) or end - begin != math.prod(shape) * dtype.itemsize:
        where = f"the bytes {begin} to {end} of {len(body)}"
        raise _malformed(f"array {name}, {entry['dtype']} {shape}, cannot be {where}")
    return np.frombuffer(body[begin:end], dtype=dtype).reshape(shape)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
