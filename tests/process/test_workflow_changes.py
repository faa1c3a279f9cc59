"""Workflows that change, are kept and end while requests run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
from frame.testing import run_server

from tests.process.load_client import Load, orders
from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, JSON, OBEDIENT, Gate, connection, metric, put_model, until
from tests.process.workflow_files import ask, put_workflow, register

pytestmark = pytest.mark.slow(120)


def test_a_snapshot_keeps_workflows(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    made = put_workflow(tmp_path / "made", {"out": ["words", "in"]}, functions="words")
    environ = {"SERVING_MODEL_SNAPSHOT": str(tmp_path / "snapshot.json")}
    with run_server(tmp_path / "store", environ=environ) as server:
        assert register(server, made, workflow_name="kept").status_code == 200
        answer = httpx.put(f"{server.url}/workflows/kept?min_worker=2", timeout=DEADLINE)
        assert answer.status_code == 200
    with run_server(tmp_path / "store", environ=environ) as server:
        until(lambda: ask(server, "kept", {"a": 1}).status_code == 200)
        assert httpx.delete(f"{server.url}/workflows/kept", timeout=DEADLINE).status_code == 200
    assert json.loads((tmp_path / "snapshot.json").read_text())["models"] == []


def test_a_changed_workflow_takes_over_under_load_without_a_failed_request(tmp_path: Path) -> None:
    flow = tmp_path / "store" / "flow"
    put_model(flow / "m", WILLING, minWorkers=1)
    put_workflow(flow, {"out": ["m", "in"]}, models={"m": "m"})
    environ = {"SERVING_MODEL_CONTROL_MODE": "poll", "SERVING_MODEL_POLL_INTERVAL": "0.2"}
    with run_server(tmp_path / "store", environ=environ) as server:
        with Load(server.url, orders("flow"), connections=4) as load:
            until(lambda: len(load.answers) > 20)
            steps = "def again(value):\n    return value\n"
            put_workflow(
                flow, {"out": ["again", ["m", "in"]]}, models={"m": "m"}, functions="again", steps=steps
            )
            until(lambda: "workflow_updated workflow=flow" in server.log())
            so_far = len(load.answers)
            until(lambda: len(load.answers) > so_far + 20)
        load.accounts().assert_settled("200")
        assert metric(server, "frame_requests_total", model="flow:functions") > 20
        steps = "raise RuntimeError('no good')\n"
        put_workflow(flow, {"out": ["again", ["m", "in"]]}, models={"m": "m"}, functions="again", steps=steps)
        until(lambda: "workflow_not_updated workflow=flow" in server.log())
        assert ask(server, "flow", {"token": "x"}).status_code == 200
        shutil.rmtree(flow)
        until(lambda: httpx.get(f"{server.url}/workflows", timeout=DEADLINE).json() == {"workflows": []})
        assert httpx.get(f"{server.url}/models", timeout=DEADLINE).json() == {"models": []}


def test_a_request_that_runs_is_finished_when_the_server_ends(tmp_path: Path) -> None:
    flow = tmp_path / "store" / "flow"
    put_model(flow / "m", OBEDIENT, minWorkers=1)
    steps = "def after(value):\n    return {'after': value['name']}\n"
    put_workflow(flow, {"out": ["after", ["m", "in"]]}, models={"m": "m"}, functions="after", steps=steps)
    gate = Gate(tmp_path)
    with run_server(tmp_path / "store") as server, connection(server) as client:
        order = json.dumps({"gates": [str(gate)], "name": "late"}).encode()
        client.send("POST /predictions/flow", {"content-length": len(order), **JSON}, order)
        gate.wait_reached()
        server.send_signal(15)
        server.wait_for_log("server_stops")
        gate.open()
        assert b'{"after":"late"}' in client.read_to_end()
