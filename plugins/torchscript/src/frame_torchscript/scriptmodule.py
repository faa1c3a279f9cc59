"""Reads what the C++ half of a TorchScript module knows and its Python wrapper does not tell."""

from __future__ import annotations

from typing import Any


def method_names(module: Any) -> list[str]:
    """Return the names of the methods that can be called."""
    return list(module._c._method_names())  # noqa: SLF001  # no public way


def forward_schema(module: Any) -> Any:
    """Return the schema of `forward`: its arguments, `self` first."""
    return module._c._get_method("forward").schema  # noqa: SLF001  # absent on frozen modules' wrapper


def attribute(part: Any, name: str, default: object) -> object:
    """Return an attribute of a module or submodule, or `default` where it has none of that name."""
    native = part._c  # noqa: SLF001  # the wrapper's getattr falls through to Python's attributes
    return native.getattr(name) if native.hasattr(name) else default
