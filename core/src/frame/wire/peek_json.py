"""Tell the shapes of the arrays in a JSON body by counting brackets and commas.

Nothing is parsed. Strings and numbers are taken out first; each further step is a search or a count over
what is left. For well-formed bodies of regular arrays the result is that of the worker's parser. Others get
any shape or are unreadable; the worker refuses them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from frame.contract.signatures import Signature
from frame.wire.peek_tensors import TEXT, Seen, SeenArrays, Shape, UnreadableError

_SPACE = b" \t\r\n"
_NOISE = bytes(set(range(256)) - set(b'[]{},:"'))
"""What is no sign: spaces, numbers, constants."""
_MAX_RANK = 32
_MAX_STRINGS = 4096
_B64 = re.compile(rb'\{\s*"b64"\s*:\s*"[^"\\]*"\s*\}')
_MAYBE_BYTES = ("bytes", "str", "")
_KEY = b'":'
_See = Callable[[bytes], Seen]
_FLOAT, _INT, _BOOL = "f4", "i8", "b1"
"""What numbers become for an input without a dtype (`worker/codecs/json_tensors.py`)."""


def read_json(body: bytes, signature: Signature) -> SeenArrays:
    """Read a form that the worker reads: an array, `inputs` or `instances`. Raises as `peek` expects.

    Dtypes are told only where an input of the signature has none.
    """
    specs = signature.inputs
    if any(spec.dtype in _MAYBE_BYTES for spec in specs) and all(spec.name != "b64" for spec in specs):
        body = _B64.sub(b'""', body)
    outside, strings = _without_strings(body)
    if not all(spec.dtype for spec in specs):
        return _read(outside.translate(None, _SPACE), strings, _seen_with_dtype)
    text = outside.translate(None, _NOISE)
    arrays = _read(text, strings, _seen)
    if any(seen.shape[-1:] == (1,) for _, seen in arrays.found):
        _check_elements(text, outside)
    return arrays


def _read(text: bytes, strings: list[bytes], see: _See) -> SeenArrays:
    if not text.startswith(b"{"):
        return _only(text, see)
    if not text.startswith(b'{":') or not text.endswith(b"}"):
        raise UnreadableError
    value = text[3:-1]
    if strings[0] == b"inputs":
        is_object = value.startswith(b"{")
        return SeenArrays(_entries(value, strings[1:], see)) if is_object else _only(value, see)
    if strings[0] == b"instances":
        return _rows(value, strings[1:], see)
    raise UnreadableError


def _without_strings(body: bytes) -> tuple[bytes, list[bytes]]:
    """Return the body with a `"` in place of each string, and the strings in order."""
    if b"\\" in body:
        # Pairs first, from the left: what is left before a quote then is what escapes it.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = body.split(b'"', 2 * _MAX_STRINGS + 1)
    if len(pieces) % 2 == 0:
        raise UnreadableError
    return b'"'.join(pieces[::2]), pieces[1::2]


def _check_elements(signs: bytes, text: bytes) -> None:
    """Raise for a text without any elements: by its signs an empty list looks as one with a number."""
    if b"[]" in signs and len(signs) == len(text.translate(None, _SPACE)):
        raise UnreadableError


def _only(value: bytes, see: _See) -> SeenArrays:
    return SeenArrays([(None, see(value))])


def _entries(text: bytes, strings: list[bytes], see: _See) -> list[tuple[str | None, Seen]]:
    """Read `{"name": array, …}`; `strings` begin with its first key."""
    before, *values = text[1:-1].split(_KEY)
    if before or not text.endswith(b"}"):
        raise UnreadableError
    found: list[tuple[str | None, Seen]] = []
    index = 0
    for value in values:
        own = value.removesuffix(b",")
        found.append((strings[index].decode(), see(own)))
        index += 1 + own.count(b'"')
    return found


def _rows(value: bytes, strings: list[bytes], see: _See) -> SeenArrays:
    """Read a list of rows: arrays, or objects with the same inputs each."""
    if not value.startswith(b"[{"):
        seen = see(value)
        return SeenArrays([(None, Seen(seen.shape[1:], seen.dtype))], rows=seen.shape[0])
    first = value[1 : value.index(b"}") + 1]
    count = value.count(b"{")
    # Rows of the same shapes have the same signs. (Their dtypes may differ; the first row's is taken.)
    is_alike = value.count(_KEY) == count * first.count(_KEY)
    if not is_alike or value.count(b",") != count * first.count(b",") + count - 1:
        raise UnreadableError
    return SeenArrays(_entries(first, strings, see), rows=count)


def _seen(value: bytes) -> Seen:
    return Seen(_shape(value), "")


def _seen_with_dtype(value: bytes) -> Seen:
    signs = value.translate(None, _NOISE)
    _check_elements(signs, value)
    return Seen(_shape(signs), _dtype(value))


def _shape(signs: bytes) -> Shape:
    """Return the shape of nested lists with elements.

    Level 1 are the innermost lists. The first list of level n ends at the first n closing brackets in a row;
    the opening brackets in it are its own and those of its items, which have equally many each.
    """
    depth = len(signs) - len(signs.lstrip(b"["))
    if depth > _MAX_RANK or b"{" in signs or b":" in signs:
        raise UnreadableError
    if not depth:
        return ()
    end = signs.find(b"]")
    sizes = [signs.count(b",", depth, end) + 1]
    lists = 1
    for level in range(2, depth + 1):
        end = signs.find(b"]" * level, end)
        if end < 0:
            raise UnreadableError
        opened = signs.count(b"[", depth - level, end)
        items, odd = divmod(opened - 1, lists)
        if odd:
            raise UnreadableError
        sizes.append(items)
        lists = opened
    # Nothing else is there: two brackets a list, the commas between the elements, a mark for each string.
    elements = math.prod(sizes)
    is_regular = len(signs) - 2 * lists - (elements - 1) in (0, elements)
    if end + depth != len(signs) or not is_regular:
        raise UnreadableError
    return tuple(reversed(sizes))


def _dtype(value: bytes) -> str:
    if b'"' in value:
        return TEXT
    letters = value.translate(None, b"[],-+0123456789")
    if letters.replace(b"true", b"").replace(b"false", b""):  # a point or an exponent
        return _FLOAT
    return _BOOL if letters and not value.translate(None, b"[],truefals") else _INT
