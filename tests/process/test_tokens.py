"""Who has no token gets nothing, on any route, with any method; and no model sees a token."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from frame.http.routes import default_table
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, put_model, until, worker_pids

pytestmark = pytest.mark.slow(120)
MANAGEMENT = "a-token-of-management-01"
INFERENCE = "a-token-of-inference-002"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND")

TELLING = """
import os

from djl_python import Output


def handle(inputs):
    if inputs.is_empty():
        return None
    seen = {"properties": inputs.get_properties(), "environment": dict(os.environ)}
    return Output().add_as_json(seen)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with a model that tells all it sees."""
    put_model(tmp_path / "store" / "m", TELLING, maxWorkers=1)
    return tmp_path / "store"


def bearer(token: str) -> dict[str, str]:
    """Return the header with a token."""
    return {"authorization": f"Bearer {token}"}


def local(server: Server) -> str:
    """Return the url at which this machine reaches a server that listens everywhere."""
    return server.url.replace("0.0.0.0", "127.0.0.1")


def statuses(url: str, headers: dict[str, str]) -> dict[tuple[str, str], int]:
    """Ask every route with every method."""
    found = {}
    with httpx.Client(timeout=DEADLINE) as client:
        for endpoint in default_table().endpoints:
            path = endpoint.path.replace("{model}", "m").replace("{version}", "1")
            for method in METHODS:
                found[method, path] = client.request(method, f"{url}{path}", headers=headers).status_code
    return found


def test_with_a_token_of_inference_models_need_it_and_never_see_it(store: Path) -> None:
    environ = {"FRAME_INFERENCE_TOKEN": INFERENCE, "FRAME_MANAGEMENT_TOKEN": MANAGEMENT}
    with run_server(store, environ=environ) as server:
        for path in ("/predictions/m", "/predictions/none", "/invocations"):
            for headers in ({}, bearer(INFERENCE[:-1]), bearer("x"), {"authorization": INFERENCE}):
                answer = httpx.post(f"{server.url}{path}", headers=headers, json=1, timeout=DEADLINE)
                assert (answer.status_code, answer.json()["type"]) == (401, "UnauthorizedError")
        for token in (INFERENCE, MANAGEMENT):
            answer = httpx.post(
                f"{server.url}/predictions/m", headers=bearer(token), json=1, timeout=DEADLINE
            )
            assert answer.status_code == 200
            seen = json.dumps(answer.json())
            assert INFERENCE not in seen
            assert MANAGEMENT not in seen
            assert "authorization" not in seen
        assert httpx.get(f"{server.url}/ping", timeout=DEADLINE).status_code == 200
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in worker_pids(server, "m")]
        assert environments
        assert not any(b"-token-" in text or b"a-token" in text for text in environments)
        log = server.log()
    assert INFERENCE not in log


def test_without_a_token_nothing_but_inference_is_on_an_open_address(store: Path) -> None:
    arguments = ["--host", "0.0.0.0"]
    with run_server(store, arguments, environ={"FRAME_INFERENCE_TOKEN": INFERENCE}) as server:
        found = statuses(local(server), {})
        allowed = {("OPTIONS", path) for _, path in found} | {(m, "/ping") for m in METHODS}
        assert {status for asked, status in found.items() if asked not in allowed} == {401}
        found = statuses(local(server), bearer(INFERENCE))
        rest = {path: status for (method, path), status in found.items() if method == "GET"}
        assert rest.pop("/ping") == 200
        assert {path for path, status in rest.items() if status < 400} == {
            "/predictions/m", "/invocations", "/models/m/invoke",
        }  # fmt: skip
        assert found["DELETE", "/models/m"] == 404


ODD_PATHS = (
    "/%6dodels", "/%6Dodels/m", "/models%2Fm", "//models", "//models/m", "/models//m", "/models/m%2Ftraffic",
    "/models/m%2Fexplain", "/server%2Fmetrics", "/%73erver/metrics", "/%6detrics", "/models/",
    "/server/logging%2F", "/server/%6cogging", "/./models",
)  # fmt: skip


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_paths_written_otherwise_are_nowhere(store: Path, http_server: str) -> None:
    environ = {"SERVING_HTTP_SERVER": http_server, "FRAME_MANAGEMENT_TOKEN": MANAGEMENT}
    with run_server(store, environ=environ) as server:
        target = urlsplit(server.url)
        for path in ODD_PATHS:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                for headers in ({}, bearer(MANAGEMENT)):
                    connection = http.client.HTTPConnection(
                        str(target.hostname), target.port, timeout=DEADLINE
                    )
                    connection.request(method, path, headers=headers)
                    status = connection.getresponse().status
                    connection.close()
                    assert status in {401, 404, 405}, (method, path, headers)
        assert httpx.get(f"{server.url}/models", timeout=DEADLINE).json()["models"][0]["modelName"] == "m"


def test_a_page_cannot_write_a_path_otherwise(store: Path) -> None:
    with run_server(store) as server:
        target = urlsplit(server.url)
        for path in ("/models?url=/tmp", "/%6dodels?url=/tmp", "/models%2F?url=/tmp"):
            connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=DEADLINE)
            connection.request("POST", path, headers={"origin": "https://evil.example"})
            assert connection.getresponse().status in {403, 404}, path
            connection.close()


def test_a_management_address_that_is_open_carries_nothing_without_a_token(
    store: Path, tmp_path: Path
) -> None:
    address = {
        "SERVING_MANAGEMENT_ADDRESS": "http://0.0.0.0:0",
        "SERVING_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    }
    with run_server(store, environ=address) as server:
        assert "management_closed" in server.log()
        open_url = open_address(server)
        assert httpx.get(f"{open_url}/models", timeout=DEADLINE).status_code == 404
        assert httpx.get(f"{open_url}/ping", timeout=DEADLINE).status_code == 200
    with run_server(store, environ={**address, "FRAME_MANAGEMENT_TOKEN": MANAGEMENT}) as server:
        open_url = open_address(server)
        for path in ("/models", "/models/m", "/server/metrics", "/models/m/explain"):
            assert httpx.get(f"{open_url}{path}", timeout=DEADLINE).status_code == 401, path
            answer = httpx.get(f"{open_url}{path}", headers=bearer(MANAGEMENT), timeout=DEADLINE)
            assert answer.status_code == 200, path


def test_an_observe_address_is_read_without_a_token_and_changes_nothing(store: Path) -> None:
    environ = {
        "SERVING_OBSERVE_ADDRESS": "http://0.0.0.0:0", "SERVING_INFERENCE_ADDRESS": "http://127.0.0.1:0",
        "FRAME_MANAGEMENT_TOKEN": MANAGEMENT,
    }  # fmt: skip
    with run_server(store, environ=environ) as server:
        open_url = open_address(server)
        for path in ("/models", "/models/m", "/server/metrics", "/ping"):
            assert httpx.get(f"{open_url}{path}", timeout=DEADLINE).status_code == 200, path
        found = statuses(open_url, bearer(MANAGEMENT))
        changing = {asked: status for asked, status in found.items() if asked[0] not in {"GET", "HEAD"}}
        assert not {asked for asked, status in changing.items() if status < 400 and asked[1] != "/"}
        assert found["GET", "/predictions/m"] == 404


def open_address(server: Server) -> str:
    """Return the url of the listener that is not on loopback."""
    found = until(lambda: re.search(r"server_ready address=(\S+0\.0\.0\.0\S+)", server.log()))
    return found[1].replace("0.0.0.0", "127.0.0.1")
