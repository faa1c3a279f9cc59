"""Requests that schemathesis makes from the server's own OpenAPI document: answers are as the document says.

Each operation gets requests that obey its description and such that do not, for models that exist and for
others. What an answer may be is what the document says, and a 5xx is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from frame.http.answers import pretty_json
from frame.http.openapi import openapi_document
from frame.http.routes import default_table
from frame.testing import Server, run_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.process.probes import DEADLINE, put_model

pytestmark = pytest.mark.slow(120)
EXAMPLES = 30  # of each operation and mode
DOCUMENT = openapi_document(default_table())
MODELS = ("echo", "versions")
VERSIONS = ("default", "1", "2")
MOST = {"min_worker": 2, "max_worker": 2, "minWorkers": 2, "maxWorkers": 2, "batch_size": 8}
CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
OPERATIONS = {
    found.label: found
    for found in (result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations())
}


def _cases() -> Iterator[tuple[str, GenerationMode]]:
    """Pair operations with modes; nothing disobeys the description of a path whose names are any text."""
    for label, operation in OPERATIONS.items():
        yield label, GenerationMode.POSITIVE
        described = operation.definition.raw
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "schema" in body or any(item["in"] == "query" for item in described.get("parameters", ())):
            yield label, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the models that are served."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        put_model(folder / name, engine="echo", maxWorkers=1, batch_size=8)
    return folder


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """Serve nothing, yet."""
    with run_server(None) as server:
        yield server


@pytest.fixture
def server(running: Server, store: Path) -> Server:
    """Return a server with the models, whatever requests before have made of it."""
    with httpx.Client(base_url=running.url, timeout=DEADLINE) as client:
        for model in client.get("/models").json()["models"]:
            client.delete(f"/models/{model['modelName']}")
        for name, version in (("echo", ""), ("versions", "1"), ("versions", "2")):
            query = {"url": str(store / name), "model_name": name, "model_version": version}
            assert client.post("/models", params=query).status_code == 200
        client.post("/server/logging", params={"level": "info"})
    return running


def _answers(server: Server, store: Path) -> None:
    """Check that the server does its work yet: it registers, predicts and unregisters."""
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        query = {"url": str(store / "echo"), "model_name": "last"}
        assert client.post("/models", params=query).status_code == 200
        answer = client.post("/predictions/last", json={"still": "here"})
        assert (answer.status_code, answer.json()) == (200, {"still": "here"})
        assert client.delete("/models/last").status_code == 200


def _within(case: schemathesis.Case) -> None:
    """Keep numbers of workers to what the machine has, and of batches to what the models were loaded for."""
    for parameters in (case.query, case.body):
        if isinstance(parameters, dict):
            for name, most in MOST.items():
                value = parameters.get(name)
                if isinstance(value, (int, float)) and value > most:
                    parameters[name] = most


def _name_what_is_there(case: schemathesis.Case, data: st.DataObject, store: Path) -> None:
    """Put models that exist into some of the cases: few texts made at random name one."""
    for name, known in (("model", MODELS), ("version", VERSIONS)):
        if name in case.path_parameters and (chosen := data.draw(st.sampled_from((*known, None)), name)):
            case.path_parameters[name] = chosen
    if case.operation.label == "POST /models" and data.draw(st.booleans(), "of a model"):
        kept = data.draw(st.sampled_from(("model_name", "model_version", "job_queue_size", "synchronous")))
        query = {name: value for name, value in (case.query or {}).items() if name == kept}
        case.query = {**query, "url": str(store / data.draw(st.sampled_from(MODELS)))}
        case.body, case.media_type = NotSet(), None
    if case.operation.label == "POST /invocations" and data.draw(st.booleans(), "of a model"):
        case.query = {**(case.query or {}), "model_name": data.draw(st.sampled_from(MODELS))}


def test_the_server_describes_what_is_tested(running: Server) -> None:
    assert httpx.options(running.url, timeout=DEADLINE).json() == json.loads(pretty_json(DOCUMENT))


@pytest.mark.parametrize(("label", "mode"), list(_cases()))
def test_answers_are_as_described(label: str, mode: GenerationMode, server: Server, store: Path) -> None:
    operation = OPERATIONS[label]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def check(case: schemathesis.Case, data: st.DataObject) -> None:
        _name_what_is_there(case, data, store)
        _within(case)
        answer: Any = case.call(base_url=server.url, timeout=DEADLINE)
        assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
        case.validate_response(answer, checks=CHECKS)

    check()
    _answers(server, store)
