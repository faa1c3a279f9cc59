"""The small syntax that declares tensors: `ids:int64[-1,-1], mask:int64[-1,-1], sr=16000`.

    tensors  = [tensor {"," tensor}]
    tensor   = name [":" dtype ["[" [size {"," size}] "]"]] ["=" constant]
    size     = integer >= 0, or -1 where the size is free; axis 0 is the batch

Without brackets the shape is unknown, without dtype the data's own is taken, `[]` is a scalar that all
rows share. `name=constant` fixes an argument that is a number, a bool or a string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DTYPES = (
    *("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8"),
    *("uint8", "bool", "complex64", "complex128"),
)
"""torch's names, which are numpy's too but for bfloat16: clients send that as float32."""

_TENSOR = re.compile(
    r"\s*(?P<name>[\w.\-/]+)\s*"
    r"(?::\s*(?P<dtype>\w+)\s*(?P<shape>\[[^\]]*\])?\s*)?"
    r"(?:=\s*(?P<constant>[^,]*?)\s*)?(?P<end>,|$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTensor:
    """One tensor as written in an option; dtype "" and shape None where it says nothing."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] | None = None
    constant: str | None = None


def parse_tensors(text: str, key: str) -> tuple[DeclaredTensor, ...]:
    """Parse the value of option `key`.

    Raises:
        ValueError: names the key, the place and what is valid.
    """
    found: list[DeclaredTensor] = []
    position = 0
    while position < len(text):
        match = _TENSOR.match(text, position)
        if match is None:
            rest = text[position:].strip()
            raise ValueError(f"{key}: cannot read {rest!r}; write name:dtype[sizes], as ids:int64[-1,128]")
        found.append(_tensor(match, key))
        position = match.end()
    names = [tensor.name for tensor in found if tensor.name != "_"]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{key}: {', '.join(sorted(twice))} is declared twice")
    return tuple(found)


def _tensor(match: re.Match[str], key: str) -> DeclaredTensor:
    name, dtype, shape = match["name"], match["dtype"] or "", match["shape"]
    if dtype and dtype not in DTYPES:
        raise ValueError(f"{key}: {name} has the dtype {dtype!r}; valid: {', '.join(DTYPES)}")
    sizes = None if shape is None else _sizes(shape[1:-1], f"{key}: {name}")
    return DeclaredTensor(name=name, dtype=dtype, shape=sizes, constant=match["constant"])


def _sizes(text: str, where: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    wrong = [word for word in words if not re.fullmatch(r"-1|\d+", word)]
    if wrong:
        raise ValueError(f"{where} has the size {wrong[0]!r}; valid: an integer >= 0, or -1 where it is free")
    return tuple(int(word) for word in words)
