"""The decorator for a model.py's own output format."""

from __future__ import annotations

from djl_python.custom_code import output_formatter

__all__ = ["output_formatter"]
