"""Requests for models that are tried without HTTP."""

from __future__ import annotations

import json
from typing import Any

from frame.contract.properties import Properties
from frame.contract.requests import Part, Request


def json_request(value: object, *, id: str = "request", **properties: str) -> Request:  # noqa: A002  # its name
    """Return a request with a JSON body."""
    return body_request(json.dumps(value).encode(), "application/json", id=id, **properties)


def tensor_request(id: str = "request", **arrays: Any) -> Request:  # noqa: A002  # its name
    """Return a request with named numpy arrays, each with a batch axis, as `tensor/ndlist`."""
    from frame.worker.codecs import ndlist  # noqa: PLC0415  # numpy: only where there are tensors

    return body_request(ndlist.dumps(list(arrays.items())), "tensor/ndlist", id=id)


def body_request(body: bytes, content_type: str, *, id: str = "request", **properties: str) -> Request:  # noqa: A002  # its name
    """Return a request with a body; `properties` are further headers, `_` standing for `-`."""
    given = {name.replace("_", "-"): value for name, value in properties.items()}
    return Request(
        id=id, properties=Properties({"content-type": content_type, **given}), parts=(Part("data", body),)
    )
