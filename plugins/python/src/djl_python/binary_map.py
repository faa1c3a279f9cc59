"""The bytes in which an asynchronous handler's `Output` carries one chunk: a map of strings.

Big-endian: int16 number of pairs, then for each the key and the value, as int32 length and UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

_COUNT = struct.Struct(">h")
_LENGTH = struct.Struct(">i")


def encode_map(values: Mapping[str, Any]) -> bytes:
    """Return a map as bytes; values are turned into text by `str`."""
    pieces = [_COUNT.pack(len(values))]
    for key, value in values.items():
        for text in (str(key), str(value)):
            raw = text.encode("utf-8")
            pieces += [_LENGTH.pack(len(raw)), raw]
    return b"".join(pieces)


def decode_map(data: bytes | bytearray) -> dict[str, str] | None:
    """Return the map of `encode_map`, or None when the bytes are not one."""
    if len(data) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack_from(data)
    position = _COUNT.size
    texts: list[str] = []
    for _ in range(2 * count):
        if position + _LENGTH.size > len(data):
            return None
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if length < 0 or position + length > len(data):
            return None
        try:
            texts.append(str(data[position : position + length], "utf-8"))
        except UnicodeDecodeError:
            return None
        position += length
    return dict(zip(texts[::2], texts[1::2], strict=True)) if count > 0 and position == len(data) else None
