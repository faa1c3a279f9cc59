"""The route table: who answers a request line."""

from __future__ import annotations

import pytest
from frame.api import Protocol, Route
from frame.http.routes import (
    Endpoint,
    Found,
    NoSuchMethod,
    NoSuchPath,
    RouteTable,
    default_table,
    endpoints_of,
)


def endpoint(name: str, path: str, *methods: str) -> Endpoint:
    return Endpoint(
        name=name, path=path, methods=methods, route_class="observe", plane="control", summary=name
    )


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("POST", "/predictions/m", "djl_1", {"model": "m"}),
        ("PATCH", "/predictions/m/v1", "djl_2", {"model": "m", "version": "v1"}),
        ("POST", "/predictions/a%2Fb%20c", "djl_1", {"model": "a/b c"}),
        ("GET", "/invocations", "djl_3", {}),
        ("GET", "/ping", "ping", {}),
        ("HEAD", "/ping", "ping", {}),
        ("GET", "/models", "list_models", {}),
        ("GET", "/models/m", "describe_model", {"model": "m"}),
        ("GET", "/models/m/1", "describe_model_version", {"model": "m", "version": "1"}),
        ("GET", "/server/metrics", "metrics", {}),
        ("OPTIONS", "/", "describe_api", {}),
    ],
)
def test_request_line_finds_its_endpoint(
    method: str, path: str, name: str, parameters: dict[str, str]
) -> None:
    found = default_table().resolve(method, path)
    assert isinstance(found, Found)
    assert (found.endpoint.name, found.parameters) == (name, parameters)


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/ping/", "//ping", "/models/", "/models/m/1/x", "/predictions", "/predictions//1", "", "*"],
)
def test_unknown_path_is_not_found(path: str) -> None:
    assert default_table().resolve("GET", path) == NoSuchPath()


def test_wrong_method_names_the_allowed_ones() -> None:
    assert default_table().resolve("POST", "/ping") == NoSuchMethod(("GET",))
    assert default_table().resolve("GET", "/") == NoSuchMethod(("OPTIONS",))


def test_literal_segment_wins_over_parameter_in_any_order() -> None:
    rows = [endpoint("any", "/a/{x}", "GET"), endpoint("one", "/a/b", "GET")]
    for table in (RouteTable(rows), RouteTable(rows[::-1])):
        found = table.resolve("GET", "/a/b")
        assert isinstance(found, Found)
        assert found.endpoint.name == "one"


def test_methods_of_one_path_may_be_spread_over_endpoints() -> None:
    table = RouteTable([endpoint("read", "/a/{x}", "GET"), endpoint("write", "/a/{y}", "PUT", "DELETE")])
    found = table.resolve("DELETE", "/a/1")
    assert found == Found(table.endpoints[1], {"y": "1"})
    assert table.resolve("POST", "/a/1") == NoSuchMethod(("GET", "PUT", "DELETE"))


@pytest.mark.parametrize(
    "rows",
    [
        [endpoint("a", "/x/{p}", "GET"), endpoint("b", "/x/{q}", "GET", "PUT")],
        [endpoint("a", "/x", "*"), endpoint("b", "/x", "PUT")],
        [endpoint("a", "/x", "GET"), endpoint("a", "/y", "GET")],
    ],
)
def test_two_rows_cannot_claim_one_request_or_name(rows: list[Endpoint]) -> None:
    with pytest.raises(ValueError, match=r"both claim|taken"):
        RouteTable(rows)


def test_protocols_routes_become_inference_rows_of_the_data_plane() -> None:
    protocol = Protocol(
        name="kserve",
        routes=(Route("/v2/models/{model}/infer", ("post",)), Route("/v2/x")),
        target="a:B",
        codec="c",
    )
    rows = endpoints_of(protocol)
    assert [row.methods for row in rows] == [("POST",), ("*",)]
    assert {(row.route_class, row.plane, row.protocol) for row in rows} == {("inference", "data", "kserve")}
    assert isinstance(RouteTable(rows).resolve("POST", "/v2/models/m/infer"), Found)


def test_only_inference_rows_are_on_the_data_plane() -> None:
    assert all(row.route_class == "inference" for row in default_table().endpoints if row.plane == "data")


def test_listener_may_carry_inference_alone() -> None:
    table = default_table().restricted_to("inference")
    assert {row.path for row in table.endpoints} == {
        "/predictions/{model}",
        "/predictions/{model}/{version}",
        "/invocations",
        "/models/{model}/invoke",
        "/ping",
        "/",
    }
    assert table.resolve("GET", "/models") == NoSuchPath()
