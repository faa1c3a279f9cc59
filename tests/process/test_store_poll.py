"""`model_control_mode=poll`: the store is followed while the server runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, orders
from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, ask, describe, put_model, until, worker_pids

pytestmark = pytest.mark.slow(120)
INTERVAL = "0.2"


def answering(which: str) -> str:
    """Return a handler that says which one it is."""
    return WILLING.replace('"batch": size', f'"batch": size, "which": "{which}"')


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with one model."""
    put_model(tmp_path / "store" / "first", answering("old"), minWorkers=1, maxWorkers=2)
    return tmp_path / "store"


@pytest.fixture
def server(store: Path) -> Iterator[Server]:
    """Serve a store that is followed."""
    environ = {"SERVING_MODEL_CONTROL_MODE": "poll", "SERVING_MODEL_POLL_INTERVAL": INTERVAL}
    with run_server(store, environ=environ) as running:
        yield running


def names(server: Server) -> set[str]:
    """Return the models that are listed."""
    found = httpx.get(f"{server.url}/models", timeout=DEADLINE).json()["models"]
    return {item["modelName"] for item in found}


def which(server: Server, model: str) -> str:
    """Return what a model says it is; its error's type when it says nothing."""
    body = ask(server, model, token="x").json()
    return str(body.get("which", body.get("type")))


def test_a_model_that_is_put_into_the_store_is_served_and_one_that_goes_is_not(
    server: Server, store: Path, tmp_path: Path
) -> None:
    made = put_model(tmp_path / "made", answering("new"), minWorkers=1)
    shutil.copytree(made, store / "second")
    until(lambda: "second" in names(server) and which(server, "second") == "new")
    pids = worker_pids(server, "second")
    shutil.rmtree(store / "second")
    until(lambda: names(server) == {"first"})
    assert ask(server, "second", token="x").status_code == 404
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert "model_removed model=second" in server.log()


def test_a_changed_model_takes_over_under_load_without_a_failed_request(server: Server, store: Path) -> None:
    with Load(server.url, orders("first"), connections=4) as load:
        for text in ("one", "two", "three"):
            until(lambda: len(load.answers) > 20)
            (store / "first" / "model.py").write_text(answering(text))
            until(lambda text=text: which(server, "first") == text)
    load.accounts().assert_settled("200")
    until(lambda: server.log().count("model_updated model=first") == 3)
    assert len(worker_pids(server, "first")) <= 2


def test_a_change_that_does_not_load_leaves_what_is_served(server: Server, store: Path) -> None:
    handler, settings = store / "first" / "model.py", store / "first" / "serving.properties"
    handler.write_text("raise RuntimeError('no weights here')")
    until(lambda: "model_not_updated model=first" in server.log())
    assert which(server, "first") == "old"
    settings.write_text("batch_size=none\n")
    until(lambda: "model_refused model=first" in server.log())
    assert which(server, "first") == "old"
    settings.write_text("minWorkers=1\nbatch_size=3\n")
    handler.write_text(answering("mended"))
    until(lambda: which(server, "first") == "mended")
    assert describe(server, "first")["batchSize"] == 3


def test_a_broken_model_is_shown_until_it_is_mended_or_gone(server: Server, store: Path) -> None:
    put_model(store / "second", answering("new"), minWorkers=1, batch_size="none")
    until(lambda: "second" in names(server))
    assert describe(server, "second")["status"] == "FAILED"
    (store / "second" / "serving.properties").write_text("minWorkers=1\n")
    until(lambda: which(server, "second") == "new")
    (store / "second" / "model.py").write_text("raise RuntimeError")
    (store / "third").mkdir()
    (store / "third" / "serving.properties").write_text("engine=Fortran\n")
    until(lambda: "third" in names(server))
    shutil.rmtree(store / "third")
    until(lambda: "third" not in names(server))
    assert which(server, "second") == "new"


def test_models_that_were_registered_are_left_alone(server: Server, store: Path, tmp_path: Path) -> None:
    made = put_model(tmp_path / "made", answering("registered"), minWorkers=1)
    query = {"url": str(made), "model_name": "second"}
    assert httpx.post(f"{server.url}/models", params=query, timeout=2 * DEADLINE).status_code == 200
    put_model(store / "second", answering("of the store"), minWorkers=1)
    until(lambda: "Somebody has registered a model of that name" in server.log())
    assert which(server, "second") == "registered"
    shutil.rmtree(store / "second")
    shutil.rmtree(store / "first")
    until(lambda: names(server) == {"second"})
    assert which(server, "second") == "registered"


def test_without_polling_the_store_is_read_once(store: Path) -> None:
    with run_server(store) as server:
        put_model(store / "second", answering("new"))
        assert names(server) == {"first"}
