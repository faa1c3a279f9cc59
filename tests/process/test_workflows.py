"""Workflows: models and Python functions chained and run side by side, on one endpoint."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from frame.testing import Server, run_server
from frame.worker.codecs import ndlist
from onnx import TensorProto, helper, numpy_helper

from tests.process.probes import (
    DEADLINE,
    JSON,
    OBEDIENT,
    Gate,
    connection,
    error_of,
    metric,
    put_model,
    until,
    worker_pids,
)
from tests.process.workflow_files import ask, echo, put_workflow, register

pytestmark = pytest.mark.slow(120)
FLOAT = TensorProto.FLOAT


def linear(folder: Path, given: str, made: str, factor: float) -> dict[str, object]:
    """Make an ONNX model that multiplies rows of four."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [given, "w"], [made])],
        "g",
        [helper.make_tensor_value_info(given, FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(made, FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32) * factor, "w")],
    )
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made_model, folder / "model.onnx")
    return {"modelUrl": folder.name, "minWorkers": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with one workflow for each kind of step, and a model beside them."""
    store = tmp_path_factory.mktemp("workflows") / "store"
    parallel = store / "parallel"
    models = {"a": echo(parallel), "b": echo(parallel)}
    workflow = {
        "more": ["add_one", "in"],
        "both": ["functionsApply", ["a", "b"], "more"],
        "never": ["fail", "in"],
        "out": ["total", "both", "in"],
    }
    put_workflow(parallel, workflow, models=models, functions="add_one total fail")
    tensors = store / "tensors"
    models = {
        "double": linear(tensors / "double", "x", "y", 2),
        "triple": linear(tensors / "triple", "p", "q", 3),
    }
    put_workflow(tensors, {"out": ["triple", ["double", "in"]]}, models=models)
    put_workflow(store / "large", {"out": ["digest", ["large", "in"]]}, functions="large digest")
    put_workflow(store / "raw", {"out": ["ids", "in", ["words", "in"]]}, functions="ids words")
    put_workflow(store / "failing", {"out": ["add_one", ["fail", "in"]]}, functions="fail add_one")
    put_workflow(store / "refusing", {"out": ["refuse", "in"]}, functions="refuse")
    streams = store / "streams"
    models = {"first": echo(streams, mode="stream"), "last": echo(streams, mode="stream")}
    put_workflow(streams, {"out": ["last", ["first", "in"]]}, models=models)
    averaged = store / "averaged"
    models = {
        "double": linear(averaged / "double", "x", "y", 2),
        "triple": linear(averaged / "triple", "x", "y", 4),
    }
    put_workflow(
        averaged, {"out": ["ensemble", ["functionsApply", ["double", "triple"], "in"]]}, models=models
    )
    put_workflow(store / "same", {"out": "in"})
    gated = store / "gated"
    for name in ("left", "right"):
        put_model(gated / name, OBEDIENT, minWorkers=1)
    workflow = {"out": ["ensemble", ["functionsApply", ["left", "right"], "in"]]}
    put_workflow(gated, workflow, models={"left": "left", "right": "{model_dir}/right"})
    (store / "broken").mkdir()
    (store / "broken" / "workflow.yml").write_text("workflow: {out: [nobody, in]}\n")
    put_model(store / "alone", OBEDIENT, minWorkers=1)
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    """Serve the store."""
    with run_server(store, timeout=60.0) as running:
        yield running


# --- what is computed -----------------------------------------------------------------------------


def test_functions_and_models_are_chained_and_side_by_side(server: Server) -> None:
    before = metric(server, "frame_requests_total", model="parallel:functions")
    answer = ask(server, "parallel", {"n": 3})
    assert (answer.status_code, answer.json()) == (200, {"total": 8, "given": 3})
    asked = metric(server, "frame_requests_total", model="parallel:functions") - before
    assert asked == 2, "add_one once though two models take it, total once, fail never"


def test_models_take_each_others_tensors_by_position_and_the_client_gets_what_it_sends(
    server: Server,
) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    answer = ask(server, "tensors", {"inputs": {"x": rows}})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"predictions": (np.array(rows) * 6).tolist()}
    body = ndlist.dumps([("x", np.array(rows, np.float32))])
    url = f"{server.url}/predictions/tensors"
    answer = httpx.post(url, content=body, headers={"content-type": "tensor/ndlist"}, timeout=DEADLINE)
    ((name, array),) = ndlist.loads(answer.content)
    assert (name, array.tolist()) == ("q", (np.array(rows) * 6).tolist())


def test_a_large_tensor_reaches_the_next_step_as_the_bytes_that_were_written(server: Server) -> None:
    size = 10 * (1 << 20) // 4
    answer = ask(server, "large", {"size": size})
    wanted = ndlist.dumps([("big", np.arange(size, dtype=np.float32))])
    assert answer.json() == {"sha256": hashlib.sha256(wanted).hexdigest(), "bytes": len(wanted)}
    assert metric(server, "frame_queued_bytes") == 0


def test_the_mean_of_models_is_built_in(server: Server) -> None:
    answer = ask(server, "averaged", {"inputs": {"x": [[1.0, 0.0, 0.0, 2.0]]}})
    assert answer.status_code == 200, answer.text
    assert "3.0" in answer.text
    assert "6.0" in answer.text


def test_one_request_id_goes_through_all_steps(server: Server) -> None:
    answer = ask(server, "raw", {"a": 1}, x_request_id="all-the-way")
    assert answer.headers["x-request-id"] == "all-the-way"
    assert answer.json() == {"id": "all-the-way", "kind": "application/json", "other": {"text": {"a": 1}}}


def test_the_request_itself_may_be_the_answer(server: Server) -> None:
    answer = ask(server, "same", {"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})


def test_streams_are_gathered_between_steps_and_passed_on_at_the_end(server: Server) -> None:
    url = f"{server.url}/predictions/streams"
    with httpx.stream("POST", url, content=b"one two three", timeout=DEADLINE) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(answer.iter_bytes()) == b"one two three "


def test_models_run_at_the_same_time(server: Server, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, name) for name in ("left", "right")]
    with connection(server) as client:
        order = json.dumps({"gates": [str(gate) for gate in gates], "name": "x"}).encode()
        headers = {"content-length": len(order), **JSON}
        client.send("POST /predictions/gated", headers, order)
        until(lambda: metric(server, "frame_workers", model="gated:left", state="busy") == 1)
        until(lambda: metric(server, "frame_workers", model="gated:right", state="busy") == 1)
        for gate in gates:
            gate.open()
        client.read_until(b"\r\n\r\n")
    assert metric(server, "frame_queue_length", model="gated") == 0


# --- what fails -----------------------------------------------------------------------------------


def test_the_error_of_a_step_is_the_answer_and_names_it(server: Server) -> None:
    answer = ask(server, "failing", {"n": 1})
    assert answer.headers["x-frame-workflow-step"] == "fail"
    code, kind, message = error_of(answer)
    assert (code, kind) == (424, "HandlerError")
    assert "as it was told" in message
    answer = ask(server, "refusing", {})
    assert (answer.status_code, answer.json()["message"]) == (422, "not this one")
    answer = ask(server, "tensors", {"inputs": {"x": [["text"]]}})
    assert (answer.status_code, answer.headers["x-frame-workflow-step"]) == (400, "double")


def test_a_client_that_goes_away_ends_the_steps(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path, "held")
    cancelled = metric(server, "frame_requests_total", model="gated", outcome="cancelled")
    with connection(server) as client:
        order = json.dumps({"gates": [str(gate)]}).encode()
        client.send("POST /predictions/gated", {"content-length": len(order), **JSON}, order)
        gate.wait_reached()
    until(lambda: metric(server, "frame_requests_total", model="gated", outcome="cancelled") == cancelled + 1)
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    for _ in range(2):
        gate.pass_on()
    until(lambda: (gate.pass_on() or True) and ask(server, "gated", {"name": "next"}).status_code == 200)


def test_a_time_limit_holds_for_all_steps_together(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path, "late")
    answer = ask(server, "gated", {"gates": [str(gate)]}, x_request_timeout="0.3")
    assert error_of(answer)[:2] == (503, "PredictTimeoutError")
    until(lambda: (gate.pass_on() or True) and ask(server, "gated", {"name": "next"}).status_code == 200)


def test_clients_cannot_name_functions_themselves(server: Server) -> None:
    forged = {"x-frame-function": "fail", "x-frame-arguments": "[]", "x-frame-by-position": "true"}
    answer = ask(server, "parallel", {"n": 1}, **forged)
    assert answer.json() == {"total": 4, "given": 1}


# --- management -----------------------------------------------------------------------------------


def test_workflows_are_listed_and_described(server: Server) -> None:
    listed = httpx.get(f"{server.url}/workflows", timeout=DEADLINE).json()
    names = [item["workflowName"] for item in listed["workflows"]]
    assert names == sorted(names)
    assert {"parallel", "alone"} <= set(names)
    assert not [name for name in names if ":" in name]
    assert "nextPageToken" not in listed
    page = httpx.get(f"{server.url}/workflows?limit=2", timeout=DEADLINE).json()
    assert ([item["workflowName"] for item in page["workflows"]], page["nextPageToken"]) == (names[:2], "2")
    (found,) = httpx.get(f"{server.url}/workflows/parallel", timeout=DEADLINE).json()
    assert [item["modelName"] for item in found["models"]] == [
        "parallel:a",
        "parallel:b",
        "parallel:functions",
    ]
    assert (found["status"], found["models"][0]["status"]) == ("READY", "Healthy")
    (alone,) = httpx.get(f"{server.url}/workflows/alone", timeout=DEADLINE).json()
    assert [item["modelName"] for item in alone["models"]] == ["alone"]
    assert httpx.get(f"{server.url}/workflows/none", timeout=DEADLINE).status_code == 404


def test_a_wrong_workflow_is_refused_with_the_place_and_the_others_are_served(server: Server) -> None:
    ping = httpx.get(f"{server.url}/ping", timeout=DEADLINE)
    assert (ping.status_code, ping.json()["broken"]["status"]) == (500, "FAILED")
    assert "workflow.out: nobody is no model or function" in ping.json()["broken"]["reason"]
    assert ask(server, "broken", {}).status_code == 503


def test_a_model_of_a_workflow_is_scaled_and_kept_with_it(server: Server) -> None:
    answer = httpx.put(f"{server.url}/workflows/parallel?min_worker=2&max_worker=2", timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"].count("min workers:2 max workers:2") == 3
    answer = httpx.delete(f"{server.url}/models/parallel:a", timeout=DEADLINE)
    assert error_of(answer)[0] == 400
    answer = httpx.patch(f"{server.url}/models/parallel?batch_size=1", timeout=DEADLINE)
    assert "parallel:MODEL" in error_of(answer)[2]


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Server]:
    """Serve nothing yet."""
    (tmp_path / "store").mkdir()
    pattern = f"(file:)?{tmp_path}/(made|newer)/.*"
    with run_server(tmp_path / "store", environ={"SERVING_MODEL_URL_PATTERN": pattern}) as running:
        yield running


def test_workflows_are_registered_by_version_and_unregistered(empty: Server, tmp_path: Path) -> None:
    one = put_workflow(
        tmp_path / "made" / "one", {"out": ["words", "in"]}, functions="words", name="w", version="1"
    )
    two = put_workflow(tmp_path / "made" / "two", {"out": "in"}, name="w", version="2")
    answer = register(empty, one / "workflow.json")
    assert (answer.status_code, answer.json()) == (200, {"status": 'Workflow "w" registered.'})
    assert register(empty, one).status_code == 409
    answer = register(empty, two, "models", synchronous="false")
    assert (answer.status_code, answer.json()) == (202, {"status": 'Model "w" registration scheduled.'})
    until(lambda: ask(empty, "w", {"a": 1}).json() == {"a": 1})
    assert ask(empty, "w/1", {"a": 1}).json() == {"text": {"a": 1}}
    answer = httpx.post(f"{empty.url}/invocations", content=b"{}", headers=JSON, timeout=DEADLINE)
    assert answer.json() == {}, "the only one that is served"
    pids = worker_pids(empty, "w:functions")
    assert httpx.delete(f"{empty.url}/workflows/w/2", timeout=DEADLINE).status_code == 200
    assert ask(empty, "w", {"a": 1}).json() == {"text": {"a": 1}}
    answer = httpx.delete(f"{empty.url}/workflows/w", timeout=DEADLINE)
    assert answer.json() == {"status": 'Model or workflow "w" unregistered'}
    assert ask(empty, "w", {}).status_code == 404
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert httpx.get(f"{empty.url}/models", timeout=DEADLINE).json() == {"models": []}


def test_what_cannot_be_registered_leaves_nothing_behind(empty: Server, tmp_path: Path) -> None:
    made = tmp_path / "made"
    lost = put_workflow(made / "lost", {"out": ["gone", "in"]}, functions="gone")
    answer = register(empty, lost)
    code, kind, message = answer.status_code, answer.json()["type"], answer.json()["message"]
    assert (code, kind) == (500, "LoadError")
    assert "lost:functions" in message
    assert "no function gone" in message
    away = put_workflow(made / "away", {"out": ["m", "in"]}, models={"m": "/etc"})
    assert "models.m: it does not match model_url_pattern" in error_of(register(empty, away))[2]
    climbing = put_workflow(made / "climbing", {"out": ["m", "in"]}, models={"m": "../../store"})
    assert "model_url_pattern" in error_of(register(empty, climbing))[2]
    weights = {"m": {"modelUrl": "m", "engineName": "echo", "options": {"model_id": "/etc"}}}
    (put_workflow(made / "weights", {"out": ["m", "in"]}, models=weights) / "m").mkdir()
    assert "models.m.option.model_id: it does not match" in error_of(register(empty, made / "weights"))[2]
    assert "settings" in error_of(register(empty, lost, "models", batch_size="2"))[2]
    template = httpx.post(f"{empty.url}/workflows?template=adapter", timeout=DEADLINE)
    assert error_of(template)[0] == 400
    assert error_of(httpx.post(f"{empty.url}/workflows", timeout=DEADLINE))[2] == "Parameter url is required."
    assert httpx.get(f"{empty.url}/models", timeout=DEADLINE).json() == {"models": []}
    model = put_model(made / "taken", OBEDIENT, minWorkers=1)
    assert register(empty, model, "models").status_code == 200
    named = put_workflow(made / "named", {"out": "in"}, name="taken")
    assert error_of(register(empty, named))[:2] == (409, "ModelExistsError")
    assert register(empty, put_workflow(made / "free", {"out": "in"})).status_code == 200
    assert register(empty, model, "models", model_name="free").status_code == 409


def test_an_archive_and_yaml_are_read(empty: Server, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "folder"
    folder.mkdir(parents=True)
    (folder / "workflow.yml").write_text("functions: {up: steps.up}\nworkflow:\n  out: [up, in]\n")
    (folder / "steps.py").write_text("def up(text):\n    return text.upper()\n")
    with zipfile.ZipFile(tmp_path / "made" / "packed.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    assert register(empty, tmp_path / "made" / "packed.zip").status_code == 200
    url = f"{empty.url}/predictions/packed"
    answer = httpx.post(url, content=b"loud", headers={"content-type": "text/plain"}, timeout=DEADLINE)
    assert (answer.text, answer.headers["content-type"]) == ("LOUD", "text/plain; charset=utf-8")
