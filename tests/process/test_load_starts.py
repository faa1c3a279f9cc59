"""Slow and failing starts under load: who waits, who is refused with the cause, and who notices nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, orders
from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, ask, describe, error_of, is_alive, put_model, until, worker_pids

UNREADY = "503 ModelNotReadyError"
LOST = "503 WorkerDiedError"
SLOW = "import time\n\ntime.sleep(3)\n" + WILLING  # a model that is large and on a slow disk

# Ends its process: at its load, or in its first request, as long as a file of that name exists.
CRASHING = """
import os
import pathlib
import sys

from djl_python import Input, Output


def crash_if(path):
    if pathlib.Path(path).exists():
        print("the vault cannot be opened", flush=True)
        os._exit(3)


crash_if({folder!r} + "/at-load")


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    crash_if({folder!r} + "/at-request")
    return Output().add_as_json({{"token": inputs.get_as_json().get("token")}})
"""


def status(server: Server, model: str) -> str:
    """Return what `/ping` says of a model."""
    found: dict[str, dict[str, str]] = httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()
    return found[model]["status"]


@contextmanager
def others_served(server: Server) -> Iterator[None]:
    """Ask another model all the while and hold that nothing is refused there."""
    with Load(server.url, orders("other"), connections=2) as load:
        yield
        load.stop()
        accounts = load.accounts()
    accounts.assert_settled("200")
    assert accounts.sent > 10


def assert_failed(server: Server, model: str) -> None:
    """Hold that a FAILED model says why wherever one may ask."""
    ping = httpx.get(f"{server.url}/ping", timeout=DEADLINE)
    assert ping.status_code == 500
    told = describe(server, model)
    code, kind, message = error_of(ask(server, model))
    assert (code, kind) == (503, "ModelNotReadyError")
    assert told["status"] == ping.json()[model]["status"] == "FAILED"
    for text in (str(told), ping.json()[model]["reason"], message):
        assert "exit status 3" in text


def test_request_during_a_slow_start_is_refused_at_once_and_answered_after_it(tmp_path: Path) -> None:
    put_model(tmp_path / "slow", SLOW)
    put_model(tmp_path / "other", engine="echo")
    with run_server(tmp_path, environ={"SERVING_WAIT_MODEL_LOADING": "false"}) as server:
        until(lambda: status(server, "other") == "Healthy")
        with others_served(server):
            with Load(server.url, orders("slow", 40), connections=4) as early:
                early.accounts().assert_settled(UNREADY)
            assert status(server, "slow") == "PENDING"
            until(lambda: status(server, "slow") == "Healthy")
        with Load(server.url, orders("slow", 40), connections=4) as late:
            late.accounts().assert_settled("200")


def test_requests_for_a_model_that_sleeps_wait_for_its_slow_start(tmp_path: Path) -> None:
    put_model(tmp_path / "slow", SLOW, minWorkers=0, maxWorkers=1)
    put_model(tmp_path / "other", engine="echo")
    with run_server(tmp_path) as server:
        assert worker_pids(server, "slow") == []
        with others_served(server), Load(server.url, orders("slow", 40), connections=20) as load:
            accounts = load.accounts()
        accounts.assert_settled("200")
        assert len(worker_pids(server, "slow")) == 1


def test_model_that_always_ends_at_its_load_is_failed_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "at-load").touch()
    put_model(tmp_path / "store" / "crashing", CRASHING.format(folder=str(tmp_path)), retry_threshold=1)
    put_model(tmp_path / "store" / "other", engine="echo")
    with run_server(tmp_path / "store") as server:
        until(lambda: status(server, "crashing") == "FAILED")
        with others_served(server):
            assert_failed(server, "crashing")
            with Load(server.url, orders("crashing", 100), connections=4) as load:
                load.accounts().assert_settled(UNREADY)


def test_last_lines_of_the_log_are_where_the_cause_is_told(tmp_path: Path) -> None:
    (tmp_path / "at-load").touch()
    put_model(tmp_path / "store" / "crashing", CRASHING.format(folder=str(tmp_path)), retry_threshold=0)
    with run_server(tmp_path / "store") as server:
        until(lambda: status(server, "crashing") == "FAILED")
        line = "the vault cannot be opened"
        assert line in str(describe(server, "crashing"))
        assert line in httpx.get(f"{server.url}/ping", timeout=DEADLINE).text
        assert line in ask(server, "crashing").text


@pytest.mark.slow(90)
def test_model_that_dies_of_every_request_is_failed_and_comes_back_when_the_cause_is_gone(
    tmp_path: Path,
) -> None:
    put_model(tmp_path / "store" / "crashing", CRASHING.format(folder=str(tmp_path)), retry_threshold=2)
    put_model(tmp_path / "store" / "other", engine="echo")
    sick = tmp_path / "at-request"
    with run_server(tmp_path / "store") as server, others_served(server):
        (before,) = worker_pids(server, "crashing")
        sick.touch()
        with Load(server.url, orders("crashing"), connections=4) as load:
            until(lambda: status(server, "crashing") == "FAILED", what="FAILED")
            load.stop()
            accounts = load.accounts()
        accounts.assert_settled(LOST, UNREADY)
        assert accounts.of(LOST)
        assert not is_alive(before)
        assert_failed(server, "crashing")
        sick.unlink()
        until(lambda: status(server, "crashing") == "Healthy", 60, what="cool-down retry")
        with Load(server.url, orders("crashing", 50), connections=4) as load:
            load.accounts().assert_settled("200")
