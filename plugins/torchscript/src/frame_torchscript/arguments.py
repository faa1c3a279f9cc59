"""Binds named inputs to the arguments of a TorchScript `forward`: by schema, options and a recorded call."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from frame.api import TensorSpec

from frame_torchscript.declared import DeclaredTensor
from frame_torchscript.outputs import dtype_name
from frame_torchscript.program import Input

_NUMBERS = {"int": "int64", "float": "float64", "bool": "bool"}
_TENSORS = ("Tensor", "Optional[Tensor]")
_CONTAINERS: dict[str, Literal["list", "dict"]] = {"List[Tensor]": "list", "Dict[str, Tensor]": "dict"}
_CONSTANTS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of forward and where its value comes from."""

    name: str
    kind: Literal["tensor", "number", "list", "dict", "constant"]
    inputs: tuple[str, ...] = ()
    constant: object = None

    def value(self, tensors: Mapping[str, torch.Tensor]) -> object:
        """Return what forward is given."""
        if self.kind == "constant":
            return self.constant
        if self.kind == "list":
            return [tensors[name] for name in self.inputs]
        if self.kind == "dict":
            return {name: tensors[name] for name in self.inputs}
        tensor = tensors[self.inputs[0]]
        return tensor.item() if self.kind == "number" else tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of forward's schema: `type` as TorchScript writes it."""

    name: str
    type: str
    has_default: bool


@dataclass(slots=True)
class Binding:
    """What `bind` decided.

    Attributes:
        arguments: how to build forward's arguments.
        inputs: what clients send, in order.
        examples: tensors that a trace recorded, by input name.
        recorded: inputs whose shape is that of their example, for want of a declared one.
    """

    arguments: list[Argument] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    examples: dict[str, torch.Tensor] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)

    def keywords(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, object]:
        """Return forward's keyword arguments."""
        return {argument.name: argument.value(tensors) for argument in self.arguments}


def parameters_of(schema: Any) -> list[Parameter]:
    """Return the parameters of a schema, without `self`."""
    return [
        Parameter(name=argument.name, type=str(argument.type), has_default=argument.has_default_value())
        for argument in schema.arguments[1:]
    ]


def bind(
    parameters: Sequence[Parameter], declared: Sequence[DeclaredTensor], recorded: Sequence[object] | None
) -> Binding:
    """Decide which inputs a model has.

    Declared names are forward's own, or the names inside its only list or dict of tensors, or new names
    for its required parameters in order. Without a declaration every required parameter is an input.

    Raises:
        ValueError: an argument cannot be given; says which, and what to write in `option.inputs`.
    """
    examples = dict(zip((p.name for p in parameters), recorded or (), strict=False))
    by_name = _match(parameters, [item for item in declared if item.constant is None])
    constants = {item.name: item for item in declared if item.constant is not None}
    _refuse_unknown(constants, parameters)
    binding = Binding()
    for parameter in parameters:
        if parameter.name in constants:
            value = _constant(parameter, constants[parameter.name].constant or "")
            binding.arguments.append(Argument(name=parameter.name, kind="constant", constant=value))
        elif by_name is None or parameter.name in by_name:
            items = None if by_name is None else by_name[parameter.name]
            _add(binding, parameter, items, examples.get(parameter.name))
        elif not parameter.has_default:
            missing = f"{parameter.name} ({parameter.type})"
            raise ValueError(f"option.inputs: forward needs {missing} too; declare it")
    _refuse_no_inputs(binding)
    return binding


def _match(
    parameters: Sequence[Parameter], declared: Sequence[DeclaredTensor]
) -> dict[str, list[DeclaredTensor]] | None:
    """Return the declared tensors by parameter; None when nothing is declared."""
    if not declared:
        return None
    own = {p.name for p in parameters}
    if all(item.name in own for item in declared):
        return {item.name: [item] for item in declared}
    required = [p for p in parameters if not p.has_default]
    containers = [p for p in required if p.type in _CONTAINERS]
    if len(containers) == 1:
        inside = [item for item in declared if item.name not in own]
        return {item.name: [item] for item in declared if item.name in own} | {containers[0].name: inside}
    takers = [p for p in required if p.type in (*_TENSORS, *_NUMBERS)]
    if len(takers) == len(declared) and not any(item.name in own for item in declared):
        return {p.name: [item] for p, item in zip(takers, declared, strict=True)}
    names = ", ".join(item.name for item in declared if item.name not in own)
    raise ValueError(f"option.inputs: {names} is no argument of forward; it takes {_listed(parameters)}")


