"""One rank fails, hangs or is a call apart: the group ends, comes back as one, and no answer is false."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load
from tests.process.probes import DEADLINE, connection, describe, is_alive, until
from tests.process.rank_models import (
    LOSING,
    UNLOADABLE,
    assert_right,
    post,
    put_ranks,
    ranks_of,
    send,
    stream_order,
    sum_order,
    wait_ranks,
)

pytestmark = pytest.mark.slow(120)

RANKS = {"two": 2, "four": 4}
BEHIND = r"worker_ended model=\w+ group=\d+ kind=stalled cause=rank 1 (is silent|stands at \d+) while"
AHEAD = r"worker_ended model=\w+ group=\d+ kind=stalled cause=rank 0 stands at \d+ while"
EXITED = r"worker_ended model=\w+ group=\d+ .*cause=.*rank 1\b"

# What rank 1 does while rank 0 waits for it in the collective, and what the log says of it.
FAULTS = {
    "raise": "ValueError: planted in rank 1",
    "exit": EXITED,
    "kill": EXITED,
    "stop": BEHIND,
    "stick": BEHIND,
    "skip": AHEAD,
}

each_model = pytest.mark.parametrize("model", RANKS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the models that `server` serves."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    """Serve groups of two ranks under mpirun and four without MPI, two that cannot be trusted."""
    put_ranks(store, "two", 2)
    put_ranks(store, "four", 4, option__launcher="spawn")
    put_ranks(store, "losing", 2, LOSING, option__launcher="spawn")
    put_ranks(store, "apart", 2, option__launcher="spawn")
    put_ranks(store, "unloadable", 2, UNLOADABLE, retry_threshold=0)
    with run_server(store) as running:
        yield running


def assert_came_back(server: Server, model: str, ranks: list[int], since: int, cause: str) -> None:
    """Hold that all processes of a group are new, that they answer, and that the log says why."""
    after = wait_ranks(server, model, none_of=ranks)
    assert len(after) == len(ranks)
    assert not any(is_alive(pid) for pid in ranks)
    made = sum_order(model, len(ranks))
    assert_right(made, post(server, made))
    assert re.search(cause, server.log()[since:]), server.log()[since:]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_that_fails_in_a_request_ends_the_group_and_the_request_is_run_again(
    server: Server, fault: str, tmp_path: Path
) -> None:
    ranks, since = wait_ranks(server, "two"), len(server.log())
    made = sum_order("two", 2, fault=fault, once=str(tmp_path / "once"))
    assert_right(made, post(server, made))
    assert_came_back(server, "two", ranks, since, FAULTS[fault])


@pytest.mark.parametrize("fault", ["raise", "kill", "skip"])
def test_a_rank_that_fails_in_a_stream_cuts_it_and_ends_the_group(
    server: Server, fault: str, tmp_path: Path
) -> None:
    ranks, since = wait_ranks(server, "four"), len(server.log())
    with connection(server) as raw:
        send(raw, stream_order("four", 4, 50, fault=fault, at=7, once=str(tmp_path / "once")))
        raw.read_until(b" 000006 ")
        assert b"0\r\n\r\n" not in raw.read_to_end()
    assert_came_back(server, "four", ranks, since, FAULTS[fault])


@each_model
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_lost_under_load_costs_nobody_a_right_answer(
    server: Server, model: str, number: signal.Signals
) -> None:
    ranks, since = wait_ranks(server, model), len(server.log())
    todo = (sum_order(model, RANKS[model]) for _ in itertools.count())
    with Load(server.url, todo, connections=8) as load:
        until(lambda: len(load.answers) > 50)
        os.kill(ranks[1], number)
        wait_ranks(server, model, none_of=ranks)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 50)
    load.accounts().assert_settled("200", "503 WorkerDiedError")
    assert load.accounts().kinds["200"] > 100
    assert_came_back(server, model, ranks, since, EXITED if number == signal.SIGKILL else BEHIND)


@pytest.mark.parametrize(("model", "number"), [("two", signal.SIGSTOP), ("four", signal.SIGKILL)])
def test_a_rank_lost_while_idle_ends_the_group(server: Server, model: str, number: signal.Signals) -> None:
    ranks, since = wait_ranks(server, model), len(server.log())
    os.kill(ranks[-1], number)
    cause = (EXITED if number == signal.SIGKILL else BEHIND).replace("rank 1", f"rank {len(ranks) - 1}")
    assert_came_back(server, model, ranks, since, cause)


def test_a_rank_that_loses_a_request_ends_the_group_which_runs_it_again(server: Server, store: Path) -> None:
    ranks, since = wait_ranks(server, "losing"), len(server.log())
    (store / "losing" / "lose").touch()
    made = sum_order("losing", 2)
    assert_right(made, post(server, made))
    assert not (store / "losing" / "lose").exists()
    assert_came_back(server, "losing", ranks, since, "rank 1")


def test_a_request_that_ends_two_groups_is_refused_and_names_the_rank(server: Server) -> None:
    ranks = wait_ranks(server, "two")
    made = sum_order("two", 2, fault="exit")
    answer = post(server, made)
    assert answer.status_code == 503
    assert "rank 1" in answer.json()["message"]
    assert not set(wait_ranks(server, "two", none_of=ranks)) & set(ranks)


def test_an_error_on_all_ranks_is_an_answer_and_keeps_the_group(server: Server) -> None:
    ranks = wait_ranks(server, "four")
    answer = post(server, sum_order("four", 4, fault="raise", on=[0, 1, 2, 3]))
    assert answer.status_code == 424
    made = sum_order("four", 4)
    assert_right(made, post(server, made))
    assert ranks_of(server, "four") == ranks


def test_nobody_gets_a_number_of_a_request_that_failed_on_rank_0_alone(server: Server) -> None:
    ranks = wait_ranks(server, "apart")
    todo = [
        sum_order("apart", 2, fault="raise", on=[0]),
        *(sum_order("apart", 2) for _ in range(4)),
    ]
    with Load(server.url, todo, connections=1) as load:
        until(lambda: len(load.answers) == len(todo))
    load.accounts().assert_settled("200", "503 WorkerDiedError")
    assert load.accounts().kinds["200"] == len(todo) - 1
    assert wait_ranks(server, "apart", none_of=ranks)


def test_a_rank_that_cannot_load_is_named_with_its_reason(server: Server) -> None:
    shown = [httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()["unloadable"]]
    shown.append(describe(server, "unloadable"))
    for state in shown:
        assert state["status"] == "FAILED"
        assert "rank 1" in state["reason"]
        assert "no room for part 1 of the weights" in state["reason"]
    found = server.wait_for_log(r"(?m)^.*model_not_loaded model=unloadable .*$")
    assert "rank 1" in found[0]
