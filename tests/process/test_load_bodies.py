"""Many large bodies at once: the router's memory stays in its bound, and small requests go on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_bodies import SIZE_BYTES, large_order, memory_bytes, put_models
from tests.process.load_client import Load, orders
from tests.process.probes import DEADLINE, describe, metric, until

MIB = 1 << 20
BUDGET = 128 * MIB  # max_queued_bytes of the server under test
IDLE = 60 * MIB  # what the router may hold besides
FULL = "503 CapacityError"


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a model that takes large bodies and one that takes small ones."""
    store = tmp_path_factory.mktemp("store")
    put_models(store)
    environ = {"SERVING_MAX_QUEUED_BYTES": str(BUDGET)}
    with run_server(store, ["--http-server", request.param], environ=environ) as running:
        until(lambda: metric(running, "frame_workers", state="ready") >= 3)
        with Load(running.url, orders("small", 200), connections=20) as load:
            load.accounts().assert_settled("200")
        yield running


def test_200_large_bodies_keep_the_router_in_its_bound_and_small_requests_are_answered(
    server: Server,
) -> None:
    peak = memory_bytes(server.pid)
    bodies = [large_order() for _ in range(200)]
    with Load(server.url, orders("small"), connections=2) as small:
        with Load(server.url, bodies, connections=200) as load:
            while load.is_running:
                peak = max(peak, memory_bytes(server.pid))
            accounts = load.accounts()
        small.stop()
        light = small.accounts()
    accounts.assert_settled("200", FULL)
    assert accounts.kinds["200"] >= BUDGET // (SIZE_BYTES + MIB)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in accounts.of(FULL))
    light.assert_settled("200", FULL)
    assert light.kinds["200"] > 0
    assert peak <= IDLE + BUDGET, f"{peak / MIB:.0f} MiB"
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    assert describe(server, "large")["status"] == "Healthy"
    assert httpx.get(f"{server.url}/ping", timeout=DEADLINE).status_code == 200


def test_large_bodies_that_come_one_after_the_other_do_not_pile_up(server: Server) -> None:
    with Load(server.url, (large_order() for _ in range(10)), connections=2) as load:
        load.accounts().assert_settled("200")
    before = memory_bytes(server.pid)
    with Load(server.url, (large_order() for _ in range(40)), connections=2) as load:
        load.accounts().assert_settled("200")
    assert memory_bytes(server.pid) - before <= 2 * SIZE_BYTES
