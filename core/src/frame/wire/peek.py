"""Guess from the first bytes of a body which requests can run together, and how large each is.

The worker decodes payloads and has the last word. What is said here must only be right for requests that it
would accept, and cheap: headers of binary tensors and the brackets of JSON are looked at, numbers never.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence

from frame.contract.signatures import Signature, TensorSpec
from frame.wire.hints import BatchHint
from frame.wire.padding import Padding, free_axes
from frame.wire.peek_json import read_json
from frame.wire.peek_tensors import (
    Seen,
    SeenArrays,
    Shape,
    UnreadableError,
    read_ndlist,
    read_npz,
    read_safetensors,
)

MAX_BYTES = 65536
"""No more of a body is looked at; JSON that is longer is not looked at at all."""
_CODECS = ("", "frame.worker.codecs.djl")
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_UNTYPED = ("", "application/octet-stream")
_READERS = {"tensor/ndlist": read_ndlist, "tensor/npz": read_npz, "tensor/safetensors": read_safetensors}
_MAX_SIZE = 1 << 40
_MADE_MASK = "i8"
_MALFORMED = (UnreadableError, ValueError, IndexError, KeyError, struct.error, zlib.error, RecursionError)


def default_hint(content_type: str, size_bytes: int) -> BatchHint:
    """Return the hint of a request whose body nobody has looked at: its media type and its bytes."""
    return BatchHint(media_type(content_type).encode("utf-8", "replace"), max(1, size_bytes))


def media_type(content_type: str) -> str:
    """Return a content type without its parameters (a form's boundary is never the same), in lower case."""
    return content_type.partition(";")[0].strip().lower()


def peek(
    first: bytes,
    size_bytes: int,
    content_type: str,
    codec: str,
    signature: Signature,
    padding: Padding | None = None,
) -> BatchHint:
    """Return the hint of a request; the default one where the body cannot be read. Never raises.

    Requests with equal keys run together in the worker and others do not, but for what is not looked at: the
    values of scalar inputs, and JSON integers of 2**63 and more for an input without a dtype. The cost is the
    number of elements of the largest input, padded where that does not depend on other requests.

    Args:
        first: the body's beginning, `MAX_BYTES` of it when there are so many.
        size_bytes: of the whole body.
        codec: dotted name of the worker's module; "" is DJL's.
    """
    if codec in _CODECS:
        try:
            arrays = _read(first[:MAX_BYTES], size_bytes, media_type(content_type), signature)
            return _hint(arrays, signature, padding)
        except _MALFORMED:  # the worker says what is wrong with it, or reads it by other means
            return default_hint(content_type, size_bytes)
    return default_hint(content_type, size_bytes)


def _read(first: bytes, size_bytes: int, kind: str, signature: Signature) -> SeenArrays:
    if kind == _FORM and first[:1] in (b"{", b"["):
        kind = _JSON
    if kind in _UNTYPED:
        kind = _sniff(first)
    if kind != _JSON and not kind.endswith("+json"):
        return _READERS[kind](first, size_bytes)
    if size_bytes > len(first):
        raise UnreadableError
    return read_json(first, signature)


def _sniff(first: bytes) -> str:
    """Tell the format of an untyped body, as the codec does."""
    if first.startswith(b"PK"):
        return "tensor/npz"
    return "tensor/ndlist" if first[4:10] == b"\x00\x04NDAR" else _JSON


def _hint(arrays: SeenArrays, signature: Signature, padding: Padding | None) -> BatchHint:
    mask = padding.mask if padding is not None else None
    named = _named(arrays.found, signature, mask)
    words: list[str] = []
    rows: set[int] = set()
    cost = 1
    for spec in signature.inputs:
        seen = named[spec.name]
        dtype = "" if spec.dtype else seen.dtype  # else the codec brings it to the input's own
        if spec.name == mask:  # as long as another input
            words.append(dtype)
            continue
        shape = _fitted(spec, seen.shape, arrays.rows)
        if not shape:
            words.append(dtype)
            continue
        rows.add(shape[0])
        if padding is not None:
            shape = _padded(spec, shape, padding)
        cost = max(cost, math.prod(shape))
        words.append(dtype + _in_common(spec, shape, padding))
    if len(rows) != 1:
        raise UnreadableError
    return BatchHint(" ".join(words).encode(), cost)


def _named(
    found: Sequence[tuple[str | None, Seen]], signature: Signature, mask: str | None
) -> Mapping[str, Seen]:
    """Return the arrays by input, those without a name in the signature's order; the mask may be missing."""
    names = [spec.name for spec in signature.inputs]
    if mask is not None and len(found) == len(names) - 1:
        names.remove(mask)
    if len(found) != len(names):
        raise UnreadableError
    named = {given or name: seen for (given, seen), name in zip(found, names, strict=True)}
    if mask is not None and mask not in names:
        named.setdefault(mask, Seen((), _MADE_MASK))
    return named


def _fitted(spec: TensorSpec, shape: Shape, rows: int | None) -> Shape:
    """Return the shape as the codec fits it to the input: a single row gets its axis 0."""
    want = spec.shape
    if rows is not None and want != ():
        shape = (rows, *shape)
    if any(not 0 <= size < _MAX_SIZE for size in shape):
        raise UnreadableError
    if want is None or _matches(want, shape):
        return shape
    if rows is None and want[:1] in ((-1,), (1,)) and _matches(want[1:], shape):
        return (1, *shape)
    raise UnreadableError


def _matches(want: Shape, shape: Shape) -> bool:
    return len(want) == len(shape) and all(
        size in (-1, given) for size, given in zip(want, shape, strict=True)
    )


def _padded(spec: TensorSpec, shape: Shape, padding: Padding) -> Shape:
    sizes = list(shape)
    for axis in free_axes(spec.shape):
        length = padding.length_of(shape[axis])
        if length is None:
            raise UnreadableError
        sizes[axis] = length
    return tuple(sizes)


def _in_common(spec: TensorSpec, shape: Shape, padding: Padding | None) -> str:
    """Return what requests that run together share of a shape."""
    sizes = [str(size) for size in shape]
    if padding is not None and padding.is_by_batch:
        for axis in free_axes(spec.shape):
            sizes[axis] = "*"
    return f"[{','.join(sizes[1:])}]"
