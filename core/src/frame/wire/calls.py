"""How the router tells a worker which function of a workflow to call, and what its arguments are."""

from __future__ import annotations

FUNCTION_PROPERTY = "x-frame-function"
ARGUMENTS_PROPERTY = "x-frame-arguments"
"""JSON: for each argument `{"type": content type, "parts": [keys]}`, or a list of such.

The parts of all of them come one after the other.
"""
BY_POSITION_PROPERTY = "x-frame-by-position"
"""Tensors none of whose names is one of the model's inputs are taken in order: another model made them."""
OWN_PROPERTIES = frozenset({FUNCTION_PROPERTY, ARGUMENTS_PROPERTY, BY_POSITION_PROPERTY})
"""What no client may set."""
