"""Form bodies as content parts: `multipart/*` (RFC 7578) and `application/x-www-form-urlencoded`.

Linear in the body's size. File names and the parts' own content types are dropped, as DJL Serving does.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from frame.contract.requests import Buffer, Part, RequestError

MAX_PARTS = 1000
MAX_HEADER_BYTES = 8192
"""Of one part: some hundred bytes are usual."""
MAX_BOUNDARY_BYTES = 70  # RFC 2046, section 5.1.1

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)')
_ESCAPE = re.compile(r"\\(.)")


def is_form(content_type: str) -> bool:
    """Tell whether a body of this content type has one part per field."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("multipart/") or kind == "application/x-www-form-urlencoded"


def split_form(data: Buffer, content_type: str) -> tuple[Part, ...]:
    """Split a form body into its fields, in order; multipart data are views of one copy of `data`.

    Raises:
        RequestError: 400, says what is malformed or over a limit.
    """
    if content_type.lstrip()[:10].lower() == "multipart/":
        return _split_multipart(bytes(data), _boundary(content_type))
    return _split_urlencoded(bytes(data))


def _malformed(what: str) -> RequestError:
    return RequestError(400, f"the form body is malformed: {what}")


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header value, by lower-case name; the first of a name wins."""
    found: dict[str, str] = {}
    position = header.find(";")
    while position >= 0 and (match := _PARAMETER.match(header, position)):
        value = match[2]
        value = _ESCAPE.sub(r"\1", value[1:-1]) if value.startswith('"') else value.strip()
        found.setdefault(match[1].lower(), value)
        position = header.find(";", match.end())
    return found


def _boundary(content_type: str) -> bytes:
    boundary = _parameters(content_type).get("boundary", "").encode()
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise _malformed(f"the content type needs a boundary of 1 to {MAX_BOUNDARY_BYTES} bytes")
    return boundary


def _split_multipart(data: bytes, boundary: bytes) -> tuple[Part, ...]:
    opening, delimiter = b"--" + boundary, b"\r\n--" + boundary
    # The first delimiter may stand at the very beginning, without its line break.
    at = 0 if data.startswith(opening) else data.find(delimiter) + 2
    if at == 1:
        raise _malformed("the boundary of the content type does not occur")
    view = memoryview(data)
    parts: list[Part] = []
    at += len(opening)
    while not data.startswith(b"--", at):
        if len(parts) == MAX_PARTS:
            raise _malformed(f"more than {MAX_PARTS} parts")
        start = _after_padding(data, at)
        end = data.find(delimiter, start - 2)
        if end < 0:
            raise _malformed("the last boundary is missing")
        parts.append(_part(data, view, start, max(start, end), len(parts)))
        at = end + len(delimiter)
    return tuple(parts)


def _after_padding(data: bytes, at: int) -> int:
    """Return where the line after a boundary starts; spaces may end the boundary's line."""
    line_end = data.find(b"\r\n", at, at + MAX_HEADER_BYTES)
    if line_end < 0 or data[at:line_end].strip(b" \t"):
        raise _malformed("a boundary is not alone on its line")
    return line_end + 2


def _part(data: bytes, view: memoryview, start: int, end: int, index: int) -> Part:
    if data.startswith(b"\r\n", start):
        head_end, body = start, start + 2
    else:
        head_end = data.find(b"\r\n\r\n", start, min(end, start + MAX_HEADER_BYTES) + 4)
        body = head_end + 4
    if head_end < 0 or body > end + 2:
        raise _malformed(f"part {index} has no end of its headers within {MAX_HEADER_BYTES} bytes")
    for line in data[start:head_end].decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            name = _parameters(value).get("name")
            if name is not None:
                return Part(name, view[body:end])
    raise _malformed(f"part {index} has no Content-Disposition with a name")


def _split_urlencoded(data: bytes) -> tuple[Part, ...]:
    fields = data.split(b"&", MAX_PARTS)
    if len(fields) > MAX_PARTS:
        raise _malformed(f"more than {MAX_PARTS} fields")
    parts = []
    for field in fields:
        if field:
            key, _, value = field.replace(b"+", b" ").partition(b"=")
            parts.append(Part(unquote_to_bytes(key).decode("utf-8", "replace"), unquote_to_bytes(value)))
    return tuple(parts)
