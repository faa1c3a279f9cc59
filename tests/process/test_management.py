"""Models are registered, scaled and unregistered while the server runs."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, ServerError, run_server

from tests.process.load_client import Load, orders
from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, ask, describe, put_model, until, worker_pids

pytestmark = pytest.mark.slow(120)
TOKEN = "a-token-of-this-test-0123"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with one model."""
    put_model(tmp_path / "store" / "first", WILLING, maxWorkers=1)
    return tmp_path / "store"


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """Return a model that is not in the store."""
    return put_model(tmp_path / "extra", WILLING, minWorkers=1, maxWorkers=4)


@pytest.fixture
def server(store: Path) -> Iterator[Server]:
    """Serve the store."""
    with run_server(store) as running:
        yield running


def manage(
    server: Server, method: str, path: str, *, token: str | None = None, **parameters: object
) -> httpx.Response:
    """Send a management request with its parameters in the query."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    query = {key: str(value) for key, value in parameters.items()}
    return httpx.request(method, f"{server.url}{path}", params=query, headers=headers, timeout=2 * DEADLINE)


def names(server: Server) -> list[str]:
    """Return the models that are listed."""
    found = httpx.get(f"{server.url}/models", timeout=DEADLINE).json()["models"]
    return [item["modelName"] for item in found]


def test_a_model_is_registered_serves_and_goes(server: Server, extra: Path) -> None:
    answer = manage(server, "POST", "/models", url=extra, model_name="second", batch_size=3, job_queue_size=7)
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "second" registered.'})
    assert names(server) == ["first", "second"]
    found = describe(server, "second")
    assert (found["batchSize"], found["queueSize"], found["loadedAtStartup"]) == (3, 7, False)
    assert "POST /models" in found["settings"]["batch_size"]["source"]
    assert ask(server, "second", token="x").status_code == 200
    pids = worker_pids(server, "second")
    answer = manage(server, "DELETE", "/models/second")
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model or workflow "second" unregistered'})
    assert names(server) == ["first"]
    assert ask(server, "second").status_code == 404
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert ask(server, "first", token="x").status_code == 200


def test_parameters_may_be_json_and_the_answer_may_come_at_once(server: Server, extra: Path) -> None:
    body = {"url": str(extra), "model_version": "2", "synchronous": False, "min_worker": 1, "max_worker": 1}
    answer = httpx.post(f"{server.url}/models", json=body, timeout=DEADLINE)
    assert (answer.status_code, answer.json()["status"]) == (202, 'Model "extra" registration scheduled.')
    until(lambda: describe(server, "extra")["status"] == "Healthy")
    url = f"{server.url}/predictions/extra/2"
    assert httpx.post(url, json={"token": "x"}, timeout=DEADLINE).status_code == 200


def test_the_same_model_again_is_409_and_another_version_is_not(server: Server, extra: Path) -> None:
    for version, status in (("1", 200), ("1", 409), ("2", 200)):
        answer = manage(server, "POST", "/models", url=extra, model_version=version)
        assert answer.status_code == status, answer.text
    assert manage(server, "DELETE", "/models/extra/1").status_code == 200
    assert manage(server, "DELETE", "/models/extra/1").status_code == 404
    assert manage(server, "DELETE", "/models/extra").status_code == 200
    assert names(server) == ["first"]


def test_a_model_that_does_not_load_is_named_with_its_reason_and_forgotten(
    server: Server, tmp_path: Path
) -> None:
    broken = put_model(tmp_path / "broken", "raise RuntimeError('no weights here')")
    answer = manage(server, "POST", "/models", url=broken)
    assert answer.status_code == 500
    assert "no weights here" in answer.json()["message"]
    assert names(server) == ["first"]
    answer = manage(server, "POST", "/models", url=broken, synchronous="false")
    assert answer.status_code == 202
    until(lambda: describe(server, "broken")["status"] == "FAILED")
    assert manage(server, "DELETE", "/models/broken").status_code == 200


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "Parameter url is required."),
        ({"url": "/there/is/nothing"}, "/there/is/nothing"),
        ({"url": "gs://models/m.zip"}, "no source has the scheme gs:"),
        ({"url": "EXTRA", "batch_size": "many"}, "Parameter batch_size: expected an integer."),
        ({"url": "EXTRA", "batch_size": "0"}, "batch_size"),
        ({"url": "EXTRA", "min_worker": "3", "max_worker": "x"}, "Parameter max_worker"),
        ({"url": "EXTRA", "synchronous": "perhaps"}, "Parameter synchronous"),
        ({"url": "EXTRA", "model_name": "../x"}, "Parameter model_name"),
        ({"url": "EXTRA", "colour": "red"}, "colour"),
        ({"url": "EXTRA", "engine": "Fortran"}, "Fortran"),
    ],
)
def test_bad_parameters_are_400_and_named(
    server: Server, extra: Path, parameters: dict[str, str], said: str
) -> None:
    given = {key: str(extra) if value == "EXTRA" else value for key, value in parameters.items()}
    answer = manage(server, "POST", "/models", **given)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["message"]
    assert names(server) == ["first"]


def test_bad_bodies_are_400(server: Server) -> None:
    for body in (b"{", b"[]", b'{"url": {}}', b'{"url": null}'):
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{server.url}/models", content=body, headers=headers, timeout=DEADLINE)
        assert answer.status_code == 400, answer.text


def test_workers_are_scaled_up_and_down(server: Server, extra: Path) -> None:
    manage(server, "POST", "/models", url=extra)
    answer = manage(server, "PUT", "/models/extra", min_worker=3, max_worker=3)
    said = 'Workflow "extra" worker scaled. New Worker configuration min workers:3 max workers:3'
    assert (answer.status_code, answer.json()) == (200, {"status": said})
    assert len(worker_pids(server, "extra")) == 3
    assert manage(server, "PUT", "/models/extra", min_worker=1, max_worker=1).status_code == 200
    until(lambda: len(worker_pids(server, "extra")) == 1)
    assert ask(server, "extra", token="x").status_code == 200


@pytest.mark.parametrize(
    ("path", "parameters", "status", "said"),
    [
        ("/models/nobody", {"min_worker": 1}, 404, "Model not found: nobody"),
        ("/models/first", {"min_worker": "x"}, 400, "Parameter min_worker"),
        ("/models/first", {"max_worker": 0}, 400, "Parameter max_worker"),
        ("/models/first", {"min_worker": 3, "max_worker": 2}, 400, "Parameter max_worker"),
        ("/models/first", {"device": "gpu"}, 400, "Parameter device"),
        ("/models/first", {"workers": 2}, 400, "Parameter workers"),
    ],
)
def test_what_cannot_be_scaled_says_why(
    server: Server, path: str, parameters: dict[str, object], status: int, said: str
) -> None:
    answer = manage(server, "PUT", path, **parameters)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["message"]


def test_a_version_takes_over_under_load_without_a_failed_request(server: Server, extra: Path) -> None:
    assert manage(server, "POST", "/models", url=extra, model_version="1").status_code == 200
    with Load(server.url, orders("extra"), connections=4) as load:
        for old, new in itertools.pairwise(["1", "2", "3"]):
            count = len(load.answers)
            until(lambda count=count: len(load.answers) > count + 20)
            assert manage(server, "POST", "/models", url=extra, model_version=new).status_code == 200
            assert manage(server, "DELETE", f"/models/extra/{old}").status_code == 200
    load.accounts().assert_settled("200")


def test_the_log_has_the_level_that_was_set(server: Server) -> None:
    assert manage(server, "POST", "/server/logging", level="debug").json() == {"status": "OK"}
    assert manage(server, "GET", "/server/logging", level="error").status_code == 200
    assert manage(server, "POST", "/server/logging", level="loud").status_code == 400


def test_with_a_token_nothing_changes_without_it_and_it_is_in_no_log(store: Path, extra: Path) -> None:
    with run_server(store, environ={"FRAME_MANAGEMENT_TOKEN": TOKEN}) as server:
        for wrong in (None, TOKEN[:-1], TOKEN.upper()):
            answer = manage(server, "POST", "/models", token=wrong, url=extra)
            assert (answer.status_code, answer.json()["type"]) == (401, "UnauthorizedError")
            assert manage(server, "DELETE", "/models/first", token=wrong).status_code == 401
        assert names(server) == ["first"]
        assert ask(server, "first", token="x").status_code == 200
        assert manage(server, "POST", "/models", token=TOKEN, url=extra).status_code == 200
        pids = worker_pids(server, "extra")
        assert all(TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)
        log = server.log()
    assert TOKEN not in log


def test_an_open_address_changes_nothing_without_a_token(store: Path, extra: Path) -> None:
    arguments = ["--host", "0.0.0.0"]  # that is what is tested
    with run_server(store, arguments) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        for method, path in (("POST", "/models"), ("DELETE", "/models/first"), ("POST", "/server/logging")):
            assert manage(server, method, path, url=extra).status_code in {404, 405}
        assert ask(server, "first", token="x").status_code == 200


def test_only_urls_of_the_pattern_are_registered(store: Path, extra: Path) -> None:
    environ = {"SERVING_MODEL_URL_PATTERN": f"{extra.parent}/[a-z]+"}
    with run_server(store, environ=environ) as server:
        assert manage(server, "POST", "/models", url=extra).status_code == 200
        answer = manage(server, "PATCH", "/models/first", **{"option.model_id": "/etc"})
        assert answer.status_code == 400
        assert "option.model_id: it does not match model_url_pattern" in answer.json()["message"]
        for outside in (f"{extra.parent}/../{extra}", f"{extra}/../store/first", "/etc"):
            answer = manage(server, "POST", "/models", url=outside, model_name="other")
            assert answer.status_code == 400
            assert "model_url_pattern" in answer.json()["message"]


def test_settings_change_while_the_model_runs(server: Server, extra: Path) -> None:
    manage(server, "POST", "/models", url=extra, batch_size=8)
    pids = worker_pids(server, "extra")
    answer = manage(server, "PATCH", "/models/extra", job_queue_size=5, max_batch_delay=0, batch_size=2)
    said = 'Model "extra" changed: job_queue_size=5, max_batch_delay=0, batch_size=2'
    assert (answer.status_code, answer.json()) == (200, {"status": said})
    found = describe(server, "extra")
    assert (found["queueSize"], found["maxBatchDelayMillis"], found["batchSize"]) == (5, 0, 2)
    assert found["settings"]["job_queue_size"] == {"value": "5", "source": "PATCH /models/extra"}
    assert ask(server, "extra", token="x").status_code == 200
    assert worker_pids(server, "extra") == pids


def test_what_workers_read_is_changed_by_a_successor_without_a_failed_request(
    server: Server, extra: Path
) -> None:
    manage(server, "POST", "/models", url=extra, batch_size=2)
    manage(server, "PATCH", "/models/extra", job_queue_size=50)
    manage(server, "PUT", "/models/extra", min_worker=2, max_worker=2)
    pids = worker_pids(server, "extra")
    with Load(server.url, orders("extra"), connections=4) as load:
        until(lambda: len(load.answers) > 20)
        answer = manage(server, "PATCH", "/models/extra", batch_size=6, **{"option.predict_timeout": 33})
        assert answer.status_code == 200, answer.text
        so_far = len(load.answers)
        until(lambda: len(load.answers) > so_far + 20)
    load.accounts().assert_settled("200")
    found = describe(server, "extra")
    assert (found["batchSize"], found["queueSize"]) == (6, 50)
    assert found["settings"]["option.predict_timeout"]["value"] == "33"
    (group,) = found["workerGroups"]
    assert (group["minWorkers"], group["maxWorkers"]) == (2, 2)
    assert not set(pids) & set(worker_pids(server, "extra"))
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_settings_that_do_not_load_leave_the_model_as_it_was(server: Server, extra: Path) -> None:
    manage(server, "POST", "/models", url=extra, batch_size=2)
    pids, before = worker_pids(server, "extra"), describe(server, "extra")["settings"]
    answer = manage(server, "PATCH", "/models/extra", **{"option.entryPoint": "gone.py"})
    assert (answer.status_code, answer.json()["type"]) == (500, "LoadError")
    assert "is as it was" in answer.json()["message"]
    assert (worker_pids(server, "extra"), describe(server, "extra")["settings"]) == (pids, before)
    assert manage(server, "PATCH", "/models/extra", batch_size=3).status_code == 200
    assert describe(server, "extra")["batchSize"] == 3


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "no parameter"),
        ({"batch_size": 0}, "batch_size"),
        ({"job_queue_size": "many"}, "Parameter job_queue_size"),
        ({"request_timeout": "soon"}, "request_timeout"),
        ({"maxWorkers": "many"}, "maxWorkers"),
        ({"job_queue_size": 5, "colour": "red"}, "colour"),
        ({"engine": "Fortran"}, "Fortran"),
        ({"enable_venv": "perhaps"}, "enable_venv"),
    ],
)
def test_what_cannot_change_says_why_and_changes_nothing(
    server: Server, parameters: dict[str, object], said: str
) -> None:
    before = describe(server, "first")
    answer = manage(server, "PATCH", "/models/first", **parameters)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["message"]
    assert describe(server, "first")["settings"] == before["settings"]
    assert manage(server, "PATCH", "/models/nobody", job_queue_size=1).status_code == 404


def test_what_was_registered_is_registered_again_by_the_next_start(
    store: Path, extra: Path, tmp_path: Path
) -> None:
    environ = {"SERVING_MODEL_SNAPSHOT": str(tmp_path / "snapshot.json")}
    with run_server(store, environ=environ) as server:
        for version in ("1", "2"):
            manage(server, "POST", "/models", url=extra, model_version=version, batch_size=4)
        manage(server, "DELETE", "/models/extra/1")
        manage(server, "PATCH", "/models/extra", job_queue_size=5, reserved_memory_mb=7)
        manage(server, "PUT", "/models/extra/2", min_worker=2, max_worker=3)
    with run_server(store, environ=environ) as server:
        assert names(server) == ["extra", "first"]
        found = describe(server, "extra")
        assert (found["batchSize"], found["queueSize"]) == (4, 5)
        assert found["settings"]["reserved_memory_mb"]["value"] == "7"
        (group,) = found["workerGroups"]
        assert (group["minWorkers"], group["maxWorkers"]) == (2, 3)
        assert ask(server, "extra", token="x").status_code == 200
        manage(server, "DELETE", "/models/extra")
    with run_server(store, environ=environ) as server:
        assert names(server) == ["first"]


def test_a_snapshot_whose_model_is_gone_says_so_and_stops_nothing(
    store: Path, extra: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot.json"
    environ = {"SERVING_MODEL_SNAPSHOT": str(snapshot)}
    with run_server(store, environ=environ) as server:
        manage(server, "POST", "/models", url=extra)
    kept = snapshot.read_text()
    extra.rename(tmp_path / "elsewhere")
    with run_server(store, environ=environ) as server:
        assert "model_not_restored model=extra" in server.log()
        assert names(server) == ["first"]
        assert snapshot.read_text() == kept
        assert manage(server, "DELETE", "/models/extra").status_code == 200
        assert manage(server, "DELETE", "/models/extra").status_code == 404
    assert snapshot.read_text() != kept
    snapshot.write_text("{")
    with pytest.raises(ServerError, match="model_snapshot="), run_server(store, environ=environ):
        pass


def test_a_client_that_leaves_changes_nothing_of_what_it_asked_for(
    store: Path, tmp_path: Path, extra: Path
) -> None:
    slow = put_model(tmp_path / "slow", WILLING.replace("import os\n", "import os, time; time.sleep(1)\n", 1))
    snapshot = tmp_path / "snapshot.json"
    with run_server(store, environ={"SERVING_MODEL_SNAPSHOT": str(snapshot)}) as server:
        query = {"url": str(slow)}
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{server.url}/models", params=query, timeout=0.3)
        until(lambda: snapshot.exists() and "slow" in snapshot.read_text())
        assert ask(server, "slow", token="x").status_code == 200
        with Load(server.url, orders("slow", 1, sleep=2), connections=1) as load:
            until(lambda: describe(server, "slow")["workerGroups"])
            with contextlib.suppress(httpx.TimeoutException):
                httpx.delete(f"{server.url}/models/slow", timeout=0.3)
            until(lambda: "slow" not in snapshot.read_text())
            load.accounts()
        until(lambda: names(server) == ["first"])


def test_a_snapshot_is_not_written_with_less_while_it_is_read(
    store: Path, extra: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot.json"
    environ = {"SERVING_MODEL_SNAPSHOT": str(snapshot)}
    with run_server(store, environ=environ) as server:
        for name in ("a", "b", "c"):
            answer = manage(server, "POST", "/models", url=extra, model_name=name, min_worker=0)
            assert answer.status_code == 200, answer.text
    kept = json.loads(snapshot.read_text())
    kept["models"][1]["url"] = "/there/is/nothing"
    snapshot.write_text(json.dumps(kept))
    with run_server(store, environ=environ) as server:
        assert names(server) == ["a", "c", "first"]
        assert [item["name"] for item in json.loads(snapshot.read_text())["models"]] == ["a", "b", "c"]
