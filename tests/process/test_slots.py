"""Slots of a model whose copy may be shared: a backlog adds threads to its process, idleness takes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from frame.testing import Server, run_server

from tests.process.probes import ask, describe, metric, put_model, until, worker_pids

# Handlers share no copy, so the engine echo stands for a model that may.
PATIENCE = {"max_idle_time": 1, "minWorkers": 1, "maxWorkers": 3, "option__delay_ms": 100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store: Path = tmp_path_factory.mktemp("store")
    put_model(store / "shared", engine="echo", **PATIENCE)
    put_model(store / "alone", engine="echo", option__shares_model="false", **PATIENCE)
    with run_server(store) as running:
        yield running


def workers(server: Server, model: str) -> float:
    """Return how many workers a model has, by its metrics."""
    return sum(metric(server, "frame_workers", model=model, state=state) for state in ("ready", "busy"))


def flood(server: Server, model: str, seen: int) -> None:
    """Send requests until the model has so many workers; each gets its own answer."""
    until(lambda: worker_pids(server, model), what="the first worker")
    with ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(ask, server, model, name=number) for number in range(60)]
        until(lambda: workers(server, model) == seen, what=f"{seen} workers")
        assert [future.result().json() for future in futures] == [{"name": number} for number in range(60)]


def test_a_shared_copy_gets_slots_without_a_load_and_gives_them_back(server: Server) -> None:
    flood(server, "shared", 3)
    assert len(worker_pids(server, "shared")) == 1
    assert metric(server, "frame_model_load_seconds_count", model="shared") == 1
    until(lambda: workers(server, "shared") == 1, what="one worker")
    assert ask(server, "shared", name="after").json() == {"name": "after"}
    assert len(describe(server, "shared")["workerGroups"][0]["workers"]) == 1


def test_a_copy_that_is_not_shared_gets_processes(server: Server) -> None:
    flood(server, "alone", 3)
    assert metric(server, "frame_model_load_seconds_count", model="alone") >= 3
