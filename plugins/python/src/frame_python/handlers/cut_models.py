"""Cut a language model to its first and last layer, with its own weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

_KEPT = 2


def cut_model(model: Any) -> Any:
    """Return a copy with two layers, its own embeddings and its own head; `model` stays as it is.

    The copy needs memory for two layers and what surrounds them.

    Raises:
        ValueError: there is no list of layers, or none to leave out.
    """
    config = _text_config(model.config)
    number = getattr(config, "num_hidden_layers", 0)
    if number <= _KEPT:
        message = f"the model has {number} layers: there is none to leave out"
        raise ValueError(message)
    parent, name = _find_layers(model, number)
    layers = getattr(parent, name)
    setattr(parent, name, torch.nn.ModuleList([layers[0], layers[number - 1]]))
    try:
        cut = copy.deepcopy(model)
    finally:
        setattr(parent, name, layers)
    _renumber(cut, number)
    return cut


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _find_layers(model: Any, number: int) -> tuple[Any, str]:
    """Return the module that holds the list of `number` layers, and the list's name."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == number:
                return parent, name
    message = f"{type(model).__name__} has no list of {number} layers"
    raise ValueError(message)


def _renumber(cut: Any, number: int) -> None:
    """Give the copy's configurations, and its layers, the numbers of a model of two layers."""
    for module in cut.modules():
        if getattr(module, "layer_idx", None) == number - 1:
            module.layer_idx = _KEPT - 1
    configs = {id(module.config): module.config for module in cut.modules() if hasattr(module, "config")}
    for config in configs.values():
        config = _text_config(config)  # noqa: PLW2901  # the outer one has no layers
        if getattr(config, "num_hidden_layers", 0) == number:
            config.num_hidden_layers = _KEPT
        kinds = getattr(config, "layer_types", None)
        if kinds and len(kinds) == number:
            config.layer_types = [kinds[0], kinds[-1]]
