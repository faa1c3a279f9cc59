"""How a server ends: what runs is answered, and no process is left, however it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    DEADLINE,
    OBEDIENT,
    Gate,
    ask,
    connection,
    descendants,
    is_alive,
    metric,
    put_model,
    until,
)

# Starts a process of its own, as data loaders do.
PARENT = """
import subprocess
import sys

from djl_python import Input, Output

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def handle(inputs: Input):
    return None if inputs.is_empty() else Output().add(str(child.pid))
"""


def put_store(folder: Path) -> Path:
    """Make a store of two models, one of them in several processes."""
    put_model(folder / "store" / "obedient", OBEDIENT, minWorkers=2, maxWorkers=2)
    put_model(folder / "store" / "echo", engine="echo")
    return folder / "store"


@contextmanager
def busy_server(folder: Path, name: str = "hypercorn", **environ: str) -> Iterator[tuple[Server, list[Gate]]]:
    """Serve the store, both workers of its model at a gate and four requests behind them."""
    gates = [Gate(folder, "left"), Gate(folder, "right")]
    store = put_store(folder)
    with (
        run_server(store, ["--http-server", name], environ=environ) as running,
        ThreadPoolExecutor(8) as pool,
    ):
        until(lambda: metric(running, "frame_workers", model="obedient", state="ready") == 2)
        futures = [pool.submit(ask, running, "obedient", name=str(gate), gates=[str(gate)]) for gate in gates]
        for gate in gates:
            gate.wait_reached()
        futures += [pool.submit(ask, running, "obedient", name=f"n{number}") for number in range(4)]
        until(lambda: metric(running, "frame_queue_length", model="obedient") == 4)
        running.futures = futures  # type: ignore[attr-defined]  # read by `answers`
        try:
            yield running, gates
        finally:
            for gate in gates:
                gate.pass_on()


def futures_of(server: Server) -> list[Future[httpx.Response]]:
    """Return the requests of `busy_server`, ended."""
    futures: list[Future[httpx.Response]] = server.futures  # type: ignore[attr-defined]
    wait(futures, DEADLINE)
    return futures


def answers(server: Server) -> list[httpx.Response]:
    """Return the answers to the requests of `busy_server`."""
    return [future.result() for future in futures_of(server)]


def no_answers(server: Server) -> bool:
    """Tell whether every request of `busy_server` was cut or refused; none waits any longer."""
    futures = futures_of(server)
    errors = [future.exception() for future in futures]
    statuses = {future.result().status_code for future in futures if future.exception() is None}
    return all(error is None or isinstance(error, httpx.TransportError) for error in errors) and statuses <= {
        503
    }


def assert_gone(pids: list[int]) -> None:
    """Wait until processes have ended."""
    assert pids
    until(lambda: not any(is_alive(pid) for pid in pids), what="no process is left")


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_and_waiting_requests_are_answered_before_the_end(
    tmp_path: Path, name: str, number: int
) -> None:
    with busy_server(tmp_path, name) as (server, gates):
        below = descendants(server.pid)
        server.send_signal(number)
        server.wait_for_log("server_stops")
        for gate in gates:
            gate.open()
        assert [answer.status_code for answer in answers(server)] == [200] * 6
        assert server.wait_ended() == 0
    assert_gone(below)


def test_port_is_closed_while_the_server_ends(tmp_path: Path) -> None:
    with busy_server(tmp_path) as (server, gates):
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("server_stops")
        until(lambda: is_refused(server), what="refused connection")
        for gate in gates:
            gate.open()
        assert server.wait_ended() == 0


def is_refused(server: Server) -> bool:
    """Tell whether the server takes no new connection."""
    try:
        httpx.get(f"{server.url}/ping", timeout=DEADLINE)
    except httpx.TransportError:
        return True
    return False


def test_request_that_does_not_end_does_not_keep_the_server(tmp_path: Path) -> None:
    with busy_server(tmp_path, SERVING_DRAIN_TIMEOUT="1") as (server, _):
        below = descendants(server.pid)
        server.send_signal(signal.SIGTERM)
        server.wait_ended(DEADLINE)
        assert_gone(below)
        ended = [future for future in futures_of(server) if future.exception() is None]
        assert not [future for future in ended if future.result().is_success]


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    with busy_server(tmp_path) as (server, _):
        below = descendants(server.pid)
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("server_stops")
        server.send_signal(signal.SIGTERM)
        server.wait_ended(10)  # far below drain_timeout
        assert_gone(below)
        assert no_answers(server)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_router_that_dies_leaves_no_worker(tmp_path: Path, number: int) -> None:
    with busy_server(tmp_path) as (server, _):
        below = descendants(server.pid)
        assert len(below) >= 3
        server.send_signal(number)
        assert server.wait_ended() == -number
        assert_gone(below)
        assert no_answers(server)


def test_no_process_is_left_of_a_model_that_starts_its_own(tmp_path: Path) -> None:
    put_model(tmp_path / "parent", PARENT)
    with run_server(tmp_path) as running:
        child = int(ask(running, "parent").text)
        below = descendants(running.pid)
        assert child in below
        assert running.stop() == 0
    try:
        assert_gone(below)
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def test_no_file_is_left(tmp_path: Path) -> None:
    put_store(tmp_path)
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    with run_server(tmp_path / "store", environ={"TMPDIR": str(tmp)}) as running:
        assert ask(running, "echo", name=1).status_code == 200
        assert running.stop() == 0
    assert list(tmp.iterdir()) == []


def test_idle_connections_do_not_hold_up_the_end(tmp_path: Path) -> None:
    put_store(tmp_path)
    with (
        run_server(tmp_path / "store") as running,
        connection(running) as silent,
        connection(running) as kept,
    ):
        kept.send("GET /ping", {})
        kept.read_until(b"\r\n\r\n")
        assert running.stop(10) == 0  # far below drain_timeout
        assert silent.read_to_end() == b""


def test_signal_while_models_load_ends_the_server(tmp_path: Path) -> None:
    put_model(tmp_path / "slow", "import threading\n\nprint('loads')\nthreading.Event().wait()\n")
    with run_server(tmp_path, waits_ready=False) as running:
        running.wait_for_log("loads")
        below = descendants(running.pid)
        running.send_signal(signal.SIGTERM)
        assert running.wait_ended(10) == 0
        assert_gone(below)
