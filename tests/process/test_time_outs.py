"""A client's own time-out: it is kept in the queue and in the worker, and the worker lives on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, OBEDIENT, Gate, ask, error_of, put_model, worker_pids


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    put_model(store / "m", OBEDIENT, maxWorkers=1)
    put_model(store / "short", OBEDIENT, maxWorkers=1, request_timeout=0.2)
    with run_server(store) as running:
        yield running


def ask_within(server: Server, seconds: str, **order: object) -> httpx.Response:
    """Give an order that must be answered within some seconds."""
    headers = {"x-request-timeout": seconds}
    return httpx.post(f"{server.url}/predictions/m", json=order, headers=headers, timeout=DEADLINE)


def test_a_request_ends_in_its_time_where_it_is_and_the_worker_lives_on(
    server: Server, tmp_path: Path
) -> None:
    (before,) = worker_pids(server, "m")
    gate, seen = Gate(tmp_path), tmp_path / "seen"
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask_within, server, "0.3", gates=[str(gate)])
        gate.wait_reached()
        waiting = [pool.submit(ask_within, server, "0.2", append=str(seen), name="late") for _ in range(3)]
        said = [error_of(future.result()) for future in (running, *waiting)]
        gate.open()
    inside, *queued = said
    assert inside[:2] == (503, "PredictTimeoutError")
    assert inside[2] == "no answer within 0.3 s (x-request-timeout); it was in a worker"
    assert {found[:2] for found in queued} == {(503, "PredictTimeoutError")}
    assert all(
        found[2].startswith("no answer within 0.2 s (x-request-timeout); it was in ") for found in queued
    )
    assert ask(server, "m", name="after").json()["pid"] == before
    assert not seen.exists()


def test_a_client_cannot_lengthen_the_models_time(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        headers = {"x-request-timeout": "60"}
        order = {"gates": [str(gate)]}
        asked = pool.submit(
            httpx.post, f"{server.url}/predictions/short", json=order, headers=headers, timeout=DEADLINE
        )
        gate.wait_reached()
        message = error_of(asked.result())[2]
        gate.open()
    assert message == "no answer within 0.2 s (request_timeout); it was in a worker"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1e3"])
def test_a_time_that_is_none_is_the_clients_error(server: Server, text: str) -> None:
    code, kind, message = error_of(ask_within(server, text))
    assert (code, kind) == (400, "BadRequestError")
    assert message == f"x-request-timeout: '{text}' is not a number of seconds above 0"
