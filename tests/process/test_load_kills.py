"""Workers killed at random under load: every request has one answer, its own, and 503 needs two deaths."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Accounts, Load, order, orders
from tests.process.load_models import TELLING, WILLING
from tests.process.probes import (
    DEADLINE,
    is_alive,
    metric,
    put_model,
    until,
    worker_pids,
)

WORKERS = 4
LOST = "503 WorkerDiedError"
CUT = "IncompleteReadError"  # a stream that ended without its last chunk


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models of four processes each."""
    store = tmp_path_factory.mktemp("store")
    four = {"minWorkers": WORKERS, "maxWorkers": WORKERS, "slots_per_group": 1}
    put_model(store / "single", WILLING, **four)
    put_model(store / "batched", WILLING, batch_size=8, max_batch_delay=5, **four)
    put_model(store / "stream", TELLING, **four)
    put_model(store / "once", WILLING, option__retry_on_crash="false", **four)
    with run_server(store) as running:
        for model in ("single", "batched", "stream", "once"):
            until(lambda name=model: len(worker_pids(running, name)) == WORKERS)
        yield running


def kill_one(server: Server, model: str, chance: random.Random) -> None:
    """Kill a worker of a model with SIGKILL and see it go."""
    pid = chance.choice(until(lambda: worker_pids(server, model), what=f"a worker of {model}"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))


def kill_under_load(server: Server, model: str, kills: int, **work: object) -> Accounts:
    """Ask over 32 connections, kill a worker after every 25 answers, and return the accounts."""
    chance = random.Random(kills)
    count = 25 * (kills + 2)
    with Load(server.url, orders(model, count, **work), connections=32) as load:
        for number in range(kills):
            until(lambda wanted=25 * (number + 1): len(load.answers) >= wanted, what="progress")
            kill_one(server, model, chance)
        return load.accounts()


def ended(server: Server, model: str) -> dict[str, float]:
    """Return how many requests of a model ended how, and how many workers died, as the server counts them."""
    outcomes = ("ok", "server_error", "client_error", "model_error", "cancelled")
    counts = {name: metric(server, "frame_requests_total", model=model, outcome=name) for name in outcomes}
    return {**counts, "died": metric(server, "frame_worker_restarts_total", model=model, cause="died")}


@pytest.mark.parametrize(("model", "deaths"), [("single", 2), ("batched", 1)])
def test_every_request_has_one_answer_while_workers_are_killed(
    server: Server, model: str, deaths: int
) -> None:
    """A request is lost to two deaths with it alone; of a batch, the first one takes all, the second one."""
    kills = 14
    before = ended(server, model)
    accounts = kill_under_load(server, model, kills, sleep=0.005)
    accounts.assert_settled("200", LOST)
    lost = accounts.of(LOST)
    assert deaths * len(lost) <= kills
    assert accounts.kinds["200"] == accounts.sent - len(lost)
    after = ended(server, model)
    gained = {outcome: after[outcome] - before[outcome] for outcome in after}
    others = dict.fromkeys(("client_error", "model_error", "cancelled"), 0)
    assert gained == {"ok": accounts.kinds["200"], "server_error": len(lost), "died": kills, **others}
    assert metric(server, "frame_queue_length", model=model) == 0
    assert metric(server, "frame_queued_bytes") == 0
    until(lambda: len(worker_pids(server, model)) == WORKERS, what="all workers are back")


def test_request_that_may_not_run_twice_is_503_and_ran_once(server: Server, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    accounts = kill_under_load(server, "once", 10, sleep=0.005, seen=str(seen))
    accounts.assert_settled("200", LOST)
    assert len(accounts.of(LOST)) <= 10
    runs = seen.read_text().split()
    assert len(runs) == len(set(runs))
    assert {answer.order.token for answer in accounts.of("200")} <= set(runs)


def test_stream_whose_worker_is_killed_is_whole_or_cut_and_never_anothers(server: Server) -> None:
    chance = random.Random(1)
    pieces, kills = 100, 6

    def is_whole(body: bytes) -> bool:
        return [int(line.split()[1]) for line in body.splitlines()] == list(range(pieces))

    streams = list(orders("stream", 60, pieces=pieces, sleep=0.001))
    with Load(server.url, streams, connections=8) as load:
        for number in range(kills):
            until(lambda wanted=6 * (number + 1): len(load.answers) >= wanted, what="progress")
            kill_one(server, "stream", chance)
        accounts = load.accounts()
    assert set(accounts.kinds) <= {"200", LOST, CUT}, accounts.kinds
    assert accounts.kinds[LOST] + accounts.kinds[CUT] <= kills
    assert not accounts.wrong
    assert accounts.stray == 0
    assert all(is_whole(answer.body) for answer in accounts.of("200"))


def test_killed_with_others_in_one_batch_harms_only_the_killer(server: Server) -> None:
    killers = [order("batched", kill=True) for _ in range(3)]
    good = list(orders("batched", 200, sleep=0.002))
    mixed = good[:50] + killers[:1] + good[50:100] + killers[1:2] + good[100:150] + killers[2:] + good[150:]
    with Load(server.url, mixed, connections=24) as load:
        accounts = load.accounts()
    accounts.assert_settled("200", LOST)
    assert {answer.order.token for answer in accounts.of(LOST)} >= {killer.token for killer in killers}
    assert accounts.kinds["200"] >= 190
    assert httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()["batched"]["status"] != "FAILED"
