"""No rank outlives router or launcher: not idle, not in Python, not in C with the interpreter's lock."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from frame.testing import Server, run_server

from tests.process.probes import connection, descendants, is_alive, until
from tests.process.rank_models import put_ranks, send, sum_order, wait_ranks

RANKS = {"two": 2, "four": 4}
STATES = ["idle", "spin", "stick"]

pytestmark = pytest.mark.slow(120)
each_state = pytest.mark.parametrize("state", STATES)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve two ranks without MPI and four under mpirun."""
    put_ranks(tmp_path / "store", "two", 2, option__launcher="spawn")
    put_ranks(tmp_path / "store", "four", 4)
    with run_server(tmp_path / "store") as running:
        yield running


def bring_to(server: Server, model: str, state: str, folder: Path) -> list[int]:
    """Bring all ranks of a model to a state which no client waits for; return their pids."""
    ranks = wait_ranks(server, model)
    if state == "idle":
        return ranks
    began = folder / f"began-{model}"
    everywhere = list(range(len(ranks)))
    with connection(server) as raw:
        send(raw, sum_order(model, len(ranks), fault=state, on=everywhere, began=str(began)))
        until(lambda: all(Path(f"{began}.{rank}").exists() for rank in everywhere))
    return ranks


def launcher_of(rank: int) -> int:
    """Return the process that started a rank."""
    return int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def assert_all_end(pids: list[int]) -> None:
    """Hold that none of these processes stays."""
    until(lambda: not any(is_alive(pid) for pid in pids), what=f"the end of {pids}")


@each_state
def test_nothing_outlives_a_killed_router(server: Server, state: str, tmp_path: Path) -> None:
    ranks = [bring_to(server, model, state, tmp_path) for model in RANKS]
    started = descendants(server.pid)
    assert set().union(*ranks) <= set(started)
    kill([server.pid])
    assert_all_end(started)


@each_state
def test_nothing_outlives_a_router_that_is_killed_while_a_rank_is_stopped(
    server: Server, state: str, tmp_path: Path
) -> None:
    ranks = [bring_to(server, model, state, tmp_path) for model in RANKS]
    started = descendants(server.pid)
    for group in ranks:
        os.kill(group[-1], signal.SIGSTOP)
    kill([server.pid])
    assert_all_end(started)


@each_state
def test_nothing_outlives_router_and_launchers_that_are_killed_at_once(
    server: Server, state: str, tmp_path: Path
) -> None:
    ranks = [bring_to(server, model, state, tmp_path) for model in RANKS]
    started = descendants(server.pid)
    kill([server.pid, *(launcher_of(group[0]) for group in ranks)])
    assert_all_end(started)


@each_state
def test_no_rank_outlives_its_launcher_and_the_group_comes_back(
    server: Server, state: str, tmp_path: Path
) -> None:
    ranks = {model: bring_to(server, model, state, tmp_path) for model in RANKS}
    kill([launcher_of(group[0]) for group in ranks.values()])
    for model, before in ranks.items():
        assert_all_end(before)
        after = wait_ranks(server, model, none_of=before)
        assert len(after) == RANKS[model]


@each_state
def test_no_rank_outlives_its_launcher_when_one_is_stopped(
    server: Server, state: str, tmp_path: Path
) -> None:
    ranks = {model: bring_to(server, model, state, tmp_path) for model in RANKS}
    for group in ranks.values():
        os.kill(group[-1], signal.SIGSTOP)
    kill([launcher_of(group[0]) for group in ranks.values()])
    for model, before in ranks.items():
        assert_all_end(before)
        assert wait_ranks(server, model, none_of=before)


@pytest.mark.parametrize("state", ["idle", "stick"])
def test_a_server_that_is_asked_to_end_leaves_no_rank(server: Server, state: str, tmp_path: Path) -> None:
    for model in RANKS:
        bring_to(server, model, state, tmp_path)
    started = descendants(server.pid)
    server.send_signal(signal.SIGTERM)
    server.wait_ended()
    assert_all_end(started)
