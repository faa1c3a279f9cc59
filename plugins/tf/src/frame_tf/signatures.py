"""Turns a TensorFlow signature into Frame's: names, numpy dtypes, shapes with -1 where free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from frame.api import Signature, TensorSpec

_WIDENED = {"bfloat16": "float32", "string": "bytes"}
"""dtypes that clients see under another name: numpy lacks bfloat16, TensorFlow's strings are bytes."""
_SERVED = frozenset(
    {
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    }
    | {"bool", "complex64", "complex128", "bfloat16", "string"}
)


def signature_of(function: Any) -> Signature:
    """Describe a function of a SavedModel.

    Raises:
        ValueError: an input or output is no plain tensor; names it.
    """
    inputs = _specs(function.structured_input_signature[1], "input")
    if not inputs:
        raise ValueError("the signature has no inputs; choose another one with option.signature_def")
    return Signature(inputs, _specs(function.structured_outputs, "output"))


def _specs(tensors: Mapping[str, Any], role: str) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, tensors[name], role) for name in sorted(tensors))


def _spec(name: str, tensor: Any, role: str) -> TensorSpec:
    dtype = getattr(tensor, "dtype", None)
    if not isinstance(tensor, (tf.TensorSpec, tf.Tensor)) or dtype is None or dtype.name not in _SERVED:
        what = dtype.name if dtype is not None else type(tensor).__name__
        raise ValueError(
            f"{role} {name} of the signature is {what}, which cannot be served; export plain tensors"
        )
    rank = tensor.shape.rank
    shape = None if rank is None else tuple(-1 if size is None else size for size in tensor.shape.as_list())
    return TensorSpec(name, _WIDENED.get(dtype.name, dtype.name), shape)


def writes_variables(function: Any) -> bool:
    """Return whether calling the function assigns to a variable or another resource: state between calls."""
    graph = function.graph.as_graph_def()
    bodies = {body.signature.name: body.node_def for body in graph.library.function}
    pending = [graph.node]
    while pending:
        for node in pending.pop():
            if _is_write(node.op):
                return True
            # A graph of TensorFlow 1 brings every function of the file along: only what is called counts.
            pending.extend(bodies.pop(name) for name in _called(node) if name in bodies)
    return False


def _called(node: Any) -> set[str]:
    """Return the names of the functions that a node may call: by its operation or one of its attributes."""
    names = {node.op}
    for value in node.attr.values():
        names.add(value.func.name)
        names.update(function.name for function in value.list.func)
    return names


def _is_write(operation: str) -> bool:
    return operation.startswith(
        ("Assign", "Scatter", "ResourceScatter", "ResourceApply", "LookupTableInsert")
    ) and (operation not in ("ScatterNd", "ScatterNdNonAliasingAdd"))
