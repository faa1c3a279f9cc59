"""A router that ends under load: what was admitted is answered, and no process or socket stays."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, orders
from tests.process.load_models import WILLING
from tests.process.probes import descendants, is_alive, metric, put_model, until

WORKERS = 4
ENDS = "503 ModelNotReadyError"


@contextmanager
def loaded(folder: Path, name: str) -> Iterator[tuple[Server, Load, list[int]]]:
    """Serve under an endless load of 40 connections; give the processes below the router, too."""
    store, temporary = folder / "store", folder / "tmp"
    temporary.mkdir()
    four = {"minWorkers": WORKERS, "maxWorkers": WORKERS, "slots_per_group": 1}
    put_model(store / "m", WILLING, **four)
    environ = {"TMPDIR": str(temporary)}
    with run_server(store, ["--http-server", name], environ=environ) as server:
        until(lambda: metric(server, "frame_workers", model="m", state="ready") == WORKERS)
        work = {"sleep": 0.02, "seen": str(folder / "seen")}
        with Load(server.url, orders("m", **work), connections=40) as load:
            until(lambda: len(load.answers) >= 100)
            below = descendants(server.pid)
            assert len(below) >= WORKERS
            yield server, load, below


def assert_nothing_is_left(server: Server, below: list[int]) -> None:
    """Hold that no process and no listening socket is left."""
    until(lambda: not any(is_alive(pid) for pid in below), what="no process is left")
    target = urlsplit(server.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((target.hostname, target.port), timeout=5)


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
def test_every_request_that_ran_is_answered_when_the_server_is_asked_to_end(
    tmp_path: Path, name: str
) -> None:
    with loaded(tmp_path, name) as (server, load, below):
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("server_stops")
        until(lambda: len(load.answers) > 0 and not load.answers[-1].status, what="a refused connection")
        load.stop()
        accounts = load.accounts()
        assert server.wait_ended() == 0
    assert_nothing_is_left(server, below)
    assert list((tmp_path / "tmp").iterdir()) == [], "sockets and folders"
    assert not accounts.wrong
    assert accounts.stray == 0
    refused = {"ConnectionRefusedError", "ConnectionResetError", "IncompleteReadError"}
    assert set(accounts.kinds) <= {"200", ENDS, *refused}, accounts.kinds
    ran = (tmp_path / "seen").read_text().split()
    assert len(ran) == len(set(ran))
    assert set(ran) == {answer.order.token for answer in accounts.of("200")}


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
def test_workers_end_when_the_router_is_killed(tmp_path: Path, name: str) -> None:
    with loaded(tmp_path, name) as (server, load, below):
        server.send_signal(signal.SIGKILL)
        assert server.wait_ended() == -signal.SIGKILL
        assert_nothing_is_left(server, below)
        load.stop()
        accounts = load.accounts()
    assert not accounts.wrong
    assert {answer.status for answer in accounts.answers} == {0, 200}
    assert not [answer for answer in accounts.unanswered if re.match("Timeout", answer.failure)], "no hang"
