"""Learns a module's shapes by running it: which input axes are free, and what comes out.

A trace records one call, not what may vary; a declaration names the inputs, not the outputs. A few calls at
load tell both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from frame.api import RequestError, TensorSpec

from frame_torchscript.outputs import dtype_name
from frame_torchscript.program import Input
from frame_torchscript.state import same
from frame_torchscript.traced import example

Examples: TypeAlias = "dict[str, torch.Tensor]"
Call: TypeAlias = Callable[[Mapping[str, torch.Tensor]], "dict[str, torch.Tensor]"]
Axes: TypeAlias = "list[tuple[str, int]]"

REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AssertionError,
    KeyError,
    torch.jit.Error,
    RequestError,
)
"""What modules raise on inputs that they cannot take."""

_FREE_SIZES = (8, 64, 1, 1024)  # tried for free axes in this order: a convolution refuses short ones
_ROW_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # other batch sizes use other kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the calls showed; `has_run` is false when none succeeded, and shapes stay as free as can be."""

    inputs: tuple[Input, ...]
    outputs: tuple[TensorSpec, ...]
    has_run: bool


def try_out(call: Call, inputs: Sequence[Input], recorded: Examples, open_shapes: Iterable[str]) -> Trial:
    """Call the module on examples and on grown ones.

    Args:
        call: gives the outputs for CPU tensors, each time on a fresh state where the module can reset.
        inputs: as bound; shapes in `open_shapes` are those of their recorded example.
        recorded: example tensors by input name.
        open_shapes: inputs whose shape nobody declared.
    """
    undeclared = set(open_shapes)
    start = _first_answer(call, inputs, recorded)
    if start is None:
        return Trial(inputs=tuple(_free(item, undeclared) for item in inputs), outputs=(), has_run=False)
    examples, first = start
    probe = _Probe(call, examples, first)
    free = probe.free_axes(inputs, undeclared)
    resolved = tuple(_resolve(item, undeclared, free) for item in inputs)
    return Trial(inputs=resolved, outputs=probe.outputs(), has_run=True)


def _first_answer(
    call: Call, inputs: Sequence[Input], recorded: Examples
) -> tuple[Examples, dict[str, torch.Tensor]] | None:
    for examples in _candidates(inputs, recorded):
        if (answer := _attempt(call, examples)) is not None:
            return examples, answer
    return None


def _attempt(call: Call, examples: Examples) -> dict[str, torch.Tensor] | None:
    try:
        return call(examples)
    except REFUSALS:
        return None


def _candidates(inputs: Sequence[Input], recorded: Examples) -> list[Examples]:
    if all(item.spec.name in recorded for item in inputs):
        return [recorded]
    if any(item.spec.shape is None or not item.spec.dtype for item in inputs):
        return []
    return [{item.spec.name: _synthesize(item, size) for item in inputs} for size in _FREE_SIZES]


def _synthesize(item: Input, size: int) -> torch.Tensor:
    """Make an example of one row, its other free axes of length `size`."""
    shape = [
        1 if axis == 0 and n < 0 else size if n < 0 else n for axis, n in enumerate(item.spec.shape or ())
    ]
    return example(tuple(shape), item.dtype or getattr(torch, item.spec.dtype))


