"""DJL Serving's prediction routes: request line and headers to properties and parts, errors to its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from frame.errors import BadRequestError
from frame.http.answers import JSON_TYPE, error_body
from frame.http.invocation import Headers, Invocation

CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
MODEL_NAME, MODEL_VERSION = "model_name", "model_version"
MAX_QUERY_FIELDS = 256
"""A client counts its query parameters; each becomes a part."""


class DjlAdapter:
    """`/predictions/{model}[/{version}]` and `/invocations`."""

    def __init__(self, *, allows_handler_override: bool) -> None:
        self._allows_handler_override = allows_handler_override

    def invocation(
        self,
        parameters: Mapping[str, str],
        query: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        request_id: str,
    ) -> Invocation:
        """Map as DJL Serving does: query to parts, headers to properties, `requestId` added.

        Raises:
            BadRequestError: a query that cannot be read, or a `handler` property from a client.
        """
        properties = _properties(headers)
        properties.pop("requestId", None)
        properties["requestId"] = request_id  # behind other spellings of it: workers let the last one win
        if not self._allows_handler_override and any(key.lower() == "handler" for key in properties):
            raise BadRequestError(
                "handler: a client may not choose it (ALLOW_REQUEST_HANDLER_OVERRIDE is not set)"
            )
        fields = _query_fields(query) if query else []
        model = parameters.get("model")
        version = parameters.get("version")
        if model is None:
            named = dict(fields)
            model = named.get(MODEL_NAME) or properties.get(MODEL_NAME)
            version = named.get(MODEL_VERSION) or properties.get(MODEL_VERSION)
        return Invocation(
            model=model,
            version=version,
            properties=properties,
            parts=[(key, value.encode()) for key, value in fields],
            model_field=MODEL_NAME if model is None else None,
        )

    def error(self, status: int, type_name: str, message: str) -> tuple[Headers, bytes]:
        """Return the JSON of `code`, `type`, `message`."""
        return [JSON_TYPE], error_body(status, type_name, message)


def _properties(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers as properties; the last duplicate wins, SageMaker's custom attributes are split."""
    properties: dict[str, str] = {}
    for name, value in headers:
        if name == CUSTOM_ATTRIBUTES:
            properties.update(_attributes(value.decode("latin-1")))
        else:
            properties[name.decode("latin-1")] = value.decode("latin-1")
    return properties


def _attributes(text: str) -> dict[str, str]:
    """Split `k=v;k2=v2`; an entry without `=` has no key to be found by and is left out."""
    pairs = (item.partition("=") for item in text.split(";"))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and key.strip()}


def _query_fields(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise BadRequestError(
            f"query: not percent-encoded UTF-8, or over {MAX_QUERY_FIELDS} parameters"
        ) from None
