"""Turns what torch raises in a call into an answer for the client: whose fault, without code or paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from frame.api import RequestError

_INPUT_FAULTS = re.compile(
    r"shapes cannot be multiplied|[Ss]izes of tensors must match|must match the size of tensor|size mismatch"
    r"|index out of range|out of bounds|expected scalar type|must have the same dtype|scalar types?:"
    r"|[Ee]xpected .* (?:but|to have|input)|Given (?:groups|normalized_shape|input size)"
    r"|Kernel size can't be greater"
    r"|shape '\[.*\]' is invalid|Input dtype must be|Dimension out of range|Guard failed"
    r"|not implemented for '|should be the same"
)
"""torch's complaints about sizes, dtypes and indices: they speak of shapes, never of values."""
_MEMORY_FAULTS = re.compile(r"not enough memory|can't allocate memory|out of memory")
_RAISED = re.compile(
    r"^(?:RuntimeError: )?(?:builtins\.)?(?:ValueError|AssertionError|TypeError|IndexError): (.+)$"
)
_LONGEST = 200  # characters of the module's own message


def to_request_error(error: Exception, inputs: Mapping[str, Any]) -> RequestError:
    """Say what the client can do about `error`, raised by a call with the arrays `inputs`.

    Memory gives 507, sizes, dtypes and indices that the module cannot take 400, the module's own
    `raise ValueError("…")` 424 with its text, everything else 424 without.
    """
    line = _last_line(error)
    given = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
    if isinstance(error, torch.OutOfMemoryError) or _MEMORY_FAULTS.search(line):
        return RequestError(
            507, f"not enough memory for {given}; send fewer rows", type_name="OutOfMemoryError"
        )
    if isinstance(error, torch.jit.Error) and (raised := _RAISED.match(line)):
        return RequestError(
            424, f"the model refused {given}: {raised[1][:_LONGEST]}", type_name="HandlerError"
        )
    if _INPUT_FAULTS.search(line):
        reason = line.removeprefix("RuntimeError: ")[:_LONGEST]
        return RequestError(400, f"the model cannot take {given}: {reason}")
    return RequestError(
        424, f"the model failed on {given}; the server's log says why", type_name="HandlerError"
    )


def _last_line(error: Exception) -> str:
    """Return the message proper: TorchScript puts a traceback of the module's code before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    head = next((line for line in reversed(lines) if re.match(r"[\w.]*(?:Error|Exception): ", line)), None)
    return head or (lines[-1] if isinstance(error, torch.jit.Error) else lines[0])
