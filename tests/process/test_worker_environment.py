"""What a handler finds around it: allowed variables, its folder, its own modules and packages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from frame.testing import Server, run_server

from tests.process.probes import ask, put_model

LOOK = """
import os
import sys

from djl_python import Input, Output

import beside


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    seen = {
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "beside": beside.VALUE,
        "properties": dict(inputs.get_properties()),
    }
    return Output().add_as_json(seen)
"""
SHADOWED = """
from djl_python import Input, Output


def handle(inputs: Input):
    return None if inputs.is_empty() else Output().add_as_json({"is_fine": True})
"""
BARE = """
import importlib.util
import sys

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    names = ("msgspec", "numpy", "pluggy", "click", "quart", "frame.pool", "frame.http", "frame.cli")
    found = [name for name in names if importlib.util.find_spec(name) is not None]
    body = inputs.get_as_json()
    return Output().add_as_json({"prefix": sys.prefix, "found": found, "sum": sum(body["numbers"])})
"""
PINNED = """
import sys

import six
from djl_python import Input, Output


def handle(inputs: Input):
    return None if inputs.is_empty() else Output().add_as_json({"six": six.__version__, "prefix": sys.prefix})
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, Any], Path]]:
    """Return what a handler saw in a server with secrets."""
    store = tmp_path_factory.mktemp("store")
    model = put_model(
        store / "look", LOOK, option__env="GREETING=hello,EMPTY=,LIST=a:b", option__colour="red"
    )
    (model / "beside.py").write_text("VALUE = 42\n")
    environ = {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "HF_TOKEN": "s3cr3t",
        "MY_DATABASE_URL": "s3cr3t",
        "SERVING_KEYSTORE_PASS": "s3cr3t",
        "OMP_MY_TOKEN": "s3cr3t",
        "PYTHONSTARTUP": "s3cr3t",
        "TZ": "UTC",
    }
    with run_server(store, environ=environ) as running:
        yield running, ask(running, "look").json(), model


def test_secrets_of_the_server_do_not_reach_a_worker(seen: tuple[Server, dict[str, Any], Path]) -> None:
    assert "s3cr3t" not in json.dumps(seen[1])


def test_usual_variables_reach_a_worker(seen: tuple[Server, dict[str, Any], Path]) -> None:
    environ = seen[1]["environ"]
    assert environ["TZ"] == "UTC"
    assert environ["PATH"]
    assert int(environ["OMP_NUM_THREADS"]) >= 1


def test_variables_of_the_model_reach_its_worker(seen: tuple[Server, dict[str, Any], Path]) -> None:
    environ = seen[1]["environ"]
    assert (environ["GREETING"], environ["EMPTY"], environ["LIST"]) == ("hello", "", "a:b")


def test_variables_of_the_model_are_no_properties(seen: tuple[Server, dict[str, Any], Path]) -> None:
    assert "hello" not in json.dumps(seen[1]["properties"])


def test_current_directory_is_the_models(seen: tuple[Server, dict[str, Any], Path]) -> None:
    assert Path(seen[1]["cwd"]) == seen[2].resolve()


def test_modules_beside_the_handler_are_found(seen: tuple[Server, dict[str, Any], Path]) -> None:
    assert seen[1]["beside"] == 42


def test_files_that_shadow_modules_of_the_standard_library_do_not_stop_the_worker(tmp_path: Path) -> None:
    model = put_model(tmp_path / "store" / "shadowed", SHADOWED)
    for name in ("json", "torch", "numpy", "socket", "frame", "threading", "logging", "djl_python", "queue"):
        (model / f"{name}.py").write_text("raise RuntimeError('the wrong module was imported')\n")
    with run_server(tmp_path / "store") as running:
        assert ask(running, "shadowed").json() == {"is_fine": True}


def test_package_of_one_model_is_not_anothers(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = put_model(tmp_path / "store" / name, LOOK)
        (model / "beside.py").write_text(f"VALUE = {name!r}\n")
    with run_server(tmp_path / "store") as running:
        assert ask(running, "one").json()["beside"] == "one"
        assert ask(running, "two").json()["beside"] == "two"


@pytest.mark.slow(120)
@pytest.mark.timeout(120)
def test_interpreter_without_any_of_our_packages_serves_a_handler(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    listed = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print([d.name for d in m.distributions()])"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert listed.stdout.strip() == "[]"
    put_model(tmp_path / "store" / "bare", BARE, option__pythonExecutable=python, batch_size=4)
    with run_server(tmp_path / "store") as running:
        answer = ask(running, "bare", numbers=[1, 2, 3]).json()
    assert answer == {"prefix": str(tmp_path / "bare"), "found": [], "sum": 6}


@pytest.mark.slow(200)
@pytest.mark.timeout(200)
def test_models_with_clashing_requirements_live_side_by_side(tmp_path: Path) -> None:
    mine = importlib.metadata.version("six")
    before = packages()
    wanted = ["1.15.0", "1.16.0"]
    assert mine not in wanted
    for number, version in enumerate(wanted):
        model = put_model(tmp_path / "store" / f"m{number}", PINNED)
        (model / "requirements.txt").write_text(f"six=={version}\n")
    put_model(tmp_path / "store" / "plain", PINNED)
    environ = {"DJL_CACHE_DIR": str(tmp_path / "cache")}
    with run_server(tmp_path / "store", environ=environ, timeout=190) as running:
        answers = [ask(running, name).json() for name in ("m0", "m1", "plain")]
    assert [answer["six"] for answer in answers] == [*wanted, mine]
    assert answers[2]["prefix"] == sys.prefix
    assert packages() == before


def packages() -> dict[str, str]:
    """Return what is installed for this interpreter, which is the server's as well."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name: d.version for d in m.distributions()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow(120)
@pytest.mark.timeout(120)
def test_requirements_that_cannot_be_met_fail_their_model_alone(tmp_path: Path) -> None:
    model = put_model(tmp_path / "store" / "bad", SHADOWED)
    (model / "requirements.txt").write_text("six==0.0.0.1\n")
    (model / "requirements").mkdir()
    put_model(tmp_path / "store" / "good", SHADOWED)
    environ = {"DJL_CACHE_DIR": str(tmp_path / "cache"), "DJL_OFFLINE": "true"}
    with run_server(tmp_path / "store", environ=environ, timeout=110) as running:
        assert ask(running, "good").json() == {"is_fine": True}
        answer = ask(running, "bad")
        assert (answer.status_code, answer.json()["type"]) == (503, "ModelNotReadyError")
        assert running.wait_for_log("six==0.0.0.1")
