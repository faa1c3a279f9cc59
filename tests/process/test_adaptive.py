"""Adaptive batching on a real server: it keeps up with a load that single requests cannot, and says why."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Answer, Load, orders
from tests.process.probes import DEADLINE, put_model

# A batch takes 20 ms, and 2 ms more for each request: 45 requests/s one by one, 300 in batches of 18.
TIMED = """
import time

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    time.sleep(0.020 + 0.002 * len(batch))
    return [Output().add_as_json({"token": item.get_as_json()["token"]}) for item in batch]
"""
CLIENTS = 24
TARGET_MS = 150


@pytest.mark.slow(60)
def test_adaptive_batches_keep_up_with_a_load_that_single_requests_cannot(tmp_path: Path) -> None:
    fixed = {"minWorkers": 1, "maxWorkers": 1}
    put_model(tmp_path / "fixed", TIMED, batch_size=1, max_batch_delay=100, **fixed)
    put_model(tmp_path / "adaptive", TIMED, batching="adaptive", latency_target_ms=TARGET_MS, **fixed)
    with run_server(tmp_path) as server:
        one_by_one = slow_request(answers(server, "fixed", 140))
        batched = slow_request(answers(server, "adaptive", 500))
        account = httpx.get(f"{server.url}/models/adaptive/explain", timeout=DEADLINE).json()
    assert batched < one_by_one / 2
    choices = account["choices"]
    sizes = [choice["batch_size"] for choice in choices]
    assert sizes[0] == 2, "it begins with what is nearly known"
    assert max(sizes) >= 8
    for choice in choices:
        assert f"of the {TARGET_MS} ms aimed at; " in choice["reason"], choice
        assert "requests/s on 1 workers, a batch of b takes" in choice["reason"]
    assert max(record["size"] for record in account["batches"]) > 4
    said = [sentence["text"] for sentence in account["sentences"]]
    assert any(f"chose batch_size={sizes[-1]} " in text for text in said), said


def answers(server: Server, model: str, count: int) -> tuple[Answer, ...]:
    """Ask so often, from many connections that send again once they are answered; all is answered rightly."""
    with Load(server.url, orders(model, count), connections=CLIENTS) as load:
        accounts = load.accounts()
    accounts.assert_settled("200")
    assert len(accounts.answers) == count
    return accounts.answers


def slow_request(given: tuple[Answer, ...]) -> float:
    """Return the 99th percentile of the second half, in seconds: by then the sizes were chosen."""
    seconds = sorted(answer.seconds for answer in given[len(given) // 2 :])
    return seconds[int(0.99 * len(seconds))]
