"""Results that clients fetch later: `x-synchronous: false`, tokens, pages, expiry and limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    DEADLINE,
    JSON,
    OBEDIENT,
    Gate,
    describe,
    error_of,
    metric,
    put_model,
    until,
    worker_pids,
)

pytestmark = pytest.mark.slow(120)
LATER = {"x-synchronous": "false"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a model that does as told, one that streams and one that is always full."""
    store = tmp_path_factory.mktemp("later") / "store"
    put_model(store / "obedient", OBEDIENT, minWorkers=1, maxWorkers=1)
    put_model(store / "words", engine="echo", minWorkers=1, option__mode="stream")
    put_model(store / "slow", engine="echo", minWorkers=1, option__mode="sequence", option__delay_ms=100)
    put_model(store / "narrow", OBEDIENT, minWorkers=1, maxWorkers=1, job_queue_size=1)
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    """Serve the store."""
    with run_server(store) as running:
        yield running


def begin(server: Server, model: str, content: bytes | dict[str, object], **headers: str) -> httpx.Response:
    """Begin a request."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = {"content-type": "text/plain"} if isinstance(content, bytes) else JSON
    url = f"{server.url}/predictions/{model}"
    return httpx.post(url, content=body, headers=kind | LATER | headers, timeout=DEADLINE)


def token_of(answer: httpx.Response) -> str:
    """Return the token of a request that has begun."""
    assert (answer.status_code, answer.content) == (200, b"")
    token = answer.headers["x-next-token"]
    assert answer.headers["x-amzn-sagemaker-custom-attributes"] == f"x-next-token={token}"
    assert len(token) == 36
    return token


def fetch(server: Server, token: str, path: str = "/invocations", **headers: str) -> httpx.Response:
    """Ask for a result."""
    given = {"x-starting-token": token} | {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.post(f"{server.url}{path}", headers=given, timeout=DEADLINE)


def fetch_done(server: Server, token: str) -> httpx.Response:
    """Ask for a result until it is there."""
    return until(lambda: (answer := fetch(server, token)).status_code != 202 and answer)


def test_an_answer_is_not_there_then_it_is(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    token = token_of(begin(server, "obedient", {"gates": [str(gate)], "name": "later"}))
    gate.wait_reached()
    answer = fetch(server, token)
    assert (answer.status_code, answer.content, answer.headers["x-next-token"]) == (202, b"", token)
    gate.open()
    answer = fetch_done(server, token)
    assert (answer.status_code, answer.json()["name"]) == (200, "later")
    assert "x-next-token" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.content))
    again = fetch(server, token, path="/predictions/words")
    assert again.content == answer.content, "any inference route will do, and again"
    assert again.headers.get("content-type") == answer.headers.get("content-type")
    assert again.headers["x-request-id"] != answer.headers["x-request-id"]


def test_the_attributes_of_sagemaker_do_as_well(server: Server) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    url = f"{server.url}/predictions/obedient"
    given = JSON | {name: "x-synchronous=false;other=1"}
    token = token_of(httpx.post(url, json={"name": "x"}, headers=given, timeout=DEADLINE))
    until(lambda: fetch(server, token).status_code == 200)
    given = {name: f"x-starting-token={token}"}
    assert httpx.post(url, headers=given, timeout=DEADLINE).json()["name"] == "x"


def test_a_stream_is_fetched_in_pages(server: Server) -> None:
    token = token_of(begin(server, "words", b"one two three four five"))
    until(lambda: "x-next-token" not in fetch(server, token).headers)
    assert fetch(server, token).content == b"one two three four five "
    pages, at = [], token
    while True:
        answer = fetch(server, at, x_max_items="2")
        assert answer.status_code == 200
        pages.append(answer.text)
        at = answer.headers.get("x-next-token", "")
        if not at:
            break
        assert at.startswith(token)
    assert pages == ["one two ", "three four ", "five "]


def test_what_there_is_of_a_stream_can_be_read_while_it_grows(server: Server) -> None:
    token = token_of(begin(server, "slow", b"a b c d e f g h"))
    got, at, pages = "", token, 0
    while at:
        answer = fetch(server, at)
        assert answer.status_code in {200, 202}
        got, at = got + answer.text, answer.headers.get("x-next-token", "")
        pages += bool(answer.text)
    assert got == "a b c d e f g h "
    assert pages > 1


def test_failures_are_the_result_and_refusals_are_at_once(server: Server, tmp_path: Path) -> None:
    answer = fetch_done(server, token_of(begin(server, "obedient", {"raise": "as told"})))
    assert (answer.status_code, answer.json()["code"]) == (424, 424)
    gate = Gate(tmp_path)
    held = token_of(begin(server, "narrow", {"gates": [str(gate)]}))
    gate.wait_reached()
    waits = token_of(begin(server, "narrow", {"name": "waits"}))
    refused = begin(server, "narrow", {"name": "too many"})
    assert error_of(refused)[:2] == (503, "CapacityError")
    assert "retry-after" in refused.headers
    assert "x-next-token" not in refused.headers
    gate.open()
    assert fetch_done(server, held).status_code == 200
    assert fetch_done(server, waits).json()["name"] == "waits"
    assert error_of(begin(server, "nobody", b""))[0] == 404


def test_a_worker_that_dies_breaks_the_result(server: Server) -> None:
    token = token_of(begin(server, "slow", b"word " * 500))
    until(lambda: fetch(server, token).text)
    for pid in worker_pids(server, "slow"):
        os.kill(pid, 9)
    until(lambda: "async_result_broken" in server.log())
    page = fetch(server, token)
    assert page.status_code == 200
    assert page.text.startswith("word ")
    assert error_of(fetch(server, page.headers["x-next-token"]))[:2] == (503, "WorkerDiedError")
    until(lambda: describe(server, "slow")["status"] == "Healthy")


@pytest.mark.parametrize("token", [UNKNOWN, "x", "", UNKNOWN + "1", "a" * 5000, UNKNOWN[:-1] + "g", "../etc"])
def test_unknown_tokens_are_400(server: Server, token: str) -> None:
    code, kind, message = error_of(fetch(server, token))
    assert (code, kind) == (400, "BadRequestError")
    assert message == f"Invalid x-starting-token: {token[:60]}"


def test_places_and_numbers_that_are_none_are_400(server: Server) -> None:
    token = token_of(begin(server, "words", b"one"))
    until(lambda: fetch(server, token).status_code == 200)
    assert error_of(fetch(server, token + "99"))[0] == 400
    for most in ("0", "-1", "many", "1.5", "9" * 12):
        assert "x-max-items" in error_of(fetch(server, token, x_max_items=most))[2]
    assert "x-synchronous" in error_of(begin(server, "words", b"", **{"x-synchronous": "maybe"}))[2]
    url = f"{server.url}/predictions/words"
    answer = httpx.post(url, content=b"now", headers={"x-synchronous": "true"}, timeout=DEADLINE)
    assert answer.text == "now "


def test_results_expire_and_make_room(store: Path) -> None:
    environ = {"SERVING_ASYNC_RESULT_MAX_BYTES": "20000", "SERVING_ASYNC_RESULT_EXPIRY": "600"}
    with run_server(store, environ=environ) as server:
        tokens = []
        for number in range(8):
            tokens.append(token_of(begin(server, "words", b"x" * 5000)))
            until(lambda number=number: fetch(server, tokens[number]).status_code == 200)
            assert metric(server, "frame_async_result_bytes") <= 20000
        assert [fetch(server, token).status_code for token in tokens] == [400] * 5 + [200] * 3
        large = fetch_done(server, token_of(begin(server, "words", b"x" * 30000)))
        assert error_of(large)[0] == 503, "it has no room"
        assert metric(server, "frame_queued_bytes") == 0
    with run_server(store, environ={"SERVING_ASYNC_RESULT_EXPIRY": "0.2"}) as server:
        token = token_of(begin(server, "words", b"one"))
        until(lambda: metric(server, "frame_async_result_bytes") == 0)
        assert fetch(server, token).status_code == 400


def test_a_request_that_is_fetched_later_is_finished_when_the_server_ends(
    store: Path, tmp_path: Path
) -> None:
    gate, seen = Gate(tmp_path), tmp_path / "seen"
    with run_server(store) as server:
        token_of(begin(server, "obedient", {"gates": [str(gate)], "append": str(seen), "name": "done"}))
        gate.wait_reached()
        server.send_signal(15)
        server.wait_for_log("server_stops")
        gate.open()
        assert server.wait_ended() == 0
    assert seen.read_text() == "done\n"
