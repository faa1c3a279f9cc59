"""Build the `Input` of a call: one request, several with the prefix `batch_NNN.`, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from djl_python.inputs import Input
from frame.api import Buffer, Request

_SERVER_SET = frozenset({"batch_size"})
"""Properties by which a client could make a handler take one request for a batch."""


def build_input(requests: Sequence[Request], additions: Mapping[str, Any], function_name: str) -> Input:
    """Return the input of one call.

    `additions` are properties that the server sets (`model_dir`, …); they win over a client's headers.
    """
    inputs = Input()
    inputs.function_name = function_name
    if len(requests) == 1:
        _add_request(inputs, requests[0], "")
    else:
        inputs.properties["batch_size"] = str(len(requests))
        for index, request in enumerate(requests):
            _add_request(inputs, request, f"batch_{index:03d}.")
    _set_all(inputs, additions)
    return inputs


def build_first_input(properties: Mapping[str, Any], function_name: str) -> Input:
    """Return the empty input of the first call: options and arguments as properties, no content."""
    inputs = Input()
    inputs.function_name = function_name
    _set_all(inputs, properties)
    return inputs


def _set_all(inputs: Input, properties: Mapping[str, Any]) -> None:
    for key, value in properties.items():
        if key in inputs.properties:  # a client's spelling of the same name
            lower = key.lower()
            for spelling in [known for known in inputs.properties if known.lower() == lower]:
                del inputs.properties[spelling]
        inputs.properties[key] = value


def _add_request(inputs: Input, request: Request, prefix: str) -> None:
    for key, value in request.properties.items():
        if prefix or key.lower() not in _SERVER_SET:
            inputs.properties[prefix + key] = value
    if "requestId" not in request.properties:
        inputs.properties[prefix + "requestId"] = request.id
    for part in request.parts:
        inputs.content.add(prefix + (part.key or "data"), _own(part.data))


def _own(data: Buffer) -> bytearray:
    """Return bytes the handler may change, as DJL Serving's are (`np.frombuffer` of them is writable)."""
    return data if isinstance(data, bytearray) else bytearray(data)
