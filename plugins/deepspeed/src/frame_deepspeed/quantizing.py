"""Keep the weights of linear layers as int8: half the memory of float16, on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import parametrize

_LARGEST = 127
_EPSILON = 1e-12


class Int8Weight(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Makes a weight [outputs, inputs] of its int8 values each time it is read.

    One scale for each output: the weights of one output are of one size, those of two are not. Layers that
    DeepSpeed cut are quantized part by part, each rank its own.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return the weight in its own dtype from int8 values and float32 [outputs, 1]."""
        return (values * scale).to(self.dtype)

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the int8 values and the scale of a weight."""
        scale = weight.abs().amax(dim=1, keepdim=True).float().clamp_min(_EPSILON) / _LARGEST
        return (weight.float() / scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def quantize_weights(model: Any) -> int:
    """Quantize the linear layers of a model in place, but for its head; return how many.

    Linear layers are told by their names: DeepSpeed's are no `torch.nn.Linear`.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    chosen = [
        module
        for module in model.modules()
        if module is not head and "Linear" in type(module).__name__ and _has_matrix(module)
    ]
    for module in chosen:
        module.weight.requires_grad_(requires_grad=False)
        with torch.no_grad():
            kept = Int8Weight(module.weight.dtype)
            parametrize.register_parametrization(module, "weight", kept, unsafe=True)
    return len(chosen)


def _has_matrix(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.is_floating_point()  # noqa: PLR2004
