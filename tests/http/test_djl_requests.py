"""DJL Serving's mapping of request line and headers to a model, properties and content parts."""

from __future__ import annotations

import json

import pytest
from frame.errors import BadRequestError
from frame.http.djl import MAX_QUERY_FIELDS, DjlAdapter
from frame.http.invocation import Headers, Invocation

HEADERS: Headers = [(b"content-type", b"application/json")]


def read(
    parameters: dict[str, str] | None = None,
    query: bytes = b"",
    headers: Headers | None = None,
    *,
    allows_handler_override: bool = False,
) -> Invocation:
    """Read a request line and headers."""
    adapter = DjlAdapter(allows_handler_override=allows_handler_override)
    return adapter.invocation(parameters or {}, query, HEADERS if headers is None else headers, "id-1")


def test_path_names_model_and_version() -> None:
    invocation = read({"model": "mlp", "version": "2"}, b"model_name=other")
    assert (invocation.model, invocation.version) == ("mlp", "2")


def test_query_names_the_model_of_an_invocation_before_headers_do() -> None:
    headers: Headers = [(b"model_name", b"from-header"), (b"model_version", b"3")]
    assert read(query=b"model_name=from-query", headers=headers).model == "from-query"
    invocation = read(headers=headers)
    assert (invocation.model, invocation.version) == ("from-header", "3")


def test_invocation_without_a_name_leaves_it_open() -> None:
    assert read().model is None


def test_query_parameters_become_parts_in_order() -> None:
    assert read(query=b"b=2&a=%C3%BC&b=3&c=").parts == [
        ("b", b"2"),
        ("a", "ü".encode()),
        ("b", b"3"),
        ("c", b""),
    ]


def test_headers_become_properties_and_the_last_duplicate_wins() -> None:
    properties = read(headers=[(b"x-a", b"1"), (b"accept", b"tensor/npz"), (b"x-a", b"2")]).properties
    assert properties == {"x-a": "2", "accept": "tensor/npz", "requestId": "id-1"}


def test_custom_attributes_are_split_into_properties() -> None:
    properties = read(
        headers=[(b"x-amzn-sagemaker-custom-attributes", b"tenant=7; mode = fast;stray")]
    ).properties
    assert properties == {"tenant": "7", "mode": "fast", "requestId": "id-1"}


@pytest.mark.parametrize(
    "header", [(b"handler", b"other"), (b"x-amzn-sagemaker-custom-attributes", b"handler=other")]
)
def test_client_chooses_the_handler_only_where_that_is_allowed(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadRequestError, match="ALLOW_REQUEST_HANDLER_OVERRIDE"):
        read(headers=[header])
    assert read(headers=[header], allows_handler_override=True).properties["handler"] == "other"


@pytest.mark.parametrize("query", [b"a=%ff", b"\xff=1", b"&".join([b"a=1"] * (MAX_QUERY_FIELDS + 1))])
def test_unreadable_or_endless_query_is_refused(query: bytes) -> None:
    with pytest.raises(BadRequestError, match="query"):
        read(query=query)


def test_error_is_djl_servings_json() -> None:
    headers, body = DjlAdapter(allows_handler_override=False).error(404, "ModelNotFoundError", 'no "m"')
    assert headers == [(b"content-type", b"application/json")]
    assert json.loads(body) == {"code": 404, "type": "ModelNotFoundError", "message": 'no "m"'}
