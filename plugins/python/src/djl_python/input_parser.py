"""Decorators of a model.py that has no handler of its own but shapes what a built-in handler does."""

from __future__ import annotations

from djl_python.custom_code import init_handler, input_formatter, prediction_handler

__all__ = ["init_handler", "input_formatter", "prediction_handler"]
