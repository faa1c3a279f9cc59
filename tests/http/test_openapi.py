"""The OpenAPI document: valid, and with every row of the table."""

from __future__ import annotations

from typing import Any

from frame.http.openapi import openapi_document
from frame.http.routes import default_table

DOCUMENT = openapi_document(default_table())


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


def test_document_has_what_openapi_3_1_requires() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    for path, item in DOCUMENT["paths"].items():
        assert path.startswith("/")
        for verb, operation in item.items():
            assert verb in {"get", "put", "post", "delete", "options", "head", "patch"}
            assert operation["responses"]
            assert all("description" in response for response in operation["responses"].values())


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_every_endpoint_is_described() -> None:
    assert list(DOCUMENT["paths"]) == list(dict.fromkeys(row.path for row in default_table().endpoints))


def test_path_parameters_are_declared_and_required() -> None:
    for row in default_table().endpoints:
        for operation in DOCUMENT["paths"][row.path].values():
            declared = [p for p in operation.get("parameters", []) if p["in"] == "path"]
            assert [p["name"] for p in declared] == list(row.parameters)
            assert all(p["required"] for p in declared)


def test_references_lead_somewhere() -> None:
    references = _references(DOCUMENT)
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]


def test_query_parameters_are_described() -> None:
    for path, verb, names in (
        ("/invocations", "post", ["model_name", "model_version"]),
        ("/models", "get", ["limit", "next_page_token"]),
        ("/server/metrics", "get", ["name[]"]),
    ):
        assert [found["name"] for found in DOCUMENT["paths"][path][verb]["parameters"]] == names
