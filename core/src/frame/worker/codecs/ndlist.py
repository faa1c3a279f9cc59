"""DJL's `tensor/ndlist`: arrays, each with an optional name, as big-endian records.

int32 count; per array: string "NDAR", int32 version 3, byte has-name and the name, string "default", string
dtype (numpy's name in upper case; Java writes BOOLEAN for bool), int32 rank and int64 sizes, int32 layout
length and an int16 `?` each, byte order of the data, int32 byte length, data in C order. A string is an int16
length and UTF-8. Source: DJL Serving's `djl_python/np_util.py` and DJL's `NDSerializer.java`. A blob that
starts with `PK` is an npz.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.worker.codecs.fitting import Array

MAX_RANK = 32
"""numpy's own limit before 2.0."""
_MIN_ARRAY_BYTES = 35
"""Magic, version, flag, "default", a dtype of 4 letters, rank, layout, order, length; no data."""
_VERSION = 3
_DTYPES = {
    name.upper(): np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
    )
}
_DTYPES["BOOLEAN"] = np.dtype("bool")
_ORDERS: dict[bytes, Literal["<", ">", "="]] = {b"<": "<", b">": ">", b"=": "=", b"|": "="}


def loads(data: Buffer) -> list[tuple[str | None, Array]]:
    """Read a list of arrays, without copying: they are read-only views of `data`, perhaps unaligned.

    Raises:
        RequestError: 400, says where the bytes are wrong.
    """
    view = memoryview(data).cast("B")
    if bytes(view[:2]) == b"PK":
        from frame.worker.codecs import npz

        return list(npz.loads(view))
    reader = _Reader(view)
    count = reader.integer("i", "the number of arrays")
    if not 0 <= count <= len(view) // _MIN_ARRAY_BYTES:
        raise _malformed(f"{count} arrays do not fit {len(view)} bytes")
    arrays = [_read_array(reader, index) for index in range(count)]
    if reader.position != len(view):
        raise _malformed(f"{len(view) - reader.position} bytes follow the last array")
    return arrays


def dumps(arrays: Sequence[tuple[str | None, Array]] | Sequence[tuple[str, Array]]) -> bytes:
    """Write a list of arrays; names are kept where they are not None.

    Raises:
        ValueError: an array's dtype is not in the format (text, objects), or it is over 2 GiB.
    """
    pieces: list[bytes | memoryview] = [struct.pack(">i", len(arrays))]
    for name, array in arrays:
        native = array.dtype.newbyteorder("<")
        if _DTYPES.get(array.dtype.name.upper()) is None:
            message = f"tensor/ndlist cannot hold {array.dtype.name}"
            raise ValueError(message)
        if array.nbytes > 0x7FFFFFFF:  # noqa: PLR2004  # int32
            message = f"tensor/ndlist cannot hold an array of {array.nbytes} bytes"
            raise ValueError(message)
        flat = np.asarray(array, dtype=native, order="C").reshape(-1)
        label = b"\0" if name is None else b"\1" + _string(name)
        head = [_string("NDAR"), struct.pack(">i", _VERSION), label]
        head += [_string("default"), _string(array.dtype.name.upper())]
        head.append(struct.pack(f">i{array.ndim}q", array.ndim, *array.shape))
        head.append(struct.pack(">i", array.ndim) + b"\0?" * array.ndim)
        head.append(b"<" + struct.pack(">i", flat.nbytes))
        pieces += [b"".join(head), flat.view(np.uint8).data]
    return b"".join(pieces)


def _malformed(what: str) -> RequestError:
    return RequestError(400, f"the body is no tensor/ndlist: {what}")


def _string(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 0x7FFF:  # noqa: PLR2004  # int16
        message = "tensor/ndlist cannot hold a name of more than 32767 bytes"
        raise ValueError(message)
    return struct.pack(">h", len(encoded)) + encoded


class _Reader:
    """Takes fields off the front of a buffer; never reads past its end."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.position = 0

    def take(self, size: int, what: str) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self._view):
            raise _malformed(f"{what} at byte {self.position} does not fit {len(self._view)} bytes")
        piece = self._view[self.position : end]
        self.position = end
        return piece

    def integer(self, code: str, what: str) -> int:
        value: int = struct.unpack(">" + code, self.take(struct.calcsize(">" + code), what))[0]
        return value

    def string(self, what: str) -> str:
        piece = self.take(self.integer("h", what), what)
        try:
            return str(piece, "utf-8")
        except UnicodeDecodeError:
            raise _malformed(f"{what} is not UTF-8") from None


def _read_array(reader: _Reader, index: int) -> tuple[str | None, Array]:
    where = f"array {index}"
    if reader.string(f"the magic of {where}") != "NDAR":
        raise _malformed(f"{where} does not start with NDAR")
    if (version := reader.integer("i", f"the version of {where}")) != _VERSION:
        raise _malformed(f"{where} has version {version}; {_VERSION} is supported")
    name = reader.string(f"the name of {where}") if reader.integer("b", f"the flag of {where}") else None
    where = f"array {index}" if name is None else f"array {name[:100]}"
    if (storage := reader.string(f"the storage type of {where}")) != "default":
        raise _malformed(f"{where} has the storage type {storage[:50]}; default is supported")
    dtype = _DTYPES.get((given := reader.string(f"the dtype of {where}")).upper())
    if dtype is None:
        raise _malformed(f"{where} has the dtype {given[:50]}; supported: {', '.join(_DTYPES)}")
    shape = _read_shape(reader, where)
    order = _ORDERS.get(bytes(reader.take(1, f"the byte order of {where}")))
    if order is None:
        raise _malformed(f"{where} has an unknown byte order; supported: < > = |")
    size = reader.integer("i", f"the length of {where}")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise _malformed(f"{where}, {dtype.name} {list(shape)}, has {size} bytes instead of {expected}")
    piece = reader.take(size, f"the data of {where}")
    return name, np.frombuffer(piece, dtype=dtype.newbyteorder(order)).reshape(shape)


def _read_shape(reader: _Reader, where: str) -> tuple[int, ...]:
    rank = reader.integer("i", f"the rank of {where}")
    if not 0 <= rank <= MAX_RANK:
        raise _malformed(f"{where} has rank {rank}; 0 to {MAX_RANK} are supported")
    shape = struct.unpack(f">{rank}q", reader.take(8 * rank, f"the shape of {where}"))
    # numpy counts elements with a zero among the sizes in 64 bits as well: bound what a zero would hide.
    if any(size < 0 for size in shape) or math.prod(size for size in shape if size) > 0x7FFFFFFF:  # noqa: PLR2004
        raise _malformed(f"{where} has the shape {list(shape)}")
    layout = reader.integer("i", f"the layout of {where}")
    if not 0 <= layout <= MAX_RANK:
        raise _malformed(f"{where} has a layout of {layout} axes")
    reader.take(2 * layout, f"the layout of {where}")
    return shape