def _refuse_unknown(constants: Mapping[str, DeclaredTensor], parameters: Sequence[Parameter]) -> None:
    if unknown := constants.keys() - {p.name for p in parameters}:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"option.inputs: {names} is no argument of forward; it takes {_listed(parameters)}")


def _refuse_no_inputs(binding: Binding) -> None:
    if not binding.inputs:
        raise ValueError("forward takes nothing that a client could send; name its inputs in option.inputs")


def _listed(parameters: Sequence[Parameter]) -> str:
    return ", ".join(f"{p.name} ({p.type})" for p in parameters) or "no arguments"


def _constant(parameter: Parameter, text: str) -> object:
    expected = _CONSTANTS.get(parameter.type, ())
    if str in expected:
        return text
    words = {"true": "True", "false": "False"}
    try:
        value = ast.literal_eval(words.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = None
    if type(value) not in expected:
        raise ValueError(
            f"option.inputs: {parameter.name}={text} is no constant of the type {parameter.type}"
        )
    return float(value) if parameter.type == "float" else value


def _add(binding: Binding, parameter: Parameter, items: list[DeclaredTensor] | None, example: object) -> None:
    """Bind one parameter; `items` are its declared tensors, None when the model's inputs are not declared."""
    if parameter.type in _CONTAINERS:
        _add_container(binding, parameter, items, example)
    elif parameter.type in _TENSORS:
        if items is None and parameter.has_default and not isinstance(example, torch.Tensor):
            return
        item = items[0] if items else DeclaredTensor(name=parameter.name)
        binding.arguments.append(Argument(name=parameter.name, kind="tensor", inputs=(item.name,)))
        _add_tensor(binding, item, example)
    elif items is None and parameter.has_default:
        return
    elif parameter.type in _NUMBERS:
        name = items[0].name if items else parameter.name
        binding.arguments.append(Argument(name=parameter.name, kind="number", inputs=(name,)))
        number = _NUMBERS[parameter.type]
        binding.inputs.append(Input(TensorSpec(name, number, ()), getattr(torch, number)))
    else:
        hint = " (option.inputs can fix it: name=value)" if parameter.type in _CONSTANTS else ""
        raise ValueError(
            f"forward's argument {parameter.name} is {parameter.type}, which no client can send{hint}; "
            "wrap the model in one that takes tensors, or serve it from a model.py"
        )


def _add_container(
    binding: Binding, parameter: Parameter, items: list[DeclaredTensor] | None, example: object
) -> None:
    kind = _CONTAINERS[parameter.type]
    inside: dict[str, object] = {}
    if isinstance(example, dict):
        inside = {str(key): value for key, value in example.items()}
    elif isinstance(example, list):
        inside = {f"{parameter.name}_{position}": value for position, value in enumerate(example)}
    declared = items if items is not None else [DeclaredTensor(name=name) for name in inside]
    if not declared and parameter.has_default:
        return
    if not declared:
        what = f"forward's argument {parameter.name} is {parameter.type}"
        raise ValueError(f"{what}; name its tensors in option.inputs")
    names = tuple(item.name for item in declared)
    binding.arguments.append(Argument(name=parameter.name, kind=kind, inputs=names))
    for item in declared:
        _add_tensor(binding, item, inside.get(item.name))


def _add_tensor(binding: Binding, item: DeclaredTensor, example: object) -> None:
    """Add an input: what is declared counts, what is not comes from the recorded example."""
    dtype = getattr(torch, item.dtype) if item.dtype else None
    shape = item.shape
    if isinstance(example, torch.Tensor) and dtype in (None, example.dtype) and _fits(shape, example):
        binding.examples[item.name] = example
        dtype = example.dtype
        if shape is None:
            shape = tuple(example.shape)
            binding.recorded.add(item.name)
    name = dtype_name(dtype) if dtype is not None else ""
    binding.inputs.append(Input(TensorSpec(item.name, name, shape), dtype))


def _fits(shape: tuple[int, ...] | None, example: torch.Tensor) -> bool:
    return shape is None or (
        len(shape) == example.dim() and all(a in (-1, b) for a, b in zip(shape, example.shape, strict=True))
    )
