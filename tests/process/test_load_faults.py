"""Hangs, hogs and poison under load: they cost their own request, and everybody else is answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, Order, new_token, order, orders
from tests.process.load_models import WILLING
from tests.process.probes import metric, put_model, until, worker_pids

WORKERS = 4
HANG = 600  # seconds; far beyond predict_timeout
LOST = "503 WorkerDiedError"
REFUSED = "503 QuarantinedError"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve one model in four processes, one in four threads of a process."""
    store = tmp_path_factory.mktemp("store")
    four = {"minWorkers": WORKERS, "maxWorkers": WORKERS}
    brief = {"option__predict_timeout": 1, "option__drain_time": 0.5, "request_timeout": 20}
    put_model(store / "apart", WILLING, slots_per_group=1, **four, **brief)
    put_model(store / "shared", WILLING, option__shares_model="true", **four, **brief)
    put_model(store / "hog", WILLING, slots_per_group=1, minWorkers=2, maxWorkers=2)
    put_model(store / "poison", WILLING, slots_per_group=1, **four)
    with run_server(store) as running:
        until(lambda: metric(running, "frame_workers", state="ready") == 3 * WORKERS + 2)
        yield running


def restarts(server: Server, model: str) -> float:
    """Return how many worker processes of a model ended without being asked."""
    return metric(server, "frame_worker_restarts_total", model=model)


@pytest.mark.parametrize("model", ["apart", "shared"])
def test_requests_that_hang_are_503_and_all_others_are_answered(server: Server, model: str) -> None:
    """A hang counts as a death of the request that hung, which is run a second time, and of no other."""
    with Load(server.url, orders(model, sleep=0.005), connections=6) as good:
        with Load(server.url, orders(model, 2, sleep=HANG), connections=2) as bad:
            bad.accounts().assert_settled(LOST)
        good.stop()
        accounts = good.accounts()
    accounts.assert_settled("200")
    assert accounts.sent > 50
    assert until(lambda: restarts(server, model)) <= 4
    until(lambda: metric(server, "frame_workers", model=model, state="ready") == WORKERS)


def test_request_that_takes_all_memory_is_507_and_its_worker_goes_on(server: Server) -> None:
    before = until(lambda: worker_pids(server, "hog"))
    mixed = [order("hog", hog=True) if number % 10 == 5 else order("hog") for number in range(200)]
    with Load(server.url, mixed, connections=8) as load:
        accounts = load.accounts()
    accounts.assert_settled("200", "507")
    assert accounts.kinds == {"200": 180, "507": 20}
    assert all(b'"hog"' in answer.order.parts[0] for answer in accounts.of("507"))
    assert worker_pids(server, "hog") == before
    assert restarts(server, "hog") == 0


def test_body_that_ended_two_workers_is_refused_at_once_and_other_bodies_are_served(server: Server) -> None:
    body = b'{"token": "the same each time", "kill": true}'
    poison = [Order(token=new_token(), path="/predictions/poison", parts=(body,)) for _ in range(30)]
    with Load(server.url, orders("poison", sleep=0.002), connections=6) as good:
        with Load(server.url, poison[:1], connections=1) as first:
            first.accounts().assert_settled(LOST)
        with Load(server.url, poison[1:], connections=4) as again:
            refused = again.accounts()
        good.stop()
        accounts = good.accounts()
    refused.assert_settled(REFUSED)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused.answers)
    accounts.assert_settled("200")
    assert restarts(server, "poison") == 2
    with Load(server.url, [order("poison")], connections=1) as after:
        after.accounts().assert_settled("200")
