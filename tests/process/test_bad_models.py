"""Models that do not load: which, why and in which stage; the others are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, TEXT, ask, descendants, describe, error_of, put_model

NO_MODULE = "import a_module_that_is_nowhere\n"
NO_SYNTAX = "def handle(inputs)\n    pass\n"
NO_WEIGHTS = """
from djl_python import Input


print("looking for the weights")


def handle(inputs: Input):
    if inputs.is_empty():
        raise FileNotFoundError("weights.bin is missing")
"""
SLOW = """
import threading

from djl_python import Input

print("this takes a while")


def handle(inputs: Input):
    if inputs.is_empty():
        threading.Event().wait()
"""
SLOW_IMPORT = "import threading\n\nthreading.Event().wait()\n"
DIES = "import os\n\nos._exit(3)\n"
NO_HANDLER = "def other(inputs):\n    return None\n"
BROKEN = {
    "no_module": "a_module_that_is_nowhere",
    "no_syntax": "model.py",
    "no_weights": "weights.bin is missing",
    "no_handler": "handle",
    "slow": "model_loading_timeout",
    "slow_import": "model_loading_timeout",
    "dies": "3",
}


def put_broken(store: Path) -> None:
    """Make a store of broken models and a good one."""
    put_model(store / "no_module", NO_MODULE)
    put_model(store / "no_syntax", NO_SYNTAX)
    put_model(store / "no_weights", NO_WEIGHTS)
    put_model(store / "no_handler", NO_HANDLER)
    put_model(store / "slow", SLOW, option__model_loading_timeout=1)
    put_model(store / "slow_import", SLOW_IMPORT, option__model_loading_timeout=1)
    put_model(store / "dies", DIES, retry_threshold=0)
    put_model(store / "good", engine="echo")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the broken models and the good one."""
    store = tmp_path_factory.mktemp("store")
    put_broken(store)
    with run_server(store, environ={"SERVING_RETRY_THRESHOLD": "0"}) as running:
        yield running


def test_good_model_is_served_beside_broken_ones(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/good", content="x", headers=TEXT, timeout=DEADLINE)
    assert (answer.status_code, answer.text) == (200, "x")


def test_ping_is_500_and_shows_every_model(server: Server) -> None:
    answer = httpx.get(f"{server.url}/ping", timeout=DEADLINE)
    assert answer.status_code == 500
    states = {name: state["status"] for name, state in answer.json().items()}
    assert states == {**dict.fromkeys(BROKEN, "FAILED"), "good": "Healthy"}


@pytest.mark.parametrize(("model", "cause"), BROKEN.items())
def test_cause_is_in_ping_in_the_description_and_in_the_log(server: Server, model: str, cause: str) -> None:
    assert cause in httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()[model]["reason"]
    described = describe(server, model)
    assert described["status"] == "FAILED"
    assert cause in described["reason"]
    found = server.wait_for_log(rf"(?m)^.*model_not_loaded model={model} .*$")
    assert cause in found[0]


@pytest.mark.parametrize("model", BROKEN)
def test_request_to_a_broken_model_is_503_without_internals(server: Server, model: str) -> None:
    answer = ask(server, model, name="x")
    assert answer.status_code == 503
    assert answer.json()["type"] == "ModelNotReadyError"
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    assert "/tmp/" not in answer.text


@pytest.mark.parametrize(("model", "stage"), [("slow", "load"), ("slow_import", "load")])
def test_time_out_names_the_stage_in_which_the_load_stopped(server: Server, model: str, stage: str) -> None:
    reason = describe(server, model)["reason"]
    assert "option.model_loading_timeout" in reason
    assert stage in reason.replace("model_loading_timeout", "")


def test_last_lines_of_the_workers_are_in_the_description(server: Server) -> None:
    assert "looking for the weights" in "\n".join(describe(server, "no_weights")["log"])
    assert "this takes a while" in "\n".join(describe(server, "slow")["log"])


def test_traceback_of_a_model_is_in_the_log_under_its_name(server: Server) -> None:
    assert server.wait_for_log(r"\[no_weights/\d+\] .*FileNotFoundError: weights.bin is missing")


def test_failed_models_are_listed(server: Server) -> None:
    listed = httpx.get(f"{server.url}/models", timeout=DEADLINE).json()["models"]
    states = {model["modelName"]: model["status"] for model in listed}
    assert states == {**dict.fromkeys(BROKEN, "FAILED"), "good": "READY"}


def test_fail_fast_ends_the_server_with_the_cause_and_leaves_no_process(tmp_path: Path) -> None:
    put_model(tmp_path / "bad", NO_WEIGHTS)
    put_model(tmp_path / "good", engine="echo")
    environ = {"SERVING_FAIL_FAST": "true"}
    with run_server(tmp_path, environ=environ, waits_ready=False) as running:
        assert running.wait_ended(DEADLINE) == 1
        assert "weights.bin is missing" in running.log()
        assert not descendants(running.pid)


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ("engine=echo\nbatch_size=many\n", "batch_size"),
        ("engine=nothing\n", "nothing"),
        ("engine=echo\noption.mode=backwards\n", "option.mode"),
        ("engine=echo\nbatch_sise=4\n", "batch_size"),
        ("engine=echo\nminWorkers=-1\n", "minWorkers"),
    ],
)
def test_model_of_bad_configuration_is_refused_by_name_and_others_are_served(
    tmp_path: Path, properties: str, named: str
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "serving.properties").write_text(properties)
    put_model(tmp_path / "good", engine="echo")
    with run_server(tmp_path) as running:
        found = running.wait_for_log(r"(?m)^.*model_refused.*$")
        assert "bad" in found[0]
        assert named in found[0]
        assert httpx.get(f"{running.url}/ping", timeout=DEADLINE).status_code == 500
        code, kind, _ = error_of(ask(running, "bad", name=1))
        assert (code, kind) == (503, "ModelNotReadyError")
        assert ask(running, "good", name=1).json() == {"name": 1}


def test_store_that_is_nowhere_is_warned_of(tmp_path: Path) -> None:
    with run_server(tmp_path / "nowhere") as running:
        assert running.wait_for_log("WARNING .*model_store .*nowhere is no folder")
        assert httpx.get(f"{running.url}/ping", timeout=DEADLINE).json() == {}


def test_empty_store_is_served(tmp_path: Path) -> None:
    with run_server(tmp_path) as running:
        ping = httpx.get(f"{running.url}/ping", timeout=DEADLINE)
        assert (ping.status_code, ping.json()) == (200, {})


def test_port_is_open_and_models_are_pending_when_loading_is_not_waited_for(tmp_path: Path) -> None:
    put_model(tmp_path / "slow", SLOW)
    environ = {"SERVING_WAIT_MODEL_LOADING": "false", "SERVING_ALLOW_MULTI_STATUS": "true"}
    with run_server(tmp_path, environ=environ) as running:
        ping = httpx.get(f"{running.url}/ping", timeout=DEADLINE)
        assert (ping.status_code, ping.json()["slow"]["status"]) == (207, "PENDING")
        assert error_of(ask(running, "slow", name=1))[:2] == (503, "ModelNotReadyError")
        assert running.stop() == 0
