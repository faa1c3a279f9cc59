"""numpy's `.npz`: a zip of `.npy` members; read without pickle and without unpacking bombs."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.worker.codecs.fitting import Array

MAX_MEMBERS = 1024
FREE_BYTES = 64 * 2**20
MAX_RATIO = 20
"""A body of n bytes may unpack to FREE_BYTES + MAX_RATIO * n. Floats shrink by a factor of two or so."""
_MAX_HEADER_BYTES = 10_000  # numpy's own limit since 1.24: the header is evaluated as a Python literal
_MAGIC = b"\x93NUMPY\x01\x00"
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    IndexError,
)
_PREFIX = 10  # magic, version and the header's length


def loads(data: Buffer) -> list[tuple[str | None, Array]]:
    """Read arrays, read-only, in the archive's order; `arr_0`, `arr_1`, … of `np.savez(f, a)` have no name.

    Raises:
        RequestError: 400, says which member is wrong.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, len(data))
            arrays = [(_name(info), _read(archive, info)) for info in members]
    except _BROKEN as error:
        raise _malformed(str(error) or type(error).__name__) from None
    if [name for name, _ in arrays] == [f"arr_{index}" for index in range(len(arrays))]:
        return [(None, array) for _, array in arrays]
    return list(arrays)


def dumps(arrays: Iterable[tuple[str, Array]]) -> bytes:
    """Write named arrays, uncompressed; text as numpy's fixed-width `U`.

    Raises:
        ValueError: an array holds objects that are not text.
    """
    buffer = io.BytesIO()
    # np.savez takes names as keyword arguments, one of which (`file`) is its own.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            if array.dtype.kind == "O":
                items = array.ravel().tolist()
                if not all(isinstance(item, str) for item in items):
                    message = "tensor/npz cannot hold binary strings"
                    raise ValueError(message)
                array = np.array(items, dtype=np.str_).reshape(array.shape)  # noqa: PLW2901
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=array.nbytes > 2**30) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _malformed(what: str) -> RequestError:
    return RequestError(400, f"the body is no tensor/npz: {what[:200]}")


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _check_members(members: Sequence[zipfile.ZipInfo], packed_bytes: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise _malformed(f"{len(members)} members; {MAX_MEMBERS} are the most")
    if len({_name(info) for info in members}) != len(members):
        raise _malformed("two members have one name")
    # zipfile never gives more of a member than its directory entry says, so the sum is a bound.
    unpacked = sum(info.file_size for info in members)
    if unpacked > FREE_BYTES + MAX_RATIO * packed_bytes:
        raise _malformed(f"{packed_bytes} bytes would unpack to {unpacked}")
    for info in members:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _malformed(
                f"member {_name(info)[:100]} is encrypted, or packed by another method than deflate"
            )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """Read one member; numpy's own reader would allocate whatever shape the header claims."""
    data = archive.read(info)
    where = f"member {_name(info)[:100]}"
    if data[:8] != _MAGIC or len(data) < _PREFIX:
        raise _malformed(f"{where} is no .npy file of version 1.0")
    end = _PREFIX + int.from_bytes(data[8:_PREFIX], "little")
    if end > min(len(data), _MAX_HEADER_BYTES):
        raise _malformed(f"{where} has a header of {end - _PREFIX} bytes")
    shape, is_fortran, dtype = _header(data[8:end], where)
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.kind not in "biufcUS" or len(data) - end != expected:
        raise _malformed(f"{where}, {dtype.name} {list(shape)}, has {len(data) - end} bytes")
    if not dtype.itemsize:  # "U0": texts that are all empty
        return np.zeros(shape, dtype=dtype)
    flat = np.frombuffer(data, dtype=dtype, offset=end)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _header(data: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(data))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _malformed(f"{where} has an unreadable header") from None
    if any(size < 0 for size in shape) or math.prod(size for size in shape if size) > 2**40:
        raise _malformed(f"{where} has the shape {list(shape)}")
    return shape, is_fortran, dtype
