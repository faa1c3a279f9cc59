"""Metrics: they count what was sent, and the stages add up to the request's time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, JSON, OBEDIENT, TEXT, Gate, ask, metric, put_model, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve two models, alone in their server, so that every count is the test's own."""
    put_model(tmp_path / "store" / "echo", engine="echo", option__delay_ms=50)
    put_model(tmp_path / "store" / "obedient", OBEDIENT, batch_size=4, max_batch_delay=0, maxWorkers=1)
    with run_server(tmp_path / "store") as running:
        yield running


def test_requests_are_counted_by_outcome(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        for _ in range(5):
            client.post("/predictions/echo", content=b"x", headers=TEXT)
        for _ in range(3):
            client.post("/predictions/echo", content=b"{", headers=JSON)
        for _ in range(2):
            client.post("/predictions/obedient", json={"raise": "no"})
        client.post("/predictions/nobody", content=b"x")
    counted = {
        (model, outcome): metric(server, "frame_requests_total", model=model, outcome=outcome)
        for model in ("echo", "obedient")
        for outcome in ("ok", "client_error", "model_error", "server_error", "cancelled")
    }
    assert {key: count for key, count in counted.items() if count} == {
        ("echo", "ok"): 5,
        ("echo", "client_error"): 3,
        ("obedient", "model_error"): 2,
    }
    assert metric(server, "frame_request_seconds_count", model="echo") == 8
    assert metric(server, "frame_requests_total", model="nobody") == 0  # names of clients are no labels


def test_stages_add_up_to_the_time_of_the_request(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        for _ in range(10):
            client.post("/predictions/echo", json=[1])
    whole = metric(server, "frame_request_seconds_sum", model="echo")
    stages = sum(
        metric(server, f"frame_{stage}_seconds_sum", model="echo")
        for stage in ("queue_wait", "decode", "inference", "encode")
    )
    assert stages <= whole * 1.01
    assert stages >= whole / 2
    assert metric(server, "frame_inference_seconds_sum", model="echo") >= whole / 2


def test_time_in_the_queue_is_the_queues(server: Server) -> None:
    """Four requests at once on one worker: the later ones wait for those before them."""

    def send(_: int) -> httpx.Response:
        headers = {**TEXT, "x-frame-timings": "1"}
        return httpx.post(f"{server.url}/predictions/echo", content=b"x", headers=headers, timeout=DEADLINE)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    waits = sorted(float(answer.headers["x-frame-queue-seconds"]) for answer in answers)
    run = sum(float(answer.headers["x-frame-inference-seconds"]) for answer in answers) / 4
    assert waits[-1] >= run
    total = metric(server, "frame_queue_wait_seconds_sum", model="echo")
    assert total == pytest.approx(sum(waits), rel=0.01, abs=0.001)


def test_gauges_tell_what_is_going_on(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    assert metric(server, "frame_workers", model="obedient", state="ready") == 1
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask, server, "obedient", gates=[str(gate)])
        gate.wait_reached()
        waiting = [pool.submit(ask, server, "obedient", name="x" * 1000) for _ in range(3)]
        until(lambda: metric(server, "frame_queue_length", model="obedient") == 3)
        assert metric(server, "frame_workers", model="obedient", state="busy") == 1
        assert metric(server, "frame_queued_bytes") >= 3000
        gate.open()
        assert {future.result().status_code for future in [running, *waiting]} == {200}
    until(lambda: metric(server, "frame_workers", model="obedient", state="ready") == 1)
    assert metric(server, "frame_queue_length", model="obedient") == 0
    assert metric(server, "frame_queued_bytes") == 0
    assert metric(server, "frame_batch_size_count", model="obedient") == 2
    assert metric(server, "frame_batch_size_sum", model="obedient") == 4


def test_metrics_can_be_picked_by_name(server: Server) -> None:
    url = f"{server.url}/server/metrics"
    text = httpx.get(url, params={"name[]": "frame_queue_length"}, timeout=DEADLINE).text
    assert set(re.findall(r"(?m)^(\w+)", text)) == {"frame_queue_length"}


def test_metrics_are_prometheus_text(server: Server) -> None:
    answer = httpx.get(f"{server.url}/server/metrics", timeout=DEADLINE)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)*\})? [-+.\deInf]+', line), line


def test_starts_and_restarts_are_counted(server: Server) -> None:
    assert metric(server, "frame_model_load_seconds_count", model="obedient") == 1
    assert ask(server, "obedient", kill=True).status_code == 503
    until(lambda: metric(server, "frame_worker_restarts_total", model="obedient", cause="died") == 2)
    until(lambda: metric(server, "frame_model_load_seconds_count", model="obedient") == 3)
    assert metric(server, "frame_requests_total", model="obedient", outcome="server_error") == 1
