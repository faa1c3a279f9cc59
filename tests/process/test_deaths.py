"""Kinds of death of a worker, told apart: killed, stopped, slow, stuck in native code; and a dead router."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    OBEDIENT,
    Gate,
    ask,
    descendants,
    error_of,
    is_alive,
    metric,
    put_model,
    until,
    worker_pids,
)

# Does as it is told: computes one large power, which holds Python's lock in C for minutes.
STUCK = OBEDIENT.replace(
    '    if "kill" in order:',
    """    if "close" in order:
        os.closerange(3, 64)
    if "stuck" in order:
        10 ** (10 ** order["stuck"])
    if "kill" in order:""",
)
# Loads until the test lets it.
LOADS_LONG = """
with open({gate!r}) as gate:
    gate.read()


def handle(inputs):
    return None
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models whose batches may take one second, each for one kind of death."""
    store = tmp_path_factory.mktemp("store")
    for name in ("killed", "idle", "stopped", "slow", "stuck", "silent"):
        put_model(store / name, STUCK, option__predict_timeout=1, maxWorkers=1)
    with run_server(store, environ={"SERVING_RETRY_THRESHOLD": "50"}) as running:
        yield running


def the_worker(server: Server, model: str) -> int:
    """Wait for a model's worker and return its process."""
    (pid,) = until(lambda: worker_pids(server, model), what=f"a worker of {model}")
    return pid


def end_of(server: Server, model: str, before: int) -> tuple[str, str]:
    """Wait until a worker is gone and replaced; return kind and cause of its end."""
    until(lambda: worker_pids(server, model) not in ([], [before]), what="another worker")
    assert not is_alive(before)
    found = re.findall(rf"worker_ended model={model} group=\d+ kind=(\w+) cause=(.*)", server.log())
    kind, cause = found[-1]
    assert metric(server, "frame_worker_restarts_total", model=model, cause=kind) == 1
    return kind, cause


def test_worker_that_is_killed_died(server: Server) -> None:
    before = the_worker(server, "killed")
    os.kill(before, signal.SIGKILL)
    assert end_of(server, "killed", before) == ("died", "killed by SIGKILL")


def test_worker_that_is_stopped_while_idle_is_hung_and_replaced(server: Server) -> None:
    before = the_worker(server, "idle")
    os.kill(before, signal.SIGSTOP)
    kind, cause = end_of(server, "idle", before)
    assert kind == "hung"
    assert re.fullmatch(r"no heartbeat for 1[0-4] s", cause), cause
    assert ask(server, "idle", name="after").json()["name"] == "after"


def test_worker_that_is_stopped_in_a_batch_is_hung_by_its_heartbeat(server: Server, tmp_path: Path) -> None:
    before = the_worker(server, "stopped")
    gate = Gate(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, "stopped", gates=[str(gate)])
        gate.wait_reached()
        os.kill(before, signal.SIGSTOP)
        assert error_of(running.result())[1] == "PredictTimeoutError"
    kind, cause = end_of(server, "stopped", before)
    assert kind == "hung"
    assert re.fullmatch(r"a batch ran longer than 1 s; no heartbeat for \d+ s", cause), cause
    assert ask(server, "stopped", name="after").json()["name"] == "after"


def test_handler_that_waits_too_long_is_overdue(server: Server, tmp_path: Path) -> None:
    before = the_worker(server, "slow")
    assert error_of(ask(server, "slow", gates=[str(Gate(tmp_path))]))[1] == "PredictTimeoutError"
    assert end_of(server, "slow", before) == (
        "overdue",
        "a batch ran longer than 1 s; the process answers",
    )


def test_handler_that_holds_pythons_lock_is_hung(server: Server) -> None:
    before = the_worker(server, "stuck")
    assert error_of(ask(server, "stuck", stuck=9))[1] == "PredictTimeoutError"
    kind, cause = end_of(server, "stuck", before)
    assert kind == "hung"
    assert "a batch ran longer than 1 s; no heartbeat for" in cause


def test_worker_that_closes_its_socket_and_goes_on_is_told(server: Server) -> None:
    before = the_worker(server, "silent")
    assert error_of(ask(server, "silent", close=True, stuck=9))[0] == 503
    assert end_of(server, "silent", before) == (
        "died",
        "the worker closed its socket, and its process went on",
    )


# --- the router is gone ---------------------------------------------------------------------------


def kill_router(server: Server) -> None:
    """Kill the router and wait until every process below it is gone."""
    below = descendants(server.pid)
    assert below
    server.send_signal(signal.SIGKILL)
    assert server.wait_ended() == -signal.SIGKILL
    until(lambda: not any(map(is_alive, below)), what="the end of all workers")


@pytest.mark.parametrize("is_stopped", [False, True], ids=["waiting", "stopped"])
def test_worker_in_a_batch_ends_with_its_router(tmp_path: Path, is_stopped: bool) -> None:
    put_model(tmp_path / "store" / "m", OBEDIENT)
    gate = Gate(tmp_path)
    with run_server(tmp_path / "store") as running, ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask, running, "m", gates=[str(gate)])
        gate.wait_reached()
        if is_stopped:
            os.kill(the_worker(running, "m"), signal.SIGSTOP)
        kill_router(running)
        assert request.exception() is not None


def test_worker_stuck_in_native_code_ends_with_its_router(tmp_path: Path) -> None:
    put_model(tmp_path / "store" / "m", STUCK)
    seen = tmp_path / "seen"
    with run_server(tmp_path / "store") as running, ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask, running, "m", append=str(seen), name="here", stuck=9)
        until(seen.exists)
        kill_router(running)
        assert request.exception() is not None


def test_worker_that_loads_ends_with_its_router(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    put_model(tmp_path / "store" / "m", LOADS_LONG.format(gate=str(gate)))
    with run_server(tmp_path / "store", waits_ready=False) as running:
        gate.wait_reached()
        kill_router(running)
