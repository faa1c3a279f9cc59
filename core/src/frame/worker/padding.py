"""Pad requests that differ in their free dimensions to one length, and cut their answers back.

Invariants:
- What is added stands at the end of an axis that is free in the signature, never of axis 0.
- With `multiple` or `lengths` a request is padded to the same shape whatever runs with it.
- A request without the mask input gets one; its data are where the mask is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from frame.contract.requests import RequestError
from frame.contract.signatures import Signature, TensorSpec
from frame.wire.padding import Padding, free_axes, mask_source
from frame.worker.codecs.fitting import TEXT_DTYPES, Array, InputNamesError, RequestTensors

if TYPE_CHECKING:
    from frame.contract.models import Tensors

_MASK_RANK = 2


class PaddedAxis(NamedTuple):
    """A free axis of an input; `place` is its position among the free axes of that input, from 0."""

    name: str
    axis: int
    place: int


Lengths = dict[PaddedAxis, int]
"""How long each padded axis is."""


class Padder:
    """Pads the inputs of one model.

    Raises:
        ValueError: the model has no such inputs, or none that can be padded; says which it has.
    """

    def __init__(self, padding: Padding, signature: Signature) -> None:
        self._padding = padding
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec.shape for spec in signature.outputs}
        self._signature = signature
        self._axes = tuple(
            PaddedAxis(spec.name, axis, place)
            for spec in signature.inputs
            for place, axis in enumerate(free_axes(spec.shape))
        )
        self._of_input = {
            spec.name: [axis for axis in self._axes if axis.name == spec.name] for spec in signature.inputs
        }
        if not self._axes:
            message = (
                f"pad_to: no input has a free dimension besides its rows; the inputs are {self._known()}"
            )
            raise ValueError(message)
        self._check_values()
        self._unproven = {
            name: value for name, value in padding.values.items() if value and not self._specs[name].dtype
        }
        """Pad values of inputs whose dtype is the request's own."""
        self._source = self._check_mask() if padding.mask is not None else None
        self._without_mask = Signature(
            tuple(spec for spec in signature.inputs if spec.name != padding.mask), signature.outputs
        )
        self._usual = signature

    # --- what was configured --------------------------------------------------------------------

    def _known(self) -> str:
        return ", ".join(self._specs) or "none"

    def _check_values(self) -> None:
        for name, value in self._padding.values.items():
            spec = self._specs.get(name)
            if spec is None:
                message = f"pad_values: the model has no input {name}; its inputs are {self._known()}"
                raise ValueError(message)
            if spec.dtype in TEXT_DTYPES or (spec.dtype and not _holds(np.dtype(spec.dtype), value)):
                message = f"pad_values: input {name} is {spec.dtype}, which cannot be {value:g}"
                raise ValueError(message)
            if name == self._padding.mask and value:
                message = f"pad_values: {name} is the pad_mask, which is always padded with 0"
                raise ValueError(message)

    def _check_mask(self) -> PaddedAxis:
        """Return the axis that gives the mask its length."""
        mask = self._padding.mask or ""
        spec = self._specs.get(mask)
        if spec is None:
            message = f"pad_mask: the model has no input {mask}; its inputs are {self._known()}"
            raise ValueError(message)
        if spec.dtype in TEXT_DTYPES or len(spec.shape or ()) != _MASK_RANK or not free_axes(spec.shape):
            message = f"pad_mask: input {mask} must be numbers of the shape [rows, length], the length free"
            raise ValueError(message)
        found = mask_source(self._signature, mask)
        if found is None:
            message = f"pad_mask: no input but {mask} has a free dimension besides its rows"
            raise ValueError(message)
        return next(axis for axis in self._axes if axis[:2] == found)

    # --- requests -------------------------------------------------------------------------------

    def read(self, decode: Callable[[Signature], RequestTensors]) -> RequestTensors:
        """Decode a request, with or without the mask input, which it then has.

        Requests mostly come from clients of one kind: what was last seen is tried first.

        Raises:
            RequestError: what `decode` raised, or 400 for a length that cannot be.
        """
        first = self._usual
        try:
            inputs = decode(first)
        except InputNamesError as error:
            if self._source is None:
                raise
            inputs = self._read_otherwise(decode, first, error)
        inputs = self._with_mask(inputs)
        self._check_lengths(inputs)
        return inputs

    def _read_otherwise(
        self, decode: Callable[[Signature], RequestTensors], tried: Signature, error: InputNamesError
    ) -> RequestTensors:
        other = self._signature if tried is self._without_mask else self._without_mask
        try:
            inputs = decode(other)
        except InputNamesError as second:
            raise (error if tried is self._signature else second) from None
        self._usual = other
        return inputs

    def _with_mask(self, inputs: RequestTensors) -> RequestTensors:
        """Return the inputs in the signature's order, the mask made where it is missing."""
        mask = self._padding.mask
        if mask is None or self._source is None:
            return inputs
        length = inputs[self._source.name].shape[self._source.axis]
        if mask in inputs:
            if inputs[mask].shape[1] != length:
                like = f"as long as input {self._source.name}"
                found = inputs[mask].shape[1]
                raise RequestError(400, f"input {mask}: expected length {length}, {like}, got {found}")
            return inputs
        rows = inputs[self._source.name].shape[0]
        made = np.ones((rows, length), dtype=self._specs[mask].dtype or "int64")
        return inputs.answer({name: made if name == mask else inputs[name] for name in self._specs})

    def _check_lengths(self, inputs: RequestTensors) -> None:
        """Refuse what is longer than all fixed lengths, and what its pad value does not fit."""
        for axis, own in self._own(inputs).items():
            if self._padding.length_of(own) is None:
                longest = self._padding.lengths[-1]
                where = f"input {axis.name}: axis {axis.axis} has the length {own}"
                raise RequestError(400, f"{where}; this model takes up to {longest} (pad_to)")
            if axis.name in self._unproven and not _holds(inputs[axis.name].dtype, self._unproven[axis.name]):
                got = f"{inputs[axis.name].dtype.name}, which cannot be padded with"
                raise RequestError(400, f"input {axis.name}: got {got} {self._unproven[axis.name]:g}")

    def _own(self, inputs: Mapping[str, Array]) -> Lengths:
        return {axis: inputs[axis.name].shape[axis.axis] for axis in self._axes}

    # --- batches --------------------------------------------------------------------------------

    def shape_in_common(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape, without the rows, that requests must share to run together; -1 is any length."""
        common = list(shape)
        for axis in self._of_input[name]:
            length = -1 if self._padding.is_by_batch else self._padding.length_of(shape[axis.axis])
            assert length is not None  # `read` has refused what is too long
            common[axis.axis] = length
        return tuple(common[1:])

    def lengths(self, group: Sequence[Mapping[str, Array]]) -> Lengths:
        """Return what a group that runs together is padded to."""
        longest = {axis: max(inputs[axis.name].shape[axis.axis] for inputs in group) for axis in self._axes}
        return {axis: self._padding.length_of(own) or own for axis, own in longest.items()}

    def stack(self, group: Sequence[Mapping[str, Array]], lengths: Lengths) -> Tensors:
        """Return the inputs of a group one after the other along axis 0, each padded to `lengths`.

        Arrays of one request that need no padding are not copied.
        """
        return {
            name: group[0][name] if group[0][name].ndim == 0 else self._stacked(name, group, lengths)
            for name in group[0]
        }

    def _stacked(self, name: str, group: Sequence[Mapping[str, Array]], lengths: Lengths) -> Array:
        arrays = [inputs[name] for inputs in group]
        trailing = list(arrays[0].shape[1:])
        for axis in self._of_input[name]:
            trailing[axis.axis - 1] = lengths[axis]
        if all(array.shape[1:] == tuple(trailing) for array in arrays):
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        rows = sum(array.shape[0] for array in arrays)
        padded = np.full((rows, *trailing), self._filling(name, arrays[0]), dtype=arrays[0].dtype)
        end = 0
        for array in arrays:
            begin, end = end, end + array.shape[0]
            padded[(slice(begin, end), *(slice(size) for size in array.shape[1:]))] = array
        return padded

    def _filling(self, name: str, array: Array) -> object:
        if array.dtype.kind == "O":
            return b"" if self._specs[name].dtype == "bytes" else ""
        return array.dtype.type(self._padding.values.get(name, 0.0))

    def smallest(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of an input with one row, its free dimensions as short as they get."""
        shape = spec.shape or ()
        free = free_axes(shape)
        return tuple(
            (self._padding.length_of(1) or 1) if axis in free else abs(size)
            for axis, size in enumerate(shape)
        )

    # --- answers --------------------------------------------------------------------------------

    def cut(self, outputs: Tensors, inputs: Mapping[str, Array], lengths: Lengths) -> Tensors:
        """Return one request's outputs without what padding has added to them, as views.

        An axis past 0 that is free in the signature and as long as a padded axis is cut to the length that
        the request's own axis has. Where several padded axes have that length, the ones in the same place
        among the free axes count (the first free axis of an output belongs to the first of the inputs, and so
        on), and of those the longest, so that no data are lost. Outputs that the signature does not describe
        stay as they are.
        """
        own = self._own(inputs)
        if own == lengths:
            return outputs
        return {name: self._cut(name, array, own, lengths) for name, array in outputs.items()}

    def _cut(self, name: str, array: Array, own: Lengths, lengths: Lengths) -> Array:
        shape = self._outputs.get(name)
        if shape is None or len(shape) != array.ndim:
            return array
        slices = [slice(None)] * array.ndim
        for place, axis in enumerate(free_axes(shape)):
            alike = [padded for padded in self._axes if lengths[padded] == array.shape[axis]]
            alike = [padded for padded in alike if padded.place == place] or alike
            if alike:
                slices[axis] = slice(max(own[padded] for padded in alike))
        return array[tuple(slices)]


def _holds(dtype: np.dtype[np.generic], value: float) -> bool:
    """Tell whether numbers of this dtype can be the value, up to rounding."""
    with np.errstate(all="ignore"):
        cast = np.float64(value).astype(dtype)
    if dtype.kind in "fc":
        return bool(np.isfinite(cast))
    return bool(dtype.kind in "biu" and cast == value)
