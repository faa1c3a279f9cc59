"""Bytes that every answer shares: the common headers, pretty JSON, the error body, the request id."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping

import msgspec

JSON_TYPE = (b"content-type", b"application/json")
REQUEST_ID_HEADER = b"x-request-id"

# DJL Serving sends these with every answer (NettyUtils.sendHttpResponse), the literal UTC included.
NO_CACHE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)

# DJL Serving's fixed messages (ResourceNotFoundException, MethodNotAllowedException).
NOT_FOUND_MESSAGE = "Requested resource is not found, please refer to API document."
NOT_ALLOWED_MESSAGE = "Requested method is not allowed, please refer to API document."

# Printable ASCII only: the id is written into logs and headers, where a control character would forge lines.
_REQUEST_ID = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")
_ERROR = b'{\n  "code": %d,\n  "type": %b,\n  "message": %b\n}\n'
_encode = msgspec.json.Encoder().encode


def common_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    """Return a new list of the headers that every answer carries; the caller appends its own."""
    return [(REQUEST_ID_HEADER, request_id.encode("latin-1")), *NO_CACHE_HEADERS]


def request_id_from(headers: Iterable[tuple[bytes, bytes]], header_name: bytes = REQUEST_ID_HEADER) -> str:
    """Return the client's request id, or a new random one when it is absent or unfit.

    Args:
        headers: as ASGI gives them, names in lower case.
        header_name: lower case; `request_id_header_key` of the server's configuration.

    Returns:
        1 to 128 printable ASCII characters, no space at either end.
    """
    for name, value in headers:
        if name == header_name:
            if _REQUEST_ID.fullmatch(value):
                return value.decode("ascii")
            break
    return new_request_id()


def new_request_id() -> str:
    """Return a random UUID, version 4; from a fast generator, since an id is no secret."""
    digits = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def error_body(code: int, type_name: str, message: str) -> bytes:
    """Write the error JSON `{"code", "type", "message"}` of DJL Serving, pretty-printed."""
    return _ERROR % (code, _encode(type_name), _encode(message))


def pretty_json(value: object) -> bytes:
    """Write JSON as DJL Serving does: two spaces of indentation, nulls left out, a newline at the end."""
    return msgspec.json.format(_encode(_without_nulls(value)), indent=2) + b"\n"


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value
