"""Workers that die or hang: no request is lost, and the worker comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    DEADLINE,
    OBEDIENT,
    Gate,
    ask,
    error_of,
    is_alive,
    metric,
    put_model,
    until,
    worker_pids,
)

# Dies in its first call, as long as a file exists; loads all the same.
MORTAL = """
import os
import signal

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    if os.path.exists({path!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    return Output().add("alive")
"""
STUBBORN = """
import os

from djl_python import Input, Output

if os.path.exists({path!r}):
    raise RuntimeError("the disk is away")


def handle(inputs: Input):
    return None if inputs.is_empty() else Output().add("%d" % os.getpid())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models that die when they are told to."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "single", OBEDIENT, maxWorkers=1)
    put_model(store / "batched", OBEDIENT, batch_size=4, max_batch_delay=0, maxWorkers=1)
    put_model(store / "once", OBEDIENT, option__retry_on_crash="false", maxWorkers=1)
    put_model(store / "short", OBEDIENT, option__predict_timeout=1, maxWorkers=1)
    put_model(store / "other", engine="echo")
    with run_server(store, environ={"SERVING_RETRY_THRESHOLD": "50"}) as running:
        yield running


def ready_pids(server: Server, model: str) -> list[int]:
    """Wait for a model's workers and return their processes."""
    return until(lambda: worker_pids(server, model), what=f"a worker of {model}")


def test_requests_that_waited_or_ran_when_the_worker_was_killed_are_answered_once(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    order = tmp_path / "order"
    (before,) = ready_pids(server, "single")
    with ThreadPoolExecutor(16) as pool:
        running = pool.submit(ask, server, "single", name="first", gates=[str(gate)], append=str(order))
        gate.wait_reached()
        waiting = [
            pool.submit(ask, server, "single", name=f"n{number}", append=str(order)) for number in range(8)
        ]
        until(lambda: metric(server, "frame_queue_length", model="single") == 8)
        os.kill(before, signal.SIGKILL)
        until(lambda: not is_alive(before))
        gate.pass_on()  # the dead worker's end
        gate.open()  # the first request runs again
        answers = [future.result() for future in [running, *waiting]]
    assert [answer.status_code for answer in answers] == [200] * 9
    assert [answer.json()["name"] for answer in answers] == [
        "first",
        *(f"n{number}" for number in range(8)),
    ]
    assert sorted(order.read_text().split()) == ["first", *(f"n{number}" for number in range(8))]
    (after,) = ready_pids(server, "single")
    assert after != before


def test_worker_killed_again_and_again_under_load_loses_nothing(server: Server) -> None:
    def send(number: int) -> tuple[int, object]:
        answer = ask(server, "single", name=number)
        return answer.status_code, answer.json().get("name")

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(send, number) for number in range(200)]
        for wanted in (30, 80, 130):
            until(lambda count=wanted: sum(future.done() for future in futures) >= count)
            for pid in ready_pids(server, "single"):
                os.kill(pid, signal.SIGKILL)
                until(lambda gone=pid: not is_alive(gone))
        results = [future.result() for future in futures]
    assert results == [(200, number) for number in range(200)]


def test_idle_worker_that_is_killed_comes_back_without_a_request(server: Server) -> None:
    (before,) = ready_pids(server, "other")
    restarts = metric(server, "frame_worker_restarts_total", model="other", cause="died")
    os.kill(before, signal.SIGKILL)
    until(lambda: worker_pids(server, "other") not in ([], [before]))
    assert metric(server, "frame_worker_restarts_total", model="other", cause="died") == restarts + 1
    assert httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()["other"]["status"] == "Healthy"


def test_request_that_kills_two_workers_is_503_and_its_neighbours_are_answered(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    seen = tmp_path / "seen"
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, "batched", gates=[str(gate)])
        gate.wait_reached()
        killer = pool.submit(ask, server, "batched", kill=True, append=str(seen), name="killer")
        good = [pool.submit(ask, server, "batched", name=f"good{number}") for number in range(3)]
        until(lambda: metric(server, "frame_queue_length", model="batched") == 4)
        gate.open()
        assert first.result().status_code == 200
        answers = [future.result() for future in good]
        code, kind, _ = error_of(killer.result())
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json()["name"] for answer in answers] == ["good0", "good1", "good2"]
    assert (code, kind) == (503, "WorkerDiedError")
    assert seen.read_text().split() == ["killer", "killer"]
    assert ask(server, "batched", name="after").json()["name"] == "after"


def test_request_is_not_run_again_where_the_model_forbids_it(server: Server, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    answer = ask(server, "once", kill=True, append=str(seen), name="killer")
    assert error_of(answer)[:2] == (503, "WorkerDiedError")
    assert seen.read_text().split() == ["killer"]
    assert ask(server, "once", name="after").json()["name"] == "after"


def test_handler_that_hangs_is_503_and_gets_a_new_worker(server: Server, tmp_path: Path) -> None:
    (before,) = ready_pids(server, "short")
    answer = ask(server, "short", gates=[str(Gate(tmp_path))])
    code, kind, message = error_of(answer)
    assert (code, kind) == (503, "PredictTimeoutError")
    assert "option.predict_timeout" in message
    until(lambda: worker_pids(server, "short") not in ([], [before]))
    until(lambda: not is_alive(before))
    assert ask(server, "short", name="after").json()["name"] == "after"


def test_worker_that_prints_megabytes_without_a_newline_goes_on(server: Server) -> None:
    answer = ask(server, "single", print=10_000_000, name="chatty")
    assert answer.json()["name"] == "chatty"
    assert ask(server, "single", name="after").json()["pid"] == answer.json()["pid"]
    assert "xxxxxxxx" in server.log()


def test_exit_of_a_handler_is_a_death_and_not_the_servers(tmp_path: Path) -> None:
    handler = OBEDIENT.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(4)")
    put_model(tmp_path / "store" / "m", handler)
    with run_server(tmp_path / "store") as running:
        assert error_of(ask(running, "m", kill=True))[:2] == (503, "WorkerDiedError")
        assert ask(running, "m", name="after").json()["name"] == "after"


def test_model_whose_workers_die_too_often_is_failed_with_the_cause_and_others_go_on(
    tmp_path: Path,
) -> None:
    sick = tmp_path / "sick"
    put_model(tmp_path / "store" / "mortal", MORTAL.format(path=str(sick)), retry_threshold=1)
    put_model(tmp_path / "store" / "other", engine="echo")
    with run_server(tmp_path / "store") as running:
        assert ask(running, "mortal").text == "alive"
        sick.touch()
        for _ in range(3):
            assert ask(running, "mortal").status_code == 503
        until(lambda: ping(running)["mortal"]["status"] == "FAILED", what="FAILED")
        assert "SIGKILL" in ping(running)["mortal"]["reason"]
        assert httpx.get(f"{running.url}/ping", timeout=DEADLINE).status_code == 500
        assert ask(running, "other", name=1).json() == {"name": 1}
        assert error_of(ask(running, "mortal"))[:2] == (503, "ModelNotReadyError")
        assert running.wait_for_log("model_failed model=mortal")


def ping(server: Server) -> dict[str, dict[str, str]]:
    """Return the health of every model."""
    answer: dict[str, dict[str, str]] = httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()
    return answer


@pytest.mark.slow(90)
@pytest.mark.timeout(90)
def test_failed_model_recovers_when_its_cause_is_gone(tmp_path: Path) -> None:
    away = tmp_path / "away"
    put_model(tmp_path / "store" / "stubborn", STUBBORN.format(path=str(away)))
    with run_server(tmp_path / "store") as running:
        pid = int(ask(running, "stubborn").text)
        away.touch()
        os.kill(pid, signal.SIGKILL)
        until(
            lambda: "the disk is away" in ping(running)["stubborn"].get("reason", ""),
            what="the cause",
        )
        assert ping(running)["stubborn"]["status"] == "FAILED"
        away.unlink()
        until(lambda: ping(running)["stubborn"]["status"] == "Healthy", 70, what="Healthy")
        assert int(ask(running, "stubborn").text) != pid
