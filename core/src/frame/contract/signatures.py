"""Names, dtypes and shapes of a model's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named array: numpy dtype name (`float32`, `int64`, `bool`, `str`, …) and shape, -1 where free.

    Axis 0 is the batch. Shape () is a scalar that all rows share. `shape=None`: rank unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a `TensorModel`, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
