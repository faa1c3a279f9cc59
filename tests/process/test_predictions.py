"""What a client sends and gets back, with both HTTP servers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, JSON, TEXT, Connection, connection, error_of, put_model

LIMIT = 8_000_000  # max_request_size of the server under test
MANY = 6_000_000  # bytes: far over what travels in the socket to the worker
SHOW = """
from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    content = inputs.get_content()
    parts = [[key, bytes(content.value_at(i)).decode("latin-1")] for i, key in enumerate(content.get_keys())]
    return Output().add_as_json({"parts": parts, "properties": dict(inputs.get_properties())})


def other(inputs: Input):
    return Output().add("other")
"""
FICKLE = """
from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    what = inputs.get_as_string()
    if what == "raise":
        raise RuntimeError("no luck today")
    if what == "none":
        return None
    if what == "number":
        return 7
    if what == "memory":
        raise MemoryError("all gone")
    return Output(code=201, message="Made").add("made").add_property("x-mine", "1")
"""


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an echo model and two handlers."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "echo", engine="echo")
    put_model(store / "show", SHOW)
    put_model(store / "fickle", FICKLE)
    environ = {"SERVING_MAX_REQUEST_SIZE": str(LIMIT)}
    with run_server(store, ["--http-server", request.param], environ=environ) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as opened:
        yield opened


def test_json_is_decoded_and_encoded(client: httpx.Client) -> None:
    value = {"inputs": [[1.5, -2], []], "naïve": None, "big": 2**60, "text": 'é"\\'}
    answer = client.post("/predictions/echo", json=value)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json() == value
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_any_method_predicts(client: httpx.Client, method: str) -> None:
    answer = client.request(method, "/predictions/echo", content=b"same", headers=TEXT)
    assert (answer.status_code, answer.text) == (200, "same")


def test_large_body_comes_back_unchanged(client: httpx.Client) -> None:
    body = os.urandom(MANY)
    headers = {"content-type": "application/octet-stream"}
    answer = client.post("/predictions/echo", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.content == body


def test_large_body_without_a_length_comes_back_unchanged(client: httpx.Client) -> None:
    pieces = [os.urandom(700_001) for _ in range(8)]
    headers = {"content-type": "application/octet-stream"}
    answer = client.post("/predictions/echo", content=iter(pieces), headers=headers)
    assert answer.status_code == 200
    assert answer.content == b"".join(pieces)


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 2**20 + 1])
def test_body_at_the_limit_of_the_socket_comes_back_unchanged(client: httpx.Client, size: int) -> None:
    body = os.urandom(size)
    headers = {"content-type": "application/octet-stream"}
    assert client.post("/predictions/echo", content=body, headers=headers).content == body


def test_empty_body_is_an_empty_part(client: httpx.Client) -> None:
    answer = client.post("/predictions/show", content=b"", headers=TEXT)
    assert answer.json()["parts"] == [["data", ""]]


def test_query_precedes_the_body(client: httpx.Client) -> None:
    answer = client.post("/predictions/show?a=1&b=%C3%BC&a=2", content=b"x", headers=TEXT)
    assert answer.json()["parts"] == [["a", "1"], ["b", "Ã¼"], ["a", "2"], ["data", "x"]]


def test_form_fields_are_parts(client: httpx.Client) -> None:
    answer = client.post("/predictions/show", data={"x": "1 2", "y": "a&b"})
    assert answer.json()["parts"] == [["x", "1 2"], ["y", "a&b"]]


def test_files_of_a_form_are_raw_parts(client: httpx.Client) -> None:
    raw = bytes(range(256))
    files = {"f": ("name.bin", raw, "application/x-thing")}
    answer = client.post("/predictions/show", data={"x": "1"}, files=files)
    assert dict(answer.json()["parts"]) == {"x": "1", "f": raw.decode("latin-1")}


def test_headers_are_properties_and_so_are_custom_attributes(client: httpx.Client) -> None:
    headers = {**TEXT, "X-Thing": "v", "X-Amzn-SageMaker-Custom-Attributes": "k=1;second=two"}
    answer = client.post("/predictions/show", content=b"x", headers=headers)
    properties = {name.lower(): value for name, value in answer.json()["properties"].items()}
    assert (properties["x-thing"], properties["k"], properties["second"]) == ("v", "1", "two")
    assert properties["content-type"] == "text/plain"
    assert properties["requestid"] == answer.headers["x-request-id"]


def test_request_id_is_echoed(client: httpx.Client) -> None:
    for path in ("/predictions/echo", "/predictions/nobody", "/ping", "/nowhere"):
        assert client.post(path, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"


@pytest.mark.parametrize("path", ["/predictions/echo", "/predictions/nobody", "/ping", "/models"])
def test_common_headers_are_in_every_answer(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["x-request-id"]
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_unknown_model_is_404(client: httpx.Client) -> None:
    code, kind, message = error_of(client.post("/predictions/nobody", json=1))
    assert (code, kind) == (404, "ModelNotFoundError")
    assert "nobody" in message


def test_unknown_version_is_404(client: httpx.Client) -> None:
    code, kind, message = error_of(client.post("/predictions/echo/7", json=1))
    assert (code, kind) == (404, "ModelNotFoundError")
    assert "7" in message


def test_unknown_path_is_404(client: httpx.Client) -> None:
    code, kind, message = error_of(client.post("/predict/echo", json=1))
    assert (code, kind) == (404, "ResourceNotFoundError")
    assert message == "Requested resource is not found, please refer to API document."


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2", b'{"a": nan}', b"\xff\xfe\x00"])
def test_malformed_json_is_400(client: httpx.Client, body: bytes) -> None:
    code, kind, message = error_of(client.post("/predictions/echo", content=body, headers=JSON))
    assert (code, kind) == (400, "BadRequestError")
    assert "JSON" in message


@pytest.mark.parametrize("priority", ["high", "1.5", ""])
def test_priority_that_is_no_number_is_400(client: httpx.Client, priority: str) -> None:
    code, kind, message = error_of(client.post("/predictions/echo", json=1, headers={"x-priority": priority}))
    assert (code, kind) == (400, "BadRequestError")
    assert "x-priority" in message


def test_client_does_not_choose_the_handler(client: httpx.Client) -> None:
    answer = client.post("/predictions/show", content=b"x", headers={**TEXT, "handler": "other"})
    code, kind, message = error_of(answer)
    assert (code, kind) == (400, "BadRequestError")
    assert "handler" in message


def test_body_that_says_it_is_too_large_is_413_before_it_is_sent(server: Server) -> None:
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "content-length": LIMIT + 1})
        answer = raw.read_to_end()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["type"] == "PayloadTooLargeError"


def test_body_that_becomes_too_large_is_413(server: Server) -> None:
    piece = b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "transfer-encoding": "chunked"})
        answer = send_until_answered(raw, piece, LIMIT // 100_000 + 20)
    assert answer.startswith(b"HTTP/1.1 413")


def send_until_answered(raw: Connection, piece: bytes, times: int) -> bytes:
    """Send pieces, as a client does that looks at no answer while it sends; return what came."""
    try:
        for _ in range(times):
            raw.socket.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pytest.fail("the server closed before the client could read the answer")
    return raw.read_until(b"\r\n\r\n")


@pytest.mark.parametrize("length", ["-1", "x", "1e3"])
def test_malformed_length_is_4xx(server: Server, length: str) -> None:
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "content-length": length}, b"abc")
        assert raw.read_until(b"\r\n").startswith(b"HTTP/1.1 4")


def test_exception_of_a_handler_is_424_in_djl_servings_form(client: httpx.Client) -> None:
    answer = client.post("/predictions/fickle", content=b"raise")
    assert answer.status_code == 424
    assert answer.json() == {
        "code": 424,
        "message": "invoke handler failure",
        "error": "no luck today",
    }
    assert "Traceback" not in answer.text


def test_none_of_a_handler_is_204(client: httpx.Client) -> None:
    answer = client.post("/predictions/fickle", content=b"none")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.post("/predictions/fickle", content=b"x").status_code == 201  # the connection goes on


def test_wrong_type_of_a_handler_is_424(client: httpx.Client) -> None:
    answer = client.post("/predictions/fickle", content=b"number")
    assert answer.status_code == 424
    assert answer.json()["error"] == "Invalid output type: <class 'int'>"


def test_memory_error_of_a_handler_is_507(client: httpx.Client) -> None:
    assert client.post("/predictions/fickle", content=b"memory").status_code == 507


def test_status_and_properties_of_an_output_are_the_answers(client: httpx.Client) -> None:
    answer = client.post("/predictions/fickle", content=b"x")
    assert (answer.status_code, answer.text, answer.headers["x-mine"]) == (201, "made", "1")


def test_timings_come_only_when_asked_for(client: httpx.Client) -> None:
    plain = client.post("/predictions/echo", json=1)
    assert not [name for name in plain.headers if name.startswith("x-frame-")]
    timed = client.post("/predictions/echo", json=1, headers={"x-frame-timings": "1"}).headers
    assert timed["x-frame-batch-size"] == "1"
    total = float(timed["x-frame-total-seconds"])
    assert 0 <= float(timed["x-frame-queue-seconds"]) <= total
    assert 0 <= float(timed["x-frame-inference-seconds"]) <= total


def test_invocations_needs_a_name_when_there_are_several_models(client: httpx.Client) -> None:
    code, kind, message = error_of(client.post("/invocations", json=1))
    assert (code, kind, message) == (400, "BadRequestError", "Parameter model_name is required.")


@pytest.mark.parametrize("where", ["params", "headers"])
def test_invocations_finds_its_model(client: httpx.Client, where: str) -> None:
    answer = client.post("/invocations", content=b"hi", **{where: {"model_name": "echo"}})
    assert (answer.status_code, answer.content) == (200, b"hi")


def test_invocations_finds_its_model_in_a_form(client: httpx.Client) -> None:
    answer = client.post("/invocations", data={"model_name": "show", "x": "1"})
    assert ["x", "1"] in answer.json()["parts"]


def test_invocations_of_an_unknown_model_is_404(client: httpx.Client) -> None:
    assert client.post("/invocations?model_name=nobody", json=1).status_code == 404


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with connection(server) as raw:
        for body in (b"one", b"two", b"three"):
            raw.send("POST /predictions/echo", {**TEXT, "content-length": len(body)}, body)
        answer = raw.read_until(b"three")
    assert answer.index(b"one") < answer.index(b"two") < answer.index(b"three")


def test_client_that_waits_to_be_asked_for_its_body_is_asked(server: Server) -> None:
    headers = {**TEXT, "content-length": 5, "expect": "100-continue"}
    with connection(server) as raw:
        raw.send("POST /predictions/echo", headers)
        assert raw.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        raw.socket.sendall(b"hello")
        assert raw.read_until(b"hello").startswith(b"HTTP/1.1 200")


def test_client_that_goes_away_in_its_body_harms_nobody(server: Server, client: httpx.Client) -> None:
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "content-length": 100}, b"half")
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "transfer-encoding": "chunked"}, b"5\r\nhal")
    assert client.post("/predictions/echo", content=b"x", headers=TEXT).text == "x"


@pytest.mark.parametrize(
    "path", ["/predictions/echo%2e", "/predictions/%00", "/predictions/%ff", "/predictions/"]
)
def test_strange_names_of_models_are_404(client: httpx.Client, path: str) -> None:
    assert error_of(client.post(path, json=1))[0] == 404


def test_answer_to_head_has_no_body_and_the_connection_goes_on(client: httpx.Client) -> None:
    answer = client.head("/predictions/echo", headers=TEXT)
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.post("/predictions/echo", content=b"x", headers=TEXT).text == "x"
