"""A loaded SavedModel signature, run on named arrays."""

from __future__ import annotations

import logging
import re
from typing import Any

import tensorflow as tf
from frame.api import RequestError, TensorModel, Tensors

from frame_tf.signatures import signature_of, writes_variables

_log = logging.getLogger(__name__)

_REASON = re.compile(r"^(.+)\n\s*\[\[\{\{node", re.MULTILINE)
_LONGEST = 200  # characters of TensorFlow's own reason


class TensorFlowModel(TensorModel):
    """A signature of a SavedModel; its slots share it unless it assigns to variables."""

    def __init__(self, loaded: object, function: Any, *, device: str, slots: int = 1) -> None:
        self.signature = signature_of(function)
        self._loaded: object | None = loaded  # owns the variables that the function reads
        self._function: Any = function
        self._device = device
        self._keeps_state = writes_variables(function)
        self.concurrency = 1 if self._keeps_state else slots
        if self._keeps_state:
            _log.warning("model_keeps_state signature_assigns_variables shared_by_slots=no")
        self._dtypes = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch: arrays in, arrays out; strings are arrays of bytes objects."""
        if self._loaded is None:
            raise RequestError(503, "the model is closed", type_name="ModelNotReadyError")
        try:
            with tf.device(self._device):  # again, for callers outside the slot threads
                tensors = {name: self._tensor(name, inputs[name]) for name in self._dtypes}
                outputs = self._function(**tensors)
                return {spec.name: _array(outputs[spec.name]) for spec in self.signature.outputs}
        except tf.errors.InvalidArgumentError as error:
            raise RequestError(400, _refusal(error, inputs)) from error
        except tf.errors.ResourceExhaustedError as error:
            message = f"not enough memory for {_given(inputs)}; send fewer rows"
            raise RequestError(507, message, type_name="OutOfMemoryError") from error

    def warm_up(self) -> None:
        """Run once, except where a call would change the variables that clients see."""
        if not self._keeps_state:
            super().warm_up()

    def close(self) -> None:
        """Drop the model and its variables."""
        self._loaded = self._function = None

    def _tensor(self, name: str, array: Any) -> Any:
        tensor = tf.convert_to_tensor(array)
        return tensor if tensor.dtype == self._dtypes[name] else tf.cast(tensor, self._dtypes[name])


def _array(tensor: Any) -> Any:
    return (tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor).numpy()


def _refusal(error: Exception, inputs: Tensors) -> str:
    """Say what TensorFlow says of the inputs, without the names of its functions and nodes."""
    found = _REASON.search(str(error))
    reason = found[1].strip()[:_LONGEST] if found else ""
    if not reason or "__inference" in reason:
        return f"the model cannot take {_given(inputs)}"
    return f"the model cannot take {_given(inputs)}: {reason}"


def _given(inputs: Tensors) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