class _Probe:
    """Grows axes one group at a time and remembers which output axes followed."""

    def __init__(self, call: Call, examples: Examples, first: dict[str, torch.Tensor]) -> None:
        self._call = call
        self._examples = examples
        self._first = first
        self._shapes: dict[str, list[int] | None] = {
            name: list(tensor.shape) for name, tensor in first.items()
        }
        again = _attempt(self._call, examples)
        self._is_repeatable = again is not None and all(same(first[n], again.get(n)) for n in first)

    def free_axes(self, inputs: Sequence[Input], undeclared: set[str]) -> set[tuple[str, int]]:
        """Return the axes of undeclared shapes that may vary."""
        declared = [item for item in inputs if item.spec.name not in undeclared]
        rows = self._rows(inputs, undeclared)
        free: set[tuple[str, int]] = set()
        if rows and self._grow_rows(rows):
            free.update(rows)
        for axes in self._groups(undeclared, set(rows)):
            if self._grow(axes):
                free.update(axes)
        self._grow_declared(declared)
        return free

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs as far as the calls showed them."""
        return tuple(
            TensorSpec(
                name,
                dtype_name(tensor.dtype),
                None if (shape := self._shapes[name]) is None else tuple(shape),
            )
            for name, tensor in self._first.items()
        )

    def _rows(self, inputs: Sequence[Input], undeclared: set[str]) -> Axes:
        """Return the batch axes: declared free ones, and undeclared ones as long as the first input's."""
        sizes = {name: tensor.shape[0] for name, tensor in self._examples.items() if tensor.dim()}
        count = next(iter(sizes.values()), 0)
        return [
            (item.spec.name, 0)
            for item in inputs
            if item.spec.name in sizes
            and (sizes[item.spec.name] == count if item.spec.name in undeclared else _has_free_rows(item))
        ]

    def _grow_rows(self, axes: Axes) -> bool:
        """Add a row: a batch when every output gains it and the first rows stay what they were."""
        grown = self._enlarge(axes, lambda size: size + 1)
        answer = _attempt(self._call, grown)
        rows = self._examples[axes[0][0]].shape[0]
        if answer is None or any(t.dim() == 0 or t.shape[0] != rows + 1 for t in answer.values()):
            return False
        if self._is_repeatable and not all(_close(answer[n][:rows], self._first[n]) for n in self._first):
            return False
        self._note(answer)
        return True

    def _groups(self, undeclared: set[str], rows: set[tuple[str, int]]) -> list[Axes]:
        """Return axes that a trace may have left free, equal sizes together: ids and mask grow as one."""
        by_size: dict[int, Axes] = {}
        for name in sorted(undeclared & self._examples.keys()):
            for axis, size in enumerate(self._examples[name].shape):
                if size > 1 and (name, axis) not in rows:
                    by_size.setdefault(size, []).append((name, axis))
        return list(by_size.values())

    def _grow(self, axes: Axes) -> bool:
        for enlarge in (lambda size: size + 1, lambda size: size * 2):  # networks that halve refuse odd sizes
            answer = _attempt(self._call, self._enlarge(axes, enlarge))
            if answer is not None:
                self._note(answer)
                return True
        return False

    def _grow_declared(self, inputs: Sequence[Input]) -> None:
        """See which output axes follow the free axes of declared shapes; failing that, any may."""
        axes = [
            (item.spec.name, axis)
            for item in inputs
            for axis, size in enumerate(item.spec.shape or ())
            if axis > 0 and size < 0
        ]
        if axes and not self._grow(axes):
            for shape in self._shapes.values():
                if shape is not None:
                    shape[1:] = [-1] * len(shape[1:])

    def _enlarge(self, axes: Axes, enlarge: Callable[[int], int]) -> Examples:
        """Return the examples with these axes longer, by repeating what is there, which is valid."""
        grown = dict(self._examples)
        for name, axis in axes:
            size = grown[name].shape[axis]
            index = torch.arange(enlarge(size)) % max(size, 1)
            grown[name] = grown[name].index_select(axis, index) if size else grown[name]
        return grown

    def _note(self, answer: Mapping[str, torch.Tensor]) -> None:
        for name, known in self._shapes.items():
            seen = answer[name].shape if name in answer else None
            if known is None or seen is None or len(seen) != len(known):
                self._shapes[name] = None
                continue
            base = self._first[name].shape
            self._shapes[name] = [k if s == b else -1 for k, s, b in zip(known, seen, base, strict=True)]


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if first.is_floating_point():
        return bool(torch.allclose(first.float(), second.float(), equal_nan=True, **_ROW_TOLERANCE))
    return bool((first == second).all())


def _has_free_rows(item: Input) -> bool:
    return bool(item.spec.shape) and (item.spec.shape or ())[0] < 0


def _free(item: Input, undeclared: set[str]) -> Input:
    """Free every axis of a shape that nobody declared and no call confirmed."""
    if item.spec.name not in undeclared or item.spec.shape is None:
        return item
    return replace(item, spec=replace(item.spec, shape=(-1,) * len(item.spec.shape)))


def _resolve(item: Input, undeclared: set[str], free: set[tuple[str, int]]) -> Input:
    name, shape = item.spec.name, item.spec.shape
    if name not in undeclared or shape is None:
        return item
    resolved = tuple(-1 if (name, axis) in free else size for axis, size in enumerate(shape))
    return replace(item, spec=replace(item.spec, shape=resolved))
