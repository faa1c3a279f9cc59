"""Tells whether a TorchScript module keeps state between calls: by its attributes and its graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from frame_torchscript.scriptmodule import attribute

Snapshot: TypeAlias = "dict[str, object]"

_ABSENT = object()
_NORMS = ("aten::batch_norm", "aten::instance_norm", "aten::_batch_norm_impl_index")
_NORM_TRAINS = 5  # position of `training` (`use_input_stats`) among their arguments


def snapshot(module: Any) -> Snapshot:
    """Copy every attribute and buffer of the module and its parts, parameters excepted: nothing trains here.

    Attributes of a loaded module cannot be listed, but its code names all that it can read or change.
    """
    names = {node.s("name") for node in _nodes(module) if node.kind() in ("prim::GetAttr", "prim::SetAttr")}
    found: Snapshot = {}
    for path, part in module.named_modules():
        parameters = {name for name, _ in part.named_parameters(recurse=False)}
        for name in sorted(names - parameters):
            value = attribute(part, name, _ABSENT)
            if value is not _ABSENT:
                _copy(f"{path}.{name}", value, found)
    return found


def _copy(path: str, value: object, into: Snapshot) -> None:
    """Copy tensors, numbers, strings and containers of them; opaque objects have no value to compare."""
    if isinstance(value, torch.Tensor):
        into[path] = value.detach().clone()
    elif isinstance(value, (bool, int, float, complex, str, type(None))):
        into[path] = value
    elif isinstance(value, Mapping):
        into[path] = tuple(map(str, value))
        for key, item in value.items():
            _copy(f"{path}[{key}]", item, into)
    elif isinstance(value, (list, tuple)):
        into[path] = len(value)
        for position, item in enumerate(value):
            _copy(f"{path}[{position}]", item, into)


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the names of what differs, sorted."""
    names = before.keys() | after.keys()
    return sorted(n for n in names if n not in before or n not in after or not same(before[n], after[n]))


def same(first: object, second: object) -> bool:
    """Compare two values bit for bit; a NaN equals a NaN."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        both_nan = first.isnan() & second.isnan()
        return bool(((first == second) | both_nan).all())
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        return False
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return first == second


def assigns_attributes(module: Any) -> bool:
    """Return whether forward assigns to an attribute anywhere: state, on whatever input it happens."""
    return any(node.kind() == "prim::SetAttr" for node in _nodes(module))


def may_write(module: Any) -> bool:
    """Return whether forward has an operation that writes in place.

    It may write to a buffer or only to what it made itself: the graph alone does not tell. False proves
    that calls leave no trace.
    """
    return any(_writes(node) for node in _nodes(module))


def _writes(node: Any) -> bool:
    kind = node.kind()
    if kind in _NORMS:  # in training mode they update running statistics, which their schema does not say
        inputs = list(node.inputs())
        return inputs[_NORM_TRAINS].toIValue() is not False
    if kind in ("prim::SetAttr", "prim::CallMethod", "prim::CallFunction"):
        return True
    return "!" in node.schema()  # an alias annotation such as Tensor(a!)


def _nodes(module: Any) -> list[Any]:
    """Return every node of forward, called methods and branches included."""
    found: list[Any] = []
    blocks: list[Any] = [module.inlined_graph]
    while blocks:
        for node in blocks.pop().nodes():
            found.append(node)
            blocks.extend(node.blocks())
    return found
