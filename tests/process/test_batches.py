"""Batches: requests that wait together run together, and each gets its own answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    DEADLINE,
    JSON,
    OBEDIENT,
    Gate,
    ask,
    error_of,
    metric,
    put_model,
    until,
)

NONE_OF_A_BATCH = """
import os

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    for item in inputs.get_batches():
        for path in (item.get_as_json() or {}).get("gates", ()):
            with open(path) as gate:
                gate.read()
    if inputs.is_batch():
        return Output().add("only one", batch_index=0)
    return Output().add("alone")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models that take up to four requests together."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "batched", OBEDIENT, batch_size=4, max_batch_delay=0, maxWorkers=1)
    put_model(store / "patient", engine="echo", batch_size=4, max_batch_delay=5000, maxWorkers=1)
    put_model(store / "timid", engine="echo", batch_size=100, max_batch_delay=300, maxWorkers=1)
    put_model(store / "broken", NONE_OF_A_BATCH, batch_size=4, max_batch_delay=0, maxWorkers=1)
    with run_server(store) as running:
        yield running


def wait_queued(server: Server, model: str, count: int) -> None:
    """Wait until so many requests of a model wait."""
    until(
        lambda: metric(server, "frame_queue_length", model=model) == count,
        what=f"{count} requests that wait",
    )


def test_requests_that_arrive_while_the_worker_is_busy_run_as_one_batch(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, "batched", name="first", gates=[str(gate)])
        gate.wait_reached()
        rest = [pool.submit(ask, server, "batched", name=f"n{number}") for number in range(4)]
        wait_queued(server, "batched", 4)
        gate.open()
        assert first.result().json()["batch"] == 1
        answers = [future.result().json() for future in rest]
    assert [answer["name"] for answer in answers] == ["n0", "n1", "n2", "n3"]
    assert [answer["batch"] for answer in answers] == [4, 4, 4, 4]


def test_batch_is_no_larger_than_batch_size_and_keeps_the_order(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    order = tmp_path / "order"
    with ThreadPoolExecutor(8) as pool:
        pool.submit(ask, server, "batched", gates=[str(gate)])
        gate.wait_reached()
        rest = []
        for number in range(6):
            rest.append(pool.submit(ask, server, "batched", name=f"n{number}", append=str(order)))
            wait_queued(server, "batched", number + 1)
        gate.open()
        answers = [future.result().json() for future in rest]
    assert [answer["batch"] for answer in answers] == [4, 4, 4, 4, 2, 2]
    assert order.read_text().split() == ["n0", "n1", "n2", "n3", "n4", "n5"]


def test_urgent_request_goes_first(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    order = tmp_path / "order"

    def send(name: str, priority: int) -> httpx.Response:
        return httpx.post(
            f"{server.url}/predictions/batched",
            json={"name": name, "append": str(order)},
            headers={"x-priority": str(priority)},
            timeout=DEADLINE,
        )

    with ThreadPoolExecutor(8) as pool:
        pool.submit(ask, server, "batched", gates=[str(gate)])
        gate.wait_reached()
        for count, (name, priority) in enumerate([("late", 9), ("usual", 3), ("urgent", -1)]):
            pool.submit(send, name, priority)
            wait_queued(server, "batched", count + 1)
        gate.open()
    assert order.read_text().split() == ["urgent", "usual", "late"]


def test_full_batch_does_not_wait_for_max_batch_delay(server: Server) -> None:
    answers = send_together(server, "patient", [b"[0]", b"[1]", b"[2]", b"[3]"])
    assert [answer.json() for answer in answers] == [[0], [1], [2], [3]]
    for answer in answers:
        assert answer.headers["x-frame-batch-size"] == "4"
        assert float(answer.headers["x-frame-queue-seconds"]) < 5.0


def test_lone_request_waits_for_max_batch_delay_and_then_runs_alone(server: Server) -> None:
    (answer,) = send_together(server, "timid", [b"[0]"])
    assert answer.headers["x-frame-batch-size"] == "1"
    assert float(answer.headers["x-frame-queue-seconds"]) >= 0.3  # max_batch_delay of this model
    assert float(answer.headers["x-frame-total-seconds"]) >= float(answer.headers["x-frame-queue-seconds"])


def test_malformed_request_fails_alone_in_its_batch(server: Server) -> None:
    answers = send_together(server, "patient", [b'{"a": 0}', b"{", b"[2]", b"nonsense"])
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400]
    assert [answers[0].json(), answers[2].json()] == [{"a": 0}, [2]]
    assert error_of(answers[1])[1] == "BadRequestError"
    assert {answers[0].headers["x-frame-batch-size"], answers[2].headers["x-frame-batch-size"]} == {"4"}


def send_together(server: Server, model: str, bodies: list[bytes]) -> list[httpx.Response]:
    """Send JSON bodies at the same time and ask for timings."""
    headers = {**JSON, "x-frame-timings": "yes"}

    def send(body: bytes) -> httpx.Response:
        url = f"{server.url}/predictions/{model}"
        return httpx.post(url, content=body, headers=headers, timeout=DEADLINE)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(send, bodies))


def test_answers_that_are_fewer_than_the_batch_are_an_error_of_every_request(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, "broken", gates=[str(gate)])
        gate.wait_reached()
        rest = [pool.submit(ask, server, "broken") for _ in range(3)]
        wait_queued(server, "broken", 3)
        gate.open()
        assert first.result().text == "alone"
        answers = [future.result() for future in rest]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert answer.json()["message"] == "Batch output size mismatch, expected: 3, actual: 1"
    assert ask(server, "broken").text == "alone"


def test_exception_fails_the_batch_and_keeps_the_worker(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, "batched", gates=[str(gate)])
        gate.wait_reached()
        rest = [
            pool.submit(ask, server, "batched", name="good"),
            pool.submit(ask, server, "batched", **{"raise": "bad one"}),
        ]
        wait_queued(server, "batched", 2)
        gate.open()
        pid = first.result().json()["pid"]
        answers = [future.result() for future in rest]
    assert [answer.status_code for answer in answers] == [424, 424]
    assert {answer.json()["error"] for answer in answers} == {"bad one"}
    assert ask(server, "batched").json()["pid"] == pid


def test_hundred_clients_each_get_their_own_answer(server: Server) -> None:
    def send(number: int) -> list[object]:
        with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
            return [client.post("/predictions/batched", json={"name": [number, i]}).json() for i in range(5)]

    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(send, range(100)))
    for number, answers in enumerate(results):
        assert [answer["name"] for answer in answers] == [[number, i] for i in range(5)]
