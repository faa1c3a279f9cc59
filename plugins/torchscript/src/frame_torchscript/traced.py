"""Reads which inputs torch.jit.trace recorded: their dtypes and shapes, which are all it keeps of them.

`torch.jit.load` does not give them back, and its `_restore_shapes` runs the model again and loses them when
the model returns a dict. The record is a pickle, read here with a table of the few names it may contain.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

_RECORD = "traced_inputs.pkl"
_LARGEST_RECORD = 1 << 20  # bytes
_LARGEST_EXAMPLE = 1 << 28  # elements
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


def traced_inputs(path: Path) -> tuple[object, ...] | None:
    """Return forward's example inputs in order, tensors (or containers of them) as `example` makes them.

    None when nothing is recorded, or nothing that is understood: an example is a convenience, options can
    declare the inputs.
    """
    with zipfile.ZipFile(path) as archive:
        records = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/" + _RECORD)]
        if not records or archive.getinfo(records[0]).file_size > _LARGEST_RECORD:
            return None
        data = archive.read(records[0])
    try:
        inputs = _Reader(BytesIO(data)).load()
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, RuntimeError, EOFError):
        return None
    forward = inputs.get("forward") if isinstance(inputs, dict) else None
    return tuple(forward) if forward else None


def example(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make a CPU tensor that most models take.

    Whole numbers are 1, which is a valid index, token and mask; others lie within 0.1 and 0.9. None is zero,
    so that sums and counters that a module keeps do move.
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.ones(shape, dtype=dtype)
    count = torch.Size(shape).numel()
    return torch.linspace(0.1, 0.9, count).reshape(shape).to(dtype)


class _Reader(pickle.Unpickler):
    """Unpickles tensors and containers, and nothing else: every name outside the table is refused."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a recorded input")
        return known[module, name]

    def persistent_load(self, reference: Any) -> torch.dtype:
        _kind, dtype, *_rest = reference
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage without a dtype")
        return dtype


def _rebuild(dtype: torch.dtype, _offset: int, size: tuple[int, ...], *_rest: object) -> torch.Tensor:
    if torch.Size(size).numel() > _LARGEST_EXAMPLE:
        raise pickle.UnpicklingError("a recorded input is too large to be made again")
    return example(tuple(size), dtype)
