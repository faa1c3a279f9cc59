"""Limits: what is too much is refused at once, and who goes away makes room."""

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
    TEXT,
    Connection,
    Gate,
    ask,
    connection,
    error_of,
    metric,
    put_model,
    until,
)

BUDGET = 1_000_000  # max_queued_bytes of the server under test


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models with short queues."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "short", OBEDIENT, job_queue_size=2, maxWorkers=1)
    put_model(store / "long", OBEDIENT, maxWorkers=1)
    put_model(store / "echo", engine="echo")
    environ = {"SERVING_MAX_QUEUED_BYTES": str(BUDGET)}
    with run_server(store, ["--http-server", request.param], environ=environ) as running:
        yield running


def length(server: Server, model: str) -> float:
    """Return how many requests of a model wait."""
    return metric(server, "frame_queue_length", model=model)


def outcomes(server: Server, model: str, outcome: str) -> float:
    """Return how many requests of a model ended so."""
    return metric(server, "frame_requests_total", model=model, outcome=outcome)


def test_request_beyond_the_queue_is_503_with_retry_after_and_the_others_are_answered(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        kept = [pool.submit(ask, server, "short", gates=[str(gate)])]
        gate.wait_reached()
        for count in (1, 2):
            kept.append(pool.submit(ask, server, "short"))
            until(lambda wanted=count: length(server, "short") == wanted)
        for _ in range(3):
            refused = ask(server, "short")
            code, kind, message = error_of(refused)
            assert (code, kind) == (503, "CapacityError")
            assert "short" in message
            assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert [future.result().status_code for future in kept] == [200, 200, 200]
    assert ask(server, "short").status_code == 200


def test_full_queue_of_one_model_is_nothing_to_another(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        kept = [pool.submit(ask, server, "short", gates=[str(gate)])]
        gate.wait_reached()
        kept += [pool.submit(ask, server, "short") for _ in range(2)]
        until(lambda: length(server, "short") == 2)
        assert ask(server, "echo", name=1).json() == {"name": 1}
        gate.open()
        assert {future.result().status_code for future in kept} == {200}


def test_bytes_beyond_the_budget_are_503_before_they_are_sent(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    body = b'{"gates": ["%s"], "padding": "%s"}' % (str(gate).encode(), b"x" * 700_000)
    with ThreadPoolExecutor(2) as pool:
        url = f"{server.url}/predictions/long"
        first = pool.submit(httpx.post, url, content=body, headers=JSON, timeout=DEADLINE)
        gate.wait_reached()
        assert metric(server, "frame_queued_bytes") >= 700_000
        with connection(server) as raw:
            raw.send("POST /predictions/echo", {**TEXT, "content-length": 400_000})
            head = raw.read_until(b"\r\n\r\n").lower()
        assert head.startswith(b"http/1.1 503")
        assert b"retry-after: " in head
        small = httpx.post(f"{server.url}/predictions/echo", content="x", headers=TEXT, timeout=DEADLINE)
        assert small.text == "x"
        gate.open()
        assert first.result().status_code == 200
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    whole = httpx.post(
        f"{server.url}/predictions/echo", content=b"x" * 900_000, headers=TEXT, timeout=DEADLINE
    )
    assert whole.status_code == 200


def test_client_that_goes_away_while_it_waits_frees_its_place_and_is_not_run(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    seen = tmp_path / "seen"
    before = outcomes(server, "short", "cancelled")
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, server, "short", gates=[str(gate)])
        gate.wait_reached()
        waiting = [Connection(server) for _ in range(2)]
        for count, raw in enumerate(waiting):
            body = b'{"name": "gone", "append": "%s"}' % str(seen).encode()
            raw.send("POST /predictions/short", {**JSON, "content-length": len(body)}, body)
            until(lambda wanted=count + 1: length(server, "short") == wanted)
        for raw in waiting:
            raw.close()
        until(lambda: length(server, "short") == 0)
        assert outcomes(server, "short", "cancelled") == before + 2
        second = pool.submit(ask, server, "short", name="second")
        until(lambda: length(server, "short") == 1)
        gate.open()
        assert first.result().status_code == 200
        assert second.result().json()["name"] == "second"
    assert not seen.exists()


def test_client_that_goes_away_while_its_request_runs_is_counted_and_harms_nobody(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    before = outcomes(server, "long", "cancelled")
    body = b'{"gates": ["%s"]}' % str(gate).encode()
    with connection(server) as raw:
        raw.send("POST /predictions/long", {**JSON, "content-length": len(body)}, body)
        gate.wait_reached()
    until(lambda: outcomes(server, "long", "cancelled") == before + 1)
    gate.open()
    assert ask(server, "long", name="next").json()["name"] == "next"
    assert metric(server, "frame_queued_bytes") == 0


def test_upload_that_never_ends_blocks_nobody(server: Server) -> None:
    slow = [Connection(server) for _ in range(20)]
    try:
        for raw in slow:
            raw.send("POST /predictions/echo", {**TEXT, "content-length": 1000}, b"begin")
        for _ in range(5):
            assert ask(server, "echo", name=1).json() == {"name": 1}
        assert metric(server, "frame_workers", model="echo", state="busy") == 0
    finally:
        for raw in slow:
            raw.close()
    until(lambda: metric(server, "frame_queued_bytes") == 0)


def test_client_that_goes_away_in_its_upload_gives_its_bytes_back(server: Server) -> None:
    with connection(server) as raw:
        raw.send("POST /predictions/echo", {**TEXT, "content-length": 600_000}, b"x" * 300_000)
        until(lambda: metric(server, "frame_queued_bytes") > 0)
    until(lambda: metric(server, "frame_queued_bytes") == 0)


def test_request_behind_one_that_hangs_is_run_or_refused_and_never_both(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    put_model(
        tmp_path / "store" / "m", OBEDIENT, maxWorkers=1, option__predict_timeout=1, option__drain_time=1
    )
    with run_server(tmp_path / "store") as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, running, "m", gates=[str(gate)])
        gate.wait_reached()
        seen = tmp_path / "seen"
        second = pool.submit(ask, running, "m", append=str(seen), name="second")
        assert error_of(first.result())[:2] == (503, "PredictTimeoutError")
        if second.result().status_code == 200:
            assert seen.read_text().split() == ["second"]
        else:
            assert error_of(second.result())[:2] == (503, "PredictTimeoutError")
            assert not seen.exists()
        gate.pass_on()
        assert ask(running, "m", name="after").json()["name"] == "after"
