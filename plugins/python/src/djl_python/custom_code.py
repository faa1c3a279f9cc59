"""Functions of a model.py that replace a built-in handler's steps: decorated ones, or SageMaker's four."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from djl_python.inputs import Input

_Function = TypeVar("_Function", bound=Callable[..., Any])
SAGEMAKER_NAMES = ("model_fn", "input_fn", "predict_fn", "output_fn")


def _marker(attribute: str, doc: str) -> Callable[[_Function], _Function]:
    def mark(function: _Function) -> _Function:
        setattr(function, attribute, True)
        return function

    mark.__doc__ = doc
    return mark


init_handler = _marker("is_init_handler", "Mark the function that loads the model: `(model_dir) -> model`.")
input_formatter = _marker("is_input_formatter", "Mark the function that reads a request: `(Input) -> data`.")
prediction_handler = _marker("is_prediction_handler", "Mark the function that predicts: `(data, model)`.")
output_formatter = _marker("is_output_formatter", "Mark the function that writes an answer: `(prediction)`.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomCode:
    """Steps that a model.py defines; None where the built-in handler's own step stays.

    Attributes:
        load: model directory to model.
        read: request to data.
        predict: data and model to prediction.
        write: prediction and Accept header to the answer's body (text, bytes, an `Output`, or a JSON
            value), or to a pair of body and content type.
    """

    load: Callable[[str], Any] | None = None
    read: Callable[[Input], Any] | None = None
    predict: Callable[[Any, Any], Any] | None = None
    write: Callable[[Any, str], Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether the model.py replaces nothing."""
        return not (self.load or self.read or self.predict or self.write)


def find_decorated(module: ModuleType, attribute: str) -> Callable[..., Any] | None:
    """Return the first function of a module that a decorator marked, by name, or None."""
    for name in sorted(vars(module)):
        value = vars(module)[name]
        if callable(value) and getattr(value, attribute, False) is True:
            return value  # type: ignore[no-any-return]  # callable, as just tested
    return None


def find_custom_code(module: ModuleType) -> CustomCode:
    """Return what a module replaces: its decorated functions, or, without any, SageMaker's."""
    write = find_decorated(module, "is_output_formatter")
    decorated = CustomCode(
        load=find_decorated(module, "is_init_handler"),
        read=find_decorated(module, "is_input_formatter"),
        predict=find_decorated(module, "is_prediction_handler"),
        write=None if write is None else lambda prediction, _accept: write(prediction),
    )
    return _find_sagemaker(module) if decorated.is_empty else decorated


def _find_sagemaker(module: ModuleType) -> CustomCode:
    load, read, predict, write = (getattr(module, name, None) for name in SAGEMAKER_NAMES)

    def read_input(inputs: Input) -> Any:
        assert read is not None  # only used when it is there
        return read(bytes(inputs.get_as_bytes()), inputs.get_property("Content-Type"))

    return CustomCode(load=load, read=read_input if read else None, predict=predict, write=write)
