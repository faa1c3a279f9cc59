"""A request that ended two workers is refused for a while, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, JSON, OBEDIENT, ask, error_of, metric, put_model

LARGE = 2 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    put_model(store / "m", OBEDIENT)
    put_model(store / "brief", OBEDIENT, quarantine_time=0.001)
    with run_server(store, environ={"SERVING_RETRY_THRESHOLD": "50"}) as running:
        yield running


@pytest.mark.parametrize("padding", [0, LARGE])
def test_what_ended_two_workers_is_refused_at_once_and_its_like_is_not(
    server: Server, tmp_path: Path, padding: int
) -> None:
    seen = tmp_path / "seen"
    order = {"kill": True, "append": str(seen), "name": "killer", "pad": "x" * padding}
    assert error_of(ask(server, "m", **order))[:2] == (503, "WorkerDiedError")
    restarts = metric(server, "frame_worker_restarts_total", model="m")
    refused = ask(server, "m", **order)
    code, kind, message = error_of(refused)
    assert (code, kind) == (503, "QuarantinedError")
    assert message.startswith("this request ended two workers of its model; it is refused for another ")
    assert 0 < int(refused.headers["retry-after"]) <= 300
    assert seen.read_text().split() == ["killer", "killer"]
    assert metric(server, "frame_worker_restarts_total", model="m") == restarts
    other = {"append": str(seen), "name": "killed", "kind": True, "pad": "x" * padding}
    assert len(str(other)) == len(str(order))
    assert ask(server, "m", **other).json()["name"] == "killed"
    assert server.wait_for_log("request_quarantined model=m request=")


def test_a_quarantine_ends(server: Server, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    for runs in (2, 4):
        answer = ask(server, "brief", kill=True, append=str(seen), name="killer")
        assert error_of(answer)[:2] == (503, "WorkerDiedError")
        assert len(seen.read_text().split()) == runs


def test_a_query_makes_another_request_of_the_same_body(server: Server, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = b'{"kill": true, "append": "%s", "name": "killer"}' % str(seen).encode()
    kinds = [
        error_of(httpx.post(server.url + path, content=body, headers=JSON, timeout=DEADLINE))[1]
        for path in ("/predictions/m?a=1", "/predictions/m?a=1", "/predictions/m?a=2")
    ]
    assert kinds == ["WorkerDiedError", "QuarantinedError", "WorkerDiedError"]
