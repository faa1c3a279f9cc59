"""Versions on one name, one model without a name, and HTTP/2."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, TEXT, error_of, put_model, until
from tests.process.test_streams import STREAMING

TELL = """
from djl_python import Input, Output


def handle(inputs: Input):
    return None if inputs.is_empty() else Output().add("{version}")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve one name in three versions, the newest not last."""
    folder = tmp_path_factory.mktemp("models")
    arguments = []
    for version in ("1", "10", "9"):
        put_model(folder / f"v{version}", TELL.format(version=version))
        arguments += ["-m", f"m:{version}={folder / f'v{version}'}"]
    with run_server(None, arguments) as running:
        yield running


def text(server: Server, path: str, **request: object) -> str:
    answer = httpx.post(server.url + path, timeout=DEADLINE, content=b"x", **request)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.parametrize("version", ["1", "9", "10"])
def test_each_version_answers_under_its_path(server: Server, version: str) -> None:
    assert text(server, f"/predictions/m/{version}") == version


def test_newest_version_is_the_default(server: Server) -> None:
    assert {text(server, "/predictions/m") for _ in range(6)} == {"10"}


@pytest.mark.parametrize("where", ["params", "headers"])
def test_invocation_names_a_version(server: Server, where: str) -> None:
    chosen = {"model_name": "m", "model_version": "9"}
    assert text(server, "/invocations", **{where: chosen}) == "9"


def test_invocation_without_a_name_reaches_the_only_model(server: Server) -> None:
    assert text(server, "/invocations") == "10"


def test_unknown_version_is_404(server: Server) -> None:
    code, kind, message = error_of(httpx.post(f"{server.url}/predictions/m/11", timeout=DEADLINE))
    assert (code, kind) == (404, "ModelNotFoundError")
    assert "11" in message


def test_versions_are_described_side_by_side(server: Server) -> None:
    every = httpx.get(f"{server.url}/models/m", timeout=DEADLINE).json()
    assert {item["version"] for item in every} == {"1", "9", "10"}
    (one,) = httpx.get(f"{server.url}/models/m/9", timeout=DEADLINE).json()
    assert one["version"] == "9"


def test_versions_of_the_store_layout_are_served(tmp_path: Path) -> None:
    put_model(tmp_path / "plain", engine="echo")
    with run_server(tmp_path, ["-m", f"other={tmp_path / 'plain'}"]) as running:
        assert text(running, "/predictions/plain/default", headers=TEXT) == "x"
        assert text(running, "/predictions/other", headers=TEXT) == "x"


def test_http_2_carries_many_large_predictions_over_one_connection(tmp_path: Path) -> None:
    put_model(tmp_path / "echo", engine="echo")
    headers = {"content-type": "application/octet-stream"}

    async def scenario(url: str) -> None:
        bodies = [os.urandom(1_500_000 + number) for number in range(8)]
        async with httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=DEADLINE) as client:
            sent = [client.post("/predictions/echo", content=body, headers=headers) for body in bodies]
            answers = await asyncio.gather(*sent, client.get("/predictions/nobody"))
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert [answer.content for answer in answers[:-1]] == bodies
        assert error_of(answers[-1])[0] == 404

    with run_server(tmp_path) as running:
        asyncio.run(scenario(running.url))


def test_http_2_stream_that_is_reset_stops_its_generator_and_no_other(tmp_path: Path) -> None:
    put_model(tmp_path / "store" / "stream", STREAMING, minWorkers=2, maxWorkers=2)
    marker = tmp_path / "ended"

    async def scenario(url: str) -> None:
        order = {"count": 10**9, "ended": str(marker)}
        async with httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=DEADLINE) as client:
            async with client.stream("POST", "/predictions/stream", json=order) as endless:
                async for piece in endless.aiter_raw():
                    assert piece.startswith(b"000000")
                    break
            other = await client.post("/predictions/stream", json={"count": 100})
            assert other.text.split()[-1] == "000099"

    with run_server(tmp_path / "store") as running:
        asyncio.run(scenario(running.url))
        until(marker.exists, what="generator's finally")


def test_both_servers_answer_alike(tmp_path: Path) -> None:
    """Leave out what is the connection's and not the answer's."""
    put_model(tmp_path / "echo", engine="echo")
    seen = []
    for name in ("hypercorn", "uvicorn"):
        with run_server(tmp_path, ["--http-server", name]) as running:
            seen.append(exchanges(running))
    assert seen[0] == seen[1]


def exchanges(server: Server) -> list[tuple[int, dict[str, str], bytes]]:
    """Return status, headers and body of one request of each kind."""
    requests = [
        ("POST", "/predictions/echo", b"[1]", {"content-type": "application/json"}),
        ("POST", "/predictions/echo", b"[1", {"content-type": "application/json"}),
        ("POST", "/predictions/echo?a=1", b"", {}),
        ("POST", "/predictions/nobody", b"x", TEXT),
        ("HEAD", "/ping", b"", {}),
        ("GET", "/ping", b"", {}),
        ("DELETE", "/ping", b"", {}),
        ("GET", "/nowhere", b"", {}),
    ]
    answers = []
    for method, path, body, headers in requests:
        answer = httpx.request(
            method,
            server.url + path,
            content=body,
            headers={"x-request-id": "same", **headers},
            timeout=DEADLINE,
        )
        kept = {
            key.lower(): value for key, value in answer.headers.items() if key not in {"date", "connection"}
        }
        answers.append((answer.status_code, kept, answer.content))
    return answers
