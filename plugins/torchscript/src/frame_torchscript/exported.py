"""Loads programs of torch.export (`.pt2`), which record their inputs, outputs, free sizes and state."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from frame.api import TensorSpec
from torch.utils import _pytree as pytree

from frame_torchscript.declared import parse_tensors
from frame_torchscript.options import TorchScriptOptions
from frame_torchscript.outputs import dtype_name, named_tensors, rename
from frame_torchscript.probing import REFUSALS
from frame_torchscript.program import Input, Program
from frame_torchscript.state import same
from frame_torchscript.traced import example

_ONLY_SCRIPT = ("reset", "extraFiles", "freeze", "optimize_for_inference")


def load_exported(path: Path, options: TorchScriptOptions, device: torch.device) -> Program:
    """Load the program at `path`.

    Raises:
        ValueError: the file or an option cannot be used: says what to do.
    """
    if given := [key for key in _ONLY_SCRIPT if getattr(options, key)]:
        raise ValueError(f"option.{given[0]} is for TorchScript; {path.name} is a torch.export program")
    names = tuple(item.name for item in parse_tensors(options.outputs, "option.outputs"))
    program = _open(path, device)
    slots = _rename_inputs(_slots(program), options)
    run = _runner(program, slots)
    keeps_state = _may_write(program) and _changes_when_called(run, slots, device)
    if keeps_state:  # the first client gets a copy that the trial did not touch
        run = _runner(_open(path, device), slots)
    return Program(
        inputs=tuple(slot.input for slot in slots if slot.input),
        outputs=_outputs(program, names),
        run=run.call,
        reset=None,
        keeps_state=keeps_state,
        float_dtype=None,
        extra_files={},
    )


def _open(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():  # torch 2.11 reads weights from a buffer that it never writes
            warnings.filterwarnings(
                "ignore", message="The given buffer is not writable", category=UserWarning
            )
            program = torch.export.load(str(path))
    except (RuntimeError, ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path.name}: torch {torch.__version__} cannot load it: {lines[0]}") from error
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


@dataclass(frozen=True, slots=True)
class _Slot:
    """One leaf of the program's arguments: an input, or a value that was fixed when it was exported."""

    input: Input | None
    constant: object = None


@dataclass(frozen=True, slots=True)
class _Runner:
    """The program as a module, and the tree of its arguments."""

    module: Any
    tree: Any
    slots: Sequence[_Slot]

    def call(self, tensors: Mapping[str, torch.Tensor]) -> object:
        flat = [tensors[slot.input.spec.name] if slot.input else slot.constant for slot in self.slots]
        arguments, keywords = pytree.tree_unflatten(flat, self.tree)
        return self.module(*arguments, **keywords)


def _runner(program: Any, slots: Sequence[_Slot]) -> _Runner:
    return _Runner(program.module(), program.call_spec.in_spec, slots)


def _may_write(program: Any) -> bool:
    """Return whether any operation works in place; on what, the graph does not say by itself."""
    return any(
        node.op == "call_function" and (_is_mutable(node.target) or "batch_norm" in str(node.target))
        for node in program.graph.nodes
    )


def _is_mutable(target: Any) -> bool:
    schema = getattr(
        target, "_schema", None
    )  # Python operators, such as getitem, have none and write nothing
    return schema is not None and bool(schema.is_mutable)


def _changes_when_called(runner: _Runner, slots: Sequence[_Slot], device: torch.device) -> bool:
    """Call the module twice and compare its buffers; one that cannot be called is taken to change."""
    inputs = [slot.input for slot in slots if slot.input]
    before = {name: buffer.clone() for name, buffer in runner.module.named_buffers()}
    for size in (2, 8):  # for free axes: batch sizes of 0 and 1 are special to torch.export
        tensors = {item.spec.name: _example(item, size).to(device) for item in inputs}
        try:
            with torch.inference_mode():
                runner.call({name: tensor.clone() for name, tensor in tensors.items()})
                runner.call(tensors)
        except REFUSALS:
            continue
        return any(not same(before[name], buffer) for name, buffer in runner.module.named_buffers())
    return True


def _slots(program: Any) -> list[_Slot]:
    """Return the leaves in the order of the program's argument tree."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    slots: list[_Slot] = []
    for item in program.graph_signature.input_specs:
        if item.kind is not torch.export.graph_signature.InputKind.USER_INPUT:
            continue
        value = values.get(item.arg.name)
        if isinstance(value, torch.Tensor):
            slots.append(_Slot(Input(_spec(item.arg.name, value), value.dtype)))
        elif isinstance(item.arg, torch.export.graph_signature.ConstantArgument):
            slots.append(_Slot(None, item.arg.value))
        else:
            raise ValueError(  # noqa: TRY004  # the file is wrong, not an argument's type
                f"input {item.arg.name} of the program is {type(value).__name__}, which no client can send; "
                "export the model with tensors as inputs"
            )
    return slots


def _spec(name: str, value: torch.Tensor) -> TensorSpec:
    """Describe a fake tensor: symbolic sizes are free."""
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name, dtype_name(value.dtype), shape)


def _rename_inputs(slots: Sequence[_Slot], options: TorchScriptOptions) -> list[_Slot]:
    """Give the inputs the declared names, in order; the program knows its dtypes and shapes itself."""
    declared = parse_tensors(options.inputs, "option.inputs")
    inputs = [slot.input for slot in slots if slot.input]
    if not declared:
        return list(slots)
    known = ", ".join(f"{i.spec.name}:{i.spec.dtype}{list(i.spec.shape or ())}" for i in inputs)
    if len(declared) != len(inputs):
        raise ValueError(f"option.inputs names {len(declared)}, the program has {len(inputs)}: {known}")
    for item, own in zip(declared, inputs, strict=True):
        wrong_dtype = item.dtype and dtype_name(getattr(torch, item.dtype)) != own.spec.dtype
        if item.constant is not None or wrong_dtype or item.shape not in (None, own.spec.shape):
            raise ValueError(f"option.inputs: {item.name} differs from what the program records: {known}")
    names = iter(declared)
    return [_Slot(_named(slot.input, next(names).name)) if slot.input else slot for slot in slots]


def _named(item: Input, name: str) -> Input:
    return replace(item, spec=replace(item.spec, name=name))


def _outputs(program: Any, names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """Name the recorded outputs as those of a call will be named."""
    kinds = torch.export.graph_signature.OutputKind
    node = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    leaves: list[object] = []
    for item, result in zip(program.graph_signature.output_specs, node.args[0], strict=True):
        if item.kind is kinds.USER_OUTPUT:
            leaves.append(result.meta["val"] if hasattr(result, "meta") else result)
    tree = pytree.tree_unflatten(leaves, program.call_spec.out_spec)
    named = rename(named_tensors(tree), names)
    return tuple(_spec(name, value) for name, value in named.items())


def _example(item: Input, size: int) -> torch.Tensor:
    shape = tuple(size if length < 0 else length for length in item.spec.shape or ())
    return example(shape, item.dtype or torch.float32)
