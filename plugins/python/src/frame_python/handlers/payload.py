"""The body of a request to a built-in handler, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from frame.api import Request, RequestError

_EXPECTED = 'expected JSON such as {"inputs": "some text", "parameters": {}}'


def read_payload(request: Request) -> dict[str, Any]:
    """Return `inputs`, `parameters` and what else came, of JSON, a form or plain text.

    Raises:
        RequestError: 400, what is wrong with it.
    """
    kind = (request.properties.get("Content-Type") or "").split(";")[0].strip().lower()
    if kind == "text/plain":
        return {"inputs": _text(bytes(request.data))}
    if request.part("inputs") is not None and request.part("data") is None:
        return _read_form(request)
    if kind == "application/x-www-form-urlencoded":
        raise RequestError(
            400, "a form without the field inputs; send JSON with the header Content-Type: application/json"
        )
    payload = _parse(bytes(request.data))
    if isinstance(payload, (str, list)):
        return {"inputs": payload}
    if not isinstance(payload, dict):
        raise RequestError(400, f"the body is {_kind(payload)}; {_EXPECTED}")
    return payload


def read_parameters(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's parameters.

    Raises:
        RequestError: 400, they are no object.
    """
    parameters = payload.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(400, f"parameters: expected an object, got {_kind(parameters)}")
    return parameters


def read_texts(payload: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return the texts of `inputs`, and whether they were a list.

    Raises:
        RequestError: 400, `inputs` is missing, empty or of another type.
    """
    if "inputs" not in payload:
        raise RequestError(400, f"inputs: missing; {_EXPECTED}")
    inputs = payload["inputs"]
    texts = inputs if isinstance(inputs, list) else [inputs]
    if not texts:
        raise RequestError(400, "inputs: the list is empty")
    for text in texts:
        if not isinstance(text, str):
            raise RequestError(400, f"inputs: expected a text or a list of texts, got {_kind(text)}")
    return texts, isinstance(inputs, list)


def json_body(value: object) -> bytes:
    """Return JSON, UTF-8; a lone surrogate becomes `?`, as no encoder of the client's can read it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _read_form(request: Request) -> dict[str, Any]:
    values = {part.key: _text(bytes(part.data)) for part in request.parts}
    payload: dict[str, Any] = {"inputs": values["inputs"]}
    if "parameters" in values:
        payload["parameters"] = _parse(values["parameters"].encode())
    if "stream" in values:
        payload["stream"] = values["stream"].lower() == "true"
    return payload


def _parse(body: bytes) -> Any:
    if not body.strip():
        raise RequestError(400, f"the body is empty; {_EXPECTED}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}; {_EXPECTED}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the text is not UTF-8: {error}") from None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
