"""Names what a module returned and turns it into numpy arrays on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from frame.api import RequestError, Tensors

_WIDENED = {torch.bfloat16: torch.float32}
"""dtypes that numpy lacks, with the one that holds their values."""


def named_tensors(result: object) -> dict[str, torch.Tensor]:
    """Return the tensors in `result` by name, in order.

    A dict gives its keys, a named tuple its fields, everything else `output_<position>`; nested containers
    are opened, so that an LSTM's `(y, (h, c))` is `output_0`, `output_1`, `output_2`; None is left out.

    Raises:
        RequestError: 424 when something in it is no tensor, or there is none.
    """
    named: dict[str, torch.Tensor] = {}
    for position, (name, value) in enumerate(_leaves(None, result)):
        if not isinstance(value, torch.Tensor):
            message = (
                f"the model returned {type(value).__name__} where a tensor is needed"
                + (f" (in {name})" if name else "")
                + "; let its forward return tensors, or tuples, lists or dicts of them"
            )
            raise RequestError(424, message, type_name="HandlerError")
        key = name or f"output_{position}"
        if key in named:
            raise RequestError(424, f"the model returned two outputs named {key}", type_name="HandlerError")
        named[key] = value
    if not named:
        raise RequestError(424, "the model returned no tensor", type_name="HandlerError")
    return named


def _leaves(name: str | None, value: object) -> Iterator[tuple[str | None, object]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(str(key), item)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field, item in zip(value._fields, value, strict=True):
            yield from _leaves(field, item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(None, item)
    else:
        yield name, value


def rename(named: dict[str, torch.Tensor], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Give the outputs the declared names: a choice of their own in any order, or new ones for all in order.

    Raises:
        RequestError: 424 when the numbers differ.
    """
    if not names:
        return named
    if all(name in named for name in names):
        return {name: named[name] for name in names}
    if len(names) != len(named):
        message = (
            f"option.outputs names {len(names)} outputs, the model returned {len(named)}: {', '.join(named)}"
        )
        raise RequestError(424, message, type_name="HandlerError")
    return {name: tensor for name, tensor in zip(names, named.values(), strict=True) if name != "_"}


def to_numpy(named: Mapping[str, torch.Tensor]) -> Tensors:
    """Copy the tensors to the CPU; bfloat16 becomes float32, quantized tensors their values."""
    return {name: _array(tensor) for name, tensor in named.items()}


def _array(tensor: torch.Tensor) -> Any:
    dense = tensor.detach()
    if dense.is_quantized:
        dense = dense.dequantize()
    if dense.layout is not torch.strided:
        dense = dense.to_dense()
    dense = dense.to("cpu", _WIDENED.get(dense.dtype, dense.dtype))
    return dense.resolve_conj().resolve_neg().contiguous().numpy()


def dtype_name(dtype: torch.dtype) -> str:
    """Return the dtype as numpy and clients know it: `float32`, and float32 for bfloat16."""
    return str(_WIDENED.get(dtype, dtype)).removeprefix("torch.")
