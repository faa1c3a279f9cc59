"""A served model explains itself, and what it advises comes true."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from frame.cli.main import main
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, OBEDIENT, ask, error_of, put_model

# A batch takes 60 ms, and 5 ms more for each request.
TIMED = """
import time

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    time.sleep(0.06 + 0.005 * len(batch))
    output = Output()
    for index, _ in enumerate(batch):
        output.add("done", batch_index=index if inputs.is_batch() else None)
    return output
"""
CLIENTS = 24


def put_timed(store: Path, batch_size: str) -> None:
    """Make the store of a model whose times are known."""
    facts = {"batch_size": batch_size, "max_batch_delay": 0, "maxWorkers": 1}
    put_model(store / "timed", TIMED, **facts)


def explained(server: Server, model: str = "timed") -> dict[str, Any]:
    """Return the account of a model."""
    answer = httpx.get(f"{server.url}/models/{model}/explain", timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def load(server: Server, each: int) -> float:
    """Send requests from many clients, each its next one when it has its answer; return requests/s."""
    target = urlsplit(server.url)

    def send_all(_: int) -> int:
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=DEADLINE)
        right = 0
        for _ in range(each):
            connection.request("POST", "/predictions/timed", b"{}", {"content-type": "application/json"})
            right += connection.getresponse().read() == b"done"
        connection.close()
        return right

    started = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        assert sum(pool.map(send_all, range(CLIENTS))) == CLIENTS * each
    return CLIENTS * each / (time.monotonic() - started)


@pytest.mark.slow(120)
def test_an_advised_setting_has_the_effect_that_was_predicted(tmp_path: Path) -> None:
    put_timed(tmp_path / "before", "4")
    with run_server(tmp_path / "before") as server:
        for _ in range(5):
            httpx.post(f"{server.url}/predictions/timed", json={}, timeout=DEADLINE)  # alone: a batch of one
        before = load(server, 8)
        account = explained(server)
    said = [sentence["text"] for sentence in account["sentences"]]
    assert any("left with 4 requests because batch_size is 4" in text for text in said), said
    (advice,) = (item for item in account["advice"] if "batch_size" in item["change"])
    size, predicted = advice["change"]["batch_size"], advice["predicted"]["requests_per_second"]
    assert 4 < int(size) <= 16
    assert advice["figures"]["base_seconds"] == pytest.approx(0.06, rel=0.35)
    put_timed(tmp_path / "after", size)
    with run_server(tmp_path / "after") as server:
        after = load(server, 15)
    assert after == pytest.approx(predicted, rel=0.35), (before, after, advice)
    assert after > before


@pytest.mark.slow(60)
def test_a_model_tells_that_it_did_nothing_and_then_which_worker_died(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(tmp_path / "m", OBEDIENT)
    with run_server(tmp_path) as server:
        assert explained(server, "m")["sentences"][0]["text"] == (
            "No batch was recorded yet: 0 requests were run."
        )
        assert error_of(ask(server, "m", kill=True))[:2] == (503, "WorkerDiedError")
        account = explained(server, "m")
        assert main(["explain", "m", "--url", server.url]) == 0
        assert main(["explain", "m", "--url", server.url, "--json"]) == 0
    words, _, as_json = capsys.readouterr().out.partition("{")
    assert json.loads("{" + as_json)["model"] == "m"
    deaths = [sentence["text"] for sentence in account["sentences"] if sentence["about"] == "deaths"]
    assert deaths[0] == "2 workers ended without being asked since the start: 2 died."
    assert "killed by SIGKILL; it had 1 request" in deaths[1]
    assert deaths[-1].startswith("1 request is in quarantine")
    assert deaths[-1] in words
    assert [record["kind"] for record in account["deaths"]] == ["died", "died"]
