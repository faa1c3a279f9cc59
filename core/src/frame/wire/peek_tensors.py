"""Read names, dtypes and shapes of binary tensors from the first bytes of a body: ndlist, npz, safetensors.

The formats are described where the worker reads them, in `worker/codecs`.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import NamedTuple

Shape = tuple[int, ...]
TEXT = "O"


class UnreadableError(Exception):
    """The shapes cannot be told from these bytes."""


class Seen(NamedTuple):
    """What is known of an array; `dtype` is numpy's kind and size in bytes (`f4`), `O` for text."""

    shape: Shape
    dtype: str


class SeenArrays(NamedTuple):
    """The arrays of a request in order, None where one has no name.

    Attributes:
        rows: set when the arrays are those of the first of so many rows.
    """

    found: list[tuple[str | None, Seen]]
    rows: int | None = None


# --- tensor/ndlist --------------------------------------------------------------------------------

_NDARRAY = b"\x00\x04NDAR\x00\x00\x00\x03"
_STORAGE = b"\x00\x07default"
_MIN_ARRAY_BYTES = 35
_MAX_RANK = 32
_NDLIST_DTYPES = {
    **{f"FLOAT{8 * size}": f"f{size}" for size in (2, 4, 8)},
    **{f"INT{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
    **{f"COMPLEX{8 * size}": f"c{size}" for size in (8, 16)},
    "BOOL": "b1",
    "BOOLEAN": "b1",
}


def read_ndlist(first: bytes, size_bytes: int) -> SeenArrays:
    """Read the heads of DJL's list of arrays. Raises as `peek` expects."""
    if first[:2] == b"PK":
        return read_npz(first, size_bytes)
    (count,) = struct.unpack_from(">i", first)
    if not 0 < count <= len(first) // _MIN_ARRAY_BYTES + 1:
        raise UnreadableError
    found: list[tuple[str | None, Seen]] = []
    at = 4
    for _ in range(count):
        name, seen, at = _read_ndarray(first, at)
        found.append((name, seen))
    if at != size_bytes:
        raise UnreadableError
    return SeenArrays(found)


def _read_ndarray(first: bytes, at: int) -> tuple[str | None, Seen, int]:
    """Return an array's name, what is known of it, and where the next one begins."""
    at = _expect(first, at, _NDARRAY)
    has_name = first[at]
    at += 1
    name = None
    if has_name:
        name, at = _string(first, at)
    at = _expect(first, at, _STORAGE)
    dtype, at = _string(first, at)
    (rank,) = struct.unpack_from(">i", first, at)
    if not 0 <= rank <= _MAX_RANK:
        raise UnreadableError
    shape: Shape = struct.unpack_from(f">{rank}q", first, at + 4)
    at += 4 + 8 * rank
    (layout,) = struct.unpack_from(">i", first, at)
    if not 0 <= layout <= _MAX_RANK:
        raise UnreadableError
    at += 4 + 2 * layout + 1  # and the order of the bytes
    (size,) = struct.unpack_from(">i", first, at)
    if size < 0:
        raise UnreadableError
    return name, Seen(shape, _NDLIST_DTYPES[dtype.upper()]), at + 4 + size


def _expect(first: bytes, at: int, what: bytes) -> int:
    if not first.startswith(what, at):
        raise UnreadableError
    return at + len(what)


def _string(first: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">H", first, at)
    end = at + 2 + size
    if end > len(first):
        raise UnreadableError
    return first[at + 2 : end].decode(), end


# --- tensor/npz -----------------------------------------------------------------------------------

_MEMBER = struct.Struct("<4s5H3I2H")
_MEMBER_MAGIC = b"PK\x03\x04"
_NO_SIZES = 0b1001
"""Flags of a member that is encrypted, or whose sizes follow its data."""
_DEFLATED = 8
_ZIP64 = 0xFFFFFFFF
_ZIP64_FIELD = b"\x01\x00"
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_PREFIX = 10
_HEADER_BYTES = 512
"""Enough for any header of a few axes."""
_HEADER = re.compile(
    rb"\{'descr': '[<>|=]?([biufcUS])(\d+)', 'fortran_order': (?:True|False), 'shape': \(([\d, ]*)\), *\}\s*"
)


def read_npz(first: bytes, size_bytes: int) -> SeenArrays:
    """Read the headers of numpy's zip of arrays, as far as they lie in `first`. Raises as `peek` expects."""
    del size_bytes  # a directory follows the members
    found: list[tuple[str | None, Seen]] = []
    at = 0
    while first.startswith(_MEMBER_MAGIC, at):
        name, seen, at = _read_member(first, at)
        found.append((name, seen))
    if [name for name, _ in found] == [f"arr_{index}" for index in range(len(found))]:
        return SeenArrays([(None, seen) for _, seen in found])
    return SeenArrays(found)


def _read_member(first: bytes, at: int) -> tuple[str, Seen, int]:
    """Return a member's name, what is known of it, and where the next one begins."""
    _, _, flags, method, _, _, _, packed, unpacked, name_size, extra_size = _MEMBER.unpack_from(first, at)
    name_at = at + _MEMBER.size
    extra_at = name_at + name_size
    data_at = extra_at + extra_size
    if flags & _NO_SIZES or method not in (0, _DEFLATED) or data_at >= len(first):
        raise UnreadableError
    if _ZIP64 in (packed, unpacked):
        extra = first[extra_at:data_at]
        if extra[:2] != _ZIP64_FIELD:
            raise UnreadableError
        packed = int(struct.unpack_from("<QQ", extra, 4)[1])
    head = first[data_at : data_at + min(packed, _HEADER_BYTES)]
    if method == _DEFLATED:
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, _HEADER_BYTES)
    name = first[name_at:extra_at].decode().removesuffix(".npy")
    return name, _read_header(head), data_at + packed


def _read_header(head: bytes) -> Seen:
    if not head.startswith(_NPY_MAGIC):
        raise UnreadableError
    end = _NPY_PREFIX + int.from_bytes(head[len(_NPY_MAGIC) : _NPY_PREFIX], "little")
    match = _HEADER.fullmatch(head, _NPY_PREFIX, end)
    if match is None or end > len(head):
        raise UnreadableError
    kind = match[1].decode()
    shape = tuple(int(size) for size in match[3].split(b",") if size.strip())
    return Seen(shape, TEXT if kind in "US" else f"{kind}{match[2].decode()}")


# --- tensor/safetensors ---------------------------------------------------------------------------

_SAFETENSORS_DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "b1",
}  # fmt: skip


def read_safetensors(first: bytes, size_bytes: int) -> SeenArrays:
    """Read the header of Hugging Face's format. Raises as `peek` expects."""
    del size_bytes
    end = 8 + int.from_bytes(first[:8], "little")
    if end > len(first):
        raise UnreadableError
    header = json.loads(first[8:end])
    if not isinstance(header, dict):
        raise UnreadableError
    header.pop("__metadata__", None)
    return SeenArrays([(name, _read_entry(entry)) for name, entry in header.items()])


def _read_entry(entry: object) -> Seen:
    if not isinstance(entry, dict):
        raise UnreadableError
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise UnreadableError
    return Seen(tuple(shape), _SAFETENSORS_DTYPES[str(dtype)])
