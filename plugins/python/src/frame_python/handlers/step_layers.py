"""Compile a model's decoder layers one by one: one compilation serves them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frame_python.handlers.step_cache import LayerCache, StepCache

SINGLE = {"max_autotune": True, "coordinate_descent_tuning": True}
"""How steps of one token are compiled: products of one row become sums, fused and tuned to the memory bus."""
SEVERAL: dict[str, Any] = {}
"""How calls with more rows are compiled: the vendor's matrix products, the rest fused."""


def decoder_layers(model: Any) -> nn.ModuleList | None:
    """Return the list of a causal model's equal blocks; None when there is none."""
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    return None


def _run_layer(
    layer: nn.Module,
    hidden: torch.Tensor,
    kept: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
    positions: torch.Tensor,
    cache_name: str,
    given: dict[str, Any],
) -> Any:
    """Run one block on its part of the cache: what is compiled, for all blocks of a class alike."""
    cache = LayerCache(*kept, rows, positions, given["attention_mask"].shape[-1])
    return type(layer).forward(layer, hidden, **given, **{cache_name: cache})


def _mark(value: Any, batch: int, new: int) -> None:
    """Tell the compiler which sizes change from call to call: batch, new tokens, attended length."""
    if isinstance(value, (tuple, list)):
        for part in value:
            _mark(part, batch, new)
    elif isinstance(value, torch.Tensor):
        for dim, size in enumerate(value.shape):
            if size > 1 and ((dim == 0 and size == batch) or (dim in (1, 2) and size == new)):
                torch._dynamo.maybe_mark_dynamic(value, dim)  # noqa: SLF001


class CompiledLayers:
    """The compiled forms of a model's layers, put in the place of their `forward`.

    One compilation is made for steps of one row, one for steps of several, one for prompts; each serves all
    layers and lengths. The loop over the layers stays Python: it runs only while a graph is captured.
    """

    def __init__(
        self, model: Any, *, single: dict[str, Any] | None = None, several: dict[str, Any] | None = None
    ) -> None:
        layers = decoder_layers(model)
        if layers is None:
            message = (
                f"{type(model).__name__}: no list of num_hidden_layers equal layers was found to compile"
            )
            raise ValueError(message)
        self.layers = layers
        # A model takes up to six compilations of one function, and a process may have several models. Beyond
        # the limit, 8 unless it is raised, layers would run uncompiled without a word.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 128)  # noqa: SLF001
        self._single = torch.compile(_run_layer, options=single if single is not None else SINGLE)
        self._several = torch.compile(_run_layer, options=several if several is not None else SEVERAL)

    def install(self) -> None:
        """Let every layer call its compiled form; calls without a `StepCache` go on as before."""
        for index, layer in enumerate(self.layers):
            layer.forward = self._forward(index, layer)  # on the instance only

    def remove(self) -> None:
        """Give the layers their own `forward` back."""
        for layer in self.layers:
            layer.__dict__.pop("forward", None)

    def _forward(self, index: int, layer: nn.Module) -> Any:
        def forward(hidden: torch.Tensor, *args: Any, **given: Any) -> Any:
            names = [name for name, value in given.items() if isinstance(value, StepCache)]
            if not names or args:
                return type(layer).forward(layer, hidden, *args, **given)
            cache = given.pop(names[0])
            batch, new = hidden.shape[:2]
            mask = given["attention_mask"]
            _mark((hidden, cache.positions, cache.rows, *given.values()), batch, new)
            torch._dynamo.maybe_mark_dynamic(mask, 3)  # noqa: SLF001
            run = self._single if batch * new == 1 else self._several
            kept = (cache.keys[index], cache.values[index])
            return run(layer, hidden, kept, cache.rows, cache.positions, names[0], given)

        return forward
