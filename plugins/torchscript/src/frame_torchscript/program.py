"""A loaded program as the engine runs it, whether it came from TorchScript or from torch.export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from frame.api import Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Input:
    """One named input: what clients send, and the dtype that the program takes (None: whatever comes)."""

    spec: TensorSpec
    dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Something to call with named tensors.

    Attributes:
        inputs: in the program's order.
        outputs: in the program's order; empty when they are not known before the first call.
        run: tensors on the program's device by input name -> whatever the module returns.
        reset: brings the state back to that of a fresh copy; None when the program has no such method.
        keeps_state: a call may change what the next one answers, or two calls may not overlap.
        float_dtype: what floating inputs without a dtype of their own are turned into: that of the weights.
        extra_files: texts of the archive's extra files that the options name.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[[Mapping[str, torch.Tensor]], object]
    reset: Callable[[], object] | None
    keeps_state: bool
    float_dtype: torch.dtype | None
    extra_files: Mapping[str, str]

    @property
    def signature(self) -> Signature:
        """Inputs and outputs for the server."""
        return Signature(tuple(item.spec for item in self.inputs), self.outputs)
