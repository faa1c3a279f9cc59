"""Fit named arrays of one request to a model's signature: the one check of names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from frame.contract.requests import RequestError
from frame.contract.signatures import Signature, TensorSpec

if TYPE_CHECKING:
    from frame.contract.models import Tensors

Array: TypeAlias = "np.ndarray[Any, Any]"
TEXT_DTYPES = ("str", "bytes")
"""Dtypes held as arrays of Python objects: `str` and `bytes` elements, of any length."""


class InputNamesError(RequestError):
    """The inputs of a request are not those of the signature: one is missing, unknown, or has no name."""


class RequestTensors(dict[str, Any]):
    """Arrays by name, and how the request wrote them, so that its answer is written in the same way.

    Attributes:
        has_batch_axis: false when the request gave one row without axis 0; its answer then has none either.
        is_rows: true when the request was a list of rows (`instances`), not of columns.
    """

    __slots__ = ("has_batch_axis", "is_rows")

    def __init__(
        self, arrays: Mapping[str, Array], *, has_batch_axis: bool = True, is_rows: bool = False
    ) -> None:
        super().__init__(arrays)
        self.has_batch_axis = has_batch_axis
        self.is_rows = is_rows

    def answer(self, outputs: Tensors) -> RequestTensors:
        """Return the outputs, to be written as this request was."""
        return RequestTensors(outputs, has_batch_axis=self.has_batch_axis, is_rows=self.is_rows)

    def as_asked(self) -> dict[str, Array]:
        """Return the arrays of an answer, without axis 0 where the request had none."""
        if self.has_batch_axis:
            return self
        return {name: _without_axis(array) for name, array in self.items()}


def _without_axis(array: Array) -> Array:
    return array.reshape(array.shape[1:]) if array.shape[:1] == (1,) else array


def describe(spec: TensorSpec) -> str:
    """Return dtype and shape as error messages show them: `float32 [-1, 28, 28]`."""
    shape = "of any shape" if spec.shape is None else list(spec.shape)
    return f"{spec.dtype or 'any dtype'} {shape}"


def describe_inputs(signature: Signature) -> str:
    """Return all inputs as error messages show them."""
    return ", ".join(f"{spec.name}: {describe(spec)}" for spec in signature.inputs)


def mismatch(spec: TensorSpec, got: object) -> RequestError:
    """Return the error of an input that is not what the signature says."""
    return RequestError(400, f"input {spec.name}: expected {describe(spec)}, got {got}")


def stacks(signature: Signature) -> bool:
    """Tell whether requests of this signature can run together, one after the other along axis 0.

    That is so when every output and every input but the scalars has a free axis 0; a rank that is not known
    gets the benefit of the doubt, since whoever splits the outputs counts their rows.
    """
    inputs = [spec.shape for spec in signature.inputs if spec.shape != ()]
    shapes = [*inputs, *(spec.shape for spec in signature.outputs)]
    return bool(inputs) and all(shape is None or shape[:1] == (-1,) for shape in shapes)


def fit(arrays: Mapping[str, Array], signature: Signature, *, is_rows: bool = False) -> RequestTensors:
    """Return the arrays in the signature's order and dtypes, each with its batch axis.

    An array of one rank less than the signature's is one row and gets its axis 0. Dtypes are widened where no
    value changes (int32 to int64), never narrowed.

    Raises:
        RequestError: 400, names the input, what was expected and what came.
    """
    check_names(arrays, signature)
    fitted: dict[str, Array] = {}
    batched: dict[bool, str] = {}
    for spec in signature.inputs:
        array = widen(arrays[spec.name], spec)
        has_axis = _has_batch_axis(spec, array.shape, is_rows=is_rows)
        if has_axis is not None:
            batched.setdefault(has_axis, spec.name)
        fitted[spec.name] = array[None] if has_axis is False else array
    if len(batched) > 1:
        raise RequestError(400, f"input {batched[True]} has a batch axis, input {batched[False]} has none")
    _check_rows(fitted, signature)
    return RequestTensors(fitted, has_batch_axis=False not in batched, is_rows=is_rows)


def check_names(names: Mapping[str, object], signature: Signature) -> None:
    """Refuse unknown and missing inputs."""
    if len(names) == len(signature.inputs) and all(spec.name in names for spec in signature.inputs):
        return
    known = {spec.name for spec in signature.inputs}
    for name in names:
        if name not in known:
            inputs = describe_inputs(signature)
            raise InputNamesError(400, f"input {name[:100]}: unknown; the inputs are {inputs}")
    for spec in signature.inputs:
        if spec.name not in names:
            raise InputNamesError(400, f"input {spec.name}: missing; expected {describe(spec)}")


def widen(array: Array, spec: TensorSpec) -> Array:
    """Return the array in the signature's dtype, C-contiguous and aligned, without changing a value."""
    if spec.dtype in TEXT_DTYPES or (not spec.dtype and array.dtype.kind in "OUS"):
        return _as_text(array, spec)
    have = array.dtype
    want = np.dtype(spec.dtype) if spec.dtype else have.newbyteorder("=")
    same_kind = have.kind == want.kind or {have.kind, want.kind} == {"i", "u"}
    if have.kind not in "biufc" or not same_kind or not np.can_cast(have, want, "safe"):
        raise mismatch(spec, f"{have.name} {list(array.shape)}")
    if have == want and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, dtype=want, order="C")


def _as_text(array: Array, spec: TensorSpec) -> Array:
    kind = array.dtype.kind
    if kind == "O":
        return array
    if kind not in "US":
        raise mismatch(spec, f"{array.dtype.name} {list(array.shape)}")
    try:
        if spec.dtype == "bytes":
            return (np.char.encode(array, "utf-8") if kind == "U" else array).astype(object)
        return (np.char.decode(array, "utf-8") if kind == "S" else array).astype(object)
    except UnicodeError:
        raise mismatch(spec, "text that is not UTF-8") from None


def _has_batch_axis(spec: TensorSpec, shape: tuple[int, ...], *, is_rows: bool) -> bool | None:
    """Tell whether an array of this shape came with axis 0; None where the input has no batch axis at all."""
    want = spec.shape
    if want is None:
        return None
    if len(shape) == len(want) and _matches(want, shape):
        return True if want[:1] in ((-1,), (1,)) else None
    is_row = len(shape) == len(want) - 1 and want[0] in (-1, 1) and _matches(want[1:], shape)
    if not is_row or is_rows:
        raise mismatch(spec, list(shape))
    return False


def _matches(want: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(size in (-1, given) for size, given in zip(want, shape, strict=True))


def _check_rows(arrays: Mapping[str, Array], signature: Signature) -> None:
    """Refuse inputs without rows, and inputs of one request that disagree about their number."""
    free = [spec for spec in signature.inputs if spec.shape and spec.shape[0] == -1]
    if not free or not stacks(signature):
        return
    first = free[0]
    rows = arrays[first.name].shape[0]
    if rows == 0:
        raise mismatch(first, f"no rows: {list(arrays[first.name].shape)}")
    for spec in free[1:]:
        if (found := arrays[spec.name].shape[0]) != rows:
            like = f"as many as input {first.name} has"
            raise RequestError(400, f"input {spec.name}: expected {rows} rows, {like}, got {found}")
